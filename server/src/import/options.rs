//! What the caller says about the files: which column is what, and how to read it.

use std::path::PathBuf;

use super::error::OptionError;
use super::time::TimeFormat;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// Comma-separated values, the first row naming the columns.
    Csv,
    /// Tab-separated values, the first row naming the columns.
    Tsv,
    /// One JSON object a line.
    Ndjson,
    /// Apache Parquet.
    Parquet,
}

/// What lies between two fields of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Delimiter {
    /// One byte.
    Byte(u8),
    /// Any number of blanks or tabs; blanks before the first field mean nothing.
    Blanks,
}

/// The unit of times given as numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimeUnit {
    /// Seconds since 1970-01-01 UTC.
    Seconds,
    /// Milliseconds since then.
    Millis,
    /// Microseconds since then.
    Micros,
}

impl TimeUnit {
    /// Microseconds in one.
    pub fn micros(self) -> i64 {
        match self {
            Self::Seconds => 1_000_000,
            Self::Millis => 1_000,
            Self::Micros => 1,
        }
    }

    /// The unit in which a column has `largest` as its largest distance from 1970.
    pub fn of_magnitude(largest: u64) -> Self {
        match largest {
            0..100_000_000_000 => Self::Seconds,
            100_000_000_000..100_000_000_000_000 => Self::Millis,
            _ => Self::Micros,
        }
    }
}

/// A type that a column is read as by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnType {
    /// UTF-8 text.
    Text,
    /// Whole numbers.
    I64,
    /// Floating-point numbers.
    F64,
    /// `true` and `false`.
    Bool,
    /// Points in time, in any form that the time column may have.
    Timestamp,
}

/// How a rule compares a field's text with its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Comparison {
    /// `=`: is the text.
    Is,
    /// `!=`: is another text.
    IsNot,
    /// `^=`: starts with it.
    Starts,
    /// `$=`: ends with it.
    Ends,
    /// `*=`: contains it.
    Contains,
}

/// Names an event by one of its fields: `InvoiceNo^=C:cancel`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventRule {
    /// The column looked at.
    pub column: String,
    /// How.
    pub comparison: Comparison,
    /// The text compared with. An empty or missing field is the empty text.
    pub text: String,
    /// The event's name where the comparison holds.
    pub name: String,
}

/// Where the names of events come from: the first rule that holds, else the columns or the
/// fixed name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EventNaming {
    /// Rules, tried in order.
    pub rules: Vec<EventRule>,
    /// Columns whose texts are joined by `|`; or none.
    pub columns: Vec<String>,
    /// The name of every event, where there are no columns.
    pub fixed: Option<String>,
}

/// Everything that the caller says about files of one kind.
#[derive(Clone, Debug)]
pub struct ImportOptions {
    /// The format; `None` looks at each file's name, then at its first bytes.
    pub format: Option<Format>,
    /// The column of user ids.
    pub user: String,
    /// The column of times.
    pub time: String,
    /// Where event names come from.
    pub naming: EventNaming,
    /// The column of de-duplication ids.
    pub message_id: Option<String>,
    /// The unit of numeric times; `None` decides by the magnitude of each file's whole column.
    pub time_unit: Option<TimeUnit>,
    /// The layout of times, as `strptime` has it; `None` takes RFC 3339 and its relatives.
    pub time_format: Option<TimeFormat>,
    /// Between fields; `None` is what the format says.
    pub delimiter: Option<Delimiter>,
    /// False where `"` is a character like any other.
    pub quotes: bool,
    /// Names of the columns of a file without a row of names.
    pub columns: Option<Vec<String>>,
    /// Types given by hand.
    pub types: Vec<(String, ColumnType)>,
    /// Columns left out.
    pub skip: Vec<String>,
    /// The array whose elements are the events (JSON only).
    pub explode: Option<String>,
    /// Stop at the first row that cannot be taken.
    pub strict: bool,
    /// Where rows that were not taken are written; `None` is `<file>.rejects.csv` in the working
    /// directory.
    pub rejects: Option<PathBuf>,
}

impl ImportOptions {
    /// Files in which the column `user` says who, `time` when, and `event` what.
    pub fn new(user: &str, time: &str, event: &str) -> Self {
        Self {
            format: None,
            user: user.to_owned(),
            time: time.to_owned(),
            naming: EventNaming {
                rules: Vec::new(),
                columns: vec![event.to_owned()],
                fixed: None,
            },
            message_id: None,
            time_unit: None,
            time_format: None,
            delimiter: None,
            quotes: true,
            columns: None,
            types: Vec::new(),
            skip: Vec::new(),
            explode: None,
            strict: false,
            rejects: None,
        }
    }

    /// A column's type given by hand.
    pub fn type_of(&self, column: &str) -> Option<ColumnType> {
        let found = self.types.iter().rfind(|(name, _)| name == column);
        found.map(|&(_, kind)| kind)
    }

    /// True where a column becomes a property of the events.
    ///
    /// The user, the time, the message id and a single event column are the event's own parts;
    /// of several event columns each is worth asking for, so they stay.
    pub fn is_property(&self, column: &str) -> bool {
        let single_name = self.naming.columns.len() == 1 && self.naming.columns[0] == column;
        !(column == self.user
            || column == self.time
            || self.message_id.as_deref() == Some(column)
            || single_name
            || self.skip.iter().any(|skipped| skipped == column))
    }

