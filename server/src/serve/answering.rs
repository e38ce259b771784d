//! A statement that is being answered, for those who send its rows piece by piece.
//!
//! It runs on the statements' threads, from its turn on, and is on the list of what runs until it is
//! dropped. Each batch is made a piece of there; few pieces wait for whoever takes them.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::SchemaRef;
use futures::StreamExt;
use pugmark_query::QueryError;
use pugmark_query::sql::{Session, SqlError, SqlStatement};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::queries::{Listed, Running};
use super::service::Service;

/// Pieces that wait: a slow client holds up its statement.
const MOST_PIECES: usize = 2;

/// The answer of a statement that runs.
pub(super) struct Answering<P> {
    /// Its columns.
    pub(super) schema: SchemaRef,
    pieces: mpsc::Receiver<Result<Piece<P>, SqlError>>,
    running: Arc<Running>,
    turn: Turn,
    ended: bool,
    /// Remarks on the answer, once it ended.
    pub(super) remarks: Vec<String>,
}

/// What an answer consists of. One that ends without its end was stopped.
enum Piece<P> {
    Some(P),
    /// With remarks.
    End(Vec<String>),
}

/// The right to run, which a statement that pauses gives back.
#[derive(Clone)]
struct Turn(Arc<Mutex<Option<OwnedSemaphorePermit>>>);

impl Turn {
    fn set(&self, turn: Option<OwnedSemaphorePermit>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = turn;
    }
}

/// What makes pieces of an answer's batches, once its columns are known.
pub(super) type Make<P> = Box<dyn FnMut(RecordBatch) -> Result<P, SqlError> + Send>;

/// Makes the number of events that an INSERT stored of what it answers.
pub(super) fn stored(_: &SchemaRef) -> Result<Make<u64>, SqlError> {
    Ok(Box::new(|batch| {
        let events = batch.column_by_name("events");
        let counts = events.and_then(|events| events.as_primitive_opt::<Int64Type>());
        let counts = counts.into_iter().flatten().flatten();
        Ok(counts.map(i64::unsigned_abs).sum())
    }))
}

impl<P: Send + 'static> Answering<P> {
    /// Runs a statement once it is its turn.
    ///
    /// # Errors
    /// Where it cannot be answered, or somebody stops it.
    pub(super) async fn begin(
        service: &Arc<Service>,
        session: Arc<Session>,
        statement: SqlStatement,
        listed: Listed,
        make: impl FnOnce(&SchemaRef) -> Result<Make<P>, SqlError> + Send + 'static,
    ) -> Result<Self, SqlError> {
        let (begun, beginning) = oneshot::channel();
        let (sender, pieces) = mpsc::channel(MOST_PIECES);
        let running = Arc::clone(&listed.running);
        let turn = Turn(Arc::default());
        let (own, of_task) = (Arc::clone(service), turn.clone());
        service.statements.spawn(async move {
            own.metrics.statements.inc();
            own.metrics.running.inc();
            let answer = answer(&own, &session, statement, (&sender, begun), &of_task, make);
            tokio::select! {
                () = answer => {}
                () = listed.running.stopped() => {}
                () = sender.closed() => {}
            }
            of_task.set(None);
            own.metrics.running.dec();
            drop(listed);
        });
        let begun = beginning.await;
        let schema = begun.unwrap_or_else(|_| Err(QueryError::Cancelled.into()))?;
        Ok(Self {
            schema,
            pieces,
            running,
            turn,
            ended: false,
            remarks: Vec::new(),
        })
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Result<P, SqlError>> {
        if self.ended {
            return None;
        }
        match self.pieces.recv().await {
            Some(Ok(Piece::Some(piece))) => return Some(Ok(piece)),
            Some(Ok(Piece::End(remarks))) => self.remarks = remarks,
            Some(Err(error)) => {
                self.ended = true;
                return Some(Err(error));
            }
            None => {
                self.ended = true;
                return Some(Err(QueryError::Cancelled.into()));
            }
        }
        self.ended = true;
        None
    }

    /// Counts rows that were sent.
    pub(super) fn sent(&self, rows: u64) {
        self.running.rows.fetch_add(rows, Ordering::Relaxed);
    }

    /// Gives its turn to others until it is resumed.
    pub(super) fn pause(&self) {
        self.turn.set(None);
    }

    /// Waits for its turn again.
    pub(super) async fn resume(&self, service: &Service) {
        self.turn.set(service.queries.turn().await);
    }
}

/// How an answer's columns are told, or why there are none.
type Begun = oneshot::Sender<Result<SchemaRef, SqlError>>;

async fn answer<P>(
    service: &Service,
    session: &Session,
    statement: SqlStatement,
    (pieces, begun): (&mpsc::Sender<Result<Piece<P>, SqlError>>, Begun),
    turn: &Turn,
    make: impl FnOnce(&SchemaRef) -> Result<Make<P>, SqlError>,
) {
    turn.set(service.queries.turn().await);
    let made = session.run(statement).await.and_then(|answer| {
        let make = make(&answer.schema)?;
        Ok((answer, make))
    });
    let (answer, mut make) = match made {
        Ok(made) => made,
        Err(error) => {
            let _gone = begun.send(Err(error));
            return;
        }
    };
    let _gone = begun.send(Ok(Arc::clone(&answer.schema)));
    let mut rows = answer.rows;
    while let Some(batch) = rows.next().await {
        let piece = batch.and_then(|batch| {
            service.metrics.rows.inc_by(batch.num_rows() as u64);
            make(batch).map(Piece::Some)
        });
        let failed = piece.is_err();
        if pieces.send(piece).await.is_err() || failed {
            return;
        }
    }
    let _gone = pieces.send(Ok(Piece::End(rows.remarks()))).await;
}
