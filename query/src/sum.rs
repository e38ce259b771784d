//! Sums of floating-point numbers that do not depend on the order of adding.
//!
//! Threads meet users in any order, and `(a + b) + c` is not `a + (b + c)` in floating point. So
//! sums over users are kept exactly, as one fixed-point number wide enough for any double, and
//! rounded once at the end.

/// Bits of a limb that a summand may fill; the rest takes up carries.
const LIMB_BITS: u32 = 32;
/// Exponent of the lowest bit: that of the smallest double.
const LOWEST: i32 = -1074;
/// From 2^-1074 to 2^1024, and 64 bits for the sums of many.
const LIMBS: usize = ((1024 - LOWEST) as usize + 64).div_ceil(LIMB_BITS as usize) + 2;
/// Additions after which carries are propagated, far before a limb could overflow.
const ADDITIONS: u32 = 1 << 30;

/// An exact sum of doubles.
#[derive(Clone, Debug)]
pub(crate) struct ExactSum {
    /// Little end first; the number is the sum of `limbs[i] * 2^(32 i - 1074)`.
    limbs: Box<[i64; LIMBS]>,
    additions: u32,
    /// The sum of what is infinite or no number; 0 where nothing is.
    special: f64,
}

impl Default for ExactSum {
    fn default() -> Self {
        Self {
            limbs: Box::new([0; LIMBS]),
            additions: 0,
            special: 0.0,
        }
    }
}

impl ExactSum {
    /// Bytes that a sum holds.
    pub(crate) const BYTES: usize = LIMBS * size_of::<i64>();

    /// Adds a number.
    pub(crate) fn add(&mut self, number: f64) {
        if !number.is_finite() {
            self.special += number;
            return;
        }
        let bits = number.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as u32;
        let fraction = bits & ((1 << 52) - 1);
        // Subnormal numbers have the exponent of the smallest normal ones and no leading bit.
        let (mantissa, place) = match exponent {
            0 => (fraction, 0),
            _ => (fraction | 1 << 52, exponent - 1),
        };
        let (limb, shift) = ((place / LIMB_BITS) as usize, place % LIMB_BITS);
        let wide = u128::from(mantissa) << shift;
        for (index, limb) in self.limbs[limb..limb + 3].iter_mut().enumerate() {
            let part = (wide >> (index as u32 * LIMB_BITS)) as u32;
            let part = i64::from(part);
            *limb += if number < 0.0 { -part } else { part };
        }
        self.count(1);
    }

    /// Adds another sum.
    pub(crate) fn merge(&mut self, mut other: Self) {
        self.carry();
        other.carry();
        for (limb, other) in self.limbs.iter_mut().zip(other.limbs.iter()) {
            *limb += other;
        }
        self.special += other.special;
        self.count(1);
    }

    fn count(&mut self, additions: u32) {
        self.additions += additions;
        if self.additions >= ADDITIONS {
            self.carry();
        }
    }

    /// Makes every limb but the last one a number of 32 bits, none negative.
    fn carry(&mut self) {
        let mut carry = 0;
        let last = LIMBS - 1;
        for limb in &mut self.limbs[..last] {
            let sum = *limb + carry;
            *limb = sum & ((1 << LIMB_BITS) - 1);
            carry = sum >> LIMB_BITS;
        }
        self.limbs[last] += carry;
        self.additions = 0;
    }

    /// The sum, rounded to the nearest double, ties to even.
    pub(crate) fn value(&self) -> f64 {
        if self.special != 0.0 {
            return self.special;
        }
        let mut sum = self.clone();
        sum.carry();
        let negative = sum.limbs[LIMBS - 1] < 0;
        if negative {
            sum.limbs.iter_mut().for_each(|limb| *limb = -*limb);
            sum.carry();
        }
        let Some(top) = sum.limbs.iter().rposition(|&limb| limb != 0) else {
            return 0.0;
        };
        // The three highest limbs hold 65 bits at least; one more says that something follows.
        let low = top.saturating_sub(2);
        let mut head = sum.limbs[low..=top]
            .iter()
            .rev()
            .fold(0u128, |head, &limb| head << LIMB_BITS | limb as u128);
        if sum.limbs[..low].iter().any(|&limb| limb != 0) {
            head |= 1;
        }
        let exponent = LOWEST + (low as u32 * LIMB_BITS) as i32;
        let value = scale(head as f64, exponent);
        if negative { -value } else { value }
    }
}

