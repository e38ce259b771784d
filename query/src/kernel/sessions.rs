//! Sessions of one user's times, which come in any order.
//!
//! Times are put into buckets no wider than the gap, so that the events of a bucket are one session's: only
//! the first and last time of each bucket, met in order, are compared, and nothing is sorted. Where that would
//! take too many buckets, times are sorted.

/// Events with no gap between neighbours that is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The time of the first event.
    pub started: i64,
    /// The time of the last.
    pub ended: i64,
    /// How many there are, at least 1.
    pub events: u64,
}

/// Cuts the times of one user after another into sessions. Keeps its working memory.
#[derive(Clone, Debug)]
pub struct SessionCutter {
    /// The longest gap inside a session.
    gap: u64,
    times: Collected,
}

/// The times of the user at hand.
#[derive(Clone, Debug)]
enum Collected {
    Buckets(Buckets),
    Listed(Vec<i64>),
}

#[derive(Clone, Debug)]
struct Buckets {
    /// Where the first bucket begins.
    first: i64,
    /// Two to this power is the width of a bucket.
    width_bits: u32,
    /// The last one takes what is later, too.
    buckets: Vec<Session>,
    /// The places of buckets that are not empty, as they were met; what is behind `filled` means nothing.
    places: Vec<u32>,
    filled: usize,
    /// Bit `b`: bucket `b` is not empty. All zero between users.
    bits: Vec<u64>,
    /// Bit `w`: word `w` of `bits` is not 0.
    words: [u64; MOST_BUCKETS / 64 / 64],
}

/// Most buckets: more would be far from the processor.
const MOST_BUCKETS: usize = 1 << 15;

const NOTHING: Session = Session {
    started: i64::MAX,
    ended: i64::MIN,
    events: 0,
};

impl Session {
    /// Goes on with what is not earlier; `false` where that is another session.
    #[inline]
    fn goes_on(&mut self, next: &Self, gap: u64) -> bool {
        // Not negative; as a number without a sign it cannot overflow.
        let joined = next.started.wrapping_sub(self.ended) as u64 <= gap;
        if joined {
            self.ended = next.ended;
            self.events += next.events;
        }
        joined
    }
}

impl SessionCutter {
    /// Cuts where neighbours are more than `gap` apart, which is not negative. No time is before `first` or
    /// after `last`.
    pub fn new(gap: i64, (first, last): (i64, i64)) -> Self {
        let gap = gap.unsigned_abs();
        let width_bits = (gap + 1).ilog2();
        let buckets = last.max(first).wrapping_sub(first) as u64 >> width_bits;
        let times = match buckets < MOST_BUCKETS as u64 {
            true => Collected::Buckets(Buckets::new(first, width_bits, buckets as usize + 1)),
            false => Collected::Listed(Vec::new()),
        };
        Self { gap, times }
    }

    /// Calls `each` with the sessions of a user's times, which ascend.
    #[inline]
    pub fn cut_ordered(&self, times: &[i64], mut each: impl FnMut(Session)) {
        let (Some(&first), gap) = (times.first(), self.gap) else {
            return;
        };
        let mut session = Session {
            started: first,
            ended: first,
            events: 0,
        };
        for &time in times {
            // Not negative; as a number without a sign it cannot overflow.
            if time.wrapping_sub(session.ended) as u64 > gap {
                each(session);
                (session.started, session.events) = (time, 0);
            }
            session.ended = time;
            session.events += 1;
        }
        each(session);
    }

    /// Adds times of the user at hand.
    #[inline]
    pub fn add(&mut self, times: &[i64]) {
        match &mut self.times {
            Collected::Buckets(buckets) => buckets.add(times),
            Collected::Listed(listed) => listed.extend_from_slice(times),
        }
    }

    /// Calls `each` with the sessions of all that was added, in order, and goes on to the next user.
    #[inline]
    pub fn finish(&mut self, each: impl FnMut(Session)) {
        match &mut self.times {
            Collected::Buckets(buckets) => buckets.take(self.gap, each),
            Collected::Listed(listed) => {
                listed.sort_unstable();
                let events = listed.iter().map(|&time| Session {
                    started: time,
                    ended: time,
                    events: 1,
                });
                join(events, self.gap, each);
                listed.clear();
            }
        }
    }

    /// Bytes that it holds.
    pub fn byte_len(&self) -> usize {
        match &self.times {
            Collected::Buckets(buckets) => {
                let each = size_of::<Session>() + size_of::<u32>();
                buckets.buckets.len() * each + size_of_val(buckets.bits.as_slice())
            }
            Collected::Listed(listed) => listed.capacity() * size_of::<i64>(),
        }
    }
}

impl Buckets {
    fn new(first: i64, width_bits: u32, buckets: usize) -> Self {
        Self {
            first,
            width_bits,
            buckets: vec![NOTHING; buckets],
            places: vec![0; buckets + 1],
            filled: 0,
            bits: vec![0; buckets.div_ceil(64)],
            words: [0; MOST_BUCKETS / 64 / 64],
        }
    }

