//! Links between daemons: one mutually authenticated TLS connection in each direction, carrying
//! frames.
//!
//! Each node dials every other node and *sends* on the connection that it dialed; it *receives* on
//! the connections that it accepted. So no two nodes ever have to agree which of two crossing
//! connections survives, and losing one direction says nothing about the other. This folder knows
//! frames and who may speak; what messages mean, and which node leads, it does not know.
//!
//! # Who may speak
//!
//! 1. rustls verifies the chain of both sides (`pki/`).
//! 2. The listener compares the certificate's identity with its own cluster and with the name in
//!    the hello; the dialer compares it with the name that it wanted to reach. Byte for byte.
//! 3. The [`Gatekeeper`] compares the hello with the membership and with what the peer has promised
//!    before (`replica/` decides).
//! 4. The sender inside every consensus message must be the node that the hello named.
//!
//! Whoever fails is refused without effect on other links: it is answered with the reason when its
//! certificate is good, reported once per reason and address ([`LinksStatus::refusals`]), and
//! closed.
//!
//! # Who may ask
//!
//! A host that has no certificate yet may do one thing: ask for one, under the application protocol
//! `quorumd-join/1` (`join.rs`). Which of the two is spoken is seen in the first bytes of TLS,
//! before a certificate is demanded. The limits of a handshake cover such a connection up to its
//! request; the answer comes from the [`Registrar`].
//!
//! # Losing a peer
//!
//! When the connection that we dialed ends, it is dialed again at once. If that fails too, the peer
//! is reported [`Inbound::Down`] with `redial_failed`: its process is gone, and a voter may
//! campaign without waiting for its election timer. The end of the connection that we *accepted*
//! from a peer is a hint: its address is then tried with a bare TCP connection, and if nobody
//! listens our own connection is given up as well. A peer that vanishes without closing (power,
//! cable) is noticed by TCP keepalive and user timeout within some five seconds; consensus has its
//! own heartbeats, which are faster.
//!
//! # Renewing a link
//!
//! A connection keeps the certificates of its handshake for as long as it lives. So each has an age
//! (`connection_age_max`), and TLS settings that are replaced move all of them over: the dialer of
//! a link makes another connection beside it, stops writing for the moment of the hello (an
//! acknowledgement that overtook it would make this node look rolled back), then closes the old one
//! and goes on with the new one; the listener takes the new one and reads the old one to its end.
//! Nobody is told, since nothing was lost. While another one cannot be made, the old one goes on:
//! until it is too old for the listener, or, if its certificate is trusted no more, for
//! `distrusted_age_max`. That is what makes the removal of an authority take effect, and it leaves
//! a peer the time to dial with the certificate that it has just been given.
//!
//! # Tasks
//!
//! - **Listener**, one, owned by [`Links`]: accepts connections, and owns the tasks of all of them.
//!   Ends by shutdown or drop.
//! - **Connection**, one for each accepted: at most `HANDSHAKES_MAX` in their handshake, at most
//!   `JOINS_AT_ONCE_MAX` requests for certificates, and one link for each peer name. Ends when the
//!   peer closes, on a fault, when a newer connection of that name replaces it (it is read to its
//!   end then, for two seconds at most), when it is too old, when its name leaves the targets, or
//!   with the listener.
//! - **Dialer**, one for each target, owned by [`Links`]: keeps the outgoing link. Ends when its
//!   outbox is closed, after it wrote what is queued, for at most a second.
//! - **Bulk**, one for each target, in the dialer's task: has a second connection while parts of a
//!   snapshot are sent, so that they never stand before a heartbeat. Ends as the dialer does.
//!
//! # Channels
//!
//! - **Outbox**, from [`Links::send`] to a dialer. Bound: `PEER_QUEUE_FRAMES_MAX` while linked, the
//!   newest `PEER_QUEUE_UNLINKED_FRAMES_MAX` while not. Full: `send` says false and consensus sends
//!   again; while not linked, the oldest is dropped. Closed: the target was removed.
//! - **Bulk outbox**, the same for the second connection. Bound: `PEER_BULK_QUEUE_FRAMES_MAX`.
//! - **Inbound**, from connections and dialers to `node/`. Bound: the caller's. Full: the link is
//!   read no further, and TCP slows that peer down. Closed: the node has stopped, and links end.
//! - **Pokes**, from connections and `set_targets` to a dialer. Bound: 4. Full: the hint is
//!   dropped, and keepalive does the rest. Never closed while the dialer runs: it holds both ends.
//!
//! Locks are held for the length of a map operation and never over an await.

mod bulk;
mod dialer;
mod error;
mod gatekeeper;
mod hello;
mod join;
mod link;
mod links;
mod listener;
mod outbox;
mod refusals;
mod registrar;
mod renewal;
#[cfg(test)]
mod renewal_test;
mod socket;

#[cfg(test)]
mod harness;
#[cfg(test)]
mod links_test;
#[cfg(test)]
mod refused_test;

pub use error::{PeerError, PeerFault};
pub use gatekeeper::Gatekeeper;
pub use hello::introduce;
pub use join::JoinCall;
pub use links::{Inbound, Links, LinksStatus, Options, PeerStatus, Target};
pub use refusals::Refusal;
pub use registrar::{Asker, Registrar, RegistrarSlot};
