//! A connection: messages in, one after the other, and answers out.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arrow_array::{RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::{BufMut, Bytes, BytesMut};
use pgwire::api::results::Tag;
use pgwire::error::ErrorInfo;
use pgwire::messages::Message as Encoded;
use pgwire::messages::copy::{CopyDone, CopyOutResponse};
use pgwire::messages::data::{FieldDescription, NoData, ParameterDescription, RowDescription};
use pgwire::messages::extendedquery::{
    BindComplete, CloseComplete, ParseComplete, PortalSuspended,
};
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery,
    TransactionStatus,
};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey,
};
use pugmark_query::sql::{Session, SqlStatement};
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::super::answering::{Answering, Make, describe, stored};
use super::super::ended;
use super::super::keys::Scope;
use super::super::queries::{Listed, NotListed};
use super::super::service::{Refused, Service};
use super::super::space::Space;
use super::super::tls::Duplex;
use super::cancelling::Cancellable;
use super::catalog::DATABASE;
use super::commands::{self, Command, CopyForm};
use super::failure::Failure;
use super::frames::{Form, Frames, MOST_STARTUP_BYTES, Message, Target};
use super::listener::Shared;
use super::portals::{Kept, KeptRoom, Portal, Prepared, Running, State, statement_of};
use super::rows::{Columns, Rows};
use super::variables::{TOLD, Variables};

/// The version of the protocol that is spoken: 3.0.
const PROTOCOL: i32 = 3 << 16;
/// Bytes of what a statement is taken apart to, for each of its text, and of a value's.
const APART: usize = 16;
/// Bytes that a connection may keep.
const MOST_KEPT: usize = 32 << 20;
/// Bytes that are gathered before they are sent.
const GATHERED: usize = 64 << 10;
/// Bytes of a frame before its body.
const FRAME_HEAD: usize = 5;
/// Longest text of a failure.
const MOST_TOLD: usize = 8 << 10;

/// A connection of a client.
pub(super) struct Connection {
    shared: Arc<Shared>,
    frames: Frames<ReadHalf<Box<dyn Duplex>>>,
    writer: WriteHalf<Box<dyn Duplex>>,
    /// What will be sent.
    out: BytesMut,
    /// The key that the client showed.
    key: Option<String>,
    session: Arc<Session>,
    variables: Arc<Mutex<Variables>>,
    cancellable: Cancellable,
    status: TransactionStatus,
    /// Events were stored since the transaction began.
    stored: bool,
    kept: Kept,
    /// Room for that.
    share: Space,
    /// A message that came while a statement ran.
    pending: Option<Message>,
    /// The client is gone.
    gone: bool,
    /// Something failed: nothing is done until the client has noticed.
    failed: bool,
    ending: watch::Receiver<bool>,
}

/// Nobody is there to be told.
fn gone() -> Failure {
    Failure::fatal("08006", "the client is gone")
}

