//! A linearizable read and a confirmed keepalive rest on a leader that a quorum still followed
//! after they were asked for (K6, L6; dissertation 6.4). Seen from outside: some node was followed,
//! by messages that it sent after that moment, by enough voters to make a quorum with it.

use std::collections::{BTreeMap, BTreeSet};

use quorumd::base::{NodeId, Term};
use quorumd::raft::{Body, Membership, Message};

/// Whom everybody follows, and since when that is known.
#[derive(Debug, Default)]
pub struct ReadConfirmed {
    /// Of each (follower, leader) the latest message that was followed: when it was sent.
    followed: BTreeMap<(NodeId, NodeId), u64>,
}

impl ReadConfirmed {
    /// A node in `term` handles a message that was sent at `sent`.
    pub fn delivered(&mut self, message: &Message, sent: u64, term: Term) {
        let leads = matches!(message.body, Body::Heartbeat { .. } | Body::AppendRequest { .. });
        if leads && message.term >= term {
            let latest = self.followed.entry((message.to, message.from)).or_default();
            *latest = sent.max(*latest);
        }
    }

    /// A node answers what was asked for at `asked`. Which configuration the leader had then is not
    /// known here: one of `configurations` must fit.
    pub fn answered<'a>(
        &self,
        node: NodeId,
        asked: u64,
        mut configurations: impl Iterator<Item = &'a Membership>,
        what: &str,
    ) {
        let confirmed = |half: &BTreeSet<NodeId>, leader: &NodeId| {
            let follows = |voter: &&NodeId| {
                *voter == leader
                    || self.followed.get(&(**voter, *leader)).is_some_and(|&sent| sent >= asked)
            };
            half.is_empty() || half.iter().filter(follows).count() > half.len() / 2
        };
        let confirms = |members: &Membership| {
            members.members().keys().any(|leader| {
                confirmed(members.voters(), leader) && confirmed(members.outgoing(), leader)
            })
        };
        crate::ensure!(
            configurations.any(confirms),
            "read_confirmed",
            "n{node} answers {what} that was asked at {asked} us, and no quorum has followed \
             anybody since"
        );
    }
}
