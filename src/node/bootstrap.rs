//! Drives the first boot of a blank node: asks the listed members until there is an identity to
//! take.
//!
//! What their answers mean is decided by `replica::Bootstrap`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{NodeId, Rng, Span};
use crate::node::clock::duration;
use crate::node::error::StartError;
use crate::node::gatekeeper::Gate;
use crate::peer::{Gatekeeper, Target, introduce};
use crate::pki::TlsConfigs;
use crate::replica::{Bootstrap, BootstrapStep, Seed};
use crate::wire::{
    Genesis, Hello, HelloRefusal, LinkClass, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN,
};

/// Pause between two rounds of asking.
const ROUND: Span = Span::from_millis(50);
/// Longest pause, once the first few rounds have found nobody.
const ROUND_MAX: Span = Span::from_secs(1);

/// Who this node is, for the first boot.
pub(super) struct Newcomer {
    pub(super) cluster_name: String,
    pub(super) name: String,
    pub(super) node: NodeId,
    pub(super) seeds: BTreeMap<String, Seed>,
}

/// Resolves when there is an identity. Goes on asking for ever while members are missing, and says
/// in the log whom it waits for: the operator starts hosts one after the other.
pub(super) async fn run(
    newcomer: &Newcomer,
    tls: &TlsConfigs,
    gate: &Arc<Gate>,
    rng: Rng,
) -> Result<Genesis, StartError> {
    let seeds = newcomer.seeds.clone();
    let mut bootstrap = Bootstrap::new(newcomer.name.clone(), newcomer.node, seeds, rng);
    if let BootstrapStep::Adopt(genesis) = bootstrap.begin() {
        return Ok(genesis);
    }
    let mut pause = ROUND;
    let mut told = Vec::new();
    loop {
        for (name, claim) in gate.take_seen() {
            if let BootstrapStep::Adopt(genesis) = bootstrap.seen(&name, &claim) {
                return Ok(genesis);
            }
        }
        for name in bootstrap.waiting_for() {
            let target =
                Target { name: name.clone(), address: newcomer.seeds[&name].address.clone() };
            let Ok(answer) = introduce(tls, &target, &hello(newcomer, gate, &name)).await else {
                continue;
            };
            match bootstrap.answered(&name, &answer) {
                BootstrapStep::Adopt(genesis) => return Ok(genesis),
                BootstrapStep::Refused { by, refusal } if refusal != HelloRefusal::NotReady => {
                    return Err(StartError::Refused { by, refusal });
                }
                BootstrapStep::Refused { .. } | BootstrapStep::Wait => {}
            }
        }
        let waiting = bootstrap.waiting_for();
        if waiting != told {
            tracing::info!(?waiting, "first boot: waiting for members");
            told = waiting;
            pause = ROUND;
        }
        tokio::select! {
            () = tokio::time::sleep(duration(pause)) => {}
            () = gate.seen_changed.notified() => {}
        }
        pause = pause.times(2).min(ROUND_MAX);
    }
}

fn hello(newcomer: &Newcomer, gate: &Arc<Gate>, to_name: &str) -> Hello {
    Hello {
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        class: LinkClass::Bootstrap,
        cluster_name: newcomer.cluster_name.clone(),
        name: newcomer.name.clone(),
        to_name: to_name.to_owned(),
        claim: gate.claim(),
    }
}
