//! What a client is refused with: a code of five letters, and a text.

use pgwire::error::ErrorInfo;
use pugmark_query::sql::{Place, SqlError};

use super::super::fault::Fault;
use super::super::keys::Denied;
use super::super::service::Refused;
use super::super::space::NoRoom;

/// Why something is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code, as PostgreSQL's clients know it.
    pub(super) code: &'static str,
    /// What went wrong.
    pub(super) message: String,
    /// Where in the text of the statement.
    pub(super) place: Option<Place>,
    /// Whether the connection ends.
    pub(super) ends: bool,
}

impl Failure {
    /// A failure of a statement.
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            place: None,
            ends: false,
        }
    }

    /// What is not spoken here: the connection ends.
    pub(super) fn protocol(message: impl Into<String>) -> Self {
        Self::fatal("08P01", message)
    }

    /// A failure after which the connection ends.
    pub(super) fn fatal(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            ends: true,
            ..Self::new(code, message)
        }
    }

    /// What is sent of it, with the place in the text of the statement that it is about.
    pub(super) fn told(self, sql: &str) -> ErrorInfo {
        let severity = match self.ends {
            true => "FATAL",
            false => "ERROR",
        };
        let mut told = ErrorInfo::new(severity.to_owned(), self.code.to_owned(), self.message);
        told.severity_nonlocalized = Some(severity.to_owned());
        told.position = self.place.and_then(|place| character(sql, place));
        told
    }
}

/// The number of the character at a place, from 1.
fn character(sql: &str, place: Place) -> Option<String> {
    let line = usize::try_from(place.line).ok()?.checked_sub(1)?;
    let before = sql.split_inclusive('\n').take(line);
    let before: usize = before.map(|line| line.chars().count()).sum();
    let column = usize::try_from(place.column).ok()?;
    let number = before + column;
    (number <= sql.chars().count() + 1).then(|| number.to_string())
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        let code = match Fault::of(&error) {
            Fault::Statement => "42000",
            Fault::Memory => "53200",
            Fault::Time | Fault::Cancelled => "57014",
            Fault::Failed => "XX000",
        };
        match error {
            SqlError::Statement {
                place: Some(place),
                problem,
            } => Self {
                place: Some(place),
                ..Self::new(code, problem)
            },
            other => Self::new(code, other.to_string()),
        }
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Denied(Denied::Scope) => Self::new(
                "42501",
                "this key may not do this; make one with the scope that it needs",
            ),
            Refused::Denied(Denied::Unknown) => {
                Self::fatal("28P01", "the password must be a key that may ask questions")
            }
            Refused::TooMany(_) => Self::new("53400", refused.to_string()),
        }
    }
}

impl From<NoRoom> for Failure {
    fn from(_: NoRoom) -> Self {
        Self::new(
            "53200",
            "too much is held for clients; ask again in a second",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_told_in_characters() {
        let at = |line, column| character("SELECT ü\n  FROM x", Place { line, column });
        assert_eq!(at(1, 8).as_deref(), Some("8"));
        assert_eq!(at(2, 3).as_deref(), Some("12"));
        assert_eq!(at(9, 99), None);
        assert_eq!(at(0, 0), None);
    }
}
