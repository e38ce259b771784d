//! Calendar arithmetic on microseconds since 1970-01-01 UTC, without a time-zone database.

/// Microseconds in a second.
pub const MICROS_PER_SECOND: i64 = 1_000_000;
/// Microseconds in a day.
pub const MICROS_PER_DAY: i64 = 86_400 * MICROS_PER_SECOND;

/// The UTC day (days since 1970-01-01) that `micros` lies in.
pub fn day_of(micros: i64) -> i64 {
    micros.div_euclid(MICROS_PER_DAY)
}

/// Year, month (1..=12) and day of month (1..=31) of a day since 1970-01-01,
/// by the proleptic Gregorian calendar.
pub fn civil_from_day(day: i64) -> (i64, u32, u32) {
    // Counted in eras of 400 years (146 097 days) that begin on 1 March, so that the leap
    // day comes last; after Howard Hinnant, "chrono-compatible low-level date algorithms".
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month as u32, day_of_month)
}

/// The day since 1970-01-01 of a date in the proleptic Gregorian calendar.
pub fn day_from_civil(year: i64, month: u32, day_of_month: u32) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month = i64::from(month);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day_of_month) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// RFC 3339 text in UTC: `2019-10-01T00:00:00Z`, with 3 or 6 fraction digits where needed.
pub fn format_rfc3339(micros: i64) -> String {
    let (year, month, day) = civil_from_day(day_of(micros));
    let in_day = micros.rem_euclid(MICROS_PER_DAY);
    let (seconds, fraction) = (in_day / MICROS_PER_SECOND, in_day % MICROS_PER_SECOND);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let date = if (0..=9_999).contains(&year) {
        format!("{year:04}-{month:02}-{day:02}")
    } else {
        format!("{year:+07}-{month:02}-{day:02}")
    };
    let clock = format!("{hour:02}:{minute:02}:{second:02}");
    match fraction {
        0 => format!("{date}T{clock}Z"),
        millis if millis % 1_000 == 0 => format!("{date}T{clock}.{:03}Z", millis / 1_000),
        micros => format!("{date}T{clock}.{micros:06}Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        assert_eq!(civil_from_day(0), (1970, 1, 1));
        assert_eq!(day_from_civil(2000, 2, 29), 11_016);
        assert_eq!(
            format_rfc3339(1_569_888_000_000_000),
            "2019-10-01T00:00:00Z"
        );
        assert_eq!(format_rfc3339(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(format_rfc3339(1_500), "1970-01-01T00:00:00.001500Z");
    }

    proptest! {
        #[test]
        fn civil_round_trip(day in -106_751_991i64..106_751_991) {
            let (year, month, of_month) = civil_from_day(day);
            prop_assert_eq!(day_from_civil(year, month, of_month), day);
        }
    }
}
