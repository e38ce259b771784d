//! Whether differences are more than chance: intervals and tests over counts and values of users.
//!
//! Knows nothing of users or events. Everything is two-sided.

use std::f64::consts::SQRT_2;

use crate::sum::ExactSum;

/// The standard normal distribution's 97.5 % quantile.
const Z_95: f64 = 1.959_963_984_540_054;
/// Degrees of freedom beyond which Student's distribution is the normal one in all digits that
/// anybody reads.
const NEARLY_NORMAL: f64 = 1e9;

/// Wilson's score interval for a rate of `hits` of `trials` at 95 % confidence; `None` of none.
///
/// E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.
pub(crate) fn wilson(hits: u64, trials: u64) -> Option<(f64, f64)> {
    if trials == 0 {
        return None;
    }
    let (n, square) = (trials as f64, Z_95 * Z_95);
    let rate = hits as f64 / n;
    let middle = (rate + square / (2.0 * n)) / (1.0 + square / n);
    let spread = (rate * (1.0 - rate) / n + square / (4.0 * n * n)).sqrt();
    let half = Z_95 * spread / (1.0 + square / n);
    // Rounding must not push an end past the rate or beyond what a rate can be.
    let (low, high) = (middle - half, middle + half);
    Some((low.clamp(0.0, rate), high.clamp(rate, 1.0)))
}

/// How likely two rates (hits, trials) differ at least so much if they are the same: the z-test
/// with a pooled variance. `None` where a side has no trials or all trials ended alike.
pub(crate) fn two_proportions(one: (u64, u64), other: (u64, u64)) -> Option<f64> {
    if one.1 == 0 || other.1 == 0 {
        return None;
    }
    let (m, n) = (one.1 as f64, other.1 as f64);
    let pooled = (one.0 + other.0) as f64 / (m + n);
    let variance = pooled * (1.0 - pooled) * (1.0 / m + 1.0 / n);
    let difference = one.0 as f64 / m - other.0 as f64 / n;
    (variance > 0.0).then(|| normal_tails(difference / variance.sqrt()))
}

/// What a t-test knows of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    count: f64,
    mean: f64,
    /// The squares of the differences from the mean, added up.
    squares: f64,
}

impl Sample {
    /// The sample of `values` and of `zeros` times 0. The order of the values does not matter.
    pub(crate) fn new(values: &[f64], zeros: u64) -> Self {
        let count = values.len() as f64 + zeros as f64;
        let mut sum = ExactSum::default();
        sum.extend(values.iter().copied());
        let mean = sum.value() / count;
        let mut squares = ExactSum::default();
        squares.extend(values.iter().map(|value| (value - mean) * (value - mean)));
        Self {
            count,
            mean,
            squares: squares.value() + zeros as f64 * (mean * mean),
        }
    }

    /// The variance of the sample's mean.
    fn variance_of_mean(&self) -> f64 {
        self.squares / (self.count - 1.0) / self.count
    }
}

/// How likely the means of two samples differ at least so much if those of what they were drawn
/// from are the same, whatever the variances. `None` with fewer than two values on a side, where
/// nothing varies, and where a value is infinite.
///
/// B. L. Welch, The generalization of "Student's" problem when several different population
/// variances are involved, 1947.
pub(crate) fn welch(one: &Sample, other: &Sample) -> Option<f64> {
    if one.count < 2.0 || other.count < 2.0 {
        return None;
    }
    let (v, w) = (one.variance_of_mean(), other.variance_of_mean());
    let variance = v + w;
    if !variance.is_finite() || variance <= 0.0 {
        return None;
    }
    // By shares of the variance, so that no square of a small one underflows.
    let (v, w) = (v / variance, w / variance);
    let freedom = 1.0 / (v * v / (one.count - 1.0) + w * w / (other.count - 1.0));
    let t = (one.mean - other.mean) / variance.sqrt();
    t.is_finite().then(|| student_tails(t, freedom))
}

/// The chance that a standard normal number is at least `z` away from 0.
fn normal_tails(z: f64) -> f64 {
    libm::erfc(z.abs() / SQRT_2)
}

/// The chance that a number of Student's distribution is at least `t` away from 0.
fn student_tails(t: f64, freedom: f64) -> f64 {
    if freedom > NEARLY_NORMAL {
        return normal_tails(t);
    }
    let square = t * t;
    if square.is_infinite() {
        return 0.0;
    }
    // Both parts of 1, so that neither is lost to rounding beside the other.
    let (inner, outer) = (square / (freedom + square), freedom / (freedom + square));
    beta_half(freedom / 2.0, outer, inner)
}

