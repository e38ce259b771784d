//! Times as files write them: RFC 3339 and its relatives, epoch numbers, layouts by hand.

use jiff::fmt::strtime::BrokenDownTime;
use pugmark_engine::time::{MICROS_PER_DAY, MICROS_PER_SECOND, day_from_civil};

use super::error::OptionError;
use super::options::TimeUnit;

/// A layout of times, as `strptime` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormat {
    format: String,
}

impl TimeFormat {
    /// The layout `format`: `%Y%m%d`, `%d.%m.%Y %H:%M:%S`, `%s`, with `%z` for an offset.
    ///
    /// # Errors
    /// Where it holds a directive that does not exist, or none of a date.
    pub fn new(format: &str) -> Result<Self, OptionError> {
        let fail = |problem: String| OptionError::TimeFormat {
            format: format.to_owned(),
            problem,
        };
        let sample = jiff::civil::date(2001, 2, 3).at(4, 5, 6, 0).in_tz("UTC");
        let sample = sample.map_err(|error| fail(error.to_string()))?;
        let printed =
            jiff::fmt::strtime::format(format, &sample).map_err(|error| fail(error.to_string()))?;
        let this = Self {
            format: format.to_owned(),
        };
        match this.parse(&printed) {
            Some(_) => Ok(this),
            None => Err(fail("it does not say year, month and day".to_owned())),
        }
    }

    /// The layout as it was given.
    pub fn as_str(&self) -> &str {
        &self.format
    }

    /// Microseconds since 1970-01-01 UTC; UTC where the text tells no offset, midnight where it
    /// tells no time of day.
    pub fn parse(&self, text: &str) -> Option<i64> {
        let parts = BrokenDownTime::parse(&self.format, text).ok()?;
        if let Ok(timestamp) = parts.to_timestamp() {
            return Some(timestamp.as_microsecond());
        }
        let date = parts.to_date().ok()?;
        let time = parts.to_time().unwrap_or(jiff::civil::Time::midnight());
        let zoned = date.to_datetime(time).in_tz("UTC").ok()?;
        Some(zoned.timestamp().as_microsecond())
    }
}

/// Reads the values of one time column.
#[derive(Clone, Debug)]
pub(crate) struct TimeReader {
    /// The unit of numbers.
    pub(crate) unit: TimeUnit,
    /// The layout, where one was given.
    pub(crate) format: Option<TimeFormat>,
}

impl TimeReader {
    /// Microseconds since 1970-01-01 UTC.
    pub(crate) fn read(&self, text: &str) -> Option<i64> {
        match &self.format {
            Some(format) => format.parse(text),
            None => parse_calendar(text).or_else(|| parse_epoch(text, self.unit)),
        }
    }
}

/// The distance from 0 of a number as times are written, whole units only.
pub(crate) fn epoch_magnitude(text: &str) -> Option<u64> {
    let (_, whole, _) = split_decimal(text)?;
    whole.parse().ok()
}

/// An epoch number, perhaps with a fraction: `1569888000`, `1659304800.025`.
///
/// Digits finer than a microsecond are cut off.
pub(crate) fn parse_epoch(text: &str, unit: TimeUnit) -> Option<i64> {
    let (negative, whole, fraction) = split_decimal(text)?;
    let per_unit = unit.micros();
    let mut micros = whole.parse::<i64>().ok()?.checked_mul(per_unit)?;
    let mut scale = per_unit;
    for digit in fraction.bytes() {
        scale /= 10;
        micros = micros.checked_add(i64::from(digit - b'0') * scale)?;
    }
    Some(if negative { -micros } else { micros })
}

/// Sign, whole digits and fraction digits of a plain decimal number.
fn split_decimal(text: &str) -> Option<(bool, &str, &str)> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_digit());
    (!whole.is_empty() && plain(whole) && plain(fraction)).then_some((negative, whole, fraction))
}

