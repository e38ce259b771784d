//! SQL over HTTP: a statement in, its rows out as they are made, in the form that `Accept` names.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use pugmark_query::sql::{Parameter, Parameters, Session, SqlAnswer, SqlError, SqlStatement};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::{mpsc, oneshot};

use super::super::answering::Counted;
use super::super::keys::Scope;
use super::super::queries::{Listed, NotListed};
use super::super::service::Service;
use super::super::space::Room;
use super::failure::Failure;
use super::track::as_json;
use super::{access, body, not_so};
use crate::rows::{RowFormat, RowWriter};

/// Largest text of a statement with its parameters, in bytes.
const MOST_BYTES: usize = 5 << 20;
/// Pieces of an answer that wait for the client: a slow one holds up its statement.
const MOST_PIECES: usize = 4;

/// A statement as JSON.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    sql: String,
    #[serde(default)]
    params: serde_json::Map<String, Json>,
}

/// A statement in an address.
#[derive(Debug, Deserialize)]
pub(super) struct InAddress {
    query: String,
}

/// `POST`: the body is the statement, as text or as JSON.
pub(super) async fn post(
    State(service): State<Arc<Service>>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    access::admit_head(&service, &head.headers, Scope::Query)?;
    let within = (MOST_BYTES, service.config.body_time);
    let mut room = service.asked.room();
    let mut take = |bytes| room.take(bytes).map_err(Failure::from);
    let bytes = body::read(&head.headers, body, within, &mut take).await?;
    let text = String::from_utf8(bytes).map_err(|_| Failure::bad("the statement is no UTF-8"))?;
    let kind = head.headers.get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let asked = match kind.starts_with("application/json") {
        true => serde_json::from_str(&text).map_err(|error| {
            Failure::bad(format!(
                "the body is not {{\"sql\": …, \"params\": {{…}}}}: {error}"
            ))
        })?,
        false => Asked {
            sql: text,
            params: serde_json::Map::new(),
        },
    };
    answer(service, &head.headers, asked, room).await
}

/// `GET`: the statement is `query` in the address.
pub(super) async fn get(
    State(service): State<Arc<Service>>,
    method: Method,
    asked: Result<Query<InAddress>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    access::admit_head(&service, &headers, Scope::Query)?;
    if method != Method::GET {
        return Err(not_so().await);
    }
    let Query(asked) = asked.map_err(|_| Failure::bad("the address has no `query`"))?;
    let asked = Asked {
        sql: asked.query,
        params: serde_json::Map::new(),
    };
    if statement(&asked)?.writes() {
        return Err(not_so().await);
    }
    let room = service.asked.room();
    answer(service, &headers, asked, room).await
}

/// The statements that run: those of the key, and all of them for an administrator.
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let caller = access::admit_head(&service, &headers, Scope::Query)?;
    let seen = service.queries.all(&caller);
    Ok(as_json(StatusCode::OK, &json!({ "queries": seen })))
}

/// Stops a statement.
pub(super) async fn stop(
    State(service): State<Arc<Service>>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let caller = access::admit_head(&service, &headers, Scope::Query)?;
    let Path(id) = id.map_err(|_| Failure::bad("the id of a statement is hexadecimal digits"))?;
    match service.queries.stop(&id, &caller) {
        true => Ok(as_json(StatusCode::OK, &json!({ "stopped": id }))),
        false => Err(Failure::new(
            StatusCode::NOT_FOUND,
            "not_found",
            format!("no statement with the id `{id}` runs"),
        )),
    }
}

async fn answer(
    service: Arc<Service>,
    headers: &HeaderMap,
    asked: Asked,
    room: Room,
) -> Result<Response, Failure> {
    let form = Form::accepted(headers)?;
    let statement = statement(&asked)?;
    let shown = access::shown(headers);
    let caller = service.admit_quietly(shown.as_deref(), Scope::Query)?;
    if statement.writes() {
        service.admit_quietly(shown.as_deref(), Scope::Ingest)?;
    }
    let listed = match service.queries.list(caller, &asked.sql) {
        Ok(listed) => listed,
        Err(NotListed::TooMany) => {
            return Err(Failure::busy(
                "too many statements wait; ask again in a second",
            ));
        }
        Err(NotListed::Random(error)) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            return Err(Failure::new(status, "failed", error.to_string()));
        }
    };
    let id = listed.running.id().to_owned();
    let (begun, beginning) = oneshot::channel();
    let (pieces, body) = mpsc::channel(MOST_PIECES);
    let complete = Arc::new(AtomicBool::new(false));
    let making = Making {
        service: Arc::clone(&service),
        listed,
        form,
        pieces,
        complete: Arc::clone(&complete),
        _room: room,
    };
    service.statements.spawn(making.run(statement, begun));
    let begun = beginning.await.unwrap_or_else(|_| {
        let message = "the statement was stopped";
        Err(Failure::new(StatusCode::CONFLICT, "cancelled", message))
    });
    let id = [("x-query-id", id)];
    if let Err(failure) = begun {
        return Ok((id, failure).into_response());
    }
    let stream = futures::stream::unfold(Some(body), move |body| {
        let complete = Arc::clone(&complete);
        async move {
            let mut body = body?;
            match body.recv().await {
                Some(piece) => Some((piece, Some(body))),
                None if complete.load(Ordering::Acquire) => None,
                // Stopped, or lost: an answer that ends here must not look like all of it.
                None => Some((
                    Err(std::io::Error::other("the statement was stopped")),
                    None,
                )),
            }
        }
    });
    let kind = [(header::CONTENT_TYPE, form.content_type())];
    Ok((id, kind, Body::from_stream(stream)).into_response())
}

