//! Newtypes for identities and positions, so that a term can never be passed where an index is
//! meant.
//!
//! No arithmetic crosses kinds. What each number means to the protocol is said where it is used.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident, $format:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The value as a plain number, for encoding and display.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The next value.
            ///
            /// Panics on overflow: a counter that starts near zero and grows by one per event
            /// cannot reach 2^64 in the life of a cluster.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("a 64-bit counter does not wrap in practice"))
            }

            /// The previous value, or zero at zero.
            #[must_use]
            pub const fn previous(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $format, self.0)
            }
        }
    };
}

number!(
    /// One incarnation of a node's data directory: random, drawn when the directory is made, never
    /// zero in a real node. A node that comes back empty under its old *name* has another `NodeId`,
    /// so its lost votes cannot be mistaken for its own (RELIABILITY D9).
    NodeId, "{:x}"
);
number!(
    /// The identity of one cluster, drawn once at its first boot. Zero means "not known yet".
    ClusterId, "{:016x}"
);
number!(
    /// How many times a data directory has been started. Grows by one, durably, at each start, so
    /// that requests of a former process can be told from those of the present one.
    Boot, "{}"
);
number!(
    /// The number of a request within one boot of one node. The first is 1.
    Sequence, "{}"
);
number!(
    /// A Raft term (Raft paper, section 5.1). Zero is before the first election.
    Term, "{}"
);
number!(
    /// A position in the Raft log. The first entry is 1; zero is "before the log".
    Index, "{}"
);
number!(
    /// A revision of the key-value store: the empty store is 1, and each committed transaction that
    /// changes a key adds exactly one.
    Revision, "{}"
);
number!(
    /// A fencing token: the revision at which a lock or election was entered. Strictly greater for
    /// every later holder of the same name.
    Token, "{}"
);
number!(
    /// A lease, unique in the life of a cluster. Zero is "no lease" and never names one.
    LeaseId, "{:x}"
);
number!(
    /// Which history the revisions belong to: restoring a backup starts the next epoch.
    Epoch, "{}"
);
number!(
    /// Names one batch of linearizable reads on the node that asked. Never reused within a boot.
    ReadContext, "{}"
);

impl Index {
    /// The index `count` entries further on. Panics on overflow, as [`Index::next`] does.
    #[must_use]
    pub const fn plus(self, count: u64) -> Self {
        Self(self.0.checked_add(count).expect("a log index does not wrap in practice"))
    }

    /// How many entries lie in `(earlier, self]`; zero when `earlier` is not earlier.
    pub const fn since(self, earlier: Index) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Names one request of one process for ever: the key of exactly-once application.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId {
    /// The node that took the request from its client.
    pub node: NodeId,
    /// The boot of that node during which it took it.
    pub boot: Boot,
    /// Its number within that boot.
    pub sequence: Sequence,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.node, self.boot, self.sequence)
    }
}
