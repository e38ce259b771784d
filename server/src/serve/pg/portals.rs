//! Statements that a connection keeps, and those of which it has fetched some rows.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow_schema::SchemaRef;
use postgres_types::Type;
use pugmark_query::sql::{Parameter, Parameters, PlaceholderType, SqlStatement};
use tokio::sync::OwnedSemaphorePermit;

use super::super::answering::Answering;
use super::super::space::Room;
use super::commands::Command;
use super::failure::Failure;
use super::frames::Form;
use super::parameters::{decode, sample, wire_type};
use super::rows::{Columns, Rows};

/// Most statements that a connection keeps, and most portals.
const MOST: usize = 4_096;

/// Room for what is kept: of the connection's share, and of what there is for all.
pub(super) type KeptRoom = (Room, Room);

/// A statement that is kept.
pub(super) struct Prepared {
    /// Its text.
    pub(super) sql: Arc<str>,
    /// What it asks for; `None` where the text holds no statement.
    pub(super) command: Option<Command>,
    /// The types of its parameters.
    pub(super) types: Vec<Type>,
    placeholders: BTreeMap<String, PlaceholderType>,
    /// The bytes of it.
    _room: KeptRoom,
}

/// A statement with its values.
pub(super) struct Portal {
    /// The text that it came in.
    pub(super) sql: Arc<str>,
    /// What it asks for, its values in their places.
    pub(super) command: Option<Command>,
    /// The forms that columns are wanted in.
    pub(super) forms: Vec<Form>,
    /// How far it is.
    pub(super) state: State,
    /// Whether it stays when the transaction ends.
    pub(super) hold: bool,
    /// The bytes of its values.
    pub(super) _room: Option<KeptRoom>,
}

/// How far a portal is.
pub(super) enum State {
    /// Nothing was asked of it.
    New,
    /// Its columns are known.
    Described(SchemaRef),
    /// It has rows.
    Running(Box<Running>),
    /// All rows were fetched; it had these columns.
    Done(SchemaRef),
    /// It broke off, and has no more rows to tell of.
    Failed(Failure),
}

/// The rows of a portal.
pub(super) struct Running {
    pub(super) answering: Answering<Rows>,
    pub(super) columns: Columns,
    /// The forms that its rows are in.
    pub(super) forms: Vec<Form>,
    /// Rows that came and were not sent.
    pub(super) rows: Rows,
    /// The right to pause.
    pub(super) paused: Option<OwnedSemaphorePermit>,
}

impl Prepared {
    pub(super) fn new(
        sql: Arc<str>,
        mut commands: Vec<Command>,
        declared: &[u32],
        placeholders: BTreeMap<String, PlaceholderType>,
        room: KeptRoom,
    ) -> Result<Self, Failure> {
        let command = commands.pop();
        if !commands.is_empty() {
            let message = "a prepared statement is one statement; send them one at a time";
            return Err(Failure::new("42601", message));
        }
        let mut most = declared.len();
        for name in placeholders.keys() {
            let number = name
                .parse::<usize>()
                .ok()
                .filter(|number| (1..=65_535).contains(number));
            let number = number.ok_or_else(|| {
                Failure::new(
                    "42P02",
                    format!("`${name}` is no parameter; they are $1, $2 …"),
                )
            })?;
            most = most.max(number);
        }
        let types = (1..=most).map(|number| {
            let declared = declared.get(number - 1).copied().unwrap_or(0);
            let known = Type::from_oid(declared).filter(|known| *known != Type::UNKNOWN);
            known.unwrap_or_else(|| wire_type(placeholder(&placeholders, number)))
        });
        Ok(Self {
            sql,
            command,
            types: types.collect(),
            placeholders,
            _room: room,
        })
    }

    /// The statement with values.
    pub(super) fn with(
        &self,
        values: &[(Form, Option<bytes::Bytes>)],
    ) -> Result<Option<Command>, Failure> {
        if values.len() != self.types.len() {
            let message = format!(
                "the statement has {} parameters, but {} values came",
                self.types.len(),
                values.len()
            );
            return Err(Failure::new("08P01", message));
        }
        let mut known = Parameters::new();
        for (place, ((form, bytes), wire)) in values.iter().zip(&self.types).enumerate() {
            let number = place + 1;
            let value = decode(wire, *form, bytes.as_ref(), number)?;
            if let Some(placeholder) = self.placeholders.get(&number.to_string()) {
                let value = match (placeholder, value) {
                    (PlaceholderType::Whole, value) => value,
                    // As it was told that it would be.
                    (_, Parameter::Whole(whole)) if *wire == Type::NUMERIC => {
                        Parameter::Float(whole as f64)
                    }
                    (PlaceholderType::Interval, Parameter::Text(text)) => Parameter::Interval(text),
                    (_, value) => value,
                };
                known.insert(number.to_string(), value);
            }
        }
        self.bound(&known)
    }

