//! When a connection is too old, or its certificate is trusted no more, and how long it goes on
//! then.
//!
//! How a link is handed over to its successor is in `link.rs`; that a successor is read beside it,
//! in `listener.rs`.

use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::CertificateDer;
use tokio::time::{sleep, sleep_until};

use crate::base::Rng;
use crate::peer::hello::{self, Proof, Reached};
use crate::peer::links::{Peer, Shared};
use crate::peer::{Options, PeerError};
use crate::pki::TlsConfigs;

/// Members that are given new settings together do not dial each other all in the same moment.
const SPREAD_MAX: Duration = Duration::from_millis(200);
/// Shortest wait before another attempt to renew.
const RETRY_MIN: Duration = Duration::from_millis(500);
/// Longest wait before another attempt to renew.
const RETRY_MAX: Duration = Duration::from_secs(15);

/// The renewal of one connection that we dialed.
pub(super) struct Renewal<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    proof: Proof,
    rng: &'a mut Rng,
    /// When it becomes too old.
    due: Instant,
    /// Whether it is to be renewed now: it is too old, or there are other settings.
    begun: bool,
    distrust: Distrust,
    pause: Duration,
    retry: Duration,
}

impl<'a> Renewal<'a> {
    pub(super) fn new(shared: &'a Shared, peer: &'a Peer, proof: Proof, rng: &'a mut Rng) -> Self {
        let age_max = shared.options.connection_age_max;
        let due = Instant::now() + between(rng, age_max / 4 * 3, age_max);
        let (distrust, pause, retry) = (Distrust::default(), Duration::ZERO, RETRY_MIN);
        Self { shared, peer, proof, rng, due, begun: false, distrust, pause, retry }
    }

    /// Waits until the connection must be renewed, and resolves with one that may take its place
    /// once the peer takes it. Fails only when the peer's certificate is trusted no more and it
    /// could not be reached with another one in time. Dropped, it has to begin anew.
    pub(super) async fn reach(&mut self) -> Result<Reached, PeerError> {
        if !self.begun {
            tokio::select! {
                () = sleep_until(self.due.into()) => {}
                () = self.proof.tls.changed() => {
                    self.pause = between(self.rng, Duration::ZERO, SPREAD_MAX);
                }
            }
            self.begun = true;
        }
        loop {
            let current = self.proof.tls.current();
            let until = self.distrust.judge(&current, &self.proof.chain, &self.shared.options);
            let until = until.map(|(until, _)| until);
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = sleep(left.map_or(self.pause, |left| self.pause.min(left))) => {}
                () = self.proof.tls.changed() => continue,
            }
            let address = self.peer.address();
            let error = match hello::reach(self.shared, self.peer, &address).await {
                Ok(reached) => return Ok(reached),
                Err(error) => error,
            };
            self.failed(error);
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(error);
            }
        }
    }

    /// The connection could not be renewed this time.
    pub(super) fn failed(&mut self, error: PeerError) {
        let Peer { name, .. } = self.peer;
        self.peer.failed(error);
        if self.shared.refusals.note(error, name, Instant::now()) {
            tracing::warn!(
                peer = %name, address = self.peer.address(), reason = %error,
                "a link could not be renewed; the old one goes on for now"
            );
        }
        self.pause = between(self.rng, self.retry / 2, self.retry);
        self.retry = (self.retry * 2).min(RETRY_MAX);
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
