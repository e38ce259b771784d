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
    let digits: Vec<u32> = bits.step_by(DIGIT_BITS as usize).collect();
    for (mut places, &bit) in places(keys, &digits).into_iter().zip(&digits) {
        for &key in &*keys {
            let place = &mut places[digit(key, bit)];
            spare[*place as usize] = key;
            *place += 1;
        }
        std::mem::swap(keys, spare);
    }
}

/// For each value of each digit, how many keys have a smaller one.
fn places(keys: &[u64], digits: &[u32]) -> Vec<Vec<u32>> {
    let mut places = vec![vec![0; 1 << DIGIT_BITS]; digits.len()];
    for (places, &bit) in places.iter_mut().zip(digits) {
        for &key in keys {
            places[digit(key, bit)] += 1;
        }
        let mut smaller = 0;
        for place in places {
            smaller += std::mem::replace(place, smaller);
        }
    }
    places
}

#[inline]
fn digit(key: u64, bit: u32) -> usize {
    (key >> bit) as usize & ((1 << DIGIT_BITS) - 1)
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
