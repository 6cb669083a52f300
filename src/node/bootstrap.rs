//! Drives a blank node into its cluster: asks the listed members until there is an identity to
//! take.
//!
//! What their answers mean is decided by `replica::Bootstrap`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::{NodeId, Rng, Span};
use crate::node::clock::duration;
use crate::node::error::StartError;
use crate::node::gatekeeper::Gate;
use crate::node::{StartPhase, Starting};
use crate::peer::{Gatekeeper, introduce};
use crate::pki::LiveTls;
use crate::replica::{Bootstrap, BootstrapStep, Seed};
use crate::wire::{
    Genesis, Hello, HelloRefusal, LinkClass, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN,
};

/// Pause between two rounds of asking.
const ROUND: Span = Span::from_millis(50);
/// Longest pause, once the first few rounds have found nobody.
const ROUND_MAX: Span = Span::from_secs(1);

/// Who this node is, for its way into the cluster.
pub(super) struct Newcomer<'a> {
    pub(super) cluster_name: String,
    pub(super) name: String,
    pub(super) node: NodeId,
    pub(super) seeds: BTreeMap<String, Seed>,
    pub(super) tls: &'a LiveTls,
    pub(super) gate: &'a Arc<Gate>,
    pub(super) starting: &'a Starting,
}

/// What one round of asking has brought.
#[derive(Debug, Default)]
struct Round {
    /// A cluster runs without this node: who says so, and whether it has a member of its name.
    unlisted: Option<(String, bool)>,
    /// Another blank node does not agree.
    refused: Option<(String, HelloRefusal)>,
}

/// Resolves when there is an identity. Goes on asking for ever while members are missing, or while
/// the cluster does not know this node, and says what it waits for: the operator starts hosts one
/// after the other, and adds them when he likes.
pub(super) async fn run(newcomer: &Newcomer<'_>, rng: Rng) -> Result<Genesis, StartError> {
    let seeds = newcomer.seeds.clone();
    let mut bootstrap = Bootstrap::new(newcomer.name.clone(), newcomer.node, seeds, rng);
    if let BootstrapStep::Adopt(genesis) = bootstrap.begin() {
        return Ok(genesis);
    }
    let mut pause = ROUND;
    loop {
        for (name, claim) in newcomer.gate.take_seen() {
            if let BootstrapStep::Adopt(genesis) = bootstrap.seen(&name, &claim) {
                return Ok(genesis);
            }
            pause = ROUND;
        }
        let mut round = Round::default();
        if let Some(genesis) = ask_all(newcomer, &mut bootstrap, &mut round).await {
            return Ok(genesis);
        }
        match round {
            Round { unlisted: Some((by, replaces)), .. } => {
                newcomer.starting.waits(newcomer.to_be_added(by, replaces));
            }
            // Where no cluster runs, blank nodes that disagree never make one.
            Round { refused: Some((by, refusal)), .. } => {
                return Err(StartError::Refused { by, refusal });
            }
            Round { .. } => {
                let waiting_for = bootstrap.waiting_for();
                newcomer.starting.waits(StartPhase::FirstBoot { waiting_for });
            }
        }
        tokio::select! {
            () = tokio::time::sleep(duration(pause)) => {}
            () = newcomer.gate.seen_changed.notified() => pause = ROUND,
        }
        pause = pause.times(2).min(ROUND_MAX);
    }
}

async fn ask_all(
    newcomer: &Newcomer<'_>,
    bootstrap: &mut Bootstrap,
    round: &mut Round,
) -> Option<Genesis> {
    for name in bootstrap.waiting_for() {
        let address = &newcomer.seeds[&name].address;
        let Ok(answer) = introduce(&newcomer.tls.current(), address, &newcomer.hello(&name)).await
        else {
            continue;
        };
        match bootstrap.answered(&name, &answer) {
            BootstrapStep::Adopt(genesis) => return Some(genesis),
            BootstrapStep::Refused { by, refusal } => round.refused = Some((by, refusal)),
            BootstrapStep::Unlisted { by, replaces } => {
                // A member that is behind may not know the name yet.
                let known = round.unlisted.take().is_some_and(|(_, replaces)| replaces);
                round.unlisted = Some((by, replaces || known));
            }
            BootstrapStep::Wait => {}
        }
    }
    None
}

impl Newcomer<'_> {
    fn to_be_added(&self, by: String, replaces: bool) -> StartPhase {
        let name = &self.name;
        let command = if replaces {
            format!("quorumctl members replace {name}")
        } else {
            format!("quorumctl members add {name}={}", self.seeds[name].address)
        };
        StartPhase::WaitingToBeAdded { by, replaces, command }
    }

    fn hello(&self, to_name: &str) -> Hello {
        Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION_MAX,
            class: LinkClass::Bootstrap,
            cluster_name: self.cluster_name.clone(),
            name: self.name.clone(),
            to_name: to_name.to_owned(),
            to_node: None,
            claim: self.gate.claim(),
        }
    }
}