/// `YYYY-MM-DD`, then perhaps ` ` or `T` and `HH:MM[:SS[.fraction]]`, then perhaps a zone: `Z`,
/// ` UTC`, `+02:00`, `+0200`, `+02`. Without a zone it is UTC.
pub(crate) fn parse_calendar(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let (date, rest) = bytes.split_at_checked(10)?;
    if date[4] != b'-' || date[7] != b'-' {
        return None;
    }
    let year = number(&date[..4])?;
    let (month, day) = (number(&date[5..7])?, number(&date[8..10])?);
    if !(1..=12).contains(&month) || day < 1 || day > days_of_month(year, month) {
        return None;
    }
    let midnight = day_from_civil(year, month as u32, day as u32) * MICROS_PER_DAY;
    let (in_day, rest) = match rest.split_first() {
        None => (0, rest),
        Some((b' ' | b'T' | b't', clock)) if clock.first().is_some_and(u8::is_ascii_digit) => {
            parse_clock(clock)?
        }
        Some(_) => (0, rest),
    };
    Some(midnight + in_day - parse_zone(rest)?)
}

/// Microseconds of `HH:MM[:SS[.fraction]]`, and what follows it.
fn parse_clock(bytes: &[u8]) -> Option<(i64, &[u8])> {
    let (hour_minute, mut rest) = bytes.split_at_checked(5)?;
    if hour_minute[2] != b':' {
        return None;
    }
    let (hour, minute) = (number(&hour_minute[..2])?, number(&hour_minute[3..5])?);
    let (mut second, mut micros) = (0, 0);
    if let Some(seconds) = rest.strip_prefix(b":") {
        second = number(seconds.get(..2)?)?;
        rest = &seconds[2..];
        if let Some(fraction) = rest.strip_prefix(b".").or_else(|| rest.strip_prefix(b",")) {
            let digits = fraction
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            if digits == 0 {
                return None;
            }
            let mut scale = MICROS_PER_SECOND;
            for digit in &fraction[..digits] {
                scale /= 10;
                micros += i64::from(digit - b'0') * scale;
            }
            rest = &fraction[digits..];
        }
    }
    // Second 60 is a leap second: the same instant as the next minute's first, as POSIX has it.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let in_day = (hour * 3_600 + minute * 60 + second) * MICROS_PER_SECOND + micros;
    Some((in_day, rest))
}