impl Connection {
    /// Greets a client: asks for its key, and tells what clients want to know; `None` where it may
    /// not come in.
    pub(super) async fn begin(
        shared: &Arc<Shared>,
        frames: Frames<Box<dyn Duplex>>,
        (minor, parameters): (u16, Vec<(String, String)>),
        ending: watch::Receiver<bool>,
    ) -> Option<Self> {
        let service = &shared.service;
        let cancellable = shared.cancels.add().ok()?;
        let variables: Arc<Mutex<Variables>> = Arc::default();
        // The functions of a session know it only as long as it is there.
        let known: Arc<Mutex<Weak<Session>>> = Arc::default();
        let additions = shared
            .catalog
            .additions(cancellable.process, &known, &variables);
        let session = Arc::new(service.session.another_with(additions));
        session.change(|settings| *settings = service.settings.clone());
        *known.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&session);
        let (frames, writer) = frames.split();
        let mut connection = Self {
            shared: Arc::clone(shared),
            frames,
            writer,
            out: BytesMut::new(),
            key: None,
            session,
            variables,
            cancellable,
            status: TransactionStatus::Idle,
            stored: false,
            kept: Kept::default(),
            share: Space::new(MOST_KEPT),
            pending: None,
            gone: false,
            failed: false,
            ending,
        };
        let welcome = connection.welcome(minor, &parameters).await;
        if let Err(failure) = welcome {
            connection.fail(failure, "");
            let _gone = connection.flush().await;
            return None;
        }
        Some(connection)
    }

    async fn welcome(
        &mut self,
        minor: u16,
        parameters: &[(String, String)],
    ) -> Result<(), Failure> {
        let unknown: Vec<String> = parameters
            .iter()
            .map(|(name, _)| name.clone())
            .filter(|name| name.starts_with("_pq_."))
            .collect();
        if minor > 0 || !unknown.is_empty() {
            self.put(&NegotiateProtocolVersion::new(PROTOCOL, unknown))?;
        }
        let find = |wanted: &str| {
            let found = parameters.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str())
        };
        match find("database") {
            None | Some(DATABASE) => {}
            Some(other) => {
                let message =
                    format!("there is no database `{other}`; connect to the database {DATABASE}");
                return Err(Failure::fatal("3D000", message));
            }
        }
        if find("replication").is_some_and(|value| value != "false") {
            return Err(Failure::fatal("0A000", "nothing is replicated from here"));
        }
        if self.service().gate.is_locked() {
            self.put(&Authentication::CleartextPassword)?;
            self.flush().await?;
            match self.frames.next_within(MOST_STARTUP_BYTES).await? {
                Some(Message::Password(key)) => self.key = Some(key),
                _ => return Err(gone()),
            }
        }
        let admitted = self.service().admit(self.key.as_deref(), Scope::Query);
        admitted.map_err(|refused| Failure {
            ends: true,
            ..refused.into()
        })?;
        for (name, value) in parameters {
            if !matches!(
                name.as_str(),
                "user" | "database" | "options" | "replication"
            ) {
                // What is not known here is not asked of us.
                let _unknown = self.set(name, Some(value));
            }
        }
        for (name, value) in options(find("options").unwrap_or_default()) {
            self.set(&name, Some(&value))?;
        }
        let user = find("user").unwrap_or(DATABASE).to_owned();
        self.put(&Authentication::Ok)?;
        for name in TOLD {
            let value = match name {
                "session_authorization" => user.clone(),
                name => self.variable(name).unwrap_or_default(),
            };
            self.put(&ParameterStatus::new(name.to_owned(), value))?;
        }
        let zone = self.variable("timezone").unwrap_or_default();
        self.put(&ParameterStatus::new("TimeZone".to_owned(), zone))?;
        let secret = SecretKey::I32(self.cancellable.secret);
        self.put(&BackendKeyData::new(self.cancellable.process, secret))?;
        self.ready()?;
        self.flush().await
    }

    /// Answers until the client is gone, or the service ends.
    pub(super) async fn serve(mut self) {
        loop {
            let message = match self.message().await {
                Ok(Some(Message::Terminate) | None) => return,
                Ok(Some(message)) => message,
                Err(failure) => {
                    self.fail(failure, "");
                    let _gone = self.flush().await;
                    return;
                }
            };
            self.answer(message).await;
            // What belongs together goes out together.
            let more = self.pending.is_some() || self.out.len() < GATHERED;
            if self.gone || (!more && self.flush().await.is_err()) {
                return;
            }
        }
    }

    /// The next message; `None` where there will be none.
    async fn message(&mut self) -> Result<Option<Message>, Failure> {
        if let Some(message) = self.pending.take() {
            return Ok(Some(message));
        }
        let mut ending = self.ending.clone();
        let something = loop {
            let limit = self.service().settings.deadline;
            let limit = limit.filter(|_| self.has_running());
            tokio::select! {
                something = self.frames.something() => break something?,
                // Their statements have run out of time.
                () = within(limit) => self.drop_running(),
                () = ended(&mut ending) => {
                    let message = "the service is shutting down";
                    return Err(Failure::fatal("57P01", message));
                }
            }
        };
        if !something {
            return Ok(None);
        }
        let message =
            tokio::time::timeout(self.shared.service.config.body_time, self.frames.next());
        message.await.map_err(|_| gone())?
    }

    /// Answers a message, or tells why not.
    async fn answer(&mut self, mut message: Message) {
        if self.failed && message != Message::Sync {
            return;
        }
        // The text that a failure is about.
        let sql: Arc<str> = match &mut message {
            Message::Query(sql) | Message::Parse { sql, .. } => std::mem::take(sql).into(),
            Message::Execute { portal, .. } | Message::Describe(Target::Portal(portal)) => {
                let portal = self.kept.portals.get(portal);
                portal.map_or_else(|| Arc::from(""), |portal| Arc::clone(&portal.sql))
            }
            _ => Arc::from(""),
        };
        let simple = matches!(message, Message::Query(_) | Message::Sync);
        if let Err(failure) = self.handle(message, &sql).await {
            if failure == gone() {
                self.gone = true;
                return;
            }
            self.gone |= failure.ends;
            self.fail(failure, &sql);
            self.failed = !simple;
            if simple && !self.gone {
                self.gone |= self.end_of_messages().is_err();
            }
            self.gone |= self.flush().await.is_err();
        }
    }

    /// Does what a message asks for; `sql` is the text that it brought, or is about.
    async fn handle(&mut self, message: Message, sql: &Arc<str>) -> Result<(), Failure> {
        match message {
            Message::Query(_) => {
                self.query(sql).await?;
                self.end_of_messages()?;
                self.flush().await
            }
            Message::Parse { name, types, .. } => self.parse(name, sql, &types),
            Message::Bind {
                portal,
                statement,
                values,
                results,
            } => self.bind(portal, &statement, &values, results),
            Message::Describe(Target::Statement(name)) => self.describe_statement(&name).await,
            Message::Describe(Target::Portal(name)) => self.describe_portal(&name).await,
            Message::Execute { portal, most } => self.execute(&portal, most).await,
            Message::Close(target) => {
                match target {
                    Target::Statement(name) => drop(self.kept.statements.remove(&name)),
                    Target::Portal(name) => drop(self.kept.portals.remove(&name)),
                }
                self.put(&CloseComplete::new())
            }
            Message::Flush => self.flush().await,
            Message::Sync => {
                self.failed = false;
                self.end_of_messages()?;
                self.flush().await
            }
            // Left over from a COPY that was refused.
            Message::Copy => Ok(()),
            Message::Password(_) => Err(Failure::protocol("no password was asked for")),
            Message::Terminate => Err(gone()),
        }
    }

    /// What belongs together is over.
    fn end_of_messages(&mut self) -> Result<(), Failure> {
        if self.status == TransactionStatus::Idle {
            self.kept.end_transaction();
        }
        self.pause_running();
        self.ready()
    }

    // ------------------------------------------------------------------ statements

    /// Answers a text of statements.
    async fn query(&mut self, sql: &Arc<str>) -> Result<(), Failure> {
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

    fn parse(&mut self, name: String, sql: &Arc<str>, types: &[u32]) -> Result<(), Failure> {
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

    fn bind(
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
    fn room(&self, bytes: usize) -> Result<KeptRoom, Failure> {
        let (mut own, mut of_all) = (self.share.room(), self.service().kept.room());
        if own.take(bytes).is_err() {
            let message = "the connection keeps too much; close some statements, or shorten them";
            return Err(Failure::new("53400", message));
        }
        of_all.take(bytes)?;
        Ok((own, of_all))
    }

    async fn describe_statement(&mut self, name: &str) -> Result<(), Failure> {
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

    async fn describe_portal(&mut self, name: &str) -> Result<(), Failure> {
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

    async fn execute(&mut self, name: &str, most: Option<usize>) -> Result<(), Failure> {
        let mut portal = self.take_portal(name)?;
        if portal.command.is_none() {
            self.kept.portals.insert(name.to_owned(), portal);
            return self.put(&EmptyQueryResponse::new());
        }
        let ran = self.run(&mut portal, most).await;
        self.kept.portals.insert(name.to_owned(), portal);
        ran
    }

    fn take_portal(&mut self, name: &str) -> Result<Portal, Failure> {
        self.kept.portal(name)?;
        let taken = self.kept.portals.remove(name);
        taken.ok_or_else(gone)
    }

    /// The columns of what a portal asks for, which begins to run where it has to; `None` where it
    /// has none.
    async fn columns(&mut self, portal: &mut Portal) -> Result<Option<SchemaRef>, Failure> {
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
    fn known_columns(&mut self, command: &Command) -> Result<Option<SchemaRef>, Failure> {
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
    async fn run(&mut self, portal: &mut Portal, most: Option<usize>) -> Result<(), Failure> {
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

    /// What changes the session alone.
    fn session_command(&mut self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Begin => {
                self.status = TransactionStatus::Transaction;
                self.stored = false;
                self.done("BEGIN")
            }
            Command::Commit | Command::Rollback => {
                let rolled = matches!(command, Command::Rollback);
                let failed = self.status == TransactionStatus::Error;
                if rolled && std::mem::take(&mut self.stored) {
                    self.notice("events that were inserted stay: nothing is rolled back")?;
                }
                self.status = TransactionStatus::Idle;
                self.kept.end_transaction();
                self.done(if rolled || failed {
                    "ROLLBACK"
                } else {
                    "COMMIT"
                })
            }
            Command::RollbackTo => {
                if self.status == TransactionStatus::Error {
                    self.status = TransactionStatus::Transaction;
                }
                self.done("ROLLBACK")
            }
            Command::Set { name, value } => self.set_and_tell(&name, value.as_deref()),
            Command::ResetAll => {
                self.reset();
                self.done("RESET")
            }
            Command::Close(name) => {
                match name {
                    Some(name) => {
                        self.kept.portal(&name)?;
                        self.kept.portals.remove(&name);
                    }
                    None => self.kept.portals.clear(),
                }
                self.done("CLOSE CURSOR")
            }
            Command::Deallocate(name) => {
                match name {
                    Some(name) => {
                        self.kept.statement(&name)?;
                        self.kept.statements.remove(&name);
                    }
                    None => self.kept.statements.clear(),
                }
                self.done("DEALLOCATE")
            }
            Command::Discard => {
                self.kept = Kept::default();
                self.reset();
                self.done("DISCARD ALL")
            }
            Command::Nothing(tag) => self.done(tag),
            // Those with rows were handled before.
            _ => Ok(()),
        }
    }

    /// Changes a setting, and tells clients that want to know.
    fn set_and_tell(&mut self, name: &str, value: Option<&str>) -> Result<(), Failure> {
        self.set(name, value)?;
        let told = match name {
            "timezone" | "time_zone" => Some("TimeZone"),
            _ => TOLD
                .iter()
                .find(|told| told.eq_ignore_ascii_case(name))
                .copied(),
        };
        if let Some(told) = told {
            let value = self.variable(told).unwrap_or_default();
            self.put(&ParameterStatus::new(told.to_owned(), value))?;
        }
        self.done("SET")
    }

    // ------------------------------------------------------------------ rows

    /// Begins to answer a statement.
    async fn start(
        &mut self,
        statement: SqlStatement,
        forms: &[Form],
        sql: &str,
    ) -> Result<Running, Failure> {
        let wanted = forms.to_vec();
        let answering = self
            .ask(statement, sql, Scope::Query, move |schema| {
                let columns = Columns::new(schema, &wanted);
                Ok(Box::new(move |batch| columns.rows(&batch)) as Make<Rows>)
            })
            .await?;
        Ok(Running {
            columns: Columns::new(&answering.schema, forms),
            answering,
            forms: forms.to_vec(),
            rows: Rows::default(),
            paused: None,
        })
    }

    /// Runs a statement for whom the client's key lets do so.
    async fn ask<P: Send + 'static>(
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
    async fn watched<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
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

    /// Sends rows of a portal that runs, and what ends them.
    async fn fetch(
        &mut self,
        portal: &mut Portal,
        most: Option<usize>,
        verb: &str,
    ) -> Result<(), Failure> {
        let lost = Failure::new("24000", "the cursor broke off; open it anew");
        let state = std::mem::replace(&mut portal.state, State::Failed(lost));
        let mut running = match state {
            State::Running(running) => running,
            State::Failed(failure) => {
                portal.state = State::Failed(failure.clone());
                return Err(failure);
            }
            other => {
                portal.state = other;
                return self.done(&format!("{verb} 0"));
            }
        };
        self.allowed()?;
        self.cancellable.cancelling.begin();
        let columns = running.columns.fields.len();
        if running.forms.len() > 1 && running.forms.len() != columns {
            return Err(Failure::protocol("there are more forms than columns"));
        }
        let (sent, ended) = self.send(&mut running, most).await?;
        match ended {
            true => {
                for remark in std::mem::take(&mut running.answering.remarks) {
                    self.notice(&remark)?;
                }
                portal.state = State::Done(Arc::clone(&running.answering.schema));
            }
            false => portal.state = State::Running(running),
        }
        match ended || verb == "FETCH" {
            true => self.done(&format!("{verb} {sent}")),
            false => self.put(&PortalSuspended::new()),
        }
    }

    /// Sends so many rows; their number, and whether these were the last.
    async fn send(
        &mut self,
        running: &mut Running,
        most: Option<usize>,
    ) -> Result<(usize, bool), Failure> {
        if running.paused.take().is_some() {
            running.answering.resume();
        }
        let most = most.unwrap_or(usize::MAX);
        let mut sent = 0;
        loop {
            let (taken, bytes) = running.rows.take(most - sent);
            self.out.put_slice(bytes);
            sent += taken;
            running.answering.sent(taken as u64);
            if sent == most {
                return Ok((sent, false));
            }
            if self.out.len() >= GATHERED {
                self.flush().await?;
            }
            match self.watched(running.answering.next()).await? {
                Some(rows) => running.rows = rows?,
                None => return Ok((sent, true)),
            }
        }
    }

    async fn fetch_cursor(
        &mut self,
        name: &str,
        forms: &[Form],
        most: Option<usize>,
    ) -> Result<(), Failure> {
        let mut cursor = self.take_portal(name)?;
        let fetched = self.fetch_of(&mut cursor, forms, most).await;
        self.kept.portals.insert(name.to_owned(), cursor);
        fetched
    }

    async fn fetch_of(
        &mut self,
        cursor: &mut Portal,
        forms: &[Form],
        most: Option<usize>,
    ) -> Result<(), Failure> {
        if let (State::New | State::Described(_), Some(Command::Rows(statement))) =
            (&cursor.state, &cursor.command)
        {
            // In the form of its first fetch.
            let (statement, sql) = (statement.clone(), Arc::clone(&cursor.sql));
            let running = self.start(statement, forms, &sql).await?;
            cursor.state = State::Running(Box::new(running));
        }
        if let State::Running(running) = &cursor.state
            && !same_forms(&running.forms, forms)
        {
            let message = "a cursor is fetched in one form, text or binary";
            return Err(Failure::new("0A000", message));
        }
        self.fetch(cursor, most, "FETCH").await
    }

    /// Stores the rows of a statement as events.
    async fn insert(&mut self, statement: SqlStatement, sql: &str) -> Result<(), Failure> {
        let mut answering = self.ask(statement, sql, Scope::Ingest, stored).await?;
        let mut events = 0;
        while let Some(count) = self.watched(answering.next()).await? {
            events += count?;
        }
        self.stored |= events > 0;
        self.done(&format!("INSERT 0 {events}"))
    }

    /// Sends the rows of a statement as a stream.
    async fn copy(
        &mut self,
        statement: SqlStatement,
        form: CopyForm,
        sql: &str,
    ) -> Result<(), Failure> {
        let forms = match form {
            CopyForm::Binary => vec![Form::Binary],
            CopyForm::Text { .. } | CopyForm::Csv { .. } => Vec::new(),
        };
        let (of_task, wanted) = (form.clone(), forms.clone());
        let mut answering = self
            .ask(statement, sql, Scope::Query, move |schema| {
                let columns = Columns::new(schema, &wanted);
                let make = move |batch: RecordBatch| columns.copied(&batch, &of_task);
                Ok(Box::new(make) as Make<Rows>)
            })
            .await?;
        let columns = Columns::new(&answering.schema, &forms);
        let number = columns.fields.len();
        let binary = i16::from(form == CopyForm::Binary);
        let number = i16::try_from(number)
            .map_err(|_| Failure::new("54011", "there are too many columns"))?;
        let told = CopyOutResponse::new(binary as i8, number, vec![binary; number as usize]);
        self.put(&told)?;
        // What stands before the first row; in the binary form it comes with that.
        let mut before = match &form {
            CopyForm::Binary => b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec(),
            CopyForm::Csv {
                delimiter,
                header: true,
                ..
            } => {
                self.copy_data(&columns.header(*delimiter));
                Vec::new()
            }
            _ => Vec::new(),
        };
        let mut sent = 0;
        while let Some(rows) = self.watched(answering.next()).await? {
            let mut rows = rows?;
            if !before.is_empty() && !rows.is_empty() {
                let (taken, first) = rows.take(1);
                before.extend_from_slice(first.get(FRAME_HEAD..).unwrap_or_default());
                self.copy_data(&std::mem::take(&mut before));
                sent += taken;
                answering.sent(taken as u64);
            }
            while !rows.is_empty() {
                let (taken, bytes) = rows.take(1_024);
                self.out.put_slice(bytes);
                sent += taken;
                answering.sent(taken as u64);
                if self.out.len() >= GATHERED {
                    self.flush().await?;
                }
            }
        }
        if form == CopyForm::Binary {
            before.extend_from_slice(b"\xff\xff");
            self.copy_data(&before);
        }
        for remark in std::mem::take(&mut answering.remarks) {
            self.notice(&remark)?;
        }
        self.put(&CopyDone::new())?;
        self.done(&format!("COPY {sent}"))
    }

    fn copy_data(&mut self, bytes: &[u8]) {
        self.out.put_u8(b'd');
        self.out.put_u32(4 + bytes.len() as u32);
        self.out.put_slice(bytes);
    }

    /// The columns of a statement, on the threads that statements run on.
    async fn schema_of(&mut self, statement: SqlStatement) -> Result<SchemaRef, Failure> {
        let (service, session) = (Arc::clone(self.service()), Arc::clone(&self.session));
        self.cancellable.cancelling.begin();
        self.pause_running();
        let described = async move { describe(&service, session, statement).await };
        Ok(self.watched(described).await??)
    }

    // ------------------------------------------------------------------ portals that run

    fn has_running(&self) -> bool {
        let mut portals = self.kept.portals.values();
        portals.any(|portal| matches!(portal.state, State::Running(_)))
    }

    /// Lets other statements run while nothing is fetched.
    fn pause_running(&mut self) {
        let paused = &self.shared.paused;
        for portal in self.kept.portals.values_mut() {
            let State::Running(running) = &mut portal.state else {
                continue;
            };
            if running.paused.is_some() {
                continue;
            }
            match Arc::clone(paused).try_acquire_owned() {
                Ok(place) => {
                    running.answering.pause();
                    running.paused = Some(place);
                }
                Err(_) => {
                    let message = "too many cursors are open; close some";
                    portal.state = State::Failed(Failure::new("53400", message));
                }
            }
        }
    }

    fn drop_running(&mut self) {
        for portal in self.kept.portals.values_mut() {
            if matches!(portal.state, State::Running(_)) {
                let message = "the cursor was open longer than a statement may take";
                portal.state = State::Failed(Failure::new("57014", message));
            }
        }
    }

    // ------------------------------------------------------------------ settings

    fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), Failure> {
        let service = self.service().settings.clone();
        self.variables().set(name, value, &self.session, &service)
    }

    fn reset(&mut self) {
        let service = self.service().settings.clone();
        self.variables().reset(&self.session, &service);
    }

    fn variable(&self, name: &str) -> Option<String> {
        self.variables().get(name, &self.session.settings())
    }

    fn variables(&self) -> MutexGuard<'_, Variables> {
        self.variables
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&mut self, name: Option<&str>, forms: &[Form]) -> Result<(), Failure> {
        let (names, values): (Vec<String>, Vec<String>) = match name {
            Some(name) => {
                let value = self.variable(name).ok_or_else(|| {
                    Failure::new("42704", format!("there is no setting `{name}`"))
                })?;
                (Vec::new(), vec![value])
            }
            None => {
                let all = self.variables().all(&self.session.settings());
                all.into_iter().unzip()
            }
        };
        let column = |values: Vec<String>| Arc::new(StringArray::from(values)) as _;
        let batch = match name {
            Some(name) => RecordBatch::try_from_iter([(name, column(values))]),
            None => {
                RecordBatch::try_from_iter([("name", column(names)), ("setting", column(values))])
            }
        };
        let batch = batch.map_err(|error| Failure::new("XX000", error.to_string()))?;
        let mut rows = Columns::new(&batch.schema(), forms).rows(&batch)?;
        let (_, bytes) = rows.take(usize::MAX);
        self.out.put_slice(bytes);
        self.done("SHOW")
    }

    // ------------------------------------------------------------------ what is sent

    fn service(&self) -> &Arc<Service> {
        &self.shared.service
    }

    /// Whether the key that was shown still lets its client ask.
    fn allowed(&self) -> Result<(), Failure> {
        self.not_failed()?;
        let admitted = self
            .service()
            .admit_quietly(self.key.as_deref(), Scope::Query);
        admitted.map_err(Refused::from)?;
        Ok(())
    }

    /// Nothing is done in a transaction that has failed.
    fn not_failed(&self) -> Result<(), Failure> {
        match self.status {
            TransactionStatus::Error => {
                let message = "the transaction has failed; nothing is done until ROLLBACK";
                Err(Failure::new("25P02", message))
            }
            _ => Ok(()),
        }
    }

    fn put(&mut self, message: &impl Encoded) -> Result<(), Failure> {
        message
            .encode(&mut self.out)
            .map_err(|error| Failure::fatal("54000", error.to_string()))
    }

    fn describe(&mut self, columns: &Columns) -> Result<(), Failure> {
        let fields = columns.fields.iter().map(FieldDescription::from).collect();
        self.put(&RowDescription::new(fields))
    }

    fn done(&mut self, tag: &str) -> Result<(), Failure> {
        self.put(&CommandComplete::from(Tag::new(tag)))
    }

    fn ready(&mut self) -> Result<(), Failure> {
        let status = self.status;
        self.put(&ReadyForQuery::new(status))
    }

    fn notice(&mut self, text: &str) -> Result<(), Failure> {
        let notice = ErrorInfo::new("NOTICE".to_owned(), "00000".to_owned(), short(text));
        self.put(&NoticeResponse::from(notice))
    }

    /// Tells a failure, after which a transaction does nothing more.
    fn fail(&mut self, failure: Failure, sql: &str) {
        if self.status == TransactionStatus::Transaction {
            self.status = TransactionStatus::Error;
        }
        let failure = Failure {
            message: short(&failure.message),
            ..failure
        };
        let told = ErrorResponse::from(failure.told(sql));
        // Bounded, it always has room.
        let _bounded = self.put(&told);
    }

    /// Sends what was gathered. A client that takes nothing for as long as a body may take is gone.
    async fn flush(&mut self) -> Result<(), Failure> {
        let time = self.service().config.body_time;
        let written = tokio::time::timeout(time, async {
            self.writer.write_all(&self.out).await?;
            self.writer.flush().await
        });
        let written = matches!(written.await, Ok(Ok(())));
        // A long answer leaves no large buffer behind.
        match self.out.capacity() > 4 * GATHERED {
            true => self.out = BytesMut::new(),
            false => self.out.clear(),
        }
        match written {
            true => Ok(()),
            false => {
                self.gone = true;
                Err(gone())
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

/// Ends after so long; never where there is no limit.
async fn within(limit: Option<std::time::Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Whether rows in one form are as good as in the other.
fn same_forms(one: &[Form], other: &[Form]) -> bool {
    let binary = |forms: &[Form]| forms.contains(&Form::Binary);
    one == other || (!binary(one) && !binary(other))
}

/// So much of a text as is told.
fn short(text: &str) -> String {
    let text = text.replace('\0', "");
    match text.char_indices().nth(MOST_TOLD / 4) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Settings in the options that a connection begins with: `-c name=value --name=value`.
fn options(text: &str) -> Vec<(String, String)> {
    let mut words = text.split_ascii_whitespace();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("-c") {
            Some("") => words.next(),
            Some(setting) => Some(setting),
            None => word.strip_prefix("--"),
        };
        if let Some((name, value)) = setting.and_then(|setting| setting.split_once('=')) {
            found.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_settings() {
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let wanted = vec![
            set("jit", "off"),
            set("time_zone", "UTC"),
            set("threads", "1"),
        ];
        assert_eq!(
            options("-c jit=off --time-zone=UTC -cthreads=1 -x --y"),
            wanted
        );
    }

    #[test]
    fn long_texts_are_cut_between_letters() {
        assert_eq!(short("kürz"), "kürz");
        assert!(short(&"ü".repeat(MOST_TOLD)).len() < MOST_TOLD);
    }
}
