//! Statements: parsed, bound, described and run.

use std::future::Future;
use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::Bytes;
use pgwire::messages::data::{NoData, ParameterDescription};
use pgwire::messages::extendedquery::{BindComplete, ParseComplete};
use pgwire::messages::response::{EmptyQueryResponse, TransactionStatus};
use pugmark_query::sql::SqlStatement;
use tokio::io::ReadHalf;

use super::super::super::answering::{Answering, Make, describe, stored};
use super::super::super::keys::Scope;
use super::super::super::queries::{Listed, NotListed};
use super::super::super::service::Refused;
use super::super::super::tls::Duplex;
use super::super::commands;
use super::super::commands::Command;
use super::super::failure::Failure;
use super::super::frames::{Form, Frames, Message};
use super::super::portals::{KeptRoom, Portal, Prepared, State, statement_of};
use super::super::rows::Columns;
use super::{Connection, gone};

/// Bytes of what a statement is taken apart to, for each of its text, and of a value's.
const APART: usize = 16;

impl Connection {
    /// Answers a text of statements.
    pub(super) async fn query(&mut self, sql: &Arc<str>) -> Result<(), Failure> {
        let commands = commands::parse(sql)?;
        if commands.is_empty() {
            return self.put(&EmptyQueryResponse::new());
        }
        for command in commands {
            let mut portal = Portal {
                sql: Arc::clone(sql),
                command: Some(command),
                forms: Vec::new(),
                state: State::New,
                hold: false,
                _room: None,
            };
            if let Some(schema) = self.columns(&mut portal).await? {
                self.describe(&Columns::new(&schema, &[]))?;
            }
            self.run(&mut portal, None).await?;
        }
        Ok(())
    }

    pub(super) fn parse(
        &mut self,
        name: String,
        sql: &Arc<str>,
        types: &[u32],
    ) -> Result<(), Failure> {
        let commands = commands::parse(sql)?;
        let statement = commands.first().and_then(statement_of);
        let placeholders = match statement {
            Some(statement) => statement.placeholders(&self.session.tables()?),
            None => std::collections::BTreeMap::new(),
        };
        if name.is_empty() {
            self.kept.statements.remove(&name);
        }
        let room = self.room(APART * sql.len())?;
        let prepared = Prepared::new(Arc::clone(sql), commands, types, placeholders, room)?;
        self.kept.prepare(name, prepared)?;
        self.put(&ParseComplete::new())
    }

    pub(super) fn bind(
        &mut self,
        name: String,
        statement: &str,
        values: &[(Form, Option<Bytes>)],
        forms: Vec<Form>,
    ) -> Result<(), Failure> {
        let prepared = self.kept.statement(statement)?;
        if name.is_empty() {
            self.kept.portals.remove(&name);
        }
        let bytes = values
            .iter()
            .map(|(_, value)| value.as_ref().map_or(0, Bytes::len));
        let room = self.room(APART * (prepared.sql.len() + bytes.sum::<usize>()))?;
        let command = prepared.with(values)?;
        let portal = Portal {
            sql: Arc::clone(&prepared.sql),
            command,
            forms,
            state: State::New,
            hold: false,
            _room: Some(room),
        };
        self.kept.open(name, portal)?;
        self.put(&BindComplete::new())
    }

    /// Room for what the connection keeps.
    pub(super) fn room(&self, bytes: usize) -> Result<KeptRoom, Failure> {
        let (mut own, mut of_all) = (self.share.room(), self.service().kept.room());
        if own.take(bytes).is_err() {
            let message = "the connection keeps too much; close some statements, or shorten them";
            return Err(Failure::new("53400", message));
        }
        of_all.take(bytes)?;
        Ok((own, of_all))
    }

    pub(super) async fn describe_statement(&mut self, name: &str) -> Result<(), Failure> {
        let prepared = self.kept.statement(name)?;
        let types = prepared
            .types
            .iter()
            .map(postgres_types::Type::oid)
            .collect();
        self.put(&ParameterDescription::new(types))?;
        let schema = match prepared.with_samples()? {
            Some(Command::Rows(statement)) => {
                self.allowed()?;
                Some(self.schema_of(statement).await?)
            }
            Some(command) => self.known_columns(&command)?,
            None => None,
        };
        match schema {
            Some(schema) => self.describe(&Columns::new(&schema, &[])),
            None => self.put(&NoData::new()),
        }
    }

