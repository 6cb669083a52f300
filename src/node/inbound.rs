//! Carries what `peer/` received into the mailbox.

use tokio::sync::mpsc::Receiver;

use crate::node::mailbox::{Mailbox, Told};
use crate::peer::Inbound;
use crate::replica::Event;

/// Runs until `peer/` or the node stops. What does not fit into the mailbox is dropped, as the
/// network might have.
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
        match mailbox.tell(event) {
            Told::Taken => {}
            Told::Dropped => {
                dropped += 1;
                if dropped.is_power_of_two() {
                    tracing::warn!(dropped, "this node is too busy for its peers' messages");
                }
            }
            Told::Stopped => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::base::NodeId;
    use crate::node::mailbox::Mailbox;
    use crate::peer::Inbound;

    #[tokio::test]
    async fn a_node_that_has_stopped_hears_its_peers_no_more() {
        let (mailbox, receiver) = Mailbox::new();
        let (sender, inbound) = tokio::sync::mpsc::channel(1);
        drop(receiver);
        let up = Inbound::Up { peer: NodeId(2), name: "n2".to_owned() };
        sender.send(up).await.expect("there is room for one");
        // The links still stand: it is the mailbox that ends this.
        super::run(inbound, mailbox).await;
        assert!(sender.is_closed(), "peers are told that nobody listens");
    }
}
