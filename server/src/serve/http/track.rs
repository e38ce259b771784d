//! The tracking API: what Segment's SDKs send.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value as Json, json};

use super::super::ingest::message::{Kind, read_body, write_key};
use super::super::keys::Scope;
use super::super::service::Service;
use super::super::space::Room;
use super::failure::Failure;
use super::{access, body, writer};

/// What a path sends: a call of a kind, or, without one, a batch.
pub(super) const PATHS: [(&str, &str, Option<Kind>); 7] = [
    ("track", "t", Some(Kind::Track)),
    ("identify", "i", Some(Kind::Identify)),
    ("page", "p", Some(Kind::Page)),
    ("screen", "s", Some(Kind::Screen)),
    ("group", "g", Some(Kind::Group)),
    ("alias", "a", Some(Kind::Alias)),
    ("batch", "b", None),
];

/// Problems of a batch that are told.
const MOST_TOLD: usize = 100;

/// Stores the calls of a request.
pub(super) async fn send(
    State(service): State<Arc<Service>>,
    kind: Option<Kind>,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    let shown = access::shown(&head.headers);
    if let Some(shown) = &shown {
        service.admit(Some(shown), Scope::Ingest)?;
    }
    let received = service.now();
    // Whoever shows no key yet shares a small room, so as to keep nobody else out.
    let mut room = match shown.is_some() || !service.gate.is_locked() {
        true => writer(&service)?.room(),
        false => service.unknown.room(),
    };
    let json = read(&service, &head.headers, body, &mut room).await?;
    if shown.is_none() {
        service.admit(write_key(&json)?.as_deref(), Scope::Ingest)?;
    }
    let mut take = |bytes| room.take(bytes).is_ok();
    let calls = read_body(&json, kind, received, &mut take)?;
    drop(json);
    let mut rejected = Vec::new();
    let mut taken = Vec::with_capacity(calls.len());
    for (index, call) in calls.into_iter().enumerate() {
        match call {
            Ok(call) => taken.push(call),
            Err(problem) => rejected.push((index, problem)),
        }
    }
    let count = taken.len();
    service.metrics.rejected.inc_by(rejected.len() as u64);
    if count == 0
        && let Some((index, problem)) = rejected.first()
    {
        let place = match kind {
            Some(_) => String::new(),
            None => format!("call {index}: "),
        };
        return Err(Failure::bad(format!("{place}{problem}")));
    }
    if count > 0 {
        let stored = writer(&service)?.store(taken, room).await;
        service.note_health(&stored);
        let stored = stored?;
        service.metrics.events.inc_by(stored.events);
        service.metrics.duplicates.inc_by(stored.duplicates);
    }
    service.metrics.calls.inc_by(count as u64);
    let answer = match rejected.is_empty() {
        true => json!({ "success": true }),
        false => json!({
            "success": true,
            "accepted": count,
            "rejected": told(&rejected),
            "rejected_count": rejected.len(),
        }),
    };
    Ok(as_json(StatusCode::OK, &answer))
}

fn told<P: std::fmt::Display>(rejected: &[(usize, P)]) -> Vec<Json> {
    let told = rejected.iter().take(MOST_TOLD).map(|(index, problem)| {
        json!({ "index": index, "code": "bad_request", "message": problem.to_string() })
    });
    told.collect()
}

async fn read(
    service: &Service,
    headers: &HeaderMap,
    body: Body,
    room: &mut Room,
) -> Result<String, Failure> {
    let config = &service.config;
    let bounds = (config.max_body_bytes, config.body_time);
    let mut take = |bytes| room.take(bytes).map_err(Failure::from);
    let bytes = body::read(headers, body, bounds, &mut take).await?;
    String::from_utf8(bytes)
        .map_err(|_| Failure::bad("the body is no UTF-8, which JSON is written in"))
}

pub(super) fn as_json(status: StatusCode, json: &Json) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (status, kind, json.to_string()).into_response()
}

/// What browsers and mobile apps fetch when they start: where to send, and that everything may be.
pub(super) async fn settings(
    State(_service): State<Arc<Service>>,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let host = text("host").unwrap_or("localhost");
    let protocol = text("x-forwarded-proto").unwrap_or("http");
    let everything = json!({ "__default": { "enabled": true, "integrations": {} } });
    let settings = json!({
        "integrations": {
            "Segment.io": {
                "apiKey": key,
                "apiHost": format!("{host}/v1"),
                "protocol": protocol,
                "unbundledIntegrations": [],
                "addBundledMetadata": true,
                "maybeBundledConfigIds": {},
            },
        },
        "plan": { "track": everything, "identify": everything, "group": everything },
        "edgeFunction": {},
        "analyticsNextEnabled": true,
        "middlewareSettings": {},
        "enabledMiddleware": {},
        "metrics": { "sampleRate": 0 },
        "legacyVideoPluginsEnabled": false,
        "remotePlugins": [],
    });
    as_json(StatusCode::OK, &settings)
}
