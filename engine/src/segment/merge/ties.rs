//! Ranks of rows of different runs at one time, found again after a merge.
//!
//! A user whose rows of each input end before those of the next begin can have ties within one
//! input only, and there the ranks stand. Only users whose inputs meet in time are looked at row
//! by row, and so is everyone where names move into or out of an overflow run.

use std::ops::Range;

use super::super::names::NameRuns;
use super::super::segment::Segment;
use super::Piece;
use super::streams::{ContainerRows, Streams};
use crate::bitmap::{CONTAINER_BITS, Words};
use crate::error::Corruption;

/// About how many rows are put in order at once.
const SLICE_ROWS: usize = 1 << 20;

/// The ranks of one stream's rows, asked for in ascending order of rows.
#[derive(Default)]
pub(super) struct TieCursor {
    /// `[row of the source, rank]`, ascending.
    pairs: Vec<[u32; 2]>,
    next: usize,
}

impl TieCursor {
    /// True where no row from here on has a rank.
    pub(super) fn is_done(&self) -> bool {
        self.next >= self.pairs.len()
    }

    /// The rank of a row of the source, 0 for none. Rows come in ascending order.
    pub(super) fn rank(&mut self, row: u32) -> u32 {
        while let Some(&[found, rank]) = self.pairs.get(self.next) {
            if found >= row {
                return if found == row { rank } else { 0 };
            }
            self.next += 1;
        }
        0
    }
}

/// The ranks of all streams' rows in a piece.
pub(super) fn rank_ties<'a>(
    piece: &'a Piece<'a>,
    runs: &NameRuns,
) -> Result<Vec<TieCursor>, Corruption> {
    // Where names share a run before or after, its rows' ranks change even within one input.
    let mut streams = 0..piece.streams.len() as u32;
    let regrouped = runs.has_overflow || streams.any(|stream| piece.streams.is_listed(stream));
    rank(piece, runs, regrouped)
}

/// The ranks that the rows of a segment's runs must have, by run: `[row, rank]`, ascending.
pub(in super::super) fn recount_ties(segment: &Segment) -> Result<Vec<Vec<[u32; 2]>>, Corruption> {
    let streams = Streams::of_runs(segment);
    let keys: Vec<u16> = segment.any_users()?.keys().map(|(key, _)| key).collect();
    let meta = segment.meta();
    let piece = Piece {
        streams: &streams,
        containers: meta.first_container..=meta.last_container,
        keys,
        keep: None,
        stop: &|| false,
    };
    let cursors = rank(&piece, &NameRuns::identity(streams.len() as u32), true)?;
    Ok(cursors.into_iter().map(|cursor| cursor.pairs).collect())
}

/// True where ranks are given to rows that exist, each once, and count from 1.
pub(in super::super) fn rows_are_ranked(pairs: &[[u32; 2]], rows: u32) -> bool {
    pairs.iter().all(|&[row, rank]| row < rows && rank > 0)
        && pairs.is_sorted_by(|left, right| left[0] < right[0])
}

fn rank<'a>(
    piece: &'a Piece<'a>,
    runs: &NameRuns,
    regrouped: bool,
) -> Result<Vec<TieCursor>, Corruption> {
    let mut cursors = Vec::new();
    cursors.resize_with(piece.streams.len(), TieCursor::default);
    if piece.streams.names.len() < 2 {
        return Ok(cursors);
    }
    let mut ranker = Ranker {
        piece,
        members: members(piece, runs),
        loaded: ContainerRows::default(),
        cursors,
    };
    let mut meeting = Meeting::new();
    for &key in &piece.keys {
        let rows = if regrouped {
            ranker.everyone(key, &mut meeting)?
        } else {
            ranker.find_meeting(key, &mut meeting)?
        };
        if rows > 0 {
            ranker.rank(key, &meeting.users, rows)?;
        }
        if !regrouped {
            ranker.copy_others(key, &meeting.users)?;
        }
        meeting.users.clear();
    }
    for cursor in &mut ranker.cursors {
        cursor.pairs.sort_unstable();
    }
    Ok(ranker.cursors)
}

/// A stream with rows in the piece: its input and the run that its rows go to.
#[derive(Clone, Copy)]
struct Member {
    stream: u32,
    input: u32,
    run: u32,
}

/// The streams of the piece in the order of their inputs.
fn members(piece: &Piece<'_>, runs: &NameRuns) -> Vec<Member> {
    let mut members = Vec::new();
    for (name, &run) in runs.run_of.iter().enumerate() {
        for stream in piece.streams.of_name(name as u32) {
            let input = piece.streams.source(stream).input;
            members.push(Member { stream, input, run });
        }
    }
    members.sort_by_key(|member| member.input);
    members
}

/// Users of one container whose inputs meet in time.
struct Meeting {
    users: Words,
    /// For each user the latest time of the inputs so far, and first and last of the current.
    latest: Vec<i64>,
    current: Vec<(i64, i64)>,
    seen: Words,
    touched: Words,
}

impl Meeting {
    fn new() -> Self {
        Self {
            users: Words::new(),
            latest: vec![0; CONTAINER_BITS],
            current: vec![(0, 0); CONTAINER_BITS],
            seen: Words::new(),
            touched: Words::new(),
        }
    }

