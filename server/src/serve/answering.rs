//! A statement that is being answered, for those who send its rows piece by piece.
//!
//! It runs on the statements' threads, from its turn on, and is on the list of what runs until it is
//! dropped. Each batch is made a piece of there; few pieces wait for whoever takes them. Whoever
//! takes none for long gives the statement up; one that pauses gives its turn to others as soon as
//! its pieces wait.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::SchemaRef;
use futures::StreamExt;
use pugmark_query::QueryError;
use pugmark_query::sql::{Session, SqlError, SqlStatement};
use tokio::sync::{Notify, mpsc, oneshot};

use super::keys::Caller;
use super::queries::{Listed, Running, Turn};
use super::service::Service;

/// Pieces that wait: a slow client holds up its statement.
const MOST_PIECES: usize = 2;
/// How long a statement without a deadline of its own may pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// The answer of a statement that runs.
pub(super) struct Answering<P> {
    /// Its columns.
    pub(super) schema: SchemaRef,
    pieces: mpsc::Receiver<Result<Piece<P>, SqlError>>,
    running: Arc<Running>,
    pausing: Arc<Pausing>,
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

/// Whether nobody wants more pieces for now.
#[derive(Default)]
struct Pausing {
    paused: AtomicBool,
    told: Notify,
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

/// The columns of a statement's answer, planned in its turn on the statements' threads; stopped
/// where nobody waits any more.
///
/// # Errors
/// Where it cannot be planned.
pub(super) async fn describe(
    service: &Arc<Service>,
    caller: Caller,
    session: Arc<Session>,
    statement: SqlStatement,
) -> Result<SchemaRef, SqlError> {
    let own = Arc::clone(service);
    let planned = on_statements(service, async move {
        let _turn = own.queries.turn(&caller).await;
        session.describe(statement).await
    });
    planned
        .await
        .unwrap_or_else(|| Err(QueryError::Panicked.into()))
}

/// Runs something on the statements' threads, as long as somebody waits for it.
async fn on_statements<T: Send + 'static>(
    service: &Service,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = oneshot::channel();
    service.statements.spawn(async move {
        let mut sender = sender;
        tokio::select! {
            done = work => {
                let _gone = sender.send(done);
            }
            () = sender.closed() => {}
        }
    });
    receiver.await.ok()
}

/// Counts a statement as one that runs until it is dropped.
pub(super) struct Counted(Arc<Service>);

impl Counted {
    pub(super) fn new(service: &Arc<Service>) -> Self {
        service.metrics.statements.inc();
        service.metrics.running.inc();
        Self(Arc::clone(service))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.running.dec();
    }
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
        let (pieces, taken) = mpsc::channel(MOST_PIECES);
        let running = Arc::clone(&listed.running);
        let pausing = Arc::new(Pausing::default());
        let mut answer = Answer {
            service: Arc::clone(service),
            running: Arc::clone(&running),
            pieces: pieces.clone(),
            pausing: Arc::clone(&pausing),
            pause: session.settings().deadline.unwrap_or(LONGEST_PAUSE),
            turn: None,
        };
        service.statements.spawn(async move {
            let counted = Counted::new(&answer.service);
            let mut begun = Some(begun);
            let last = tokio::select! {
                last = answer.make(&session, statement, &mut begun, make) => last,
                () = listed.running.stopped() => Last::Nothing,
                () = pieces.closed() => Last::Nothing,
            };
            answer.turn = None;
            // Whoever hears that it ended no longer finds it listed.
            drop((counted, listed));
            tokio::select! {
                () = answer.tell(last, begun) => {}
                () = pieces.closed() => {}
            }
        });
        let begun = beginning.await;
        let schema = begun.unwrap_or_else(|_| Err(QueryError::Cancelled.into()))?;
        Ok(Self {
            schema,
            pieces: taken,
            running,
            pausing,
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

    /// Lets it give its turn to others as soon as its pieces wait.
    pub(super) fn pause(&self) {
        self.pausing.paused.store(true, Ordering::Release);
        self.pausing.told.notify_one();
    }

    /// Pieces are wanted again.
    pub(super) fn resume(&self) {
        self.pausing.paused.store(false, Ordering::Release);
    }
}

/// How an answer's columns are told, or why there are none.
type Begun = oneshot::Sender<Result<SchemaRef, SqlError>>;

/// The making of an answer.
struct Answer<P> {
    service: Arc<Service>,
    running: Arc<Running>,
    pieces: mpsc::Sender<Result<Piece<P>, SqlError>>,
    pausing: Arc<Pausing>,
    /// How long it may pause.
    pause: Duration,
    turn: Option<Turn>,
}

/// What is told when a statement ended.
enum Last<P> {
    /// It could not be answered.
    NotBegun(SqlError),
    /// Its end or its failure, and until when that may wait for somebody who pauses.
    Piece(Result<Piece<P>, SqlError>, Instant),
    /// Nobody listens.
    Nothing,
}

impl<P> Answer<P> {
    /// Hands over all pieces but the last.
    async fn make(
        &mut self,
        session: &Session,
        statement: SqlStatement,
        begun: &mut Option<Begun>,
        make: impl FnOnce(&SchemaRef) -> Result<Make<P>, SqlError>,
    ) -> Last<P> {
        self.take_turn().await;
        let ends = Instant::now() + self.pause;
        let made = session.run(statement).await.and_then(|answer| {
            let make = make(&answer.schema)?;
            Ok((answer, make))
        });
        let (answer, mut make) = match made {
            Ok(made) => made,
            Err(error) => return Last::NotBegun(error),
        };
        if let Some(begun) = begun.take() {
            let _gone = begun.send(Ok(Arc::clone(&answer.schema)));
        }
        let mut rows = answer.rows;
        while let Some(batch) = rows.next().await {
            let piece = batch.and_then(|batch| {
                self.service.metrics.rows.inc_by(batch.num_rows() as u64);
                make(batch).map(Piece::Some)
            });
            if piece.is_err() {
                return Last::Piece(piece, ends);
            }
            if !self.hand_over(piece, ends).await {
                return Last::Nothing;
            }
            if self.turn.is_none() {
                self.take_turn().await;
            }
        }
        Last::Piece(Ok(Piece::End(rows.remarks())), ends)
    }

    async fn tell(&mut self, last: Last<P>, begun: Option<Begun>) {
        match last {
            Last::NotBegun(error) => {
                let _gone = begun.map(|begun| begun.send(Err(error)));
            }
            Last::Piece(piece, ends) => {
                self.hand_over(piece, ends).await;
            }
            Last::Nothing => {}
        }
    }

    async fn take_turn(&mut self) {
        self.turn = self.service.queries.turn(self.running.caller()).await;
    }

    /// Hands a piece over once there is room; false where nobody takes it in time.
    async fn hand_over(&mut self, piece: Result<Piece<P>, SqlError>, ends: Instant) -> bool {
        let pieces = self.pieces.clone();
        let handed = pieces.send(piece);
        tokio::pin!(handed);
        let mut limit = Instant::now() + self.service.config.body_time;
        loop {
            if self.pausing.paused.load(Ordering::Acquire) {
                self.turn = None;
                limit = limit.max(ends);
            }
            tokio::select! {
                biased;
                handed = &mut handed => return handed.is_ok(),
                () = self.pausing.told.notified() => {}
                () = tokio::time::sleep_until(limit.into()) => return false,
            }
        }
    }
}
