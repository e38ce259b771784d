//! Any text, asked of a tiny store: for fuzzers, and for the tests that do the same at random.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use pugmark_engine::storage::MemoryStorage;
use pugmark_engine::{BatchBuilder, Clock, Options, Store};
use tokio::runtime::Runtime;

use super::{Session, Settings, SqlError};
use crate::exec::QueryError;

/// What a statement may take.
const DEADLINE: Duration = Duration::from_millis(500);
/// When at last it must be over: on a busy machine, threads wait for their turn.
const PATIENCE: Duration = Duration::from_secs(20);
const MEMORY: usize = 16 << 20;
/// 2025-03-01T00:00:00Z.
const START: i64 = 1_740_787_200_000_000;

fn asked() -> &'static (Session, Runtime) {
    static ASKED: OnceLock<(Session, Runtime)> = OnceLock::new();
    ASKED.get_or_init(|| {
        let made = make();
        #[expect(clippy::expect_used, reason = "nothing in it depends on the text")]
        made.expect("a store in memory opens")
    })
}

/// A store in memory with a few users, and what runs statements over it.
fn make() -> Result<(Session, Runtime), Box<dyn std::error::Error>> {
    let options = Options {
        clock: Clock::custom(|| START + 40 * 86_400_000_000),
        ..Options::default()
    };
    let store = Store::builder("")
        .storage(Arc::new(MemoryStorage::new()))
        .options(options)
        .open()?;
    let mut batch = BatchBuilder::new();
    for number in 0..200_i64 {
        let user = format!("user-{}", number % 17);
        let event = ["view", "cart", "purchase", "visit"][number as usize % 4];
        let at = START + number * 977_000_000;
        let row = batch.event(&user, at, event);
        let row = row.value("price", &(number as f64 / 4.0).into());
        let row = row.value("product_id", &(number % 9).into());
        row.value(
            "brand",
            &["acme", "zeta", "ünï"][number as usize % 3].into(),
        );
    }
    store.append(batch.finish()?)?;
    store.set_traits(
        "user-1",
        START,
        [("plan", "pro".into()), ("age", 30.into())],
    )?;
    let settings = Settings {
        deadline: Some(DEADLINE),
        memory_bytes: MEMORY,
        spill_bytes: 4 << 20,
        threads: Some(2),
        ..Settings::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()?;
    Ok((Session::new(store).with_settings(settings), runtime))
}

/// Asks a text; what was wrong with it, if anything.
///
/// # Panics
/// Where a thread panicked, or the statement went on long after its deadline.
pub fn statement(text: &str) -> Result<(), SqlError> {
    let (session, runtime) = asked();
    let start = Instant::now();
    let result = runtime.block_on(async {
        for statement in Session::parse(text)? {
            // Settings are those above.
            if statement.is_set() {
                continue;
            }
            let answer = session.run(statement).await?;
            let mut rows = answer.rows;
            while rows.try_next().await?.is_some() {}
        }
        Ok(())
    });
    let statements = text.matches(';').count() as u32 + 1;
    let took = start.elapsed();
    assert!(took < PATIENCE * statements, "{took:?}: {text}");
    if let Err(SqlError::Query(QueryError::Panicked)) = &result {
        panic!("a thread panicked: {text}");
    }
    result
}
