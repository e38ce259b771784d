//! HTTP: what is served where.
//!
//! ```text
//! track    the tracking API                sql      statements and their rows
//! import   files of any length
//! access   keys as requests show them      body     bodies, bounded in size and time
//! failure  what is refused, and how        connections  accepting, and ending
//! ```

mod access;
mod body;
pub mod connections;
mod failure;
mod import;
mod openapi;
mod sql;
mod track;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Router, middleware};
use serde_json::json;
use tower_http::cors::{Any, CorsLayer};

use self::failure::Failure;
use super::ingest::writer::Writer;
use super::keys::Scope;
use super::service::Service;

/// Everything that is served.
pub fn router(service: &Arc<Service>) -> Router {
    let router = Router::new()
        .route("/v1/sql", get(sql::get).post(sql::post))
        .route("/v1/queries", get(sql::list))
        .route("/v1/queries/{id}", delete(sql::stop))
        .route("/v1/import", post(import::post))
        .route("/v1/imports/{key}", get(import::progress))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi::document));
    let mut tracking = Router::new()
        .route("/projects/{key}/settings", get(track::settings))
        .route("/v1/projects/{key}/settings", get(track::settings));
    for (name, short, kind) in track::PATHS {
        for path in [name, short] {
            let send = move |state: State<Arc<Service>>, request: Request| {
                track::send(state, kind, request)
            };
            tracking = tracking
                .route(&format!("/v1/{path}"), post(send))
                .route(&format!("/{path}"), post(send));
        }
    }
    // Pages of any site send events; none asks questions.
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods(Any)
        .allow_headers(Any);
    router
        .merge(tracking.layer(cors))
        .fallback(nothing)
        .method_not_allowed_fallback(not_so)
        .layer(middleware::from_fn_with_state(Arc::clone(service), watch))
        .with_state(Arc::clone(service))
}

/// What writes events, as long as the service does not end.
fn writer(service: &Service) -> Result<Writer, Failure> {
    service.writer().ok_or_else(|| {
        let message = "the service is shutting down; send it again in a second";
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "closing", message)
    })
}

async fn nothing() -> Failure {
    let message = "there is nothing here; GET /openapi.json tells what there is";
    Failure::new(StatusCode::NOT_FOUND, "not_found", message)
}

async fn not_so() -> Failure {
    let message = "this is asked in another way; GET /openapi.json tells how";
    Failure::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        message,
    )
}

/// True as long as the process answers.
async fn health() -> Response {
    track::as_json(StatusCode::OK, &json!({ "status": "ok" }))
}

/// True where events are taken and questions answered.
async fn ready(State(service): State<Arc<Service>>) -> Result<Response, Failure> {
    writer(&service)?;
    if service.is_ending() {
        let message = "the service is shutting down";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return Err(Failure::new(status, "closing", message));
    }
    if service.has_failed() {
        let message = "events could not be written; see the log, and restart the service";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return Err(Failure::new(status, "not_written", message));
    }
    Ok(track::as_json(
        StatusCode::OK,
        &json!({ "status": "ready" }),
    ))
}

async fn metrics(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    access::admit_head(&service, &headers, Scope::Admin)?;
    if let Some(writer) = service.writer() {
        let waiting = i64::try_from(writer.waiting_bytes()).unwrap_or(i64::MAX);
        service.metrics.waiting_bytes.set(waiting);
    }
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], service.metrics.text()).into_response())
}

/// Counts and logs a request. Nothing of what it says is logged.
async fn watch(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let number = service.numbers.next();
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().clone();
    let mut response = next.run(request).await;
    let (status, took) = (response.status().as_u16(), begun.elapsed());
    service.metrics.request(&route, status, took);
    let millis = took.as_secs_f64() * 1e3;
    match status {
        500.. => tracing::warn!(request = number, %method, route, status, millis, "answered"),
        _ => tracing::debug!(request = number, %method, route, status, millis, "answered"),
    }
    if let Ok(number) = HeaderValue::from_str(&number.to_string()) {
        response.headers_mut().insert("x-request-id", number);
    }
    response
}
