//! The narrowest type that all values of a column print back from identically.
//!
//! Text files type nothing, so a column is read as numbers only where nothing of it is lost:
//! `007` and `1e3` stay text, `33.20` is a number where the whole column has two decimals.

use pugmark_engine::ids::canonical_integer;
use pugmark_engine::time::format_rfc3339;

use super::options::ColumnType;
use super::time::parse_calendar;

const BOOL: u8 = 1;
const I64: u8 = 2;
/// Floats in Rust's shortest form: `1`, `2.5`.
const SHORTEST: u8 = 4;
/// Floats that always show a point or an exponent: `1.0`, `2.5`, `1e21`.
const POINTED: u8 = 8;
/// Floats with the same number of decimals throughout: `1.00`, `2.50`.
const FIXED: u8 = 16;
const TIMESTAMP: u8 = 32;

/// Decimal digits that a float keeps whatever they are.
const SAFE_DIGITS: usize = 15;

/// What is still possible for a column after the values seen so far.
#[derive(Clone, Debug)]
pub(crate) struct Inference {
    possible: u8,
    decimals: Option<usize>,
    seen: bool,
}

impl Inference {
    pub(crate) fn new() -> Self {
        Self {
            possible: BOOL | I64 | SHORTEST | POINTED | FIXED | TIMESTAMP,
            decimals: None,
            seen: false,
        }
    }

    /// Takes note of a value that is not empty.
    pub(crate) fn see(&mut self, text: &str) {
        self.seen = true;
        if self.possible == 0 {
            return;
        }
        let (forms, decimals) = forms_of(text, self.possible);
        self.possible &= forms;
        if self.possible & FIXED != 0 && *self.decimals.get_or_insert(decimals) != decimals {
            self.possible &= !FIXED;
        }
    }

    /// The column's type.
    pub(crate) fn column_type(&self) -> ColumnType {
        let possible = |forms: u8| self.seen && self.possible & forms != 0;
        if possible(BOOL) {
            ColumnType::Bool
        } else if possible(I64) {
            ColumnType::I64
        } else if possible(SHORTEST | POINTED | FIXED) {
            ColumnType::F64
        } else if possible(TIMESTAMP) {
            ColumnType::Timestamp
        } else {
            ColumnType::Text
        }
    }
}

/// The forms that `text` prints back from, among those still wanted, and its decimals.
fn forms_of(text: &str, wanted: u8) -> (u8, usize) {
    if let Some((digits, decimals)) = plain_decimal(text) {
        if digits <= SAFE_DIGITS {
            // Two different decimals of so few digits are different floats, so each prints back.
            let trailing_zero = decimals > 0 && text.ends_with('0');
            let form = match decimals {
                // An integer that prints back has no negative zero.
                0 if text == "-0" => SHORTEST | FIXED,
                0 => I64 | SHORTEST | FIXED,
                1 if trailing_zero => POINTED | FIXED,
                _ if trailing_zero => FIXED,
                // Below 1e-4 the pointed form turns to an exponent.
                _ if text.trim_start_matches('-').starts_with("0.0000") => {
                    printed_forms(text, decimals, wanted)
                }
                _ => SHORTEST | POINTED | FIXED,
            };
            return (form, decimals);
        }
        let integer = if canonical_integer(text).is_some() {
            I64
        } else {
            0
        };
        return (integer | printed_forms(text, decimals, wanted), decimals);
    }
    if matches!(text, "true" | "false") {
        return (BOOL, 0);
    }
    let mut forms = printed_forms(text, 0, wanted & !FIXED);
    if wanted & TIMESTAMP != 0
        && parse_calendar(text).is_some_and(|micros| format_rfc3339(micros) == text)
    {
        forms |= TIMESTAMP;
    }
    (forms, 0)
}

/// By printing: slow, for what the rules above do not settle.
fn printed_forms(text: &str, decimals: usize, wanted: u8) -> u8 {
    if wanted & (SHORTEST | POINTED | FIXED) == 0 {
        return 0;
    }
    let Ok(value) = text.parse::<f64>() else {
        return 0;
    };
    let mut forms = 0;
    if wanted & SHORTEST != 0 && value.to_string() == text {
        forms |= SHORTEST;
    }
    if wanted & POINTED != 0 && format!("{value:?}") == text {
        forms |= POINTED;
    }
    if wanted & FIXED != 0 && format!("{value:.decimals$}") == text {
        forms |= FIXED;
    }
    forms
}

