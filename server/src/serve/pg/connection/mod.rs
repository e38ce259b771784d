//! A connection: messages in, one after the other, and answers out.
//!
//! ```text
//! greeting    who may come in           statements  parsed, bound, described, run
//! fetching    rows, piece by piece      settings    what concerns the session itself
//! sending     messages of the service
//! ```

mod fetching;
mod greeting;
mod sending;
mod settings;
mod statements;

use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use pgwire::messages::extendedquery::CloseComplete;
use pgwire::messages::response::TransactionStatus;
use pugmark_query::sql::{Session, Settings};
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::watch;

use super::super::ended;
use super::super::keys::Scope;
use super::super::service::{Refused, Service};
use super::super::space::Space;
use super::super::tls::Duplex;
use super::cancelling::Cancellable;
use super::failure::Failure;
use super::frames::{Frames, Message, Target};
use super::listener::Shared;
use super::portals::Kept;
use super::variables::Variables;

/// Bytes that are gathered before they are sent.
const GATHERED: usize = 64 << 10;

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
    /// What settings of the session keep to.
    limits: Settings,
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
            let limit = self.limits.deadline.filter(|_| self.has_running());
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

    fn service(&self) -> &Arc<Service> {
        &self.shared.service
    }
}

/// Ends after so long; never where there is no limit.
async fn within(limit: Option<std::time::Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
