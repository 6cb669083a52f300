//! The handle through which the local API and the daemon use this folder.

use std::sync::Arc;

use crate::node::Node;

/// What one daemon does for its host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Host {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    node: Node,
}

impl Host {
    /// The host of a running node.
    pub fn new(node: Node) -> Self {
        Self { shared: Arc::new(Shared { node }) }
    }

    /// The node.
    pub fn node(&self) -> &Node {
        &self.shared.node
    }
}
