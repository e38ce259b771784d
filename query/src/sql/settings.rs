//! Settings of a session.

use std::path::PathBuf;
use std::time::Duration;

use super::error::SqlError;
use super::nearest::nearest;
use crate::zone::Zone;

const SETTINGS: [&str; 6] = [
    "as_of",
    "time_zone",
    "memory_limit",
    "spill_limit",
    "deadline",
    "threads",
];

/// How statements of a session are answered.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The present, in microseconds since 1970-01-01 UTC; by default the store's clock at each
    /// statement.
    pub as_of: Option<i64>,
    /// The zone of calendar days, and of times without one.
    pub(super) zone: Zone,
    pub(super) zone_name: String,
    /// Bytes that a statement may hold at once beside the page cache. Default 512 MiB.
    pub memory_bytes: usize,
    /// Bytes of temporary files that a statement's sorts and groups may write where they do not fit
    /// into memory. Default 16 GiB.
    pub spill_bytes: u64,
    /// Where these files lie; by default where the system keeps such files (`TMPDIR`).
    pub temp_directory: Option<PathBuf>,
    /// Longest time that a statement may take.
    pub deadline: Option<Duration>,
    /// Worker threads; by default as many as the machine runs at once.
    pub threads: Option<usize>,
    /// Whether statements may read and write files of this machine. Default false.
    pub files: bool,
    /// Whether plain SQL over events and users may be answered from bitmaps and run lengths where
    /// it means the same. Default true; off, its rows are read, for comparison.
    pub shortcuts: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            as_of: None,
            zone: Zone::UTC,
            zone_name: "UTC".to_owned(),
            memory_bytes: 512 << 20,
            spill_bytes: 16 << 30,
            temp_directory: None,
            deadline: None,
            threads: None,
            files: false,
            shortcuts: true,
        }
    }
}

impl Settings {
    /// Calendar days, and times without a zone, are those of the IANA zone `name`.
    ///
    /// # Errors
    /// Where no zone is named so.
    pub fn zone(mut self, name: &str) -> Result<Self, SqlError> {
        self.zone = Zone::named(name)?;
        // As the database spells it: others are particular about case.
        let known = jiff::tz::db().get(name).ok();
        let known = known.and_then(|zone| zone.iana_name().map(str::to_owned));
        self.zone_name = match self.zone == Zone::UTC {
            true => "UTC".to_owned(),
            false => known.unwrap_or_else(|| name.to_owned()),
        };
        Ok(self)
    }

    /// Changes the setting `name` to what `value` says, as `SET name = value` does.
    ///
    /// # Errors
    /// Where there is no such setting, or it cannot be this.
    pub fn assign(&mut self, name: &str, value: &str) -> Result<(), SqlError> {
        let wrong = |what: &str| SqlError::of(format!("`{name}` must be {what}, not `{value}`"));
        let default = value.eq_ignore_ascii_case("default");
        match name {
            "as_of" if default => self.as_of = None,
            "as_of" => {
                let time: Option<jiff::Timestamp> = value.parse().ok();
                let time = time.ok_or_else(|| wrong("a time such as '2025-03-01T12:00:00Z'"))?;
                self.as_of = Some(time.as_microsecond());
            }
            "time_zone" | "timezone" => {
                let zone = if default { "UTC" } else { value };
                *self = self.clone().zone(zone)?;
            }
            "memory_limit" if default => self.memory_bytes = Self::default().memory_bytes,
            "memory_limit" => {
                let bytes = bytes(value);
                self.memory_bytes = bytes.ok_or_else(|| wrong("a size such as '512MB'"))?;
            }
            "spill_limit" if default => self.spill_bytes = Self::default().spill_bytes,
            "spill_limit" => {
                let bytes = bytes(value);
                self.spill_bytes = bytes.ok_or_else(|| wrong("a size such as '16GB'"))? as u64;
            }
            "deadline" | "statement_timeout" if default => self.deadline = None,
            "deadline" | "statement_timeout" => {
                let millis = milliseconds(value);
                let millis = millis.ok_or_else(|| wrong("a length of time such as '30s'"))?;
                self.deadline = (millis > 0).then(|| Duration::from_millis(millis));
            }
            "threads" if default => self.threads = None,
            "threads" => {
                let threads = value.parse().ok().filter(|threads| *threads > 0);
                self.threads = Some(threads.ok_or_else(|| wrong("a number above 0"))?);
            }
            _ => {
                let hint = nearest(name, SETTINGS)
                    .map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
                return Err(SqlError::of(format!("there is no setting `{name}`{hint}")));
            }
        }
        Ok(())
    }

    /// The name of the zone.
    pub fn zone_name(&self) -> &str {
        &self.zone_name
    }
}

/// A number with a unit behind it.
fn with_unit(value: &str, units: &[(&str, u64)]) -> Option<u64> {
    let split = value.find(|letter: char| !letter.is_ascii_digit());
    let (number, unit) = value.split_at(split.unwrap_or(value.len()));
    let number: u64 = number.parse().ok()?;
    let unit = unit.trim();
    let found = units
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit));
    number.checked_mul(found?.1)
}

fn bytes(value: &str) -> Option<usize> {
    let units = [
        ("", 1),
        ("B", 1),
        ("kB", 1 << 10),
        ("MB", 1 << 20),
        ("GB", 1 << 30),
    ];
    usize::try_from(with_unit(value, &units)?).ok()
}

fn milliseconds(value: &str) -> Option<u64> {
    with_unit(
        value,
        &[
            ("", 1),
            ("ms", 1),
            ("s", 1_000),
            ("min", 60_000),
            ("h", 3_600_000),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_assigned_by_name() {
        let mut settings = Settings::default();
        settings.assign("as_of", "2025-03-01T00:00:00Z").unwrap();
        settings.assign("time_zone", "europe/berlin").unwrap();
        settings.assign("memory_limit", "64MB").unwrap();
        settings.assign("spill_limit", "2GB").unwrap();
        settings.assign("deadline", "30s").unwrap();
        settings.assign("threads", "3").unwrap();
        assert_eq!(settings.as_of, Some(1_740_787_200_000_000));
        assert_eq!(settings.zone_name(), "Europe/Berlin");
        assert_eq!(settings.memory_bytes, 64 << 20);
        assert_eq!(settings.spill_bytes, 2 << 30);
        assert_eq!(settings.deadline, Some(Duration::from_secs(30)));
        assert_eq!(settings.threads, Some(3));
        settings.assign("deadline", "0").unwrap();
        assert_eq!(settings.deadline, None);
        for (name, value) in [
            ("threads", "0"),
            ("as_of", "soon"),
            ("memory_limit", "much"),
        ] {
            assert!(settings.assign(name, value).is_err());
        }
        let error = settings.assign("thread", "1").unwrap_err().to_string();
        assert!(error.contains("did you mean `threads`"), "{error}");
    }
}
