//! Input from outside that is almost right: what the tests of all decoders make of good samples,
//! and how they are run for a fixed number of cases or for as long as one likes.
//!
//! ```text
//! QUORUMD_FUZZ_SECONDS=60 cargo test --release --lib hostile_test -- --nocapture
//! QUORUMD_FUZZ_SEED=93 cargo test --lib wire::hostile_test
//! ```

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "how long a test runs is decided outside of the code under test"
)]

use std::time::{Duration, Instant};

use crate::base::Rng;

/// Says which case it was when one fails.
struct Case<'a>(&'a str, u64);

impl Drop for Case<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Case(name, seed) = self;
            eprintln!("{name}: repeat this case with QUORUMD_FUZZ_SEED={seed}");
        }
    }
}

/// Runs `case` with `everyday` fixed seeds. With `QUORUMD_FUZZ_SECONDS`, with fresh seeds until
/// that time has passed; with `QUORUMD_FUZZ_SEED`, with that one.
pub(crate) fn hammer(name: &str, everyday: u64, mut case: impl FnMut(&mut Rng)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let mut run = |seed: u64| {
        let _case = Case(name, seed);
        case(&mut Rng::new(seed));
    };
    if let Some(seed) = number("QUORUMD_FUZZ_SEED") {
        return run(seed);
    }
    let Some(seconds) = number("QUORUMD_FUZZ_SECONDS") else {
        return (0..everyday).for_each(run);
    };
    let (end, first) = (Instant::now() + Duration::from_secs(seconds), fresh_seed());
    let mut cases = 0;
    while Instant::now() < end {
        run(first.wrapping_add(cases));
        cases += 1;
    }
    eprintln!("{name}: {cases} cases from seed {first}");
}

fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| since.as_nanos() as u64)
}

/// Changes `bytes` in one to four places: bits, whole bytes, numbers at their limits, pieces that
/// are taken out, repeated, put in from `other`, or swapped; the end cut off, or more after it.
pub(crate) fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..rng.between(1, 4) {
        if bytes.is_empty() {
            bytes.push(rng.next_u64() as u8);
        }
        let place = rng.below(bytes.len() as u64) as usize;
        let piece = place..(place + 1 + rng.below(16) as usize).min(bytes.len());
        match rng.below(10) {
            0 => bytes[place] ^= 1 << rng.below(8),
            1 => bytes[place] = rng.next_u64() as u8,
            2 => bytes[place] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
            // A number that is as large as its bytes allow.
            3 => bytes[piece].fill(0xff),
            4 => bytes.truncate(place),
            5 => drop(bytes.drain(piece)),
            6 => {
                let again = bytes[piece.clone()].repeat(rng.between(1, 40) as usize);
                bytes.splice(piece.start..piece.start, again);
            }
            7 if !other.is_empty() => {
                let from = rng.below(other.len() as u64) as usize;
                let to = (from + rng.below(64) as usize).min(other.len());
                bytes.splice(piece, other[from..to].iter().copied());
            }
            // The head of one and the tail of the other.
            8 if !other.is_empty() => {
                bytes.truncate(place);
                bytes.extend_from_slice(&other[rng.below(other.len() as u64) as usize..]);
            }
            _ => bytes.extend((0..rng.between(1, 20)).map(|_| rng.next_u64() as u8)),
        }
    }
}

/// A text that is almost right.
pub(crate) fn mutate_text(rng: &mut Rng, text: &str, other: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    mutate(rng, &mut bytes, other.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}
