//! What a request is refused with: a status, and a JSON object of `code` and `message`.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pugmark_query::sql::SqlError;
use serde_json::json;

use super::super::fault::Fault;
use super::super::ingest::message::MessageProblem;
use super::super::ingest::writer::{IngestError, is_refusal};
use super::super::keys::Denied;
use super::super::service::Refused;
use super::super::space::NoRoom;

/// Why a request is refused.
#[derive(Debug)]
pub(super) struct Failure {
    /// The status.
    pub(super) status: StatusCode,
    /// What went wrong, for programs.
    pub(super) code: &'static str,
    /// What went wrong, for people.
    pub(super) message: String,
}

impl Failure {
    /// A failure of a status.
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    /// Something in the request is wrong.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    /// There is too much to do.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    }

    /// True where the same request may work in a moment.
    fn is_passing(&self) -> bool {
        matches!(
            self.status,
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS
        )
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({ "code": self.code, "message": self.message }).to_string();
        let kind = [(header::CONTENT_TYPE, "application/json")];
        let passing = self.is_passing();
        let mut response = (self.status, kind, body).into_response();
        let headers = response.headers_mut();
        if passing {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let asked = HeaderValue::from_static("Basic realm=\"pugmark\", charset=\"UTF-8\"");
            headers.insert(header::WWW_AUTHENTICATE, asked);
        }
        response
    }
}

impl From<Denied> for Failure {
    fn from(denied: Denied) -> Self {
        let (status, code) = match denied {
            Denied::Unknown => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Denied::Scope => (StatusCode::FORBIDDEN, "forbidden"),
        };
        Self::new(status, code, denied.to_string())
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Denied(denied) => denied.into(),
            Refused::TooMany(_) => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_requests",
                refused.to_string(),
            ),
        }
    }
}

impl From<MessageProblem> for Failure {
    fn from(problem: MessageProblem) -> Self {
        match problem {
            MessageProblem::NoRoom => Self::busy(problem.to_string()),
            _ => Self::bad(problem.to_string()),
        }
    }
}

impl From<NoRoom> for Failure {
    fn from(_: NoRoom) -> Self {
        Self::busy("too much is held for clients; send it again in a second")
    }
}

impl From<IngestError> for Failure {
    fn from(error: IngestError) -> Self {
        let message = error.to_string();
        match error {
            IngestError::Busy | IngestError::Closing => Self::busy(message),
            IngestError::Write(ref refused) | IngestError::Partly(ref refused)
                if is_refusal(refused) =>
            {
                Self::bad(message)
            }
            IngestError::Write(_) | IngestError::Partly(_) => {
                tracing::error!(%error, "events could not be written");
                // Sent again with their message ids, what was stored is not stored twice.
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "not_written", message)
            }
        }
    }
}

impl From<SqlError> for Failure {
    fn from(error: SqlError) -> Self {
        let message = error.to_string();
        let (status, code) = match Fault::of(&error) {
            Fault::Statement => (StatusCode::BAD_REQUEST, "bad_statement"),
            Fault::Memory => (StatusCode::UNPROCESSABLE_ENTITY, "out_of_memory"),
            Fault::Time => (StatusCode::UNPROCESSABLE_ENTITY, "too_slow"),
            Fault::Cancelled => (StatusCode::CONFLICT, "cancelled"),
            Fault::Failed => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
        };
        Self::new(status, code, message)
    }
}
