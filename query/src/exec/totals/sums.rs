//! Numbers added up: how many, their sum, the least and the greatest.

use super::Measured;

/// The numbers of a property, by their type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum NumberTotal {
    Whole(Sum<i64>),
    Float(Sum<f64>),
}

/// Numbers added up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sum<T> {
    pub(crate) count: u64,
    /// Of whole numbers, modulo 2^64.
    pub(crate) sum: T,
    pub(crate) float_sum: f64,
    pub(crate) least: T,
    pub(crate) greatest: T,
}

/// Numbers that are added up, in the order that SQL sorts them in.
pub(crate) trait Number: Copy {
    const ZERO: Self;
    const LEAST: Self;
    const GREATEST: Self;
    fn plus(self, other: Self) -> Self;
    fn is_less(self, other: Self) -> bool;
    fn float(self) -> f64;
}

impl Number for i64 {
    const ZERO: Self = 0;
    const LEAST: Self = Self::MIN;
    const GREATEST: Self = Self::MAX;
    fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }
    fn is_less(self, other: Self) -> bool {
        self < other
    }
    fn float(self) -> f64 {
        self as f64
    }
}

impl Number for f64 {
    const ZERO: Self = 0.0;
    /// What is less than any number: the negative NaN of all ones.
    const LEAST: Self = Self::from_bits(u64::MAX);
    const GREATEST: Self = Self::from_bits(u64::MAX >> 1);
    fn plus(self, other: Self) -> Self {
        self + other
    }
    fn is_less(self, other: Self) -> bool {
        self.total_cmp(&other).is_lt()
    }
    fn float(self) -> f64 {
        self
    }
}

impl<T: Number> Sum<T> {
    pub(super) const NOTHING: Self = Self {
        count: 0,
        sum: T::ZERO,
        float_sum: 0.0,
        least: T::GREATEST,
        greatest: T::LEAST,
    };

    #[inline]
    pub(super) fn add(&mut self, value: T) {
        self.count += 1;
        self.sum = self.sum.plus(value);
        self.float_sum += value.float();
        if value.is_less(self.least) {
            self.least = value;
        }
        if self.greatest.is_less(value) {
            self.greatest = value;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.sum = self.sum.plus(other.sum);
        self.float_sum += other.float_sum;
        if other.least.is_less(self.least) {
            self.least = other.least;
        }
        if self.greatest.is_less(other.greatest) {
            self.greatest = other.greatest;
        }
    }

    /// Adds many at once: in lanes, of which none waits for another.
    pub(super) fn add_all(&mut self, values: &[T]) {
        const LANES: usize = 8;
        let mut lanes = [Self::NOTHING; LANES];
        let chunks = values.chunks_exact(LANES);
        chunks.remainder().iter().for_each(|value| self.add(*value));
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                lane.add(*value);
            }
        }
        lanes.iter().for_each(|lane| self.merge(lane));
    }
}

impl NumberTotal {
    pub(super) fn nothing(measured: &Measured) -> Self {
        match measured.whole {
            true => Self::Whole(Sum::NOTHING),
            false => Self::Float(Sum::NOTHING),
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        match (self, other) {
            (Self::Whole(sum), Self::Whole(other)) => sum.merge(other),
            (Self::Float(sum), Self::Float(other)) => sum.merge(other),
            // The type is the question's.
            (Self::Whole(_), Self::Float(_)) | (Self::Float(_), Self::Whole(_)) => {}
        }
    }
}