/// The regularised incomplete beta function `I_x(a, 1/2)`, where `y = 1 - x`.
fn beta_half(a: f64, x: f64, y: f64) -> f64 {
    if x <= 0.0 || y <= 0.0 {
        return if x <= 0.0 { 0.0 } else { 1.0 };
    }
    let b = 0.5;
    // Near 1 the logarithm of `x` is that of what is missing, which `a` would blow the rounding up of.
    let ln_x = if y < 0.5 { (-y).ln_1p() } else { x.ln() };
    let front = (a * ln_x + b * y.ln() + ln_gamma_step(a) - HALF_LN_PI).exp();
    // The fraction converges fast on one side of the mean; the other is its mirror.
    if x < (a + 1.0) / (a + b + 2.0) {
        front * beta_fraction(a, b, x) / a
    } else {
        1.0 - front * beta_fraction(b, a, y) / b
    }
}

/// `ln Γ(1/2)`.
const HALF_LN_PI: f64 = 0.572_364_942_924_700_1;

/// `ln Γ(a + 1/2) - ln Γ(a)`.
fn ln_gamma_step(a: f64) -> f64 {
    if a < 100.0 {
        return libm::lgamma(a + 0.5) - libm::lgamma(a);
    }
    // The difference of large numbers would lose digits; the next term is below 1e-12.
    a.ln() / 2.0 - 1.0 / (8.0 * a) + 1.0 / (192.0 * a * a * a)
}