/// The offset from UTC in microseconds.
fn parse_zone(bytes: &[u8]) -> Option<i64> {
    let zone = bytes.strip_prefix(b" ").unwrap_or(bytes);
    let (sign, digits) = match zone {
        [] => return bytes.is_empty().then_some(0),
        b"Z" | b"z" | b"UTC" | b"GMT" => return Some(0),
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits.len() {
        2 => (number(digits)?, 0),
        4 => (number(&digits[..2])?, number(&digits[2..])?),
        5 if digits[2] == b':' => (number(&digits[..2])?, number(&digits[3..])?),
        _ => return None,
    };
    let offset = (hours * 60 + minutes) * 60 * MICROS_PER_SECOND;
    (hours <= 23 && minutes <= 59).then_some(sign * offset)
}

fn number(digits: &[u8]) -> Option<i64> {
    digits.iter().try_fold(0, |value, digit| {
        digit
            .is_ascii_digit()
            .then(|| value * 10 + i64::from(digit - b'0'))
    })
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use pugmark_engine::time::format_rfc3339;

    #[test]
    fn calendar_forms() {
        let midnight = 1_569_888_000_000_000;
        for (text, expected) in [
            ("2019-10-01", midnight),
            ("2019-10-01 00:00", midnight),
            ("2019-10-01 00:00:00", midnight),
            ("2019-10-01 00:00:00 UTC", midnight),
            ("2019-10-01T00:00:00Z", midnight),
            ("2019-10-01T02:00:00+02:00", midnight),
            ("2019-10-01 02:00:00 +0200", midnight),
            ("2019-09-30T19:00:00-05", midnight),
            ("2019-10-01 00:00:00.5", midnight + 500_000),
            ("2019-10-01T00:00:00.1234567891Z", midnight + 123_456),
            ("2019-10-01Z", midnight),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
            ("1969-12-31T23:59:59.999999Z", -1),
            ("2000-02-29", 951_782_400_000_000),
        ] {
            assert_eq!(parse_calendar(text), Some(expected), "{text}");
        }
        for text in [
            "",
            "2019",
            "2019-13-01",
            "2019-02-29",
            "2019-10-00",
            "2019-10-01T",
            "2019-10-01 ",
            "2019-10-01T24:00:00",
            "2019-10-01T00:60:00",
            "2019-10-01T00:00:00.",
            "2019-10-01 x",
            "2019-10-01T00:00:00 CEST",
            "2019-10-01T00:00:00+2",
            "2019-10-01T00:00:00+24:00",
            "01.10.2019",
            "2019/10/01",
            "2019-10-01T0:00:00",
            "2019-1é-01 00:00",
        ] {
            assert_eq!(parse_calendar(text), None, "{text}");
        }
    }

    #[test]
    fn epoch_numbers() {
        let seconds = |text| parse_epoch(text, TimeUnit::Seconds);
        assert_eq!(seconds("1569888000"), Some(1_569_888_000_000_000));
        assert_eq!(seconds("1659304800.025"), Some(1_659_304_800_025_000));
        assert_eq!(seconds("-1.5"), Some(-1_500_000));
        assert_eq!(seconds("0.0000019"), Some(1));
        assert_eq!(
            parse_epoch("1659304800025", TimeUnit::Millis),
            Some(1_659_304_800_025_000)
        );
        assert_eq!(parse_epoch("5", TimeUnit::Micros), Some(5));
        for text in [
            "",
            "-",
            "1e9",
            "+5",
            " 5",
            "99999999999999999999",
            "9223372036854775807",
            "1.x",
            ".5",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn units_by_magnitude() {
        assert_eq!(TimeUnit::of_magnitude(99_999_999_999), TimeUnit::Seconds);
        assert_eq!(TimeUnit::of_magnitude(100_000_000_000), TimeUnit::Millis);
        assert_eq!(TimeUnit::of_magnitude(99_999_999_999_999), TimeUnit::Millis);
        assert_eq!(
            TimeUnit::of_magnitude(100_000_000_000_000),
            TimeUnit::Micros
        );
        assert_eq!(epoch_magnitude("-12.9"), Some(12));
        assert_eq!(epoch_magnitude("2019-10-01"), None);
    }

    #[test]
    fn layouts_by_hand() {
        let parse = |format: &str, text: &str| TimeFormat::new(format).unwrap().parse(text);
        assert_eq!(parse("%Y%m%d", "19970101"), Some(852_076_800_000_000));
        assert_eq!(parse("%Y%m%d", "19970231"), None);
        assert_eq!(
            parse("%d.%m.%Y %H:%M", "01.10.2019 00:30"),
            Some(1_569_889_800_000_000)
        );
        assert_eq!(
            parse("%Y-%m-%d %H:%M:%S%.f %z", "2019-10-01 02:00:00.25 +0200"),
            Some(1_569_888_000_250_000)
        );
        assert_eq!(parse("%s", "1569888000"), Some(1_569_888_000_000_000));
        assert!(TimeFormat::new("%H:%M").is_err());
        assert!(TimeFormat::new("%!").is_err());
    }

    proptest! {
        #[test]
        fn canonical_text_reads_back(micros in -62_135_596_800_000_000i64..253_402_300_800_000_000) {
            prop_assert_eq!(parse_calendar(&format_rfc3339(micros)), Some(micros));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = parse_calendar(&text);
            let _ = parse_epoch(&text, TimeUnit::Seconds);
        }
    }
}
