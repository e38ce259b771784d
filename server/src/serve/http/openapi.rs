//! What is served, for programs: an OpenAPI document.

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value as Json, json};

use super::track::{PATHS, as_json};

/// The document.
pub(super) async fn document() -> Response {
    as_json(StatusCode::OK, &api())
}

/// All paths with what they take and give.
fn api() -> Json {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Pugmark",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Events in by the Segment tracking API, answers out by SQL.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "basic": [] }, { "bearer": [] }],
        "paths": paths(),
        "components": {
            "securitySchemes": {
                "basic": { "type": "http", "scheme": "basic", "description": "The key as the user" },
                "bearer": { "type": "http", "scheme": "bearer", "description": "The key" },
            },
            "schemas": schemas(),
        },
    })
}

fn paths() -> Map<String, Json> {
    let mut paths = Map::new();
    for (name, short, kind) in PATHS {
        for path in [
            format!("/v1/{name}"),
            format!("/v1/{short}"),
            format!("/{name}"),
            format!("/{short}"),
        ] {
            let schema = match kind {
                Some(_) => "Call",
                None => "Batch",
            };
            paths.insert(path, json!({ "post": send(name, schema) }));
        }
    }
    for path in ["/projects/{key}/settings", "/v1/projects/{key}/settings"] {
        let mut asked = get("What browsers and apps fetch when they start");
        asked["parameters"] = json!([in_path("key", "The write key")]);
        asked["security"] = json!([]);
        paths.insert(path.to_owned(), json!({ "get": asked }));
    }
    paths.insert("/v1/sql".to_owned(), statements());
    let mut list = get("The statements that run");
    list["responses"]["401"] = failure();
    list["responses"]["403"] = failure();
    paths.insert("/v1/queries".to_owned(), json!({ "get": list }));
    paths.insert(
        "/v1/queries/{id}".to_owned(),
        json!({ "delete": {
            "summary": "Stop a statement",
            "parameters": [in_path("id", "Its id, the header X-Query-Id of its answer")],
            "responses": with_failures(&[400, 401, 403, 404, 429], &ok_json("What was stopped")),
        }}),
    );
    paths.insert("/v1/import".to_owned(), json!({ "post": file() }));
    let mut progress = get("How far an import is");
    progress["parameters"] = json!([in_path("key", "Its Idempotency-Key")]);
    progress["responses"] = with_failures(&[400, 401, 403, 404, 429], &ok_json("How far it is"));
    paths.insert("/v1/imports/{key}".to_owned(), json!({ "get": progress }));
    for (path, summary) in [
        ("/health", "Whether the process answers"),
        ("/ready", "Whether events are taken"),
        ("/openapi.json", "This document"),
    ] {
        let mut asked = get(summary);
        asked["security"] = json!([]);
        asked["responses"]["503"] = failure();
        paths.insert(path.to_owned(), json!({ "get": asked }));
    }
    paths.insert(
        "/metrics".to_owned(),
        json!({ "get": {
            "summary": "Figures of the service",
            "responses": with_failures(&[401, 403, 429], &json!({
                "description": "OpenMetrics",
                "content": { "application/openmetrics-text": { "schema": { "type": "string" } } },
            })),
        }}),
    );
    paths
}

fn schemas() -> Json {
    let text = json!({ "type": "string" });
    json!({
        "Failure": {
            "type": "object",
            "required": ["code", "message"],
            "properties": { "code": text, "message": text },
        },
        "Sent": {
            "type": "object",
            "required": ["success"],
            "properties": {
                "success": { "type": "boolean" },
                "accepted": { "type": "integer" },
                "rejected_count": { "type": "integer" },
                "rejected": { "type": "array", "items": {
                    "type": "object",
                    "required": ["index", "code", "message"],
                    "properties": { "index": { "type": "integer" }, "code": text, "message": text },
                }},
            },
        },
        "Call": {
            "type": "object",
            "properties": {
                "type": text, "userId": { "type": ["string", "number"] },
                "anonymousId": { "type": ["string", "number"] }, "event": text, "name": text,
                "groupId": { "type": ["string", "number"] },
                "previousId": { "type": ["string", "number"] }, "messageId": text,
                "timestamp": text, "sentAt": text, "properties": { "type": "object" },
                "traits": { "type": "object" }, "context": { "type": "object" },
                "writeKey": text,
            },
        },
        "Batch": {
            "type": "object",
            "required": ["batch"],
            "properties": {
                "batch": { "type": "array", "items": { "$ref": "#/components/schemas/Call" } },
                "sentAt": text, "context": { "type": "object" }, "writeKey": text,
            },
        },
        "Statement": statement_schema(),
        "Answer": answer_schema(),
    })
}

fn statement_schema() -> Json {
    json!({
        "type": "object",
        "required": ["sql"],
        "additionalProperties": false,
        "properties": {
            "sql": { "type": "string" },
            "params": {
                "type": "object",
                "additionalProperties": { "type": ["string", "number", "boolean", "null"] },
            },
        },
    })
}

