//! Whose fault it is that a statement has no answer.

use pugmark_query::QueryError;
use pugmark_query::sql::{DataFusionError, SqlError};

/// Why a statement has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is wrong.
    Statement,
    /// It wants more memory than it may have.
    Memory,
    /// It takes longer than it may.
    Time,
    /// Somebody stopped it.
    Cancelled,
    /// The service could not answer it.
    Failed,
}

impl Fault {
    /// The fault of an error; what is the service's own is logged.
    pub(super) fn of(error: &SqlError) -> Self {
        let fault = of_sql(error);
        if fault == Self::Failed {
            tracing::error!(%error, "a statement failed");
        }
        fault
    }
}

fn of_sql(error: &SqlError) -> Fault {
    match error {
        SqlError::Statement { .. } => Fault::Statement,
        SqlError::Query(error) => of_query(error),
        SqlError::Engine(error) => match error.find_root() {
            DataFusionError::External(inner) => {
                let sql = inner.downcast_ref::<SqlError>().map(of_sql);
                let query = || inner.downcast_ref::<QueryError>().map(of_query);
                sql.or_else(query).unwrap_or(Fault::Failed)
            }
            DataFusionError::ResourcesExhausted(_) => Fault::Memory,
            DataFusionError::IoError(_) | DataFusionError::Internal(_) => Fault::Failed,
            _ => Fault::Statement,
        },
        _ => Fault::Failed,
    }
}

fn of_query(error: &QueryError) -> Fault {
    match error {
        QueryError::OutOfMemory { .. } => Fault::Memory,
        QueryError::DeadlineExceeded(_) => Fault::Time,
        QueryError::Cancelled => Fault::Cancelled,
        QueryError::Invalid(_) => Fault::Statement,
        _ => Fault::Failed,
    }
}