    #[inline]
    fn add(&mut self, times: &[i64]) {
        let last = self.buckets.len() - 1;
        for &time in times {
            let place = (time.wrapping_sub(self.first) as u64 >> self.width_bits) as usize;
            let place = place.min(last);
            let bucket = &mut self.buckets[place];
            self.places[self.filled] = place as u32;
            self.filled += usize::from(bucket.events == 0);
            bucket.started = bucket.started.min(time);
            bucket.ended = bucket.ended.max(time);
            bucket.events += 1;
        }
    }

    /// Tells the sessions of what is in the buckets, and empties them.
    #[inline]
    fn take(&mut self, gap: u64, each: impl FnMut(Session)) {
        for &place in &self.places[..self.filled] {
            let place = place as usize;
            self.bits[place / 64] |= 1 << (place % 64);
            self.words[place / 4096] |= 1 << (place / 64 % 64);
        }
        self.filled = 0;
        let (bits, buckets) = (&mut self.bits, &mut self.buckets);
        let words = self.words.iter_mut().enumerate();
        let words = words.flat_map(|(group, word)| {
            ones(std::mem::take(word)).map(move |word| group * 64 + word)
        });
        let places = words
            .flat_map(|word| ones(std::mem::take(&mut bits[word])).map(move |bit| word * 64 + bit));
        let events = places.map(|place| std::mem::replace(&mut buckets[place], NOTHING));
        join(events, gap, each);
    }
}

/// Calls `each` with the sessions that events, in order, come to.
#[inline]
fn join(mut events: impl Iterator<Item = Session>, gap: u64, mut each: impl FnMut(Session)) {
    let Some(mut session) = events.next() else {
        return;
    };
    events.for_each(|next| {
        if !session.goes_on(&next, gap) {
            each(std::mem::replace(&mut session, next));
        }
    });
    each(session);
}

/// The places of the ones, ascending.
#[inline]
fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let place = word.trailing_zeros() as usize;
        word &= word.wrapping_sub(1);
        (place < 64).then_some(place)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cut(cutter: &mut SessionCutter, pieces: &[&[i64]]) -> Vec<(i64, i64, u64)> {
        for piece in pieces {
            cutter.add(piece);
        }
        let mut sessions = Vec::new();
        cutter.finish(|session| sessions.push((session.started, session.ended, session.events)));
        sessions
    }

    #[test]
    fn a_gap_is_inclusive_and_spans_all_times() {
        let all = (i64::MIN, i64::MAX);
        for span in [(-5, 100), (0, 1 << 40), all] {
            let sessions = |times: &[i64], gap| cut(&mut SessionCutter::new(gap, span), &[times]);
            assert!(sessions(&[], 5).is_empty());
            assert_eq!(sessions(&[16, 0, 5, 10, 16], 5), [(0, 10, 3), (16, 16, 2)]);
            assert_eq!(sessions(&[4, 3, 3], 0), [(3, 3, 2), (4, 4, 1)]);
        }
        let (first, last) = all;
        let mut cutter = SessionCutter::new(last, all);
        assert_eq!(
            cut(&mut cutter, &[&[last, first]]),
            [(first, first, 1), (last, last, 1)]
        );
        assert_eq!(
            cut(&mut cutter, &[&[last, -1], &[first, first]]),
            [(first, -1, 3), (last, last, 1)]
        );
    }

    #[test]
    fn times_beyond_the_span_are_told() {
        let mut cutter = SessionCutter::new(10, (100, 200));
        let found = cut(&mut cutter, &[&[i64::MIN, 5, 150, 100_000]]);
        assert_eq!(found.iter().map(|session| session.2).sum::<u64>(), 4);
        assert_eq!(cut(&mut cutter, &[&[150]]), [(150, 150, 1)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// One user after another, as the working memory is: in order, cut where neighbours are too
        /// far apart.
        #[test]
        fn sessions_are_cut_where_neighbours_are_too_far_apart(
            users in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(0..400_i64, 0..20), 0..4),
                1..6,
            ),
            unit in prop::sample::select(vec![1, 9, 1_000, 100_000_000]),
            base in prop::sample::select(vec![0, -5_000, i64::MAX - 40_000_000_000]),
            gap in prop::sample::select(vec![0, 1, 7, 8, 9, 63, 1_000, 99_999_999, 1 << 40]),
        ) {
            let mut cutter = SessionCutter::new(gap, (base, base + 400 * unit));
            for pieces in users {
                let times = |piece: &Vec<i64>| piece.iter().map(|step| base + step * unit).collect();
                let pieces: Vec<Vec<i64>> = pieces.iter().map(times).collect();
                let mut sorted = pieces.concat();
                sorted.sort_unstable();
                let expected: Vec<_> = sorted
                    .chunk_by(|earlier, later| later - earlier <= gap)
                    .map(|own| (own[0], own[own.len() - 1], own.len() as u64))
                    .collect();
                let pieces: Vec<&[i64]> = pieces.iter().map(Vec::as_slice).collect();
                prop_assert_eq!(cut(&mut cutter, &pieces), expected);
            }
        }
    }
}
