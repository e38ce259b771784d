//! Finds parts whose values follow from those of another part: a product's category, its price.

use std::borrow::Cow;

use super::bits;
use super::plan::{PlannedPart, PlannedValues};
use super::sink::Params;
use crate::batch::Presence;

/// Most parts that are tried as determinants, those with the most distinct values first.
const MOST_DETERMINANTS: usize = 8;
/// Most parts that each of them is tried on, those that cost most first.
const MOST_DEPENDENTS: usize = 128;
/// A distinct value of the determinant must occur this often on average.
const LEAST_REPEATS: u32 = 8;
/// More exceptions than one in this many values are too many: each is looked up by itself.
const LEAST_PER_EXCEPTION: u64 = 8;
/// Values looked at between two decisions whether to go on.
const CHUNK: u32 = 4_096;
/// Bits that the position of an exception costs.
const EXCEPTION_BITS: u64 = 16;
/// A dependence must be smaller than the part itself by a quarter, and by this many bits for
/// each of the least number of values.
const LEAST_GAIN_BITS: u64 = 8;

/// How a part follows from its determinant.
#[derive(Debug)]
pub(super) struct Dependence {
    /// True where the determinant's value is that of the same row, not of the same index.
    pub(super) by_row: bool,
    /// The word for each distinct value of the determinant.
    pub(super) map: Vec<u64>,
    /// Indices of values that the map does not give, ascending.
    pub(super) exceptions: Vec<u32>,
    /// Their words.
    pub(super) values: Vec<u64>,
}

/// A dependence worth having.
struct Candidate {
    determinant: usize,
    dependent: usize,
    gain_bits: u64,
}

/// Decides which parts depend on which. No part that another depends on is dependent itself.
pub(super) fn choose(parts: &mut [PlannedPart<'_>], params: &Params) {
    let least = params.least_dependent;
    let cost = |part: &PlannedPart<'_>| {
        if part.count < least {
            0
        } else {
            cost_bits(part)
        }
    };
    let costs: Vec<u64> = parts.iter().map(cost).collect();
    let mut dependents: Vec<usize> = (0..parts.len()).filter(|&at| costs[at] > 0).collect();
    dependents.sort_by_key(|&at| std::cmp::Reverse(costs[at]));
    dependents.truncate(MOST_DEPENDENTS);
    let mut candidates = Vec::new();
    for determinant in determinants(parts, least) {
        let codes = codes_of(&parts[determinant]);
        for &dependent in dependents.iter().filter(|&&at| at != determinant) {
            let (x, y) = (&parts[determinant], &parts[dependent]);
            let gain = gain_bits(x, &codes, y, costs[dependent]);
            let gain = gain.filter(|gain| *gain >= LEAST_GAIN_BITS * u64::from(least));
            candidates.extend(gain.map(|gain_bits| Candidate {
                determinant,
                dependent,
                gain_bits,
            }));
        }
    }
    candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.gain_bits));
    let mut determines = vec![false; parts.len()];
    for Candidate {
        determinant,
        dependent,
        ..
    } in candidates
    {
        let free = parts[dependent].depends_on.is_none() && !determines[dependent];
        if free && parts[determinant].depends_on.is_none() {
            parts[dependent].depends_on = Some(determinant);
            determines[determinant] = true;
        }
    }
    for (part, determines) in parts.iter_mut().zip(determines) {
        if let PlannedValues::Ints(_, Some(table)) = &mut part.values {
            table.chosen |= determines;
        }
    }
}

/// Parts whose distinct values repeat, those with the most distinct ones first.
fn determinants(parts: &[PlannedPart<'_>], least_values: u32) -> Vec<usize> {
    let fits = |part: &PlannedPart<'_>| {
        let distinct = distinct(part).unwrap_or(0);
        part.count >= least_values && distinct >= 2 && distinct <= part.count / LEAST_REPEATS
    };
    let mut found: Vec<usize> = (0..parts.len()).filter(|&at| fits(&parts[at])).collect();
    found.sort_by_key(|&at| std::cmp::Reverse(distinct(&parts[at])));
    found.truncate(MOST_DETERMINANTS);
    found
}

