//! One state of the dictionary: sealed runs by ordinal, then the parts of the tail.

use std::sync::Arc;

use super::run::{Candidates, NOT_FOUND, Run, RunCursor};
use super::spelling::Spelling;
use super::tail::Part;
use crate::error::{Corruption, ReadError};
use crate::ids::UserKey;
use crate::limits::MAX_NAME_BYTES;

/// Runs and parts cover the ordinals without a gap; the last part grows.
#[derive(Clone, Debug)]
pub(super) struct Layers {
    pub(super) runs: Vec<Arc<Run>>,
    pub(super) parts: Vec<Arc<Part>>,
}

impl Layers {
    /// The latest ordinal below `limit` of the id; no run reaches beyond `limit`.
    pub(super) fn find(
        &self,
        id: Spelling<'_>,
        hash: u64,
        limit: u32,
    ) -> Result<Option<u32>, ReadError> {
        for part in self.parts.iter().rev() {
            let limit = limit.saturating_sub(part.first());
            if let Some(position) = part.read().find(id, hash, limit) {
                return Ok(Some(part.first() + position));
            }
        }
        for run in self.runs.iter().rev() {
            if let Some(position) = run.find(id, hash)? {
                return Ok(Some(run.meta().first + position));
            }
        }
        Ok(None)
    }

    /// The ordinals of any number of ids, [`NOT_FOUND`] for those without.
    pub(super) fn find_many(
        &self,
        ids: &[Spelling<'_>],
        hashes: &[u64],
        found: &mut [u32],
        candidates: &mut Candidates,
    ) -> Result<(), ReadError> {
        found.fill(NOT_FOUND);
        for part in self.parts.iter().rev() {
            let held = part.read();
            if held.len() == 0 {
                continue;
            }
            for ((id, &hash), ordinal) in ids.iter().zip(hashes).zip(found.iter_mut()) {
                if *ordinal == NOT_FOUND {
                    let position = held.find(*id, hash, u32::MAX);
                    *ordinal = position.map_or(NOT_FOUND, |position| part.first() + position);
                }
            }
        }
        for run in self.runs.iter().rev() {
            run.find_many(ids, hashes, found, candidates)?;
        }
        Ok(())
    }

    /// Reads ids by ordinal.
    pub(super) fn cursor(&self) -> Cursor<'_> {
        Cursor {
            layers: self,
            run: None,
            buffer: [0; MAX_NAME_BYTES],
        }
    }
}

/// Reads ids by ordinal, fastest in ascending order: a block of a run is looked up once.
#[derive(Debug)]
pub(super) struct Cursor<'l> {
    layers: &'l Layers,
    run: Option<(&'l Run, RunCursor<'l>)>,
    buffer: [u8; MAX_NAME_BYTES],
}

impl Cursor<'_> {
    /// Calls `then` with the id of an ordinal that some layer holds; with `None` where it was
    /// erased. No lock is held meanwhile.
    pub(super) fn with_id<R>(
        &mut self,
        ordinal: u32,
        then: impl FnOnce(Option<UserKey<'_>>) -> R,
    ) -> Result<R, Corruption> {
        let sealed = self.layers.runs.last().map_or(0, |run| run.end());
        if ordinal >= sealed {
            return Ok(self.with_tail_id(ordinal, then));
        }
        let within = |run: &Run| (run.meta().first..run.end()).contains(&ordinal);
        if !self.run.as_ref().is_some_and(|(run, _)| within(run)) {
            let index = self.layers.runs.partition_point(|run| run.end() <= ordinal);
            let run: &Run = &self.layers.runs[index];
            self.run = Some((run, run.cursor()));
        }
        match &mut self.run {
            Some((run, cursor)) => cursor
                .id(ordinal - run.meta().first)?
                .with_key(then)
                .map_err(|what| cursor.damaged(what)),
            None => Ok(then(None)),
        }
    }

    fn with_tail_id<R>(&mut self, ordinal: u32, then: impl FnOnce(Option<UserKey<'_>>) -> R) -> R {
        let parts = &self.layers.parts;
        let index = parts.partition_point(|part| part.first() <= ordinal);
        let part = &parts[index.saturating_sub(1)];
        let held = part.read();
        let id = match held.id(ordinal - part.first()) {
            Spelling::Bytes(form, bytes) => {
                let copy = &mut self.buffer[..bytes.len()];
                copy.copy_from_slice(bytes);
                Spelling::Bytes(form, copy)
            }
            Spelling::Int(number) => Spelling::Int(number),
            Spelling::Erased => Spelling::Erased,
        };
        drop(held);
        match id.with_key(then) {
            Ok(result) => result,
            // The tail was filled from `UserKey`s, never from bytes of a file.
            Err(what) => unreachable!("an id on the heap {what}"),
        }
    }
}
