//! Texts of statements, taken apart into what PostgreSQL's clients mean by them.

use datafusion::sql::sqlparser::ast::{
    CloseCursor, CopyLegacyCsvOption, CopyLegacyOption, CopyOption, CopySource, CopyTarget,
    DiscardObject, Expr, FetchDirection, Ident, Reset, Set, Statement, Value,
};
use datafusion::sql::sqlparser::ast::{ObjectName, Query, SetExpr};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use pugmark_query::sql::{Session, SqlError, SqlStatement};

use super::failure::Failure;
use super::rewriting::{self, about_the_catalog};

/// What a statement asks for.
#[derive(Clone, Debug)]
pub(super) enum Command {
    /// Rows.
    Rows(SqlStatement),
    /// Rows become events.
    Insert(SqlStatement),
    /// Rows, in a stream of one form.
    Copy(SqlStatement, CopyForm),
    /// Rows that are fetched later, by a name; kept beyond the transaction or not.
    Declare {
        name: String,
        hold: bool,
        statement: SqlStatement,
    },
    /// Some of these rows; all where there is no number.
    Fetch { name: String, most: Option<usize> },
    /// These rows are not wanted; of all names where there is none.
    Close(Option<String>),
    /// A transaction begins.
    Begin,
    /// It ends.
    Commit,
    /// It ends, as if nothing had been.
    Rollback,
    /// It goes on from a point before.
    RollbackTo,
    /// A setting is changed; to what it was first where there is no value.
    Set { name: String, value: Option<String> },
    /// All settings are what they were first.
    ResetAll,
    /// A setting is asked for; all where there is none.
    Show(Option<String>),
    /// A statement is forgotten; all where there is none.
    Deallocate(Option<String>),
    /// Everything of the session is forgotten.
    Discard,
    /// Nothing is done, and this is said.
    Nothing(&'static str),
}

/// How a COPY writes rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CopyForm {
    Text {
        delimiter: u8,
        null: String,
    },
    Csv {
        delimiter: u8,
        null: String,
        header: bool,
    },
    Binary,
}

/// The commands of a text.
///
/// # Errors
/// Where it cannot be parsed, or asks for what there is not.
pub(super) fn parse(sql: &str) -> Result<Vec<Command>, Failure> {
    Session::check(sql)?;
    let statements = Parser::new(&PostgreSqlDialect {})
        .try_with_sql(sql)
        .and_then(|mut parser| parser.parse_statements());
    let statements = match statements {
        Ok(statements) if !statements.iter().any(about_the_catalog) => Ok(statements),
        parsed => rewriting::parse(sql).or(parsed),
    };
    let statements = statements.map_err(|error| Failure {
        code: "42601",
        ..Failure::from(SqlError::from(error))
    })?;
    statements.into_iter().map(command).collect()
}

fn command(statement: Statement) -> Result<Command, Failure> {
    Ok(match statement {
        Statement::StartTransaction { .. } => Command::Begin,
        Statement::Commit { .. } => Command::Commit,
        Statement::Rollback {
            savepoint: Some(_), ..
        } => Command::RollbackTo,
        Statement::Rollback { .. } => Command::Rollback,
        Statement::Savepoint { .. } => Command::Nothing("SAVEPOINT"),
        Statement::ReleaseSavepoint { .. } => Command::Nothing("RELEASE"),
        Statement::Set(set) => setting(set)?,
        Statement::Reset(reset) => match reset.reset {
            Reset::ALL => Command::ResetAll,
            Reset::ConfigurationParameter(name) => Command::Set {
                name: name.to_string().to_ascii_lowercase(),
                value: None,
            },
        },
        Statement::ShowVariable { variable } => shown(&variable),
        Statement::Declare { stmts } => declare(stmts)?,
        Statement::Fetch {
            name, direction, ..
        } => Command::Fetch {
            name: name.value,
            most: fetched(&direction)?,
        },
        Statement::Close { cursor } => Command::Close(match cursor {
            CloseCursor::All => None,
            CloseCursor::Specific { name } => Some(name.value),
        }),
        Statement::Deallocate { name, .. } => Command::Deallocate(
            (!name.value.eq_ignore_ascii_case("all") || name.quote_style.is_some())
                .then_some(name.value),
        ),
        Statement::Discard { object_type } => match object_type {
            DiscardObject::ALL => Command::Discard,
            _ => Command::Nothing("DISCARD"),
        },
        Statement::LISTEN { .. } => Command::Nothing("LISTEN"),
        Statement::UNLISTEN { .. } => Command::Nothing("UNLISTEN"),
        Statement::Copy {
            source,
            to,
            target,
            options,
            legacy_options,
            ..
        } => copy(source, to, &target, (&options, &legacy_options))?,
        other => {
            let statement = SqlStatement::of(other);
            match statement.writes() {
                true => Command::Insert(statement),
                false => Command::Rows(statement),
            }
        }
    })
}