/// How many distinct values a part has, if it has a dictionary or a table.
fn distinct(part: &PlannedPart<'_>) -> Option<u32> {
    match &part.values {
        PlannedValues::Coded(coded) => Some(coded.sorted.len() as u32),
        PlannedValues::Ints(_, Some(table)) => Some(table.values.len() as u32),
        _ => None,
    }
}

fn codes_of<'p>(part: &'p PlannedPart<'_>) -> Cow<'p, [u32]> {
    match &part.values {
        PlannedValues::Coded(coded) => coded.codes(0..part.count as usize).collect(),
        PlannedValues::Ints(_, Some(table)) => Cow::Borrowed(&table.codes),
        _ => Cow::Borrowed(&[]),
    }
}

/// About how many bits a part's values take by themselves; 0 where nothing is to be gained.
fn cost_bits(part: &PlannedPart<'_>) -> u64 {
    let each = match &part.values {
        PlannedValues::Coded(coded) => bits::width_of(coded.sorted.len() as u64 - 1),
        PlannedValues::Ints(_, Some(table)) => bits::width_of(table.values.len() as u64 - 1),
        PlannedValues::Ints(values, None) => match (values.iter().min(), values.iter().max()) {
            (Some(least), Some(greatest)) => bits::width_of(greatest.wrapping_sub(*least) as u64),
            _ => 0,
        },
        // Prices with two digits are about as wide; a constant is found when it is encoded.
        PlannedValues::Floats(values) => {
            let first = values.first().map(|value| value.to_bits());
            let constant = values.iter().all(|value| Some(value.to_bits()) == first);
            if constant { 0 } else { 24 }
        }
        PlannedValues::Bools(values) => {
            u8::from(values.iter().any(|&value| Some(&value) != values.first()))
        }
        PlannedValues::Null | PlannedValues::Plain(_) | PlannedValues::List { .. } => 0,
    };
    u64::from(part.count) * u64::from(each)
}

/// Whether the values of `y` can be found by those of `x`: by the same index, or (`true`) by row.
fn by_row(x: &PlannedPart<'_>, y: &PlannedPart<'_>) -> Option<bool> {
    match (x.presence, y.presence) {
        (Presence::All, Presence::All) => Some(false),
        (Presence::All, Presence::Rows(_)) => Some(true),
        (Presence::Rows(x), Presence::Rows(y)) if x == y => Some(false),
        _ => None,
    }
}

/// The value that each code was mostly met with, by majority vote (Boyer and Moore): exact
/// wherever a value has more than half of a code's votes, in one pass.
struct Votes {
    votes: Vec<(u64, u32)>,
    seen: u64,
    against: u64,
}

impl Votes {
    fn cast(&mut self, code: u32, word: u64) {
        let (candidate, lead) = &mut self.votes[code as usize];
        if *lead == 0 {
            (*candidate, *lead) = (word, 1);
        } else if *candidate == word {
            *lead += 1;
            self.seen += 1;
        } else {
            *lead -= 1;
            self.seen += 1;
            self.against += 1;
        }
    }

    /// True where so many votes differ that the part cannot be a dependent one.
    fn is_lost(&self) -> bool {
        self.seen >= 1_024 && self.against > self.seen / 4
    }
}

/// The values of a possible dependent beside the codes of its determinant, chunk by chunk.
struct Pairs<'p> {
    codes: &'p [u32],
    dependent: &'p PlannedPart<'p>,
    by_row: bool,
    next: u32,
    words: Vec<u64>,
}

impl<'p> Pairs<'p> {
    fn new(codes: &'p [u32], dependent: &'p PlannedPart<'p>, by_row: bool) -> Self {
        Self {
            codes,
            dependent,
            by_row,
            next: 0,
            words: Vec::new(),
        }
    }