/// Digits and decimals of a number written plainly: `-12.50`, without needless zeros in front.
fn plain_decimal(text: &str) -> Option<(usize, usize)> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = match digits.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (digits, ""),
    };
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(fraction) {
        return None;
    }
    if whole.len() > 1 && whole.starts_with('0') {
        return None;
    }
    Some((whole.len() + fraction.len(), fraction.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn infer<'a>(texts: impl IntoIterator<Item = &'a str>) -> ColumnType {
        let mut inference = Inference::new();
        texts.into_iter().for_each(|text| inference.see(text));
        inference.column_type()
    }

    #[test]
    fn columns() {
        use ColumnType::{Bool, F64, I64, Text, Timestamp};
        for (texts, expected) in [
            (&["1", "-5", "9223372036854775807"][..], I64),
            (&["1", "9223372036854775809"], Text),
            (&["18446744073709551616"], F64),
            (&["007", "1"], Text),
            (&["1", "2.5"], F64),
            (&["1", "2.50"], Text),
            (&["33.20", "35.79"], F64),
            (&["33.20", "35.7"], Text),
            (&["17850.0", "2.5"], F64),
            (&["17850.0", "2.50"], Text),
            (&["17850.0", "3"], Text),
            (&["1.00", "0.10", "-0.05"], F64),
            (&["1e3"], Text),
            (&["1e21", "2.5"], F64),
            (&["0.00001", "1"], F64),
            (&["0.00001", "1.0"], Text),
            (&["1e-5", "1.0"], F64),
            (&["0.1", "0.30000000000000004"], F64),
            (&["0.12345678901234567890"], Text),
            (&["+5"], Text),
            (&["-0"], F64),
            (&["-0", "5"], F64),
            (&["-0.00"], F64),
            (&["-0.00", "1.25"], F64),
            (&["-0.00", "1.5"], Text),
            (&["-0.0", "2.5"], F64),
            (&["-0", "2.50"], Text),
            (&[".5"], Text),
            (&["5."], Text),
            (&["true", "false"], Bool),
            (&["true", "1"], Text),
            (&["True"], Text),
            (
                &["2019-10-01T00:00:00Z", "2019-10-01T00:00:00.500Z"],
                Timestamp,
            ),
            (&["2019-10-01T00:00:00.5Z"], Text),
            (&["2019-10-01 00:00:00"], Text),
            (&[" 1"], Text),
            (&["a"], Text),
            (&[], Text),
        ] {
            assert_eq!(infer(texts.iter().copied()), expected, "{texts:?}");
        }
    }

    /// The definition, by printing every value in every form.
    fn model(texts: &[String]) -> ColumnType {
        let all = |holds: &dyn Fn(&str) -> bool| texts.iter().all(|text| holds(text));
        let float = |text: &str| text.parse::<f64>().ok();
        if all(&|text| matches!(text, "true" | "false")) {
            return ColumnType::Bool;
        }
        if all(&|text| {
            text.parse::<i64>()
                .is_ok_and(|value| value.to_string() == text)
        }) {
            return ColumnType::I64;
        }
        let fixed = (0..40).any(|k| {
            all(&|text| {
                float(text).is_some_and(|value| value.is_finite() && format!("{value:.k$}") == text)
            })
        });
        if all(&|text| float(text).is_some_and(|value| value.to_string() == text))
            || all(&|text| float(text).is_some_and(|value| format!("{value:?}") == text))
            || fixed
        {
            return ColumnType::F64;
        }
        if all(&|text| parse_calendar(text).is_some_and(|micros| format_rfc3339(micros) == text)) {
            return ColumnType::Timestamp;
        }
        ColumnType::Text
    }

    fn number() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => (any::<i32>(), 0usize..4).prop_map(|(value, k)| format!("{:.k$}", f64::from(value) / 1_000.0)),
            2 => any::<i64>().prop_map(|value| value.to_string()),
            2 => any::<f64>().prop_map(|value| value.to_string()),
            2 => any::<f32>().prop_map(|value| format!("{:?}", f64::from(value))),
            2 => "-?0?[0-9]{1,3}(\\.[0-9]{0,3})?",
            1 => "0\\.0{0,8}[0-9]{1,12}",
            1 => "-?[0-9]{12,20}(\\.[0-9]{1,3})?",
            1 => prop_oneof![Just("true"), Just("NaN"), Just("inf"), Just("x"), Just("2019-10-01T00:00:00Z")].prop_map(str::to_owned),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]
        #[test]
        fn equals_the_definition(texts in prop_oneof![
            4 => prop::collection::vec(number(), 1..4),
            1 => (0usize..4, prop::collection::vec(any::<i32>(), 1..5)).prop_map(|(k, values)| {
                values.into_iter().map(|value| format!("{:.k$}", f64::from(value) / 1_000.0)).collect()
            }),
        ]) {
            prop_assert_eq!(infer(texts.iter().map(String::as_str)), model(&texts), "{:?}", texts);
        }
    }
}
