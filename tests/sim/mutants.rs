//! Whether the checks find what they are for: each deliberate error of `base::mutation` must be
//! found by one of a few seeds that are known to find it.

use std::time::Instant;

use quorumd::base::mutation::{self, Mutation};

use crate::many::{self, Failure};
use crate::run::{Lean, Plan};

/// What finds each error soonest, and a seed that did when this was written.
const AIMED: &[(Mutation, Lean, u64)] =
    &[(Mutation::AckBeforeSync, Lean::Nothing, 1), (Mutation::CommitByHalf, Lean::Nothing, 13)];

/// Seeds that are tried in an everyday run when the known one finds nothing any more: a seed means
/// something else after any change.
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

fn aim(mutation: Mutation) -> (Lean, u64) {
    let aimed = AIMED.iter().find(|(aimed, ..)| *aimed == mutation);
    aimed.map_or((Lean::Nothing, 1), |(_, lean, seed)| (*lean, *seed))
}

/// The error that the environment names.
pub fn chosen() -> Option<Mutation> {
    let name = std::env::var("QUORUMD_SIM_MUTATION").ok()?;
    let found = Mutation::ALL.iter().copied().find(|mutation| format!("{mutation:?}") == name);
    Some(found.unwrap_or_else(|| panic!("there is no mutation {name}")))
}

/// What the environment leans towards.
pub fn lean() -> Option<Lean> {
    Some(match std::env::var("QUORUMD_SIM_LEAN").ok()?.as_str() {
        "elections" => Lean::Elections,
        "leases" => Lean::Leases,
        "restarts" => Lean::Restarts,
        _ => Lean::Nothing,
    })
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
    let aimed = |m: &Mutation| AIMED.iter().any(|(aimed, ..)| aimed == m);
    let wanted: Vec<Mutation> = wanted.filter(|m| budget.is_some() || aimed(m)).collect();
    let started = Instant::now();
    let results = many::on_all_cores(&wanted, |&mutation| {
        let (aimed, known) = aim(mutation);
        let lean = lean.unwrap_or(aimed);
        let found = match budget {
            Some(seeds) => hunt(mutation, lean, 1..=seeds),
            None => hunt(mutation, lean, std::iter::once(known).chain(1..=SEEDS)),
        };
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