    /// Every option that decides what is stored, as text: part of what makes an import repeated.
    pub(crate) fn fingerprint(&self, format: Format) -> String {
        let Self {
            format: _,
            user,
            time,
            naming,
            message_id,
            time_unit,
            time_format,
            delimiter,
            quotes,
            columns,
            types,
            skip,
            explode,
            strict: _,
            rejects: _,
        } = self;
        let time_format = time_format.as_ref().map(TimeFormat::as_str);
        format!(
            "1 {format:?} {user:?} {time:?} {naming:?} {message_id:?} {time_unit:?} \
             {time_format:?} {delimiter:?} {quotes} {columns:?} {types:?} {skip:?} {explode:?}"
        )
    }
}

impl std::str::FromStr for EventRule {
    type Err = OptionError;

    fn from_str(rule: &str) -> Result<Self, OptionError> {
        let bad = || OptionError::Rule {
            rule: rule.to_owned(),
        };
        let (condition, name) = rule.rsplit_once(':').ok_or_else(bad)?;
        let equals = condition.find('=').ok_or_else(bad)?;
        let (left, text) = (&condition[..equals], &condition[equals + 1..]);
        let operators = [
            ('!', Comparison::IsNot),
            ('^', Comparison::Starts),
            ('$', Comparison::Ends),
            ('*', Comparison::Contains),
        ];
        let found = operators
            .into_iter()
            .find_map(|(mark, comparison)| Some((left.strip_suffix(mark)?, comparison)));
        let (column, comparison) = found.unwrap_or((left, Comparison::Is));
        if column.is_empty() || name.is_empty() {
            return Err(bad());
        }
        Ok(Self {
            column: column.to_owned(),
            comparison,
            text: text.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl EventRule {
    /// True where the rule holds for a field.
    pub fn holds(&self, field: &str) -> bool {
        let text = self.text.as_str();
        match self.comparison {
            Comparison::Is => field == text,
            Comparison::IsNot => field != text,
            Comparison::Starts => field.starts_with(text),
            Comparison::Ends => field.ends_with(text),
            Comparison::Contains => field.contains(text),
        }
    }
}

impl std::str::FromStr for Delimiter {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        match (text, text.as_bytes()) {
            ("blanks", _) => Ok(Self::Blanks),
            ("tab" | "\\t", _) => Ok(Self::Byte(b'\t')),
            (_, &[byte]) if !matches!(byte, b'"' | b'\n' | b'\r') => Ok(Self::Byte(byte)),
            _ => Err(OptionError::Delimiter {
                found: text.to_owned(),
            }),
        }
    }
}

/// Parses `COLUMN=TYPE`.
///
/// # Errors
/// Where there is no `=`, or the type is not one of text, i64, f64, bool and timestamp.
pub fn parse_column_type(text: &str) -> Result<(String, ColumnType), OptionError> {
    let bad = || OptionError::ColumnType {
        found: text.to_owned(),
    };
    let (column, kind) = text.rsplit_once('=').ok_or_else(bad)?;
    let kind = match kind {
        "text" => ColumnType::Text,
        "i64" => ColumnType::I64,
        "f64" => ColumnType::F64,
        "bool" => ColumnType::Bool,
        "timestamp" => ColumnType::Timestamp,
        _ => return Err(bad()),
    };
    Ok((column.to_owned(), kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules() {
        let rule: EventRule = "InvoiceNo^=C:cancel".parse().unwrap();
        assert!(rule.holds("C536379") && !rule.holds("536379"));
        assert_eq!(
            (rule.column.as_str(), rule.name.as_str()),
            ("InvoiceNo", "cancel")
        );
        let rule: EventRule = "url*=a:b=c:checkout".parse().unwrap();
        assert!(rule.holds("xa:b=cx"));
        let rule: EventRule = "coupon=:plain".parse().unwrap();
        assert!(rule.holds("") && !rule.holds("X"));
        assert!("kind!=x:y".parse::<EventRule>().unwrap().holds("z"));
        assert!(
            "kind$=.pdf:download"
                .parse::<EventRule>()
                .unwrap()
                .holds("a.pdf")
        );
        for bad in ["", "a", "a=b", "=b:c", "a=b:", "^=b:c"] {
            assert!(bad.parse::<EventRule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn delimiters_and_types() {
        assert_eq!("tab".parse::<Delimiter>().unwrap(), Delimiter::Byte(b'\t'));
        assert_eq!(";".parse::<Delimiter>().unwrap(), Delimiter::Byte(b';'));
        assert!("ab".parse::<Delimiter>().is_err());
        assert_eq!(
            parse_column_type("a=b=f64").unwrap(),
            ("a=b".to_owned(), ColumnType::F64)
        );
        assert!(parse_column_type("a=float").is_err());
    }

    #[test]
    fn the_fingerprint_tells_what_matters() {
        let base = ImportOptions::new("u", "t", "e");
        let mut strict = base.clone();
        strict.strict = true;
        assert_eq!(
            base.fingerprint(Format::Csv),
            strict.fingerprint(Format::Csv)
        );
        assert_ne!(base.fingerprint(Format::Csv), base.fingerprint(Format::Tsv));
        let mut typed = base.clone();
        typed.types.push(("a".to_owned(), ColumnType::Text));
        assert_ne!(
            base.fingerprint(Format::Csv),
            typed.fingerprint(Format::Csv)
        );
    }
}
