//! A small seeded generator: integer arithmetic and exact float operations only, so that every
//! platform draws the same numbers.

/// SplitMix64 (Steele, Lea, Flood 2014): one multiply-xorshift mix of a counter.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

/// The mixing function of SplitMix64: a bijection that spreads every input bit.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: mix(seed) }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// A number in `0..limit`; 0 where `limit` is 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(limit)) >> 64) as u64
    }

    /// A number in `low..high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low)
    }

    /// True `per_mille` times in a thousand.
    pub(super) fn chance(&mut self, per_mille: u64) -> bool {
        self.below(1_000) < per_mille
    }

    /// So many thousandths of `whole`, what is left over rounded up as often as it is large.
    pub(super) fn per_mille(&mut self, whole: u64, thousandths: u64) -> u64 {
        (whole * thousandths + self.below(1_000)) / 1_000
    }

    /// `base`, doubled as often as a fair coin shows heads, at most `most` times: a tail that
    /// falls off as 1/x without a logarithm.
    pub(super) fn doubled(&mut self, base: u64, most: u32) -> u64 {
        base << self.next().trailing_zeros().min(most)
    }

    /// A rank in `0..count`, rank `r` with probability nearly proportional to
    /// `(r + count * knee^3)^(-2/3)`: a power law that is flat above its knee.
    pub(super) fn power_law(&mut self, count: u64, knee: f64) -> u64 {
        let unit = (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64);
        let root = knee + unit * (1.0 - knee);
        let floor = knee * knee * knee;
        let share = (root * root * root - floor) / (1.0 - floor);
        ((share * count as f64) as u64).min(count.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_law_is_steep_and_covers_all() {
        let mut random = Random::new(1);
        let mut hits = vec![0u32; 1_000];
        (0..200_000).for_each(|_| hits[random.power_law(1_000, 0.05) as usize] += 1);
        assert!(hits.iter().all(|&hits| hits > 0));
        let (head, tail): (u32, u32) = (hits[..10].iter().sum(), hits[990..].iter().sum());
        assert!(head > 20 * tail, "{head} against {tail}");
    }

    #[test]
    fn draws_stay_in_bounds() {
        let mut random = Random::new(2);
        for _ in 0..10_000 {
            assert!(random.below(3) < 3);
            assert!((5..9).contains(&random.between(5, 9)));
            assert!(random.doubled(3, 4) <= 48);
        }
        let thirds: u64 = (0..10_000).map(|_| random.per_mille(1, 333)).sum();
        assert!((3_000..3_700).contains(&thirds), "{thirds}");
        assert_eq!(random.per_mille(2_000, 3), 6);
        assert_eq!(random.below(0), 0);
        assert_eq!(random.power_law(1, 0.0), 0);
    }
}
