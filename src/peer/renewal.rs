//! When a connection is too old, or its certificate is trusted no more, and how long it goes on
//! then.
//!
//! How a link is handed over to its successor is in `link.rs`; that a successor is read beside it,
//! in `listener.rs`.

use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::CertificateDer;
use tokio::time::{sleep, sleep_until};

use crate::base::Rng;
use crate::peer::hello::{self, Dialed, Proof};
use crate::peer::links::{Peer, Shared};
use crate::peer::{Options, PeerError};
use crate::pki::TlsConfigs;
use crate::wire::LinkClass;

/// Members that are given new settings together do not dial each other all in the same moment.
const SPREAD_MAX: Duration = Duration::from_millis(200);
/// Shortest wait before another attempt to renew.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// Longest wait before another attempt to renew.
const RETRY_MAX: Duration = Duration::from_secs(15);

/// Waits until a connection that we dialed must be renewed, and resolves with its successor, which
/// the peer has accepted. Fails only when the peer's certificate is trusted no more and it could
/// not be dialed with another one in time.
pub(super) async fn renew(
    shared: &Shared,
    peer: &Peer,
    mut proof: Proof,
    rng: &mut Rng,
) -> Result<Dialed, PeerError> {
    let age_max = shared.options.connection_age_max;
    let mut pause = Duration::ZERO;
    tokio::select! {
        () = sleep(between(rng, age_max / 4 * 3, age_max)) => {}
        () = proof.tls.changed() => pause = between(rng, Duration::ZERO, SPREAD_MAX),
    }
    let mut distrust = Distrust::default();
    let mut retry = RETRY_MIN;
    loop {
        let until = distrust.judge(&proof.tls.current(), &proof.chain, &shared.options);
        let until = until.map(|(until, _)| until);
        tokio::select! {
            () = sleep(pause) => {}
            () = proof.tls.changed() => continue,
        }
        let address = peer.address();
        let error = match hello::dial(shared, peer, &address, LinkClass::Consensus).await {
            Ok(next) => return Ok(next),
            Err(error) => error,
        };
        peer.failed(error);
        if shared.refusals.note(error, &peer.name, Instant::now()) {
            tracing::warn!(
                peer = %peer.name, address, reason = %error,
                "a link could not be renewed; the old one goes on for now"
            );
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Err(error);
        }
        pause = between(rng, retry / 2, retry);
        if let Some(until) = until {
            pause = pause.min(until.saturating_duration_since(Instant::now()));
        }
        retry = (retry * 2).min(RETRY_MAX);
    }
}

/// Resolves when an incoming connection has outlived its time: with the fault of its certificate,
/// if it is trusted no more, and with nothing when its dialer should have renewed it.
pub(super) async fn outlived(options: &Options, mut proof: Proof) -> Option<PeerError> {
    let oldest = Instant::now() + options.connection_age_max / 2 * 3;
    let mut distrust = Distrust::default();
    loop {
        let distrusted = distrust.judge(&proof.tls.current(), &proof.chain, options);
        if let Some((until, error)) = distrusted
            && Instant::now() >= until
        {
            return Some(error);
        }
        if Instant::now() >= oldest {
            return None;
        }
        let until = distrusted.map_or(oldest, |(until, _)| until.min(oldest));
        tokio::select! {
            () = sleep_until(until.into()) => {}
            () = proof.tls.changed() => {}
        }
    }
}

/// Since when a chain is not trusted.
#[derive(Default)]
struct Distrust {
    since: Option<Instant>,
}

impl Distrust {
    /// Until when a connection with this chain may go on, and what is wrong with the chain; nothing
    /// when it is trusted.
    fn judge(
        &mut self,
        current: &TlsConfigs,
        chain: &[CertificateDer<'_>],
        options: &Options,
    ) -> Option<(Instant, PeerError)> {
        match current.verify(chain, SystemTime::now()) {
            Ok(()) => {
                self.since = None;
                None
            }
            Err(error) => {
                let since = *self.since.get_or_insert_with(Instant::now);
                Some((since + options.distrusted_age_max, PeerError::from(&error)))
            }
        }
    }
}

fn between(rng: &mut Rng, least: Duration, most: Duration) -> Duration {
    let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(rng.between(micros(least), micros(most)))
}
