//! Makes a failure shorter: leaves out faults, then what callers begin, by halves, quarters and so
//! on, as long as the same property fails.
//!
//! Each fault and each step of a caller has chances of its own, so that leaving one out changes
//! little else.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::many::{self, Failure};
use crate::run::Plan;

/// For how long it is tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// The shortest plan that was found to fail in the same way, and how it fails.
pub fn shrink(failure: Failure) -> Failure {
    let started = Instant::now();
    let mut best = failure;
    for kind in [Kind::Faults, Kind::Steps] {
        let most = kind.drawn(&best);
        let mut size = most.div_ceil(2).max(1);
        loop {
            let mut first = 1;
            while first <= most && started.elapsed() < PATIENCE {
                let mut plan = best.plan.clone();
                let left_out = kind.left_out(&mut plan);
                let before = left_out.len();
                left_out.extend(first..first + size);
                if left_out.len() > before
                    && let (Err(shorter), _) = many::run_plan(&plan, false)
                    && shorter.name == best.name
                {
                    best = shorter;
                }
                first += size;
            }
            if size == 1 || started.elapsed() >= PATIENCE {
                break;
            }
            size = size.div_ceil(2);
        }
    }
    best
}

#[derive(Clone, Copy)]
enum Kind {
    Faults,
    Steps,
}

impl Kind {
    fn drawn(self, failure: &Failure) -> u64 {
        match self {
            Kind::Faults => failure.faults,
            Kind::Steps => failure.begun,
        }
    }

    fn left_out(self, plan: &mut Plan) -> &mut BTreeSet<u64> {
        match self {
            Kind::Faults => &mut plan.without_faults,
            Kind::Steps => &mut plan.without_steps,
        }
    }
}

/// What a plan leaves out, as `QUORUMD_SIM_WITHOUT` takes it: `f3 f5-9 s1-200`.
pub fn left_out(plan: &Plan) -> String {
    let mut text = String::new();
    for (letter, numbers) in [('f', &plan.without_faults), ('s', &plan.without_steps)] {
        let mut rest = numbers.iter().copied().peekable();
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            let range = if last > first { format!("{first}-{last}") } else { first.to_string() };
            text.push_str(&format!("{letter}{range} "));
        }
    }
    text.trim_end().to_owned()
}

/// The plan of a seed that leaves out what the text says.
pub fn plan(seed: u64, text: &str) -> Plan {
    let mut plan = Plan::of(seed);
    for word in text.split_whitespace() {
        let (letter, range) = word.split_at(1);
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| -> u64 { text.parse().expect("f<number> or s<number>-<number>") };
        let numbers = number(first)..=number(last);
        match letter {
            "f" => plan.without_faults.extend(numbers),
            "s" => plan.without_steps.extend(numbers),
            _ => panic!("{word} is neither a fault nor a step"),
        }
    }
    plan
}

#[test]
fn what_is_left_out_can_be_read_back() {
    let text = "f3 f5-9 s1-200";
    assert_eq!(left_out(&plan(7, text)), text);
}