fn unknown(what: &str) -> Failure {
    Failure::new("0A000", format!("`{what}` is not supported"))
}

fn setting(set: Set) -> Result<Command, Failure> {
    Ok(match set {
        Set::SingleAssignment {
            variable, values, ..
        } => {
            let name = variable.to_string().to_ascii_lowercase();
            let texts: Vec<String> = values.iter().map(plain).collect();
            let value = texts.join(", ");
            Command::Set {
                name,
                value: (!value.eq_ignore_ascii_case("default")).then_some(value),
            }
        }
        Set::SetTimeZone { value, .. } => Command::Set {
            name: "timezone".to_owned(),
            value: match plain(&value) {
                local if local.eq_ignore_ascii_case("local") => None,
                zone => Some(zone),
            },
        },
        Set::SetNames { charset_name, .. } => Command::Set {
            name: "client_encoding".to_owned(),
            value: Some(charset_name.value),
        },
        Set::SetNamesDefault {} => Command::Set {
            name: "client_encoding".to_owned(),
            value: None,
        },
        Set::SetTransaction { .. } | Set::SetRole { .. } | Set::SetSessionAuthorization(_) => {
            Command::Nothing("SET")
        }
        other => return Err(unknown(&other.to_string())),
    })
}

/// The text of a setting's value.
fn plain(expr: &Expr) -> String {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => text.clone(),
            other => other.to_string(),
        },
        Expr::Identifier(name) => name.value.clone(),
        other => other.to_string(),
    }
}

fn shown(variable: &[Ident]) -> Command {
    let names: Vec<String> = variable
        .iter()
        .map(|name| name.value.to_ascii_lowercase())
        .collect();
    Command::Show(match names.join(" ").as_str() {
        "all" => None,
        "transaction isolation level" => Some("transaction_isolation".to_owned()),
        "time zone" => Some("timezone".to_owned()),
        _ => Some(names.join(".")),
    })
}

fn declare(declared: Vec<datafusion::sql::sqlparser::ast::Declare>) -> Result<Command, Failure> {
    let mut declared = declared.into_iter();
    let (Some(one), None) = (declared.next(), declared.next()) else {
        return Err(unknown("DECLARE of several cursors"));
    };
    let (Some(name), Some(query)) = (one.names.into_iter().next(), one.for_query) else {
        return Err(unknown("DECLARE of anything but a cursor for a query"));
    };
    if one.binary == Some(true) || one.scroll == Some(true) {
        return Err(unknown("DECLARE … BINARY or SCROLL"));
    }
    Ok(Command::Declare {
        name: name.value,
        hold: one.hold == Some(true),
        statement: SqlStatement::of(Statement::Query(query)),
    })
}

