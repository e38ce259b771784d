//! Files of events of any length: received as they come, then imported.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use getrandom::fill;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use super::super::imports::{Imports, NotBegun, NotLoaded, Receiving};
use super::super::keys::Scope;
use super::super::service::Service;
use super::failure::Failure;
use super::track::as_json;
use super::{access, writer};
use crate::import::{Delimiter, Format, ImportOptions, TimeFormat, TimeUnit, parse_column_type};

/// What is said of a file in the address: the options of `pugmark import`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    user: String,
    time: String,
    event: Option<String>,
    event_name: Option<String>,
    format: Option<String>,
    message_id: Option<String>,
    time_unit: Option<String>,
    time_format: Option<String>,
    delimiter: Option<String>,
    columns: Option<String>,
    types: Option<String>,
    skip: Option<String>,
    explode: Option<String>,
    #[serde(default)]
    strict: bool,
}

impl Asked {
    fn options(self) -> Result<ImportOptions, Failure> {
        let list = |text: Option<String>| -> Vec<String> {
            let text = text.unwrap_or_default();
            let parts = text.split(',').filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect()
        };
        let mut options = ImportOptions::new(&self.user, &self.time, "");
        options.naming.columns = list(self.event);
        options.naming.fixed = self.event_name;
        if options.naming.columns.is_empty() == options.naming.fixed.is_none() {
            return Err(Failure::bad(
                "say `event` (a column) or `event_name`, and one of them",
            ));
        }
        options.format = match self.format.as_deref() {
            None => None,
            Some("csv") => Some(Format::Csv),
            Some("tsv") => Some(Format::Tsv),
            Some("ndjson") => Some(Format::Ndjson),
            Some("parquet") => Some(Format::Parquet),
            Some(_) => return Err(Failure::bad("`format` is csv, tsv, ndjson or parquet")),
        };
        options.time_unit = match self.time_unit.as_deref() {
            None => None,
            Some("s") => Some(TimeUnit::Seconds),
            Some("ms") => Some(TimeUnit::Millis),
            Some("us") => Some(TimeUnit::Micros),
            Some(_) => return Err(Failure::bad("`time_unit` is s, ms or us")),
        };
        let bad = |error: &dyn std::fmt::Display| Failure::bad(error.to_string());
        let layout = self.time_format.as_deref().map(TimeFormat::new);
        options.time_format = layout.transpose().map_err(|error| bad(&error))?;
        let delimiter = self.delimiter.map(|text| text.parse::<Delimiter>());
        options.delimiter = delimiter.transpose().map_err(|error| bad(&error))?;
        options.columns = self.columns.map(|columns| list(Some(columns)));
        let types = list(self.types);
        let types = types.iter().map(|text| parse_column_type(text));
        options.types = types
            .collect::<Result<_, _>>()
            .map_err(|error| bad(&error))?;
        options.message_id = self.message_id;
        options.skip = list(self.skip);
        options.explode = self.explode;
        options.strict = self.strict;
        Ok(options)
    }
}

/// `POST`: the body is the file.
pub(super) async fn post(
    State(service): State<Arc<Service>>,
    asked: Result<Query<Asked>, QueryRejection>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let caller = access::admit_head(&service, &head.headers, Scope::Ingest)?;
    let Query(asked) = asked.map_err(|error| Failure::bad(error.body_text()))?;
    let options = asked.options()?;
    // As long as there is one, the service does not end.
    let _ending = writer(&service)?;
    let id = Imports::id(&caller, &key(&head.headers)?);
    let offset = offset(&head.headers)?;
    let receiving = service.imports.receive(&id, offset).map_err(not_begun)?;
    let receiving = receive(&service, receiving, body).await?;
    let (sender, done) = oneshot::channel();
    let own = Arc::clone(&service);
    let told = move |loaded: Result<serde_json::Value, NotLoaded>| {
        if let Ok(report) = &loaded {
            own.metrics
                .events
                .inc_by(report["events"].as_u64().unwrap_or_default());
        }
        let _nobody_waits = sender.send(loaded);
    };
    let store = service.store.clone();
    let begun = service.imports.load(receiving, options, store, told);
    begun.map_err(|error| not_begun(NotBegun::Io(error)))?;
    match done.await {
        Ok(Ok(report)) => Ok(as_json(StatusCode::OK, &report)),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(Failure::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "failed",
            "the import broke off; send it again",
        )),
    }
}