    /// The index, code and word of each value of the next chunk; none after the last.
    fn next_chunk(&mut self) -> Option<impl Iterator<Item = (u32, u32, u64)>> {
        let start = self.next;
        if start == self.dependent.count {
            return None;
        }
        self.next = start.saturating_add(CHUNK).min(self.dependent.count);
        self.words.clear();
        self.dependent.words(start..self.next, &mut self.words);
        let rows = match self.dependent.presence {
            Presence::Rows(rows) if self.by_row => Some(rows),
            _ => None,
        };
        let codes = self.codes;
        Some((start..).zip(&self.words).map(move |(index, &word)| {
            let at = rows.map_or(index, |rows| rows[index as usize]);
            (index, codes[at as usize], word)
        }))
    }
}

/// Votes for the word of each code; none once it is clear that the words do not follow.
fn vote(codes: &[u32], distinct: u32, y: &PlannedPart<'_>, by_row: bool) -> Option<Votes> {
    let mut votes = Votes {
        votes: vec![(0, 0); distinct as usize],
        seen: 0,
        against: 0,
    };
    let mut pairs = Pairs::new(codes, y, by_row);
    while let Some(chunk) = pairs.next_chunk() {
        chunk.for_each(|(_, code, word)| votes.cast(code, word));
        if votes.is_lost() {
            return None;
        }
    }
    Some(votes)
}

/// Bits saved by storing `y` through `x`, whose codes are given; none where too few.
fn gain_bits(
    x: &PlannedPart<'_>,
    codes: &[u32],
    y: &PlannedPart<'_>,
    cost_bits: u64,
) -> Option<u64> {
    let (by_row, x_distinct) = (by_row(x, y)?, distinct(x)?);
    let most_exceptions = u64::from(y.count) / LEAST_PER_EXCEPTION;
    // Every distinct value beyond the determinant's is met in an exception at least.
    if u64::from(distinct(y).unwrap_or(0)) > u64::from(x_distinct) + most_exceptions {
        return None;
    }
    let votes = vote(codes, x_distinct, y, by_row)?;
    let (mut exceptions, mut pairs) = (0, Pairs::new(codes, y, by_row));
    while let Some(chunk) = pairs.next_chunk() {
        exceptions += chunk
            .filter(|&(_, code, word)| votes.votes[code as usize].0 != word)
            .count() as u64;
        if exceptions > most_exceptions {
            return None;
        }
    }
    let each = cost_bits.div_ceil(u64::from(y.count));
    let map_bits = u64::from(x_distinct) * each + exceptions * (each + EXCEPTION_BITS);
    let gain = cost_bits.checked_sub(map_bits)?;
    (gain >= cost_bits / 4).then_some(gain)
}

impl Dependence {
    /// How `y` follows from `x`, which [`choose`] found to determine it.
    pub(super) fn of(y: &PlannedPart<'_>, x: &PlannedPart<'_>) -> Self {
        let by_row = by_row(x, y).unwrap_or(false);
        let codes = codes_of(x);
        let mut votes = Votes {
            votes: vec![(0, 0); distinct(x).unwrap_or(0) as usize],
            seen: 0,
            against: 0,
        };
        let mut pairs = Pairs::new(&codes, y, by_row);
        while let Some(chunk) = pairs.next_chunk() {
            chunk.for_each(|(_, code, word)| votes.cast(code, word));
        }
        // Codes that no value of `y` goes with repeat their neighbour: a 0 would widen the block.
        let mut map: Vec<u64> = Vec::with_capacity(votes.votes.len());
        let mut met = vec![false; votes.votes.len()];
        let (mut exceptions, mut values) = (Vec::new(), Vec::new());
        let mut pairs = Pairs::new(&codes, y, by_row);
        while let Some(chunk) = pairs.next_chunk() {
            for (index, code, word) in chunk {
                met[code as usize] = true;
                if votes.votes[code as usize].0 != word {
                    exceptions.push(index);
                    values.push(word);
                }
            }
        }
        let first = met.iter().position(|&met| met).unwrap_or(0);
        let mut last = votes.votes.get(first).map_or(0, |(word, _)| *word);
        for ((word, _), met) in votes.votes.into_iter().zip(met) {
            if met {
                last = word;
            }
            map.push(last);
        }
        Self {
            by_row,
            map,
            exceptions,
            values,
        }
    }
}
