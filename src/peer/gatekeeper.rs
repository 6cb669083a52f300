//! What this folder asks about a peer that has proved its name: is it a member, and still itself?
//!
//! The answers are `replica/`'s (`Roster`), given through `node/`.

use crate::base::NodeId;
use crate::wire::{Claim, Hello, HelloAnswer, HelloRefusal};

/// Decides about peers by the membership. A trait because there are two: `node/` asks the replica's
/// roster, which this folder may not import, and tests answer from a list.
///
/// Called from the tasks of links: must not block.
pub trait Gatekeeper: Send + Sync {
    /// What this node is, for a hello that is about to be sent.
    fn claim(&self) -> Claim;

    /// The answer to a hello whose certificate, names and versions were found right. The version in
    /// an acceptance is replaced by the highest that both sides speak.
    fn judge(&self, hello: &Hello) -> HelloAnswer;

    /// Whether to send consensus messages to the node that answers, which has proved to be
    /// `peer_name`. Sees every answer to a consensus hello, refusals included: they may tell this
    /// node that it is the one that was wiped.
    fn accept_answer(&self, peer_name: &str, answer: &HelloAnswer) -> Result<NodeId, HelloRefusal>;
}
