//! Whole clusters under simulation: real replicas over real files on a simulated disk, with a
//! seeded network, seeded clocks, crashes and pauses; one seed decides everything.
//!
//! What must hold is in `invariants/`, how to read a failure in `docs/testing.md`.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test program is told its seeds by its environment and reports how long it took"
)]

#[path = "invariants/mod.rs"]
mod invariants;

mod clocks;
mod cluster;
mod disk;
mod disks;
mod faults;
mod links;
mod lockers;
mod many;
mod measure;
mod mutants;
mod network;
mod node;
mod operator;
mod oracle;
mod run;
mod shadow;
mod shrink;
mod trace;
mod workload;

use run::Report;
use trace::Trace;

/// Panics with the name of a property that does not hold.
#[macro_export]
macro_rules! ensure {
    ($holds:expr, $name:literal, $($text:tt)+) => {
        if !$holds {
            panic!("invariant {} does not hold: {}", $name, format!($($text)+));
        }
    };
}

/// Seeds of every test run.
const SEEDS: u64 = 40;
/// Seeds that no test run has had before.
const FRESH_SEEDS: u64 = 3;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")))
}

/// A seed that nobody knows.
fn unknown_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0_u8) >> 24
}

#[test]
fn seeds_of_every_run() {
    let seeds: Vec<u64> = (1..=SEEDS).collect();
    let total: Report = many::run_all(&seeds);
    let least = [
        ("acked", 20 * SEEDS),
        ("faults", 5 * SEEDS),
        ("holders", SEEDS),
        ("leaders", SEEDS),
        ("local reads", SEEDS),
        ("reads", 10 * SEEDS),
        ("transactions", SEEDS),
        ("watched", 20 * SEEDS),
    ];
    for (name, least) in least {
        assert!(total.get(name) > least, "{name}: {} prove little", total.get(name));
    }
}

#[test]
fn fresh_seeds() {
    let seeds: Vec<u64> =
        (0..number("QUORUMD_SIM_SEEDS").unwrap_or(FRESH_SEEDS)).map(|_| unknown_seed()).collect();
    eprintln!("fresh seeds: {:?}", &seeds[..seeds.len().min(8)]);
    many::run_all(&seeds);
}

#[test]
fn seeds_that_failed_once() {
    let lines = include_str!("regressions.txt").lines();
    for line in lines.filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let mut words = line.split_whitespace();
        let seed = words.next().and_then(|word| word.parse().ok()).expect("a seed is a number");
        let lean = words.next().and_then(mutants::lean_named).expect("what it leans towards");
        if let (Err(failure), _) = many::run_plan(&run::Plan::leaning(lean, seed), false) {
            many::fail(failure);
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [3, 11] {
        let traces = [Trace::new(true), Trace::new(true)];
        for trace in &traces {
            run::run(&run::Plan::of(seed), trace.clone());
        }
        assert!(traces[0].text() == traces[1].text(), "seed {seed} is not replayed exactly");
    }
}

/// Shows all of one seed: `QUORUMD_SIM_SEED=7 cargo test --test sim replay -- --nocapture`; of a
/// part of it with `QUORUMD_SIM_WITHOUT`, with a deliberate error with `QUORUMD_SIM_MUTATION`, and
/// the shortest form of a failure that is found, with its end only, with `QUORUMD_SIM_SHRINK=1`.
#[test]
fn replay() {
    let Some(seed) = number("QUORUMD_SIM_SEED") else { return };
    match mutants::chosen() {
        Some(mutation) => mutation.with(|| show(seed)),
        None => show(seed),
    }
}

fn show(seed: u64) {
    let without = std::env::var("QUORUMD_SIM_WITHOUT").unwrap_or_default();
    let mut plan = shrink::plan(seed, &without);
    plan.lean = mutants::lean().unwrap_or_default();
    let shrink = std::env::var_os("QUORUMD_SIM_SHRINK").is_some();
    let (result, trace) = many::run_plan(&plan, !shrink);
    match result {
        Ok(report) => eprintln!("{}seed {seed} holds: {report}", trace.text()),
        Err(failure) if shrink => many::fail(failure),
        Err(failure) => panic!("{}{}", trace.text(), failure.message),
    }
}
