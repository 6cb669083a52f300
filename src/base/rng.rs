//! A small seeded generator: the only randomness below `node/`, so that one seed replays a run.
//!
//! Not for secrets: identities are drawn from the kernel by `node/`.

/// SplitMix64 (Steele, Lea, Flood, 2014): full period, any seed is as good as another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// A generator whose whole future follows from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.state)
    }

    /// A number in `0..bound`. Panics when `bound` is zero.
    ///
    /// The bias of the multiply-shift reduction is below 2^-32 for every bound used here.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "a random number needs a range to be drawn from");
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A number in `low..=high`. Panics when `low > high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "range {low}..={high} is empty");
        match (high - low).checked_add(1) {
            Some(width) => low + self.below(width),
            None => self.next_u64(),
        }
    }

    /// True in `numerator` of `denominator` cases.
    pub fn chance(&mut self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }

    /// A second generator whose stream is independent of what this one yields from now on.
    #[must_use]
    pub fn fork(&mut self) -> Rng {
        Rng::new(self.next_u64())
    }
}

/// The output function of SplitMix64: a bijection of 64-bit numbers that scatters neighbours.
pub(crate) const fn mix(value: u64) -> u64 {
    let z = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn same_seed_same_stream_and_bounds_hold() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        for bound in 1..1_000 {
            let drawn = a.below(bound);
            assert!(drawn < bound, "{drawn} is outside 0..{bound}");
            assert_eq!(drawn, b.below(bound), "the same seed gave another stream");
        }
    }

    #[test]
    fn between_reaches_both_ends_and_the_whole_range() {
        let mut rng = Rng::new(1);
        let drawn: Vec<u64> = (0..200).map(|_| rng.between(3, 5)).collect();
        assert!(drawn.contains(&3) && drawn.contains(&5), "an end is never drawn");
        assert!(drawn.iter().all(|n| (3..=5).contains(n)), "drawn outside the range");
        rng.between(0, u64::MAX);
    }
}