/// `GET`: how far an import is.
pub(super) async fn progress(
    State(service): State<Arc<Service>>,
    key: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let caller = access::admit_head(&service, &headers, Scope::Ingest)?;
    let Path(key) = key.map_err(|_| Failure::bad("an import is known by its Idempotency-Key"))?;
    let told = service.imports.progress(&Imports::id(&caller, &key));
    match told {
        Some(told) => Ok(as_json(StatusCode::OK, &told)),
        None => Err(Failure::new(
            StatusCode::NOT_FOUND,
            "not_found",
            "no import of yours is known by this key",
        )),
    }
}

/// Keeps a body as it comes; a client that is silent too long is not waited for.
async fn receive(
    service: &Service,
    mut receiving: Receiving,
    mut body: Body,
) -> Result<Receiving, Failure> {
    let most = service.config.max_import_bytes;
    loop {
        let frame = tokio::time::timeout(service.config.body_time, body.frame()).await;
        let frame = frame.map_err(|_| {
            let message = "nothing came for too long; go on with Upload-Offset";
            Failure::new(StatusCode::REQUEST_TIMEOUT, "too_slow", message)
        })?;
        let Some(frame) = frame else {
            return Ok(receiving);
        };
        let frame = frame.map_err(|error| Failure::bad(format!("the body broke off: {error}")))?;
        if let Ok(data) = frame.into_data() {
            let kept = tokio::task::block_in_place(|| receiving.keep(&data));
            let received = kept.map_err(|error| not_begun(NotBegun::Io(error)))?;
            if received > most {
                let message = format!("a file may have {most} bytes; send it in parts");
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                return Err(Failure::new(status, "too_large", message));
            }
        }
    }
}

/// What the client calls its import by; a name of its own where it says none.
fn key(headers: &HeaderMap) -> Result<String, Failure> {
    match headers.get("idempotency-key") {
        Some(key) => match key.to_str() {
            Ok(key) if (1..=255).contains(&key.len()) => Ok(key.to_owned()),
            _ => Err(Failure::bad(
                "Idempotency-Key has 1 to 255 letters of ASCII",
            )),
        },
        None => {
            let mut random = [0; 16];
            fill(&mut random).map_err(|error| {
                let status = StatusCode::INTERNAL_SERVER_ERROR;
                Failure::new(status, "failed", error.to_string())
            })?;
            Ok(format!("{random:02x?}"))
        }
    }
}

fn offset(headers: &HeaderMap) -> Result<Option<u64>, Failure> {
    let Some(offset) = headers.get("upload-offset") else {
        return Ok(None);
    };
    let number = offset.to_str().ok().and_then(|offset| offset.parse().ok());
    number
        .map(Some)
        .ok_or_else(|| Failure::bad("Upload-Offset is a number of bytes"))
}

fn not_begun(error: NotBegun) -> Failure {
    let message = error.to_string();
    match error {
        NotBegun::Busy | NotBegun::Elsewhere(_) => {
            Failure::new(StatusCode::CONFLICT, "conflict", message)
        }
        NotBegun::Io(_) => {
            tracing::error!(error = message, "an import cannot be kept");
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "not_written", message)
        }
    }
}

fn failed(error: NotLoaded) -> Failure {
    match error.of_store {
        true => {
            tracing::error!(error = error.message, "an import could not be written");
            let status = StatusCode::SERVICE_UNAVAILABLE;
            Failure::new(status, "not_written", error.message)
        }
        false => Failure::bad(error.message),
    }
}

/// An example of what is told of an import, for the document of all paths.
pub(super) fn example() -> serde_json::Value {
    json!({
        "imported_before": false, "resumed_after": 0, "rows": 1, "events": 1, "duplicates": 0,
        "rejected": {}, "rejected_rows": null,
    })
}
