//! Join tokens: one line of text that names a cluster, pins its authority, and holds a secret that
//! never leaves the host on which it is used.
//!
//! ```text
//! qd1.<cluster>.<pin>.<addresses>.<id>.<secret>.<checksum>
//! ```
//!
//! The cluster's name may hold dots, the other parts cannot. `pin`, `addresses` (joined by commas)
//! and `secret` are base64 for URLs; `checksum` is the CRC-32 of what stands before it, against
//! typing errors.
//!
//! The secret is the seed of a key pair. The cluster keeps the public half (the *verifier*), so
//! that whoever reads the store, a backup or a learner's disk can check a proof and cannot make
//! one: with a shared key (HMAC) the stored half would be as good as the token.
//!
//! How often and how long a token may be used is decided by `enroll/`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::base::limits;
use crate::pki::identity::is_name;
use crate::pki::{Pin, TokenFault};

/// What every token of this form begins with.
const PREFIX: &str = "qd1.";
/// Longest text of a token: addresses of as many members as there can be voters, and some.
const TEXT_BYTES_MAX: usize = 8 * 1024;
/// Binds derived keys to their purpose.
const PURPOSE: &[u8] = b"quorumd join token 1";
/// Bytes of the secret: 128 bits.
const SECRET_BYTES: usize = 16;

/// A join token. Its secret is shown by [`JoinToken::reveal`] only.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The cluster.
    pub cluster: String,
    /// The authority that the members' certificates are signed by.
    pub pin: Pin,
    /// Where members listen, most useful first.
    pub addresses: Vec<String>,
    /// Names the token; no secret.
    pub id: String,
    secret: [u8; SECRET_BYTES],
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl JoinToken {
    /// A new token with a fresh id and secret. Fails when the system has no randomness.
    pub fn create(cluster: &str, pin: Pin, addresses: Vec<String>) -> Result<Self, TokenFault> {
        let (mut id, mut secret) = ([0; 8], [0; SECRET_BYTES]);
        let random = SystemRandom::new();
        random.fill(&mut id).map_err(|_| TokenFault::Random)?;
        random.fill(&mut secret).map_err(|_| TokenFault::Random)?;
        let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { cluster: cluster.to_owned(), pin, addresses, id, secret })
    }

    /// Reads the text of a token, white space around it left out.
    pub fn parse(text: &str) -> Result<Self, TokenFault> {
        let text = text.trim();
        let rest = text.strip_prefix(PREFIX).ok_or(TokenFault::Prefix)?;
        if text.len() > TEXT_BYTES_MAX {
            return Err(TokenFault::Form);
        }
        let (summed, sum) = text.rsplit_once('.').ok_or(TokenFault::Form)?;
        if sum != checksum(summed) {
            return Err(TokenFault::Checksum);
        }
        let mut parts = rest.rsplitn(6, '.');
        let mut part = || parts.next().ok_or(TokenFault::Form);
        let (_, secret, id, addresses, pin) = (part()?, part()?, part()?, part()?, part()?);
        let cluster = part()?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenFault::Form);
        let addresses = String::from_utf8(decode(addresses)?).map_err(|_| TokenFault::Form)?;
        let addresses: Vec<String> = addresses.split(',').map(str::to_owned).collect();
        let plain = |address: &String| {
            (1..=limits::ADDRESS_BYTES_MAX).contains(&address.len())
                && address.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if !is_name(cluster) || !is_id(id) || !addresses.iter().all(plain) {
            return Err(TokenFault::Form);
        }
        Ok(Self {
            cluster: cluster.to_owned(),
            pin: Pin::parse(pin).ok_or(TokenFault::Form)?,
            addresses,
            id: id.to_owned(),
            secret: decode(secret)?.try_into().map_err(|_| TokenFault::Form)?,
        })
    }

    /// The whole text, secret included: for the person who made it.
    pub fn reveal(&self) -> String {
        let Self { cluster, pin, addresses, id, secret } = self;
        let addresses = URL_SAFE_NO_PAD.encode(addresses.join(","));
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let text = format!("{PREFIX}{cluster}.{pin}.{addresses}.{id}.{secret}");
        format!("{text}.{}", checksum(&text))
    }

    /// The public half of the secret, by which proofs are checked.
    pub fn verifier(&self) -> [u8; 32] {
        let mut verifier = [0; 32];
        verifier.copy_from_slice(self.key().public_key().as_ref());
        verifier
    }

    /// Proves knowledge of the secret to whoever has the verifier, for this message only.
    pub fn prove(&self, message: &[u8]) -> Vec<u8> {
        self.key().sign(message).as_ref().to_vec()
    }

    fn key(&self) -> Ed25519KeyPair {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.secret));
        for part in [PURPOSE, self.cluster.as_bytes(), &[0], self.id.as_bytes()] {
            context.update(part);
        }
        Ed25519KeyPair::from_seed_unchecked(context.sign().as_ref())
            .expect("a seed of 32 bytes is always one of Ed25519")
    }
}