    pub(super) async fn describe_portal(&mut self, name: &str) -> Result<(), Failure> {
        let mut portal = self.take_portal(name)?;
        let schema = self.columns(&mut portal).await;
        let forms = portal.forms.clone();
        self.kept.portals.insert(name.to_owned(), portal);
        match schema? {
            Some(schema) => {
                if forms.len() > 1 && forms.len() != schema.fields().len() {
                    return Err(Failure::protocol("there are more forms than columns"));
                }
                self.describe(&Columns::new(&schema, &forms))
            }
            None => self.put(&NoData::new()),
        }
    }

    pub(super) async fn execute(&mut self, name: &str, most: Option<usize>) -> Result<(), Failure> {
        let mut portal = self.take_portal(name)?;
        if portal.command.is_none() {
            self.kept.portals.insert(name.to_owned(), portal);
            return self.put(&EmptyQueryResponse::new());
        }
        let ran = self.run(&mut portal, most).await;
        self.kept.portals.insert(name.to_owned(), portal);
        ran
    }

    pub(super) fn take_portal(&mut self, name: &str) -> Result<Portal, Failure> {
        self.kept.portal(name)?;
        let taken = self.kept.portals.remove(name);
        taken.ok_or_else(gone)
    }

    /// The columns of what a portal asks for, which begins to run where it has to; `None` where it
    /// has none.
    pub(super) async fn columns(
        &mut self,
        portal: &mut Portal,
    ) -> Result<Option<SchemaRef>, Failure> {
        let Some(command) = &portal.command else {
            return Ok(None);
        };
        match (&portal.state, command) {
            (State::Running(running), Command::Rows(_)) => {
                Ok(Some(Arc::clone(&running.answering.schema)))
            }
            (State::Described(schema) | State::Done(schema), Command::Rows(_)) => {
                Ok(Some(Arc::clone(schema)))
            }
            (State::Failed(failure), Command::Rows(_)) => Err(failure.clone()),
            (State::New, Command::Rows(statement)) => {
                self.allowed()?;
                let statement = statement.clone();
                let running = self.start(statement, &portal.forms, &portal.sql).await?;
                let schema = Arc::clone(&running.answering.schema);
                portal.state = State::Running(Box::new(running));
                Ok(Some(schema))
            }
            (_, command) => {
                let command = command.clone();
                self.known_columns(&command)
            }
        }
    }

    /// The columns of what needs no planning.
    pub(super) fn known_columns(
        &mut self,
        command: &Command,
    ) -> Result<Option<SchemaRef>, Failure> {
        let text = |names: &[&str]| {
            let fields = names
                .iter()
                .map(|name| Field::new(*name, DataType::Utf8, true));
            Arc::new(Schema::new(fields.collect::<Vec<_>>()))
        };
        Ok(match command {
            Command::Show(None) => Some(text(&["name", "setting"])),
            Command::Show(Some(name)) => Some(text(&[name])),
            Command::Fetch { name, .. } => {
                let portal = self.kept.portal(name)?;
                match &portal.state {
                    State::Described(schema) => Some(Arc::clone(schema)),
                    State::Running(running) => Some(Arc::clone(&running.answering.schema)),
                    State::Done(schema) => Some(Arc::clone(schema)),
                    State::New | State::Failed(_) => None,
                }
            }
            _ => None,
        })
    }

