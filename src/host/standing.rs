//! Whether the state of this node may be shown to others now, and whom that concerns.

use crate::node::{Follower, Node};

/// Says why files and keys cannot follow each other now; nothing when they can: a leader is known,
/// and this node has applied everything that was committed when it started.
pub(super) fn obstacle(node: &Node) -> Option<String> {
    let status = node.status();
    let replica = &status.replica;
    if let Some(fence) = node.fence().or(replica.fence) {
        return Some(format!("the state of this node differs after entry {}", fence.index));
    }
    if let Some(removal) = replica.removed {
        return Some(removal.to_string());
    }
    if replica.leader.is_none() {
        return Some("no leader is known".to_owned());
    }
    (!replica.ready).then(|| "this node has not caught up since it was started".to_owned())
}

/// Resolves when there is another obstacle than this one, or none. Cancel-safe. `status` follows
/// the node's status.
pub(super) async fn changed(node: &Node, obstacle: &Option<String>, status: &mut Follower) {
    while self::obstacle(node) == *obstacle {
        status.changed().await;
    }
}