    fn touch(&mut self, low: u16, first: i64, last: i64) {
        let current = &mut self.current[usize::from(low)];
        if self.touched.contains(low) {
            *current = (current.0.min(first), current.1.max(last));
        } else {
            self.touched.insert(low);
            *current = (first, last);
        }
    }

    /// Ends an input: users whose rows begin before the earlier inputs' end are found.
    fn end_input(&mut self) {
        let Self {
            users,
            latest,
            current,
            seen,
            touched,
        } = self;
        touched.for_each(|low| {
            let (first, last) = current[usize::from(low)];
            let latest = &mut latest[usize::from(low)];
            if seen.contains(low) && *latest >= first {
                users.insert(low);
            }
            *latest = if seen.contains(low) {
                last.max(*latest)
            } else {
                last
            };
        });
        seen.or(touched);
        touched.clear();
    }
}

/// A row that may be tied: user, time, input, rank in the input, row of the source; then the run
/// it goes to and its stream.
type Candidate = ((u16, i64, u32, u32, u32), u32, u32);

struct Ranker<'a> {
    piece: &'a Piece<'a>,
    members: Vec<Member>,
    loaded: ContainerRows<'a>,
    cursors: Vec<TieCursor>,
}

impl<'a> Ranker<'a> {
    /// Finds the users whose inputs meet in time; returns the most rows that they may have.
    fn find_meeting(&mut self, key: u16, meeting: &mut Meeting) -> Result<usize, Corruption> {
        let mut rows = 0;
        let mut input = 0;
        for member in &self.members {
            if member.input != input {
                meeting.end_input();
                input = member.input;
            }
            self.piece
                .streams
                .load(member.stream, key, &mut self.loaded)?;
            for (place, &low) in self.loaded.lows.iter().enumerate() {
                if let [first, .., last] | [first @ last] = self.loaded.times_of(place) {
                    meeting.touch(low, *first, *last);
                }
            }
            rows += self.loaded.rows_len();
        }
        meeting.end_input();
        meeting.seen.clear();
        Ok(if meeting.users.is_empty() { 0 } else { rows })
    }

    /// Takes every user of the container; returns their rows.
    fn everyone(&mut self, key: u16, meeting: &mut Meeting) -> Result<usize, Corruption> {
        let mut rows = 0;
        for member in &self.members {
            self.piece
                .streams
                .load_users(member.stream, key, &mut self.loaded)?;
            meeting.users.extend(self.loaded.lows.iter().copied());
            rows += self.loaded.rows_len();
        }
        Ok(rows)
    }

    /// Ranks the rows of some users, so many users at a time that memory stays small.
    fn rank(&mut self, key: u16, users: &Words, rows: usize) -> Result<(), Corruption> {
        let slices = (rows / SLICE_ROWS + 1).min(CONTAINER_BITS) as u32;
        let width = (CONTAINER_BITS as u32).div_ceil(slices);
        let mut candidates = Vec::new();
        for slice in 0..slices {
            let lows = slice * width..(slice + 1) * width;
            if users.len_in(lows.clone()) == 0 {
                continue;
            }
            candidates.clear();
            self.collect(key, users, lows, &mut candidates)?;
            candidates.sort_unstable();
            let same = |left: &Candidate, right: &Candidate| {
                (left.0.0, left.0.1) == (right.0.0, right.0.1)
            };
            for group in candidates.chunk_by(same) {
                if group.iter().all(|candidate| candidate.1 == group[0].1) {
                    continue;
                }
                for (rank, &((_, _, _, _, row), _, stream)) in (1..).zip(group) {
                    self.cursors[stream as usize].pairs.push([row, rank]);
                }
            }
        }
        Ok(())
    }

    fn collect(
        &mut self,
        key: u16,
        users: &Words,
        lows: Range<u32>,
        candidates: &mut Vec<Candidate>,
    ) -> Result<(), Corruption> {
        for member in &self.members {
            let loaded = &mut self.loaded;
            self.piece.streams.load(member.stream, key, loaded)?;
            let from = loaded
                .lows
                .partition_point(|&low| u32::from(low) < lows.start);
            let to = loaded
                .lows
                .partition_point(|&low| u32::from(low) < lows.end);
            for place in from..to {
                let low = loaded.lows[place];
                if !users.contains(low) {
                    continue;
                }
                let times = loaded.times_of(place).iter();
                for (&time, row) in times.zip(loaded.rows_of(place)) {
                    let order = (low, time, member.input, loaded.rank(row), row);
                    candidates.push((order, member.run, member.stream));
                }
            }
        }
        Ok(())
    }

    /// Keeps the ranks that the inputs gave the rows of all users but `users`.
    fn copy_others(&mut self, key: u16, users: &Words) -> Result<(), Corruption> {
        for member in &self.members {
            let run = self.piece.streams.source(member.stream).run;
            let pairs = run.ties(run.container_rows(key)?)?.pairs();
            if pairs.is_empty() {
                continue;
            }
            let loaded = &mut self.loaded;
            self.piece.streams.load_users(member.stream, key, loaded)?;
            let cursor = &mut self.cursors[member.stream as usize];
            let kept = pairs.iter().filter(|pair| {
                let low = loaded.user_of(pair[0]);
                low.is_some_and(|low| !users.contains(low))
            });
            cursor.pairs.extend(kept);
        }
        Ok(())
    }
}
