//! Sorting numbers by their digits: no comparison, and so no branch that a processor guesses wrong.

use std::ops::Range;

/// Bits of a digit: the counts of its values fit the nearest cache.
const DIGIT_BITS: u32 = 12;

/// Fewer numbers are sorted by comparison.
const FEW: usize = 2_048;

/// Sorts `keys`, of which the bits below `bits` ascend as numbers, and all above are 0. `spare` is
/// working memory. Linear in the number of keys.
pub(super) fn sort(keys: &mut Vec<u64>, spare: &mut Vec<u64>, bits: Range<u32>) {
    if keys.len() < FEW {
        keys.sort_unstable();
        return;
    }
    spare.clear();
    spare.resize(keys.len(), 0);
    for bit in bits.step_by(DIGIT_BITS as usize) {
        distribute(keys, spare, bit);
        std::mem::swap(keys, spare);
    }
}

/// Writes `keys` to `sorted` in the order of the digit at `bit`; equal ones keep theirs.
fn distribute(keys: &[u64], sorted: &mut [u64], bit: u32) {
    let digit = |key: u64| (key >> bit) as usize & ((1 << DIGIT_BITS) - 1);
    let mut places = [0_u32; 1 << DIGIT_BITS];
    for &key in keys {
        places[digit(key)] += 1;
    }
    let mut first = 0;
    for place in &mut places {
        first += std::mem::replace(place, first);
    }
    for &key in keys {
        let place = &mut places[digit(key)];
        sorted[*place as usize] = key;
        *place += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_in_order(
            highs in prop::collection::vec(any::<u64>(), 0..2 * FEW),
            to_bit in 14..=64_u32,
        ) {
            let keep = u64::MAX >> (77 - to_bit).min(63);
            let keys = (0..).zip(highs).map(|(place, high)| (high & keep) << 13 | place);
            let mut keys: Vec<u64> = keys.collect();
            let mut expected = keys.clone();
            expected.sort_unstable();
            sort(&mut keys, &mut Vec::new(), 13..to_bit);
            prop_assert_eq!(keys, expected);
        }
    }
}