    /// The statement with values that stand for those that will come.
    pub(super) fn with_samples(&self) -> Result<Option<Command>, Failure> {
        let mut known = Parameters::new();
        for (place, wire) in self.types.iter().enumerate() {
            let number = place + 1;
            if let Some(placeholder) = self.placeholders.get(&number.to_string()) {
                known.insert(number.to_string(), sample(wire, *placeholder));
            }
        }
        self.bound(&known)
    }

    fn bound(&self, values: &Parameters) -> Result<Option<Command>, Failure> {
        let bind = |statement: &SqlStatement| statement.clone().bind(values);
        Ok(match &self.command {
            Some(Command::Rows(statement)) => Some(Command::Rows(bind(statement)?)),
            Some(Command::Insert(statement)) => Some(Command::Insert(bind(statement)?)),
            Some(Command::Copy(statement, form)) => {
                Some(Command::Copy(bind(statement)?, form.clone()))
            }
            Some(Command::Declare {
                name,
                hold,
                statement,
            }) => Some(Command::Declare {
                name: name.clone(),
                hold: *hold,
                statement: bind(statement)?,
            }),
            other => other.clone(),
        })
    }
}

fn placeholder(known: &BTreeMap<String, PlaceholderType>, number: usize) -> PlaceholderType {
    let found = known.get(&number.to_string()).copied();
    found.unwrap_or(PlaceholderType::Text)
}

/// The statement whose placeholders a command's are.
pub(super) fn statement_of(command: &Command) -> Option<&SqlStatement> {
    match command {
        Command::Rows(statement)
        | Command::Insert(statement)
        | Command::Copy(statement, _)
        | Command::Declare { statement, .. } => Some(statement),
        _ => None,
    }
}

/// What a connection keeps, by name.
#[derive(Default)]
pub(super) struct Kept {
    /// Statements.
    pub(super) statements: HashMap<String, Arc<Prepared>>,
    /// Statements with their values.
    pub(super) portals: HashMap<String, Portal>,
}

impl Kept {
    /// Keeps a statement.
    pub(super) fn prepare(&mut self, name: String, prepared: Prepared) -> Result<(), Failure> {
        if !name.is_empty() && self.statements.contains_key(&name) {
            let message = format!("a statement `{name}` exists; close it first");
            return Err(Failure::new("42P05", message));
        }
        if self.statements.len() >= MOST {
            return Err(Failure::new(
                "53400",
                format!("{MOST} statements are kept; close some"),
            ));
        }
        self.statements.insert(name, Arc::new(prepared));
        Ok(())
    }

    /// The statement of a name.
    pub(super) fn statement(&self, name: &str) -> Result<Arc<Prepared>, Failure> {
        let found = self.statements.get(name).cloned();
        found.ok_or_else(|| Failure::new("26000", format!("there is no statement `{name}`")))
    }

    /// Keeps a portal.
    pub(super) fn open(&mut self, name: String, portal: Portal) -> Result<(), Failure> {
        if !name.is_empty() && self.portals.contains_key(&name) {
            let message = format!("a cursor `{name}` is open; close it first");
            return Err(Failure::new("42P03", message));
        }
        if self.portals.len() >= MOST {
            return Err(Failure::new(
                "53400",
                format!("{MOST} cursors are open; close some"),
            ));
        }
        self.portals.insert(name, portal);
        Ok(())
    }

    /// The portal of a name.
    pub(super) fn portal(&mut self, name: &str) -> Result<&mut Portal, Failure> {
        self.portals.get_mut(name).ok_or_else(|| {
            Failure::new(
                "34000",
                format!("there is no cursor `{name}`: it is closed, or was never open"),
            )
        })
    }

    /// A transaction ended.
    pub(super) fn end_transaction(&mut self) {
        self.portals.retain(|_, portal| portal.hold);
    }
}