    /// Does what a portal asks for, and tells that it is done.
    pub(super) async fn run(
        &mut self,
        portal: &mut Portal,
        most: Option<usize>,
    ) -> Result<(), Failure> {
        let Some(command) = portal.command.clone() else {
            return Ok(());
        };
        if !matches!(
            command,
            Command::Commit | Command::Rollback | Command::RollbackTo
        ) {
            self.not_failed()?;
        }
        match command {
            Command::Rows(_) => {
                self.columns(portal).await?;
                self.fetch(portal, most, "SELECT").await
            }
            Command::Insert(_) | Command::Copy(..) if matches!(portal.state, State::Done(_)) => {
                let message = "this was done; bind it again to do it again";
                Err(Failure::new("55000", message))
            }
            Command::Insert(statement) => {
                portal.state = State::Done(Arc::new(Schema::empty()));
                let sql = Arc::clone(&portal.sql);
                self.insert(statement, &sql).await
            }
            Command::Copy(statement, form) => {
                portal.state = State::Done(Arc::new(Schema::empty()));
                let sql = Arc::clone(&portal.sql);
                self.copy(statement, form, &sql).await
            }
            Command::Declare {
                name,
                hold,
                statement,
            } => {
                self.allowed()?;
                let schema = self.schema_of(statement.clone()).await?;
                let hold = hold || self.status == TransactionStatus::Idle;
                let cursor = Portal {
                    sql: Arc::clone(&portal.sql),
                    command: Some(Command::Rows(statement)),
                    forms: Vec::new(),
                    state: State::Described(schema),
                    hold,
                    _room: None,
                };
                self.kept.open(name, cursor)?;
                self.done("DECLARE CURSOR")
            }
            Command::Fetch { name, most } => {
                let forms = portal.forms.clone();
                self.fetch_cursor(&name, &forms, most).await
            }
            Command::Show(name) => self.show(name.as_deref(), &portal.forms),
            other => self.session_command(other),
        }
    }

    /// Stores the rows of a statement as events.
    pub(super) async fn insert(
        &mut self,
        statement: SqlStatement,
        sql: &str,
    ) -> Result<(), Failure> {
        let mut answering = self.ask(statement, sql, Scope::Ingest, stored).await?;
        let mut events = 0;
        while let Some(count) = self.watched(answering.next()).await? {
            events += count?;
        }
        self.stored |= events > 0;
        self.done(&format!("INSERT 0 {events}"))
    }

    /// The columns of a statement, on the threads that statements run on.
    pub(super) async fn schema_of(
        &mut self,
        statement: SqlStatement,
    ) -> Result<SchemaRef, Failure> {
        let (service, session) = (Arc::clone(self.service()), Arc::clone(&self.session));
        let caller = service.admit_quietly(self.key.as_deref(), Scope::Query);
        let caller = caller.map_err(Refused::from)?;
        self.cancellable.cancelling.begin();
        self.pause_running();
        let described = async move { describe(&service, caller, session, statement).await };
        Ok(self.watched(described).await??)
    }

    /// Runs a statement for whom the client's key lets do so.
    pub(super) async fn ask<P: Send + 'static>(
        &mut self,
        statement: SqlStatement,
        sql: &str,
        scope: Scope,
        make: impl FnOnce(&SchemaRef) -> Result<Make<P>, pugmark_query::sql::SqlError> + Send + 'static,
    ) -> Result<Answering<P>, Failure> {
        let service = Arc::clone(self.service());
        let caller = service.admit(self.key.as_deref(), Scope::Query)?;
        if scope != Scope::Query {
            let admitted = service.admit_quietly(self.key.as_deref(), scope);
            admitted.map_err(Refused::from)?;
        }
        let listed: Listed =
            service
                .queries
                .list(caller, sql)
                .map_err(|refused| match refused {
                    NotListed::TooMany => {
                        Failure::new("53300", "too many statements wait; ask again in a second")
                    }
                    NotListed::Random(error) => Failure::new("XX000", error.to_string()),
                })?;
        self.cancellable.cancelling.begin();
        // Whoever waits for a turn keeps none.
        self.pause_running();
        let session = Arc::clone(&self.session);
        let begun =
            async move { Answering::begin(&service, session, statement, listed, make).await };
        Ok(self.watched(begun).await??)
    }

    /// Waits for something that the client, another connection of it, or hanging up may end.
    pub(super) async fn watched<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let cancelling = Arc::clone(&self.cancellable.cancelling);
        tokio::pin!(work);
        loop {
            let more = matches!(self.pending, None | Some(Message::Terminate));
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = cancelling.asked() => {
                    let message = "the statement was cancelled, as its client asked";
                    return Err(Failure::new("57014", message));
                }
                // Whoever says good-bye still hears the answer, unless it is gone before.
                message = heard(&mut self.frames, more) => {
                    self.pending = Some(message?.ok_or_else(gone)?);
                }
            }
        }
    }
}

/// What a client says while its statement runs: the next message, or that it is gone, as far as that shows.
async fn heard(
    frames: &mut Frames<ReadHalf<Box<dyn Duplex>>>,
    more: bool,
) -> Result<Option<Message>, Failure> {
    if more {
        return frames.next().await;
    }
    frames.closed().await;
    Ok(None)
}