fn fetched(direction: &FetchDirection) -> Result<Option<usize>, Failure> {
    let number = |value: &Value| {
        let text = value.to_string();
        text.parse()
            .map(Some)
            .map_err(|_| unknown(&format!("FETCH {text}")))
    };
    match direction {
        FetchDirection::Next => Ok(Some(1)),
        FetchDirection::Forward { limit: None } => Ok(Some(1)),
        FetchDirection::All | FetchDirection::ForwardAll => Ok(None),
        FetchDirection::Count { limit } => number(&limit.value),
        FetchDirection::Forward { limit: Some(limit) } => number(&limit.value),
        other => Err(unknown(&format!("FETCH {other}"))),
    }
}

fn copy(
    source: CopySource,
    to: bool,
    target: &CopyTarget,
    (options, legacy): (&[CopyOption], &[CopyLegacyOption]),
) -> Result<Command, Failure> {
    let query = match source {
        CopySource::Query(query) if to && *target == CopyTarget::Stdout => query,
        CopySource::Table {
            table_name,
            columns,
        } if to && *target == CopyTarget::Stdout => table(&table_name, &columns)?,
        _ => {
            return Err(Failure::new(
                "0A000",
                "COPY goes TO STDOUT; send events with POST /v1/import or INSERT INTO events",
            ));
        }
    };
    let statement = SqlStatement::of(Statement::Query(query));
    Ok(Command::Copy(statement, copy_form(options, legacy)?))
}

/// A query of a table's columns.
fn table(name: &ObjectName, columns: &[Ident]) -> Result<Box<Query>, Failure> {
    let columns = match columns {
        [] => "*".to_owned(),
        columns => columns
            .iter()
            .map(Ident::to_string)
            .collect::<Vec<_>>()
            .join(", "),
    };
    let sql = format!("SELECT {columns} FROM {name}");
    let parsed = Parser::parse_sql(&PostgreSqlDialect {}, &sql).map_err(SqlError::from)?;
    match parsed.into_iter().next() {
        Some(Statement::Query(query)) if matches!(*query.body, SetExpr::Select(_)) => Ok(query),
        _ => Err(unknown(&sql)),
    }
}

fn copy_form(options: &[CopyOption], legacy: &[CopyLegacyOption]) -> Result<CopyForm, Failure> {
    let (mut format, mut delimiter, mut null, mut header) = (None, None, None, false);
    for option in options {
        match option {
            CopyOption::Format(name) => format = Some(name.value.to_ascii_lowercase()),
            CopyOption::Delimiter(letter) if letter.is_ascii() => delimiter = Some(*letter as u8),
            CopyOption::Null(text) => null = Some(text.clone()),
            CopyOption::Header(wanted) => header = *wanted,
            CopyOption::Encoding(name) if name.eq_ignore_ascii_case("utf8") => {}
            other => return Err(unknown(&format!("COPY … ({other})"))),
        }
    }
    for option in legacy {
        match option {
            CopyLegacyOption::Binary => format = Some("binary".to_owned()),
            CopyLegacyOption::Delimiter(letter) if letter.is_ascii() => {
                delimiter = Some(*letter as u8);
            }
            CopyLegacyOption::Null(text) => null = Some(text.clone()),
            CopyLegacyOption::Header => header = true,
            CopyLegacyOption::Csv(options) => {
                format = Some("csv".to_owned());
                for option in options {
                    match option {
                        CopyLegacyCsvOption::Header => header = true,
                        other => return Err(unknown(&format!("COPY … CSV {other}"))),
                    }
                }
            }
            other => return Err(unknown(&format!("COPY … {other}"))),
        }
    }
    Ok(match format.as_deref() {
        None | Some("text") => CopyForm::Text {
            delimiter: delimiter.unwrap_or(b'\t'),
            null: null.unwrap_or_else(|| "\\N".to_owned()),
        },
        Some("csv") => CopyForm::Csv {
            delimiter: delimiter.unwrap_or(b','),
            null: null.unwrap_or_default(),
            header,
        },
        Some("binary") => CopyForm::Binary,
        Some(other) => return Err(unknown(&format!("COPY … (FORMAT {other})"))),
    })
}
