//! Whether the checks find what they are for: each deliberate error of `base::mutation` must be
//! found by one of a few seeds that are known to find it.

use std::time::Instant;

use quorumd::base::mutation::{self, Mutation};

use crate::many::{self, Failure};
use crate::run::Plan;

/// Seeds that are known to find an error.
const KNOWN: &[(Mutation, u64)] = &[
    (Mutation::AckBeforeSync, 1),
    (Mutation::CommitByHalf, 13),
    (Mutation::ConditionIgnored, 1),
    (Mutation::DeadWaiterStays, 1),
    (Mutation::DedupeForgottenAtRestart, 3),
];

/// How an error was found.
struct Found {
    seeds: u64,
    failure: Failure,
}

/// Tries these seeds until one finds it.
fn hunt(mutation: Mutation, seeds: impl Iterator<Item = u64>) -> Result<Found, u64> {
    let mut count = 0;
    for seed in seeds {
        count += 1;
        let (result, _) = mutation.with(|| many::run_plan(&Plan::of(seed), false));
        if let Err(failure) = result {
            return Ok(Found { seeds: count, failure });
        }
    }
    Err(count)
}

/// `QUORUMD_SIM_MUTATIONS=200 cargo test --test sim mutations -- --nocapture` tries the seeds from
/// 1 on, up to as many, for each error, and prints how many it took.
#[test]
fn mutations_are_found() {
    if !mutation::AVAILABLE {
        eprintln!("a release build has no deliberate errors to find");
        return;
    }
    let budget = crate::number("QUORUMD_SIM_MUTATIONS");
    let only = std::env::var("QUORUMD_SIM_MUTATION").ok();
    let wanted: Vec<Mutation> = Mutation::ALL
        .iter()
        .copied()
        .filter(|m| only.as_ref().is_none_or(|only| format!("{m:?}") == *only))
        .filter(|m| budget.is_some() || KNOWN.iter().any(|(known, _)| known == m))
        .collect();
    let started = Instant::now();
    let results = many::on_all_cores(&wanted, |&mutation| {
        let known = KNOWN.iter().filter(|(known, _)| *known == mutation).map(|(_, seed)| *seed);
        let found = match budget {
            Some(seeds) => hunt(mutation, 1..=seeds),
            None => hunt(mutation, known),
        };
        if budget.is_some() {
            show(mutation, &found);
        }
        ((mutation, found), false)
    });
    let missed: Vec<Mutation> =
        results.iter().filter(|(_, found)| found.is_err()).map(|(m, _)| *m).collect();
    eprintln!("{} mutations in {:.1} s", results.len(), started.elapsed().as_secs_f64());
    assert!(missed.is_empty(), "no check found {missed:?}");
}

fn show(mutation: Mutation, found: &Result<Found, u64>) {
    match found {
        Ok(Found { seeds, failure }) => {
            let message = failure.message.chars().take(150).collect::<String>();
            eprintln!("{mutation:?} | {seeds} | {} | {message}", failure.name);
        }
        Err(seeds) => eprintln!("{mutation:?} | not in {seeds} |"),
    }
}
