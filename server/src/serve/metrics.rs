//! Figures of the service, as Prometheus reads them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

/// What requests are told apart by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// The route, not the path: what clients send names no series.
    pub route: String,
    /// The status.
    pub status: u16,
}

/// All figures.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests answered.
    pub requests: Family<RequestLabels, Counter>,
    /// Seconds from a request's head to its answer's.
    pub seconds: Histogram,
    /// Calls stored.
    pub calls: Counter,
    /// Calls refused.
    pub rejected: Counter,
    /// Events stored.
    pub events: Counter,
    /// Events that had come before.
    pub duplicates: Counter,
    /// Connections that are open.
    pub connections: Gauge,
    /// Bytes of bodies that wait to be written.
    pub waiting_bytes: Gauge,
    /// Statements begun.
    pub statements: Counter,
    /// Statements that run.
    pub running: Gauge<i64>,
    /// Rows answered.
    pub rows: Counter<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("pugmark");
        let bounds = [
            0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        ];
        let metrics = Self {
            requests: Family::default(),
            seconds: Histogram::new(bounds),
            calls: Counter::default(),
            rejected: Counter::default(),
            events: Counter::default(),
            duplicates: Counter::default(),
            connections: Gauge::default(),
            waiting_bytes: Gauge::default(),
            statements: Counter::default(),
            running: Gauge::default(),
            rows: Counter::default(),
            registry: Registry::default(),
        };
        let mut add = Adding(&mut registry);
        add.one("http_requests", "Requests answered", &metrics.requests);
        add.one(
            "http_request_seconds",
            "Seconds from a request's head to its answer's",
            &metrics.seconds,
        );
        add.one("ingest_calls", "Calls stored", &metrics.calls);
        add.one("ingest_rejected", "Calls refused", &metrics.rejected);
        add.one("ingest_events", "Events stored", &metrics.events);
        add.one(
            "ingest_duplicates",
            "Events that had come before",
            &metrics.duplicates,
        );
        add.one(
            "http_connections",
            "Connections that are open",
            &metrics.connections,
        );
        add.one(
            "ingest_waiting_bytes",
            "Bytes of bodies that wait to be written",
            &metrics.waiting_bytes,
        );
        add.one("sql_statements", "Statements begun", &metrics.statements);
        add.one("sql_running", "Statements that run", &metrics.running);
        add.one("sql_rows", "Rows answered", &metrics.rows);
        Self {
            registry,
            ..metrics
        }
    }
}

/// Names figures.
struct Adding<'r>(&'r mut Registry);

impl Adding<'_> {
    fn one(&mut self, name: &str, help: &str, metric: &(impl Metric + Clone)) {
        self.0.register(name, help, metric.clone());
    }
}

impl Metrics {
    /// Counts a request.
    pub fn request(&self, route: &str, status: u16, took: Duration) {
        let labels = RequestLabels {
            route: route.to_owned(),
            status,
        };
        self.requests.get_or_create(&labels).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// All of them as text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a text does not fail.
        let _written = encode(&mut text, &self.registry);
        text
    }
}

/// A number that counts up, for ids.
#[derive(Debug, Default)]
pub struct Numbers(AtomicU64);

impl Numbers {
    /// The next number, from 1.
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}