/// The one statement of a text, with its parameters.
fn statement(asked: &Asked) -> Result<SqlStatement, Failure> {
    let statement = Session::parse_one(&asked.sql)?;
    if asked.params.is_empty() {
        return Ok(statement);
    }
    let mut values = Parameters::new();
    for (name, value) in &asked.params {
        values.insert(name.clone(), parameter(name, value)?);
    }
    Ok(statement.bind(&values)?)
}

fn parameter(name: &str, value: &Json) -> Result<Parameter, Failure> {
    Ok(match value {
        Json::Null => Parameter::Null,
        Json::Bool(truth) => Parameter::Bool(*truth),
        Json::String(text) => Parameter::Text(text.clone()),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Parameter::Whole(whole),
            (None, Some(float)) => Parameter::Float(float),
            (None, None) => Parameter::Text(number.to_string()),
        },
        Json::Array(_) | Json::Object(_) => {
            let problem = "must be a text, a number, true, false or null";
            return Err(Failure::bad(format!("params.{name} {problem}")));
        }
    })
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Form(RowFormat);

impl Form {
    /// The first form that a request accepts; JSON where it accepts anything.
    fn accepted(headers: &HeaderMap) -> Result<Self, Failure> {
        let accept = headers.get(header::ACCEPT);
        let accept = accept
            .and_then(|accept| accept.to_str().ok())
            .unwrap_or("*/*");
        let wanted = |kind: &&str| {
            let weight = kind
                .split(';')
                .skip(1)
                .find_map(|part| part.trim().strip_prefix("q="));
            weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0))
        };
        let forms = accept.split(',').filter(wanted).map(|kind| {
            let kind = kind.split(';').next().unwrap_or_default().trim();
            Some(Self(match kind {
                "application/json" | "application/*" | "*/*" | "" => RowFormat::Json,
                "application/x-ndjson" | "application/ndjson" => RowFormat::Ndjson,
                "text/csv" | "text/*" => RowFormat::Csv,
                "text/plain" => RowFormat::Table,
                "application/vnd.apache.arrow.stream" => RowFormat::Arrow,
                "application/vnd.apache.parquet" | "application/x-parquet" => RowFormat::Parquet,
                _ => return None,
            }))
        });
        { forms }.flatten().next().ok_or_else(|| {
            let message = "answers are application/json, application/x-ndjson, text/csv, text/plain, \
                           application/vnd.apache.arrow.stream or application/vnd.apache.parquet";
            Failure::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", message)
        })
    }

    fn content_type(self) -> &'static str {
        match self.0 {
            RowFormat::Json => "application/json",
            RowFormat::Ndjson => "application/x-ndjson",
            RowFormat::Csv => "text/csv; charset=utf-8; header=present",
            RowFormat::Table => "text/plain; charset=utf-8",
            RowFormat::Arrow => "application/vnd.apache.arrow.stream",
            RowFormat::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// The making of an answer.
struct Making {
    service: Arc<Service>,
    listed: Listed,
    form: Form,
    pieces: mpsc::Sender<Result<Bytes, std::io::Error>>,
    /// Set once all was handed over.
    complete: Arc<AtomicBool>,
    _room: Room,
}

/// Whether an answer began, or why not.
type Begun = oneshot::Sender<Result<(), Failure>>;

impl Making {
    /// Makes the answer, until it is complete, or somebody stops it, or the client hangs up. Whoever
    /// hears that it ended no longer finds it listed.
    async fn run(self, statement: SqlStatement, begun: Begun) {
        let mut begun = Some(begun);
        let counted = Counted::new(&self.service);
        let made = tokio::select! {
            made = self.make(statement, &mut begun) => made,
            () = self.listed.running.stopped() => Ok(()),
            () = self.pieces.closed() => Ok(()),
        };
        drop((counted, self.listed));
        if let (Err(failure), Some(begun)) = (made, begun) {
            let _gone = begun.send(Err(failure));
        }
    }

    /// Fails where the answer did not begin.
    async fn make(
        &self,
        statement: SqlStatement,
        begun: &mut Option<Begun>,
    ) -> Result<(), Failure> {
        let caller = self.listed.running.caller();
        let Some(_turn) = self.service.queries.turn(caller).await else {
            return Ok(());
        };
        let session = self.service.session_of(caller);
        let mut answer = session.run(statement).await?;
        let first = answer.rows.next().await.transpose()?;
        if let Some(begun) = begun.take() {
            let _gone = begun.send(Ok(()));
        }
        match self.send_all(answer, first).await {
            Ok(()) => self.complete.store(true, Ordering::Release),
            Err(error) => tracing::debug!(%error, "an answer broke off"),
        }
        Ok(())
    }

    async fn send_all(
        &self,
        mut answer: SqlAnswer,
        first: Option<arrow_array::RecordBatch>,
    ) -> Result<(), std::io::Error> {
        let pipe = Pipe::default();
        if self.form.0 == RowFormat::Json {
            self.begin_json(&answer, &pipe)?;
        }
        let writer = RowWriter::new(self.form.0, Arc::clone(&answer.schema), pipe.clone());
        let mut writer = writer.map_err(std::io::Error::other)?;
        let (mut next, mut failed) = (first, None);
        while let Some(batch) = next {
            let rows = batch.num_rows() as u64;
            self.listed.running.rows.fetch_add(rows, Ordering::Relaxed);
            self.service.metrics.rows.inc_by(rows);
            writer.put(&batch).map_err(std::io::Error::other)?;
            self.send(&pipe).await?;
            next = match answer.rows.next().await.transpose() {
                Ok(next) => next,
                Err(error) => {
                    failed = Some(error);
                    None
                }
            };
        }
        match (self.form.0, failed) {
            (RowFormat::Json, failed) => {
                writer.finish().map_err(std::io::Error::other)?;
                self.end_json(&answer, failed, &pipe)?;
            }
            (_, None) => {
                writer.finish().map_err(std::io::Error::other)?;
            }
            (RowFormat::Ndjson, Some(error)) => {
                writer.finish().map_err(std::io::Error::other)?;
                writeln!({ pipe.clone() }, "{}", told(error))?;
            }
            // Nothing in these forms says that an answer is incomplete, but that it breaks off.
            (_, Some(error)) => return Err(std::io::Error::other(error)),
        }
        self.send(&pipe).await
    }

    fn begin_json(&self, answer: &SqlAnswer, pipe: &Pipe) -> std::io::Result<()> {
        let columns =
            answer.schema.fields().iter().map(
                |field| json!({ "name": field.name(), "type": field.data_type().to_string() }),
            );
        let columns = Json::Array(columns.collect());
        let id = self.listed.running.id();
        write!(
            { pipe.clone() },
            "{{\"query_id\":\"{id}\",\"columns\":{columns},\"rows\":"
        )
    }

    fn end_json(
        &self,
        answer: &SqlAnswer,
        failed: Option<SqlError>,
        pipe: &Pipe,
    ) -> std::io::Result<()> {
        let mut pipe = pipe.clone();
        if let Some(error) = failed {
            let error = told(error);
            let inner = &error["error"];
            write!(pipe, ",\"error\":{inner}")?;
        }
        let remarks = json!(answer.rows.remarks());
        let running = &self.listed.running;
        let statistics = json!({
            "seconds": running.seconds(),
            "rows": running.rows.load(Ordering::Relaxed),
        });
        writeln!(pipe, ",\"remarks\":{remarks},\"statistics\":{statistics}}}")
    }

    /// Hands over what was written. A client that takes nothing for as long as a body may take gives
    /// its statement's place up.
    async fn send(&self, pipe: &Pipe) -> std::io::Result<()> {
        let bytes = std::mem::take(&mut *pipe.lock());
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = self.pieces.send(Ok(bytes.into()));
        let sent = tokio::time::timeout(self.service.config.body_time, sent).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(std::io::Error::other("the client hung up")),
            Err(_) => Err(std::io::Error::other("the client reads nothing")),
        }
    }
}

/// What broke an answer off, as JSON.
fn told(error: SqlError) -> Json {
    let failure = Failure::from(error);
    json!({ "error": { "code": failure.code, "message": failure.message } })
}

/// Bytes on their way from a writer to a client.
#[derive(Clone, Debug, Default)]
struct Pipe(Arc<Mutex<Vec<u8>>>);

impl Pipe {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