fn answer_schema() -> Json {
    let text = json!({ "type": "string" });
    json!({
        "type": "object",
        "required": ["query_id", "columns", "rows", "remarks", "statistics"],
        "properties": {
            "query_id": text,
            "columns": { "type": "array", "items": {
                "type": "object",
                "required": ["name", "type"],
                "properties": { "name": text, "type": text },
            }},
            "rows": { "type": "array", "items": { "type": "object" } },
            "remarks": { "type": "array", "items": text },
            "error": { "$ref": "#/components/schemas/Failure" },
            "statistics": {
                "type": "object",
                "required": ["seconds", "rows"],
                "properties": { "seconds": { "type": "number" }, "rows": { "type": "integer" } },
            },
        },
    })
}

fn send(name: &str, schema: &str) -> Json {
    let schema = json!({ "$ref": format!("#/components/schemas/{schema}") });
    let taken = json!({
        "description": "Stored durably",
        "content": { "application/json": {
            "schema": { "$ref": "#/components/schemas/Sent" },
        }},
    });
    json!({
        "summary": format!("Send: {name}"),
        "requestBody": {
            "required": true,
            "content": {
                "application/json": { "schema": schema },
                "text/plain": { "schema": { "type": "string" } },
            },
        },
        "responses": with_failures(&[400, 401, 403, 408, 413, 415, 429, 503], &taken),
    })
}

fn statements() -> Json {
    let text = |_: &str| json!({ "schema": { "type": "string" } });
    let rows = json!({
        "description": "Rows, in the form that Accept names",
        "content": {
            "application/json": { "schema": { "$ref": "#/components/schemas/Answer" } },
            "application/x-ndjson": text("lines"),
            "text/csv": text("lines"),
            "text/plain": text("table"),
            "application/vnd.apache.arrow.stream": text("bytes"),
            "application/vnd.apache.parquet": text("bytes"),
        },
    });
    let responses = with_failures(
        &[
            400, 401, 403, 405, 406, 408, 409, 413, 415, 422, 429, 500, 503,
        ],
        &rows,
    );
    json!({
        "post": {
            "summary": "Ask in SQL; $name stands for a parameter",
            "requestBody": {
                "required": true,
                "content": {
                    "text/plain": { "schema": { "type": "string" } },
                    "application/json": { "schema": { "$ref": "#/components/schemas/Statement" } },
                },
            },
            "responses": responses,
        },
        "get": {
            "summary": "Ask in SQL",
            "parameters": [{
                "name": "query", "in": "query", "required": true, "schema": { "type": "string" },
            }],
            "responses": responses,
        },
    })
}

/// A file of events.
fn file() -> Json {
    let parameter = |name: &str, place: &str, kind: &str, needed: bool, about: &str| {
        json!({
            "name": name, "in": place, "required": needed, "description": about,
            "schema": { "type": kind },
        })
    };
    let text = |name, needed, about| parameter(name, "query", "string", needed, about);
    let mut ok = ok_json("What became of it");
    ok["content"]["application/json"]["example"] = super::import::example();
    json!({
        "summary": "Import a file of events",
        "parameters": [
            text("user", true, "The column of user ids"),
            text("time", true, "The column of times"),
            text("event", false, "The column (or columns) of event names"),
            text("event_name", false, "The name of all events"),
            text("format", false, "csv, tsv, ndjson or parquet; else its first bytes tell"),
            text("message_id", false, "The column of ids that come once"),
            text("time_unit", false, "s, ms or us"),
            text("time_format", false, "The layout of times"),
            text("delimiter", false, "Between fields"),
            text("columns", false, "Names of the columns of a file without a row of them"),
            text("types", false, "COLUMN=TYPE, and more behind commas"),
            text("skip", false, "Columns that are left out"),
            text("explode", false, "The array whose elements are the events"),
            parameter("strict", "query", "boolean", false, "Stop at the first row that cannot be taken"),
            parameter("Idempotency-Key", "header", "string", false, "What the import is called by"),
            parameter("Upload-Offset", "header", "integer", false, "Bytes that are here already"),
        ],
        "requestBody": {
            "required": true,
            "content": { "application/octet-stream": { "schema": { "type": "string", "format": "binary" } } },
        },
        "responses": with_failures(&[400, 401, 403, 408, 409, 413, 429, 503], &ok),
    })
}

fn get(summary: &str) -> Json {
    json!({ "summary": summary, "responses": { "200": ok_json(summary) } })
}

fn ok_json(description: &str) -> Json {
    json!({
        "description": description,
        "content": { "application/json": { "schema": { "type": "object" } } },
    })
}

fn in_path(name: &str, description: &str) -> Json {
    json!({
        "name": name, "in": "path", "required": true, "description": description,
        "schema": { "type": "string" },
    })
}

fn failure() -> Json {
    json!({
        "description": "Why not",
        "content": { "application/json": {
            "schema": { "$ref": "#/components/schemas/Failure" },
        }},
    })
}

fn with_failures(statuses: &[u16], ok: &Json) -> Json {
    let mut responses = Map::new();
    responses.insert("200".to_owned(), ok.clone());
    for status in statuses {
        responses.insert(status.to_string(), failure());
    }
    Json::Object(responses)
}
