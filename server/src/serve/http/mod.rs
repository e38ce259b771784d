//! HTTP: what is served where.
//!
//! ```text
//! track    the tracking API                sql      statements and their rows
//! access   keys as requests show them      body     bodies, bounded in size and time
//! failure  what is refused, and how        connections  accepting, and ending
//! ```

mod access;
mod body;
pub mod connections;
mod failure;
mod openapi;
mod sql;
mod track;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Router, middleware};
use pugmark_engine::Store;
use pugmark_query::sql::{Session, Settings};
use serde_json::json;
use tokio::runtime::Handle;
use tower_http::cors::{Any, CorsLayer};

use self::failure::Failure;
use super::config::Config;
use super::ingest::writer::{IngestError, Stored, Writer, is_refusal};
use super::keys::{Caller, Denied, Gate, Scope};
use super::metrics::{Metrics, Numbers};
use super::queries::Queries;
use super::space::Space;

/// What all requests share.
pub struct Service {
    /// What the service was told.
    pub config: Config,
    /// The store.
    pub store: Store,
    /// Keys.
    pub gate: Gate,
    /// Figures.
    pub metrics: Metrics,
    /// The statements that run.
    pub queries: Arc<Queries>,
    /// What sessions are made beside.
    pub session: Session,
    /// What they begin with.
    pub settings: Settings,
    /// Where statements run: apart from the reading and writing of requests.
    pub statements: Handle,
    /// Numbers of requests.
    pub numbers: Numbers,
    /// Room for bodies of those who have shown no key yet.
    unknown: Space,
    /// Room for statements.
    asked: Space,
    ending: AtomicBool,
    writer: Mutex<Option<Writer>>,
    rates: Mutex<HashMap<String, Bucket>>,
    failed: AtomicBool,
}

/// Bytes of bodies of those who have shown no key yet.
const MOST_UNKNOWN_BYTES: usize = 32 << 20;
/// Bytes of statements that run or wait.
const MOST_ASKED_BYTES: usize = 64 << 20;

/// Requests that a key may still send.
struct Bucket {
    left: f64,
    filled: Instant,
}

impl Service {
    /// A service over a store.
    pub fn new(
        config: Config,
        (store, settings): (Store, Settings),
        gate: Gate,
        writer: Writer,
        statements: Handle,
    ) -> Self {
        Self {
            session: Session::new(store.clone()),
            settings,
            queries: Arc::new(Queries::new(config.queries)),
            config,
            store,
            gate,
            metrics: Metrics::default(),
            statements,
            numbers: Numbers::default(),
            unknown: Space::new(MOST_UNKNOWN_BYTES),
            asked: Space::new(MOST_ASKED_BYTES),
            ending: AtomicBool::new(false),
            writer: Mutex::new(Some(writer)),
            rates: Mutex::default(),
            failed: AtomicBool::new(false),
        }
    }

    /// Says that the service ends, so that nobody is sent here any more.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Takes nothing more; what waits is written.
    pub fn close(&self) {
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(writer);
    }

    fn writer(&self) -> Result<Writer, Failure> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        writer.clone().ok_or_else(|| {
            let message = "the service is shutting down; send it again in a second";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "closing", message)
        })
    }

    /// Notes whether events can be written.
    fn note_health(&self, stored: &Result<Stored, IngestError>) {
        match stored {
            Ok(_) => self.failed.store(false, Ordering::Relaxed),
            Err(IngestError::Write(error) | IngestError::Partly(error)) if !is_refusal(error) => {
                self.failed.store(true, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }

    /// Microseconds since 1970-01-01 UTC.
    fn now(&self) -> i64 {
        pugmark_engine::Clock::system().now()
    }

    /// Who shows a key, and may do this now.
    fn admit(&self, shown: Option<&str>, scope: Scope) -> Result<Caller, Failure> {
        let caller = self.admit_quietly(shown, scope)?;
        if let Caller::Key(id) = &caller {
            self.rate(id)?;
        }
        Ok(caller)
    }

    /// Who shows a key in a request's head, and may do this now. Without keys, only what this machine
    /// sends by itself: no page of another site that a browser here shows.
    fn admit_head(&self, headers: &HeaderMap, scope: Scope) -> Result<Caller, Failure> {
        if !self.gate.is_locked() && !access::is_own(headers) {
            let message = "without keys only this machine is served, and no page of another site; \
                           make a key with `pugmark keys create`";
            return Err(Failure::new(StatusCode::FORBIDDEN, "forbidden", message));
        }
        self.admit(access::shown(headers).as_deref(), scope)
    }

    /// The same, without counting it as a request.
    fn admit_quietly(&self, shown: Option<&str>, scope: Scope) -> Result<Caller, Denied> {
        self.gate.admit(shown, scope)
    }

    /// Takes a request of a key's: as many a second as it may send, and as many at once.
    fn rate(&self, id: &str) -> Result<(), Failure> {
        let most = f64::from(self.config.rate_limit);
        if most == 0.0 {
            return Ok(());
        }
        let now = Instant::now();
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = rates.entry(id.to_owned()).or_insert(Bucket {
            left: most,
            filled: now,
        });
        let more = now.duration_since(bucket.filled).as_secs_f64() * most;
        *bucket = Bucket {
            left: (bucket.left + more).min(most),
            filled: now,
        };
        if bucket.left < 1.0 {
            let message = format!("this key may send {most} requests a second");
            let status = StatusCode::TOO_MANY_REQUESTS;
            return Err(Failure::new(status, "too_many_requests", message));
        }
        bucket.left -= 1.0;
        Ok(())
    }
}

/// Everything that is served.
pub fn router(service: &Arc<Service>) -> Router {
    let router = Router::new()
        .route("/v1/sql", get(sql::get).post(sql::post))
        .route("/v1/queries", get(sql::list))
        .route("/v1/queries/{id}", delete(sql::stop))
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
    service.writer()?;
    if service.ending.load(Ordering::Relaxed) {
        let message = "the service is shutting down";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        return Err(Failure::new(status, "closing", message));
    }
    if service.failed.load(Ordering::Relaxed) {
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
    service.admit_head(&headers, Scope::Admin)?;
    if let Ok(writer) = service.writer() {
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
