//! SQL over HTTP: a statement in, its rows out as they are made, in the form that `Accept` names.

use std::io::Write;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use pugmark_query::sql::{Parameter, Parameters, Session, SqlAnswer, SqlError, SqlStatement};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tokio::sync::{mpsc, oneshot};

use super::super::keys::Scope;
use super::super::queries::Listed;
use super::failure::Failure;
use super::track::as_json;
use super::{Service, access, body};
use crate::rows::{RowFormat, RowWriter};

/// Largest text of a statement with its parameters, in bytes.
const MOST_BYTES: usize = 8 << 20;
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
    let shown = access::shown(&head.headers);
    service.admit(shown.as_deref(), Scope::Query)?;
    let within = (MOST_BYTES, service.config.body_time);
    let bytes = body::read(&head.headers, body, within, &mut |_| Ok(())).await?;
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
    answer(service, &head.headers, asked).await
}

/// `GET`: the statement is `query` in the address.
pub(super) async fn get(
    State(service): State<Arc<Service>>,
    Query(asked): Query<InAddress>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    service.admit(access::shown(&headers).as_deref(), Scope::Query)?;
    let asked = Asked {
        sql: asked.query,
        params: serde_json::Map::new(),
    };
    answer(service, &headers, asked).await
}

/// The statements that run.
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    service.admit(access::shown(&headers).as_deref(), Scope::Query)?;
    Ok(as_json(
        StatusCode::OK,
        &json!({ "queries": service.queries.all() }),
    ))
}

/// Stops a statement.
pub(super) async fn stop(
    State(service): State<Arc<Service>>,
    axum::extract::Path(id): axum::extract::Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    service.admit(access::shown(&headers).as_deref(), Scope::Query)?;
    match service.queries.stop(&id) {
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
) -> Result<Response, Failure> {
    let form = Form::accepted(headers)?;
    let statement = statement(&asked)?;
    let shown = access::shown(headers);
    let caller = service.admit_quietly(shown.as_deref(), Scope::Query)?;
    if statement.writes() {
        service.admit_quietly(shown.as_deref(), Scope::Ingest)?;
    }
    let listed = service.queries.list(caller, &asked.sql);
    let listed = listed.map_err(|error| {
        Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "no_random_numbers",
            error.to_string(),
        )
    })?;
    let id = listed.running.id().to_owned();
    let (begun, beginning) = oneshot::channel();
    let (pieces, body) = mpsc::channel(MOST_PIECES);
    let making = Making {
        service: Arc::clone(&service),
        listed,
        form,
        pieces,
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
    let stream = futures::stream::unfold(body, |mut body| async move {
        body.recv().await.map(|piece| (piece, body))
    });
    let kind = [(header::CONTENT_TYPE, form.content_type())];
    Ok((id, kind, Body::from_stream(stream)).into_response())
}

/// The one statement of a text, with its parameters.
fn statement(asked: &Asked) -> Result<SqlStatement, Failure> {
    let mut statements = Session::parse(&asked.sql)?;
    let statement = match (statements.pop(), statements.is_empty()) {
        (Some(statement), true) => statement,
        (Some(_), false) => {
            return Err(Failure::bad(
                "there are several statements; send one at a time",
            ));
        }
        (None, _) => return Err(Failure::bad("there is no statement")),
    };
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
        let forms = accept.split(',').map(|kind| {
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
}

/// Whether an answer began, or why not.
type Begun = oneshot::Sender<Result<(), Failure>>;

impl Making {
    /// Makes the answer, until it is complete, or somebody stops it, or the client hangs up.
    async fn run(self, statement: SqlStatement, begun: Begun) {
        let metrics = &self.service.metrics;
        metrics.statements.inc();
        metrics.running.inc();
        tokio::select! {
            () = self.make(statement, begun) => {}
            () = self.listed.running.stopped() => {
                let stopped = std::io::Error::other("the statement was stopped");
                let _gone = self.pieces.try_send(Err(stopped));
            }
            () = self.pieces.closed() => {}
        }
        metrics.running.dec();
    }

    async fn make(&self, statement: SqlStatement, begun: Begun) {
        let Some(_turn) = self.service.queries.turn().await else {
            return;
        };
        let session = self.service.session.another();
        session.change(|settings| *settings = self.service.settings.clone());
        let first = match session.run(statement).await {
            Ok(mut answer) => match answer.rows.next().await.transpose() {
                Ok(first) => Ok((answer, first)),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        let (answer, first) = match first {
            Ok(first) => first,
            Err(error) => {
                let _gone = begun.send(Err(error.into()));
                return;
            }
        };
        let _gone = begun.send(Ok(()));
        if let Err(error) = self.send_all(answer, first).await {
            let _gone = self.pieces.send(Err(error)).await;
        }
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
            if !self.send(&pipe).await {
                return Ok(());
            }
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
        self.send(&pipe).await;
        Ok(())
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

    /// Hands over what was written; false where the client is gone.
    async fn send(&self, pipe: &Pipe) -> bool {
        let bytes = std::mem::take(&mut *pipe.lock());
        bytes.is_empty() || self.pieces.send(Ok(bytes.into())).await.is_ok()
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