/// `number * 2^exponent` in steps that stay in range; exact where the result is.
fn scale(mut number: f64, mut exponent: i32) -> f64 {
    while exponent > 1000 {
        number *= 2f64.powi(1000);
        exponent -= 1000;
    }
    while exponent < -1000 {
        number *= 2f64.powi(-1000);
        exponent += 1000;
    }
    number * 2f64.powi(exponent)
}

impl Extend<f64> for ExactSum {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, numbers: I) {
        numbers.into_iter().for_each(|number| self.add(number));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(numbers: &[f64]) -> f64 {
        let mut sum = ExactSum::default();
        sum.extend(numbers.iter().copied());
        sum.value()
    }

    #[test]
    fn nothing_is_lost_between_large_and_small() {
        assert_eq!(sum(&[1e100, 1.0, -1e100]), 1.0);
        assert_eq!(sum(&[f64::MAX, f64::MAX, -f64::MAX]), f64::MAX);
        assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::INFINITY);
        assert_eq!(sum(&[5e-324, 5e-324]), 1e-323);
        assert_eq!(sum(&[2f64.powi(-1022), -5e-324]), 2f64.powi(-1022) - 5e-324);
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[f64::INFINITY, 1.0]), f64::INFINITY);
        assert!(sum(&[f64::INFINITY, f64::NEG_INFINITY]).is_nan());
        assert_eq!(sum(&[]), 0.0);
    }

    #[test]
    fn half_way_goes_to_even() {
        let ulp = 2f64.powi(-52);
        assert_eq!(sum(&[1.0, ulp / 2.0]), 1.0);
        assert_eq!(sum(&[1.0 + ulp, ulp / 2.0]), 1.0 + 2.0 * ulp);
        assert_eq!(sum(&[1.0, ulp / 2.0, 5e-324]), 1.0 + ulp);
    }

    proptest! {
        #[test]
        fn one_number_is_itself(bits: u64) {
            let number = f64::from_bits(bits);
            prop_assume!(number.is_finite());
            prop_assert_eq!(sum(&[number]), number);
        }

        #[test]
        fn two_numbers_add_as_the_processor_adds(a: f64, b: f64) {
            prop_assume!(a.is_finite() && b.is_finite());
            prop_assert_eq!(sum(&[a, b]), a + b);
        }

        #[test]
        fn order_and_parts_do_not_matter(
            numbers in prop::collection::vec(any::<f64>(), 0..30),
            cut in any::<prop::sample::Index>(),
        ) {
            let numbers: Vec<f64> = numbers.into_iter().filter(|number| number.is_finite()).collect();
            let whole = sum(&numbers);
            let mut reversed = numbers.clone();
            reversed.reverse();
            prop_assert_eq!(sum(&reversed), whole);
            let (left, right) = numbers.split_at(cut.index(numbers.len() + 1));
            let (mut one, mut other) = (ExactSum::default(), ExactSum::default());
            one.extend(left.iter().copied());
            other.extend(right.iter().copied());
            one.merge(other);
            prop_assert_eq!(one.value(), whole);
        }

        #[test]
        fn integers_are_exact(numbers in prop::collection::vec(-1_000_000_000_000i64..1_000_000_000_000, 0..100)) {
            let exact: i64 = numbers.iter().sum();
            let numbers: Vec<f64> = numbers.into_iter().map(|number| number as f64).collect();
            prop_assert_eq!(sum(&numbers), exact as f64);
        }
    }
}
