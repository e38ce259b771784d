//! Statements stopped by a connection other than their own.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The connections whose statements may be stopped.
#[derive(Debug, Default)]
pub(super) struct Cancels {
    known: Mutex<HashMap<i32, (i32, Arc<Cancelling>)>>,
    last: AtomicI32,
}

/// Whether the statement of a connection is to stop.
#[derive(Debug, Default)]
pub(super) struct Cancelling {
    asked: AtomicBool,
    told: Notify,
}

/// A connection among those; taken off when it is dropped.
#[derive(Debug)]
pub(super) struct Cancellable {
    all: Arc<Cancels>,
    /// The number of the connection.
    pub(super) process: i32,
    /// What only its client knows.
    pub(super) secret: i32,
    /// Whether its statement is to stop.
    pub(super) cancelling: Arc<Cancelling>,
}

impl Cancels {
    /// Takes a connection up.
    pub(super) fn add(self: &Arc<Self>) -> Result<Cancellable, getrandom::Error> {
        let mut random = [0; 4];
        getrandom::fill(&mut random)?;
        let secret = i32::from_be_bytes(random);
        let cancelling = Arc::new(Cancelling::default());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut process = self.last.fetch_add(1, Ordering::Relaxed) & i32::MAX;
        while process == 0 || known.contains_key(&process) {
            process = self.last.fetch_add(1, Ordering::Relaxed) & i32::MAX;
        }
        known.insert(process, (secret, Arc::clone(&cancelling)));
        Ok(Cancellable {
            all: Arc::clone(self),
            process,
            secret,
            cancelling,
        })
    }

    /// Stops the statement of a connection, for somebody who knows its secret.
    pub(super) fn cancel(&self, process: i32, secret: &[u8]) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((own, cancelling)) = known.get(&process)
            && bool::from(subtle::ConstantTimeEq::ct_eq(
                &own.to_be_bytes()[..],
                secret,
            ))
        {
            cancelling.asked.store(true, Ordering::Release);
            cancelling.told.notify_waiters();
        }
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        let mut known = self
            .all
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        known.remove(&self.process);
    }
}

impl Cancelling {
    /// A statement begins: what was asked before is not about it.
    pub(super) fn begin(&self) {
        self.asked.store(false, Ordering::Release);
    }

    /// Ends when the statement is to stop.
    pub(super) async fn asked(&self) {
        loop {
            let told = self.told.notified();
            tokio::pin!(told);
            told.as_mut().enable();
            if self.asked.load(Ordering::Acquire) {
                return;
            }
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_knows_the_secret_stops_a_statement() {
        let all = Arc::new(Cancels::default());
        let (one, other) = (all.add().unwrap(), all.add().unwrap());
        assert_ne!(one.process, other.process);
        all.cancel(one.process, &one.secret.wrapping_add(1).to_be_bytes());
        all.cancel(one.process, b"");
        assert!(futures::poll!(Box::pin(one.cancelling.asked())).is_pending());
        all.cancel(one.process, &one.secret.to_be_bytes());
        one.cancelling.asked().await;
        one.cancelling.begin();
        assert!(futures::poll!(Box::pin(one.cancelling.asked())).is_pending());
        let process = one.process;
        drop(one);
        all.cancel(process, b"abcd");
        assert_eq!(all.known.lock().unwrap().len(), 1);
    }
}
