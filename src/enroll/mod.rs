//! How a host becomes a member: tokens, certificates, and the change of members at the end.
//!
//! # The way of a host
//!
//! 1. An administrator makes a *token* through any member ([`create_token`]). The store keeps its
//!    public half under `_tokens/<id>`, with its end, its role, and the name it is for.
//! 2. The host dials a member on the peer port, which shows a certificate of the authority that the
//!    token pins; it sends a request for a certificate, and proves that it knows the secret.
//! 3. A voter that holds the authority's key (a *signer*; `_ca/signers/<name>`) decides
//!    (`desk.rs`).
//!    One transaction marks the token as used and writes `_joins/<name>`: of two members that are
//!    asked at the same time, one wins. Only then is the certificate signed. An answer that was
//!    lost is given again to the same key, for as long as the token would have been good.
//! 4. The host starts, blank, and waits to be added. Whoever leads finds `_joins/<name>`, dials it,
//!    and adds it (`welcome.rs`): as a learner first, and, if that was asked for, as a voter once
//!    it keeps up.
//!
//! # Renewal
//!
//! A node that `init` or `join` made asks for its next certificate at two thirds of the life of the
//! present one, by the same protocol, and is known by the present one (`renew.rs`).
//!
//! # Time
//!
//! What decides over a token's end is the later of the signer's own clock and the newest stamp in
//! the log. A clock that is behind cannot prolong a token beyond what the log has seen.
//!
//! # Tasks
//!
//! All are started by [`Enrolment::start`] and end with the [`Enrolment`]: the *welcome* task,
//! which acts while this node leads, the *signer* task, which announces this node while it can
//! sign, the *rotation* task, which does this node's part when the authority is exchanged
//! (`rotation.rs`), and the *renewal* task, unless certificates are made by hand.
//!
//! Frames and connections are `peer/`'s, certificates `pki/`'s; who may ask for tokens is decided
//! by the local API.

mod desk;
mod enrolment;
mod error;
mod keyring;
mod records;
mod renew;
mod rotation;
mod store;
mod tokens;
mod welcome;

pub use enrolment::{AuthorityOptions, CaMember, CaSeen, EnrollOptions, Enrolment};
pub use error::EnrollError;
pub use records::{Phase, Role, TokenState};
pub use tokens::{TokenOrder, TokenSeen, create_token, list_tokens, revoke_token};
