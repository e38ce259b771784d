//! Threads of a question begin on processors of their own.
//!
//! Linux looks for a free processor when a thread is made. Those that a virtual machine's host has
//! put aside, because they were idle, do not count as free: the new thread then waits on the same
//! processor behind the one that made it, until the scheduler's next tick (4 ms) finds it there.
//! Most questions that bitmaps answer are over by then, and had half of the machine. So whoever
//! asks looks up after a while; where a helper has not begun it makes room, and the helper moves to
//! another processor before it goes on.

use std::cell::Cell;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So long a helper may take to begin on a processor that has to be woken.
const PATIENCE: Duration = Duration::from_micros(100);
/// So long room is made; on a busy machine a helper may need more, and gets no more.
const ROOM: Duration = Duration::from_micros(500);

/// The helpers of one question, and where it was asked.
#[derive(Debug)]
pub(super) struct Spread {
    helpers: usize,
    asked_at: Option<usize>,
    asked: Instant,
    /// So long room is made.
    room: Duration,
    begun: Mutex<usize>,
    changed: Condvar,
}

impl Spread {
    /// `helpers` threads will be made by this one.
    pub(super) fn new(helpers: usize) -> Self {
        Self {
            helpers,
            asked_at: processor::current(),
            asked: Instant::now(),
            room: ROOM,
            begun: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// A helper begins: elsewhere than where the question was asked, if there is another place.
    pub(super) fn begin(&self) {
        if let Some(processor) = self.asked_at {
            processor::leave(processor);
        }
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_all();
    }

    /// To be called now and then by the thread that asked, which keeps in `settled` that there is
    /// no more to be done: makes room for helpers that have not begun.
    pub(super) fn make_room(&self, settled: &Cell<bool>) {
        if settled.get() || self.asked.elapsed() < PATIENCE {
            return;
        }
        settled.set(true);
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        // Whether all began or time is over, the work goes on.
        let _all_or_late = self
            .changed
            .wait_timeout_while(begun, self.room, |begun| *begun < self.helpers);
    }
}

#[cfg(target_os = "linux")]
mod processor {
    use nix::sched::{sched_getaffinity, sched_getcpu, sched_setaffinity};
    use nix::unistd::Pid;

    /// The processor that this thread runs on.
    pub(super) fn current() -> Option<usize> {
        sched_getcpu().ok()
    }

    /// Moves this thread to another one than `processor`, of those that it may use; what cannot be
    /// done is left undone.
    pub(super) fn leave(processor: usize) {
        let this = Pid::from_raw(0);
        if current() != Some(processor) {
            return;
        }
        let Ok(allowed) = sched_getaffinity(this) else {
            return;
        };
        let mut others = allowed;
        if others.unset(processor).is_ok() && sched_setaffinity(this, &others).is_ok() {
            let _stays_there = sched_setaffinity(this, &allowed);
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod processor {
    pub(super) fn current() -> Option<usize> {
        None
    }

    pub(super) fn leave(_processor: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_until_helpers_begin_or_time_is_over() {
        let spread = Spread::new(1);
        std::thread::sleep(PATIENCE);
        let settled = Cell::new(false);
        spread.make_room(&settled);
        assert!(settled.get());
        assert!(spread.asked.elapsed() >= PATIENCE + ROOM, "nobody begins");
        // Far more room than two helpers need, who begin while it is made.
        let mut spread = Spread::new(2);
        spread.room = Duration::from_secs(30);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(20));
                    spread.begin();
                });
            }
            std::thread::sleep(PATIENCE);
            spread.make_room(&Cell::new(false));
            assert_eq!(*spread.begun.lock().unwrap(), 2, "both began");
        });
        assert!(spread.asked.elapsed() < spread.room);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_helper_leaves_and_may_use_the_same_processors_as_before() {
        use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
        use nix::unistd::Pid;
        let this = Pid::from_raw(0);
        let allowed = sched_getaffinity(this).unwrap();
        let here = processor::current().unwrap();
        // Kept where it is, so that it is certain that it must leave.
        let mut only_here = CpuSet::new();
        only_here.set(here).unwrap();
        sched_setaffinity(this, &only_here).unwrap();
        processor::leave(here);
        assert_eq!(processor::current(), Some(here), "there is no other place");
        assert_eq!(sched_getaffinity(this).unwrap(), only_here);
        sched_setaffinity(this, &allowed).unwrap();
        if allowed != only_here {
            // Once it has left, it may be moved back: hardly ever twenty times at once.
            let left = (0..20).any(|_| {
                let now = processor::current().unwrap();
                processor::leave(now);
                processor::current() != Some(now)
            });
            assert!(left, "there are other processors");
            assert_eq!(sched_getaffinity(this).unwrap(), allowed);
        }
    }
}
