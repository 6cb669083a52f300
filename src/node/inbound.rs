//! Carries what `peer/` received into the mailbox.

use tokio::sync::mpsc::Receiver;

use crate::node::mailbox::Mailbox;
use crate::peer::Inbound;
use crate::replica::Event;

/// Runs until `peer/` stops. What does not fit into the mailbox is dropped, as the network might
/// have.
pub(super) async fn run(mut inbound: Receiver<Inbound>, mailbox: Mailbox) {
    let mut dropped = 0_u64;
    while let Some(inbound) = inbound.recv().await {
        let event = match inbound {
            Inbound::Down { peer, name, redial_failed } => {
                tracing::info!(peer = %name, redial_failed, "lost the link to a peer");
                Event::PeerDown { peer, redial_failed }
            }
            Inbound::Message { from, message } => Event::PeerMessage { from, message },
            Inbound::Up { peer, name } => {
                tracing::info!(peer = %name, node = %peer, "linked to a peer");
                Event::PeerUp { peer }
            }
        };
        if !mailbox.tell(event) {
            dropped += 1;
            if dropped.is_power_of_two() {
                tracing::warn!(dropped, "this node is too busy for its peers' messages");
            }
        }
    }
}