/// The continued fraction of the incomplete beta function, by Lentz's method: Numerical Recipes,
/// 3rd edition, 6.4. Converges in some `sqrt(max(a, b))` rounds.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    const ROUNDS: u32 = 1_000_000;
    const TINY: f64 = 1e-300;
    let safe = |number: f64| if number.abs() < TINY { TINY } else { number };
    let mut c = 1.0;
    let mut d = 1.0 / safe(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for round in 1..ROUNDS {
        let m = f64::from(round);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / safe(1.0 + even * d);
        c = safe(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / safe(1.0 + odd * d);
        c = safe(1.0 + odd / c);
        fraction *= d * c;
        if (d * c - 1.0).abs() < 1e-15 {
            break;
        }
    }
    fraction
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn assert_close(found: f64, known: f64, relative: f64) {
        assert!(
            (found - known).abs() <= relative * known.abs(),
            "{found} is not {known}"
        );
    }

    #[test]
    fn wilson_agrees_with_tables() {
        let (low, high) = wilson(8, 10).unwrap();
        assert_close(low, 0.490_162_471_536_641_8, 1e-12);
        assert_close(high, 0.943_317_848_545_624_7, 1e-12);
        assert_eq!(wilson(0, 10).unwrap().0, 0.0);
        assert_close(wilson(0, 10).unwrap().1, 0.277_532_799_862_889_2, 1e-12);
        assert_eq!(wilson(10, 10).unwrap().1, 1.0);
        assert_eq!(wilson(0, 0), None);
    }

    #[test]
    fn normal_tails_agree_with_tables() {
        assert_eq!(normal_tails(0.0), 1.0);
        assert_close(normal_tails(Z_95), 0.05, 1e-12);
        assert_close(normal_tails(-2.575_829_303_548_900_4), 0.01, 1e-12);
        assert_close(normal_tails(6.0), 1.973_175_290_075e-9, 1e-11);
    }

    #[test]
    fn proportions_differ_as_computed_by_hand() {
        // 45 of 100 and 30 of 100: z = 0.15 / sqrt(0.375 * 0.625 * 0.02).
        let p = two_proportions((45, 100), (30, 100)).unwrap();
        assert_close(p, normal_tails(2.190_890_230_020_664_4), 1e-12);
        assert_eq!(two_proportions((30, 100), (45, 100)), Some(p));
        assert_eq!(two_proportions((3, 10), (30, 100)), Some(1.0));
        assert_eq!(two_proportions((0, 10), (0, 5)), None);
        assert_eq!(two_proportions((10, 10), (5, 5)), None);
        assert_eq!(two_proportions((0, 0), (5, 6)), None);
    }

    #[test]
    fn student_agrees_with_tables() {
        let two_sided_5_percent = [
            (1.0, 12.706_204_736_174_7),
            (2.0, 4.302_652_729_749_46),
            (5.0, 2.570_581_835_636_31),
            (10.0, 2.228_138_851_986_27),
            (30.0, 2.042_272_456_301_24),
            (100.0, 1.983_971_518_523_55),
            (1_000.0, 1.962_339_080_826_41),
            (1e8, Z_95),
            (1e12, Z_95),
        ];
        for (freedom, t) in two_sided_5_percent {
            let relative = if freedom >= 1e8 { 1e-6 } else { 1e-9 };
            assert_close(student_tails(t, freedom), 0.05, relative);
        }
        assert_eq!(student_tails(0.0, 7.5), 1.0);
        assert_eq!(student_tails(1e300, 7.5), 0.0);
    }

    #[test]
    fn welch_agrees_with_what_was_computed_elsewhere() {
        let one = Sample::new(
            &[
                27.5, 21.0, 19.0, 23.6, 17.0, 17.9, 16.9, 20.1, 21.9, 22.6, 23.1, 19.6, 19.0, 21.7,
                21.4,
            ],
            0,
        );
        let other = Sample::new(
            &[
                27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8, 22.0, 24.8, 20.2, 21.9, 22.1, 22.9, 30.5,
                24.6,
            ],
            0,
        );
        // By numerical integration of the density.
        assert_close(welch(&one, &other).unwrap(), 0.007_856_440_783_437_6, 1e-9);
    }

    #[test]
    fn welch_needs_two_sides_that_vary() {
        let some = Sample::new(&[1.0, 2.0, 4.0], 2);
        assert_eq!(welch(&some, &Sample::new(&[1.0], 0)), None);
        assert_eq!(welch(&some, &Sample::new(&[f64::INFINITY], 5)), None);
        let flat = Sample::new(&[3.0, 3.0], 0);
        assert_eq!(welch(&flat, &flat), None);
        assert!(welch(&some, &flat).is_some());
        assert_eq!(welch(&some, &some), Some(1.0));
    }

    #[test]
    fn many_degrees_of_freedom_lose_no_digits() {
        let (t, freedom) = (1.006_968_074_220_497, 87_369_837.05);
        let (student, normal) = (student_tails(t, freedom), normal_tails(t));
        assert!(
            (student / normal - 1.0).abs() < 5e-8,
            "{student} and {normal}"
        );
        assert!(student > normal * (1.0 - 1e-9), "{student} and {normal}");
    }

    proptest! {
        /// Closed forms exist for 1, 2 and 4 degrees of freedom.
        #[test]
        fn student_has_its_closed_forms(t in 0.0..50.0_f64) {
            let one = 1.0 - t.atan() * std::f64::consts::FRAC_2_PI;
            prop_assert!((student_tails(t, 1.0) - one).abs() < 1e-12);
            let two = 1.0 - t / (2.0 + t * t).sqrt();
            prop_assert!((student_tails(t, 2.0) - two).abs() < 1e-12);
            let scale = 1.0 + t * t / 4.0;
            let four = 1.0 - 0.75 * t / scale.sqrt() * (1.0 - t * t / (12.0 * scale));
            prop_assert!((student_tails(t, 4.0) - four).abs() < 1e-12);
        }

        #[test]
        fn tails_fall_and_come_near_the_normal_ones(
            t in 0.0..8.0_f64, more in 0.01..1.0_f64, freedom in 1.0..1e8_f64,
        ) {
            prop_assert!(student_tails(t + more, freedom) < student_tails(t, freedom));
            prop_assert!(student_tails(t, freedom) >= normal_tails(t) * (1.0 - 1e-8));
        }

        #[test]
        fn zeros_are_values(values in prop::collection::vec(-9.0..9.0_f64, 1..20), zeros in 0..9_usize) {
            let counted = Sample::new(&values, zeros as u64);
            let listed = [values, vec![0.0; zeros]].concat();
            let listed = Sample::new(&listed, 0);
            prop_assert_eq!(counted.mean, listed.mean);
            prop_assert!((counted.squares - listed.squares).abs() <= 1e-9 * (1.0 + listed.squares));
        }

        #[test]
        fn wilson_surrounds_the_rate(trials in 1..10_000_u64, share in 0.0..=1.0_f64) {
            let hits = (trials as f64 * share) as u64;
            let (low, high) = wilson(hits, trials).unwrap();
            let rate = hits as f64 / trials as f64;
            prop_assert!(0.0 <= low && low <= rate && rate <= high && high <= 1.0);
        }
    }
}
