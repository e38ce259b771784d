//! Threads that bind and plan statements: both go as deep as the statement nests, deeper than the
//! stack of an ordinary thread bears.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::exec::QueryError;

use super::error::SqlError;

/// Stack of such a thread: what the parser lets through fits.
const PLAN_STACK: usize = 64 << 20;

/// Nothing but its threads for blocking work is used: they wait a while for the next statement.
static PLANNERS: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_current_thread()
        .thread_name("pugmark-plan")
        .thread_stack_size(PLAN_STACK)
        .build()
});

/// Does `work` on a thread with a large stack; it may use what the calling runtime offers, as it
/// could here. Work that nobody waits for any more goes on.
pub(super) async fn on_large_stack<T: Send + 'static, F: Future<Output = Result<T, SqlError>>>(
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T, SqlError> {
    let planners = PLANNERS.as_ref().map_err(|error| {
        let same = std::io::Error::new(error.kind(), error.to_string());
        SqlError::Engine(same.into())
    })?;
    let runtime = Handle::current();
    let begin = move || planners.spawn_blocking(move || runtime.block_on(work()));
    // It panics where the system has no thread left.
    let answer = std::panic::catch_unwind(AssertUnwindSafe(begin)).map_err(|_| {
        let none = std::io::Error::other("the system gives no thread to plan on");
        SqlError::Engine(none.into())
    })?;
    answer.await.map_err(|_| QueryError::Panicked)?
}
