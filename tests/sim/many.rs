//! Many seeds on all cores, and what a failure was: which property, with the last lines of the
//! trace.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::mutants;
use crate::run::{self, Plan, Report};
use crate::shrink;
use crate::trace::Trace;

/// A run in which something did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What was run.
    pub plan: Plan,
    /// How many faults were drawn until then.
    pub faults: u64,
    /// How many steps of callers were begun.
    pub begun: u64,
    /// The property, or where an assertion of the product stands.
    pub name: String,
    /// All that was said.
    pub message: String,
    /// The last lines of the trace.
    pub trace: String,
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs one plan, quietly.
pub fn run_plan(plan: &Plan, keep_all: bool) -> (Result<Report, Failure>, Trace) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let place = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
            PLACE.set(place.unwrap_or_default());
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
    let trace = Trace::new(keep_all);
    let copy = trace.clone();
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| run::run(plan, copy)));
    QUIET.set(false);
    let result = result.map_err(|cause| {
        let message = cause.downcast_ref::<String>().cloned();
        let message = message.or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        let message = message.unwrap_or_default();
        let name = name_of(&message, &PLACE.take());
        let (faults, begun) = trace.counts();
        Failure { plan: plan.clone(), faults, begun, name, message, trace: trace.text() }
    });
    (result, trace)
}

/// `invariant <name> does not hold: ..` is ours; everything else is an assertion of the product.
fn name_of(message: &str, place: &str) -> String {
    let named = message.strip_prefix("invariant ").and_then(|rest| rest.split([' ', ':']).next());
    named.map_or_else(|| format!("assertion at {place}"), str::to_owned)
}

/// How many threads run seeds.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// Does `work` for each item on all cores, in about their order. Stops early when it says so.
pub fn on_all_cores<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> (R, bool) + Sync,
) -> Vec<R> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let results: Mutex<Vec<(usize, R)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads().min(items.len()) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let (result, enough) = work(item);
                    stop.fetch_or(enough, Ordering::Relaxed);
                    results.lock().expect("nobody panics while it is locked").push((at, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("nobody panics while it is locked");
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Runs all of these seeds; the first that fails ends it with all that is known about it, unless
/// `QUORUMD_SIM_GO_ON` is set: then all failures are named before.
pub fn run_all(seeds: &[u64]) -> Report {
    let started = std::time::Instant::now();
    let all = std::env::var_os("QUORUMD_SIM_GO_ON").is_some();
    let results = on_all_cores(seeds, |&seed| {
        let plan = Plan::leaning(mutants::lean().unwrap_or_default(), seed);
        let (result, _) = run_plan(&plan, false);
        if let Err(failure) = &result {
            eprintln!("seed {seed}: {} ({})", failure.message, failure.name);
        }
        let failed = result.is_err();
        (result, failed && !all)
    });
    let mut total = Report::default();
    let count = results.len();
    for result in results {
        match result {
            Ok(report) => total.add(&report),
            Err(failure) => fail(failure),
        }
    }
    eprintln!("{count} seeds in {:.1} s: {total}", started.elapsed().as_secs_f64());
    total
}

/// Shows the shortest form of a failure that is found, and ends the test.
pub fn fail(failure: Failure) -> ! {
    eprintln!("seed {} fails: {}", failure.plan.seed, failure.message);
    let shorter = shrink::shrink(failure);
    let (seed, without) = (shorter.plan.seed, shrink::left_out(&shorter.plan));
    eprintln!("{}", shorter.trace);
    eprintln!("seed {seed} fails; to see all of it, or all of a shorter form:");
    eprintln!("QUORUMD_SIM_SEED={seed} cargo test --test sim replay -- --nocapture");
    if !without.is_empty() {
        eprintln!(
            "QUORUMD_SIM_WITHOUT=\"{without}\" QUORUMD_SIM_SEED={seed} cargo test --test sim \
             replay -- --nocapture"
        );
    }
    panic!("seed {seed}: {}", shorter.message);
}
