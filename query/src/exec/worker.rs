//! What a thread of a query keeps between morsels.

use pugmark_engine::bitmap::CONTAINER_BITS;

use crate::behaviour::Skipped;
use crate::kernel::DidScratch;

use super::control::{Control, QueryError};
use super::gather::Gather;
use super::in_order::InOrder;
use super::memory::Reservation;
use super::ordered::OrderedScratch;
use super::scan::DENSE_STARTS;

/// Working memory of one thread, grown once and used again.
#[derive(Debug)]
pub(crate) struct Worker<'c> {
    pub(crate) control: &'c Control,
    /// Row starts of a container.
    pub(crate) starts: Vec<u32>,
    /// Number of events of each user.
    pub(crate) counts: Vec<u64>,
    pub(crate) gather: Gather<'c>,
    pub(crate) in_order: InOrder<'c>,
    pub(crate) did: DidScratch,
    pub(crate) skipped: Skipped,
    pub(crate) ordered: OrderedScratch,
    /// Of what the rows of a plain funnel hold.
    pub(crate) held: Reservation<'c>,
    memory: Reservation<'c>,
}

impl<'c> Worker<'c> {
    /// A thread's memory, not yet reserved.
    pub(crate) fn new(control: &'c Control) -> Self {
        Self {
            control,
            starts: vec![0; DENSE_STARTS],
            counts: Vec::new(),
            gather: Gather::new(control),
            in_order: InOrder::new(control),
            did: DidScratch::default(),
            skipped: Skipped::default(),
            ordered: OrderedScratch::default(),
            held: control.reservation(),
            memory: control.reservation(),
        }
    }

    /// Reserves what every worker takes.
    pub(crate) fn reserve(&mut self) -> Result<(), QueryError> {
        self.memory.at_least(WORKER_BYTES)
    }

    /// Reserves what bitmaps tell of `dids` predicates besides.
    pub(crate) fn reserve_bounds(&mut self, dids: usize) -> Result<(), QueryError> {
        // The predicate's own, and mostly one of existence; two words each.
        self.memory
            .at_least(WORKER_BYTES + dids * 4 * (CONTAINER_BITS / 8))
    }

    /// Reserves the rows of `users` users of `runs` runs besides.
    pub(crate) fn reserve_rows(&mut self, runs: usize, users: usize) -> Result<(), QueryError> {
        let bytes = runs * (CONTAINER_BITS / 8) + users * size_of::<u32>();
        self.memory.at_least(WORKER_BYTES + bytes)
    }
}

/// Two tables of row starts and one of counts.
const WORKER_BYTES: usize = DENSE_STARTS * (4 + 4 + 8);
