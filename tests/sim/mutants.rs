//! Whether the checks find what they are for: each deliberate error of `base::mutation` must be
//! found by one of a few seeds that are known to find it.

use std::time::Instant;

use quorumd::base::mutation::{self, Mutation};

use crate::many::{self, Failure};
use crate::run::{Lean, Plan};

/// The errors that show only when something rare happens, and what to lean towards for them. They
/// are looked for in long runs.
const AIMED: &[(Mutation, Lean)] = &[
    (Mutation::AnswerOfEarlierTermCounts, Lean::Elections),
    (Mutation::AppendCommitsUnproven, Lean::Elections),
    (Mutation::CommitByHalf, Lean::Restarts),
    (Mutation::CommitOldTermByCounting, Lean::Elections),
    (Mutation::DedupeOffByOne, Lean::Elections),
    (Mutation::ExpiryIgnoresTerm, Lean::Leases),
    (Mutation::HeartbeatCommitsUnmatched, Lean::Elections),
    (Mutation::PromiseFromAnswer, Lean::Leases),
    (Mutation::ReadBeforeOpening, Lean::Elections),
    (Mutation::SharedOvertakes, Lean::Leases),
    (Mutation::ChangeBeforeOwnCommit, Lean::Members),
    (Mutation::ChangeOverUncommitted, Lean::Members),
    (Mutation::InstallKeepsLog, Lean::Members),
    (Mutation::JointHalfCommits, Lean::Members),
    (Mutation::JointHalfElects, Lean::Members),
    (Mutation::JointLeftEarly, Lean::Members),
    (Mutation::SnapshotTakesNewestConfig, Lean::Members),
];

/// Most seeds that are tried in an everyday run for one error.
const SEEDS: u64 = 60;

/// How an error was found.
struct Found {
    seeds: u64,
    failure: Failure,
}

/// Tries these seeds until one finds it.
fn hunt(mutation: Mutation, lean: Lean, seeds: impl Iterator<Item = u64>) -> Result<Found, u64> {
    let mut count = 0;
    for seed in seeds {
        count += 1;
        let plan = Plan::leaning(lean, seed);
        let (result, _) = mutation.with(|| many::run_plan(&plan, false));
        if let Err(failure) = result {
            return Ok(Found { seeds: count, failure });
        }
    }
    Err(count)
}

fn aim(mutation: Mutation) -> Lean {
    let aimed = AIMED.iter().find(|(aimed, _)| *aimed == mutation);
    aimed.map_or(Lean::Nothing, |(_, lean)| *lean)
}

/// The error that the environment names.
pub fn chosen() -> Option<Mutation> {
    let name = std::env::var("QUORUMD_SIM_MUTATION").ok()?;
    let found = Mutation::ALL.iter().copied().find(|mutation| format!("{mutation:?}") == name);
    Some(found.unwrap_or_else(|| panic!("there is no mutation {name}")))
}

/// What the environment leans towards.
pub fn lean() -> Option<Lean> {
    let name = std::env::var("QUORUMD_SIM_LEAN").ok()?;
    Some(lean_named(&name).unwrap_or_else(|| panic!("nothing leans towards {name}")))
}

/// What is called like this.
pub fn lean_named(name: &str) -> Option<Lean> {
    match name {
        "elections" => Some(Lean::Elections),
        "leases" => Some(Lean::Leases),
        "members" => Some(Lean::Members),
        "nothing" => Some(Lean::Nothing),
        "restarts" => Some(Lean::Restarts),
        _ => None,
    }
}

/// How far and where to look, as the environment has it:
/// `QUORUMD_SIM_MUTATIONS=200 cargo test --profile sim --test sim mutations -- --nocapture` tries
/// the seeds from 1 on, up to as many, for each error, and prints how many it took.
/// `QUORUMD_SIM_MUTATION` names one error, `QUORUMD_SIM_LEAN` what to lean towards.
#[test]
fn mutations_are_found() {
    if !mutation::AVAILABLE {
        eprintln!("a release build has no deliberate errors to find");
        return;
    }
    let budget = crate::number("QUORUMD_SIM_MUTATIONS");
    let (only, lean) = (chosen(), lean());
    let wanted = Mutation::ALL.iter().copied();
    let wanted = wanted.filter(|mutation| only.is_none_or(|only| only == *mutation));
    let rare = |mutation: &Mutation| AIMED.iter().any(|(rare, _)| rare == mutation);
    let wanted = wanted.filter(|mutation| budget.is_some() || !rare(mutation));
    let wanted: Vec<Mutation> = wanted.collect();
    let started = Instant::now();
    let results = many::on_all_cores(&wanted, |&mutation| {
        let lean = lean.unwrap_or_else(|| aim(mutation));
        let found = hunt(mutation, lean, 1..=budget.unwrap_or(SEEDS));
        if budget.is_some() {
            show(mutation, lean, &found);
        }
        ((mutation, found), false)
    });
    let missed: Vec<Mutation> =
        results.iter().filter(|(_, found)| found.is_err()).map(|(m, _)| *m).collect();
    let tried = |found: &Result<Found, u64>| found.as_ref().map_or_else(|n| *n, |f| f.seeds);
    let tried: u64 = results.iter().map(|(_, found)| tried(found)).sum();
    let took = started.elapsed().as_secs_f64();
    eprintln!("{} mutations, {tried} seeds in {took:.1} s", results.len());
    assert!(missed.is_empty(), "no check found {missed:?}");
}

fn show(mutation: Mutation, lean: Lean, found: &Result<Found, u64>) {
    match found {
        Ok(Found { seeds, failure }) => {
            let message = failure.message.chars().take(150).collect::<String>();
            eprintln!("{mutation:?} | {lean:?} | {seeds} | {} | {message}", failure.name);
        }
        Err(seeds) => eprintln!("{mutation:?} | {lean:?} | not in {seeds} |"),
    }
}