/// Whether `proof` was made for `message` with the secret of this verifier.
pub fn proof_holds(verifier: &[u8], message: &[u8], proof: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, verifier).verify(message, proof).is_ok()
}

/// Whether `text` can be the id of a token.
pub fn is_id(text: &str) -> bool {
    text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn checksum(text: &str) -> String {
    format!("{:08x}", crc32fast::hash(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, proptest};

    use super::{JoinToken, proof_holds};
    use crate::pki::{Authority, TokenFault};

    fn token(cluster: &str, addresses: &[&str]) -> JoinToken {
        let pin = Authority::create("blue").unwrap().pin();
        let addresses = addresses.iter().map(|&address| address.to_owned()).collect();
        JoinToken::create(cluster, pin, addresses).unwrap()
    }

    #[test]
    fn what_is_revealed_is_read_again_and_needs_no_quoting() {
        for cluster in ["blue", "a.b.c", "x-1_y.z"] {
            let token = token(cluster, &["10.0.0.1:7400", "[fd00::1]:7400", "web1.example:1"]);
            let text = token.reveal();
            assert_eq!(JoinToken::parse(&format!(" {text}\n")).unwrap(), token);
            assert!(
                text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
            );
            assert!(!format!("{token:?}").contains(text.rsplit('.').nth(1).unwrap()));
        }
    }

    #[test]
    fn a_typing_error_anywhere_is_noticed() {
        let text = token("blue", &["10.0.0.1:7400"]).reveal();
        for at in 0..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'x' { b'y' } else { b'x' };
            assert!(JoinToken::parse(std::str::from_utf8(&wrong).unwrap()).is_err(), "at {at}");
            assert!(JoinToken::parse(&text[..at]).is_err(), "cut at {at}");
        }
        assert_eq!(JoinToken::parse("hello"), Err(TokenFault::Prefix));
        assert_eq!(JoinToken::parse("qd1.a.b.c.d.e.f"), Err(TokenFault::Checksum));
    }

    #[test]
    fn a_proof_holds_for_one_token_and_one_message() {
        let (one, other) = (token("blue", &["a:1"]), token("blue", &["a:1"]));
        let proof = one.prove(b"message");
        assert!(proof_holds(&one.verifier(), b"message", &proof));
        assert!(!proof_holds(&one.verifier(), b"massage", &proof));
        assert!(!proof_holds(&other.verifier(), b"message", &proof));
        assert!(!proof_holds(&one.verifier(), b"message", &[]));
        assert!(!proof_holds(&[], b"message", &proof));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>(), rest in "[A-Za-z0-9._-]{0,200}") {
            let _ = JoinToken::parse(&text);
            let _ = JoinToken::parse(&format!("qd1.{rest}"));
            // With a right checksum the parts themselves are looked at.
            let summed = format!("qd1.{rest}");
            let sum = crc32fast::hash(summed.as_bytes());
            let _ = JoinToken::parse(&format!("{summed}.{sum:08x}"));
        }
    }
}
