//! How the groups of a run are told apart: by small numbers.

use std::collections::{BTreeSet, HashMap};

use pugmark_engine::Corruption;
use pugmark_engine::batch::Kind;
use pugmark_engine::codec::{ColumnView, PartView};
use pugmark_engine::segment::NameRun;
use pugmark_engine::time::MICROS_PER_DAY;

use crate::zone::{CalendarUnit, Zone};

use super::Totals;

/// Most groups of a run.
const MOST_GROUPS: usize = 1 << 14;
/// Most values of a column of texts without codes: of more, most are different.
const MOST_LISTED: u32 = 1 << 10;
/// Most hours or days that a run may span where periods are told apart.
const MOST_SLOTS: i64 = 1 << 16;
const MICROS_PER_HOUR: i64 = MICROS_PER_DAY / 24;

/// The periods that a run's rows lie in, by the hours or days that they are made of.
#[derive(Debug)]
pub(super) struct Slots {
    by_hour: bool,
    /// The first hour or day, since 1970.
    first: i64,
    /// The place of each hour's or day's period.
    places: Vec<u32>,
    /// The number of each period.
    periods: Vec<i64>,
}

impl Slots {
    /// `None` where the run spans too many.
    fn new(unit: CalendarUnit, run: NameRun<'_>) -> Option<Self> {
        let by_hour = unit == CalendarUnit::Hour;
        let width = if by_hour {
            MICROS_PER_HOUR
        } else {
            MICROS_PER_DAY
        };
        let first = run.min_time().div_euclid(width);
        let last = run.max_time().div_euclid(width);
        if last.checked_sub(first)? >= MOST_SLOTS {
            return None;
        }
        let (mut places, mut periods) = (Vec::new(), Vec::new());
        for slot in first..=last {
            let number = Zone::UTC.number(unit, slot.saturating_mul(width));
            if periods.last() != Some(&number) {
                periods.push(number);
            }
            places.push(periods.len() as u32 - 1);
        }
        Some(Self {
            by_hour,
            first,
            places,
            periods,
        })
    }

    pub(super) fn place(&self, time: i64) -> u32 {
        // Divisions by constants are multiplications.
        let slot = match self.by_hour {
            true => time.div_euclid(MICROS_PER_HOUR),
            false => time.div_euclid(MICROS_PER_DAY),
        };
        self.places[(slot - self.first) as usize]
    }
}

/// The texts of a property in a run, and their codes.
#[derive(Debug)]
pub(super) enum Texts {
    /// The column's own, so many.
    Coded(usize),
    /// Of a short column without codes: its texts, ascending, and the place of each value's.
    Listed { texts: Vec<String>, codes: Vec<u32> },
}

impl Texts {
    /// `None` where other values than texts count, or too many have no codes.
    fn new(column: Option<&ColumnView<'_>>) -> Result<Option<Self>, Corruption> {
        let mut found = Self::Coded(0);
        for part in column.into_iter().flat_map(ColumnView::parts) {
            match (part.kind(), part.coded(), part.plain()) {
                (Kind::Null, ..) => {}
                (Kind::Text, Some(coded), _) => found = Self::Coded(coded.len() as usize),
                (Kind::Text, _, Some(plain)) if part.len() <= MOST_LISTED => {
                    let mut values = Vec::new();
                    plain.for_each(0..part.len(), |_, value| values.push(value.to_owned()))?;
                    found = Self::listed(&values);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    fn listed(values: &[String]) -> Self {
        let texts: BTreeSet<&String> = values.iter().collect();
        let places: HashMap<&String, u32> = texts.iter().copied().zip(0..).collect();
        Self::Listed {
            codes: values.iter().map(|value| places[value]).collect(),
            texts: texts.into_iter().cloned().collect(),
        }
    }

    pub(super) fn count(&self) -> usize {
        match self {
            Self::Coded(count) => *count,
            Self::Listed { texts, .. } => texts.len(),
        }
    }

    pub(super) fn text(
        &self,
        column: Option<&ColumnView<'_>>,
        code: u32,
    ) -> Result<String, Corruption> {
        let part = column.and_then(|column| column.part(Kind::Text));
        match (self, part.and_then(PartView::coded)) {
            (Self::Listed { texts, .. }, _) => Ok(texts[code as usize].clone()),
            (Self::Coded(_), Some(coded)) => Ok(coded.value(code)?.to_owned()),
            (Self::Coded(_), None) => Ok(String::new()),
        }
    }
}

/// How the groups of a run are numbered: by period, then by each property's code, absence first.
#[derive(Debug)]
pub(super) struct Numbering {
    pub(super) slots: Option<Slots>,
    /// Of each property.
    pub(super) texts: Vec<Texts>,
    pub(super) groups: usize,
}

impl Numbering {
    /// `None` where a property's texts have no codes, or there are too many groups.
    pub(super) fn new(totals: &Totals, run: NameRun<'_>) -> Result<Option<Self>, Corruption> {
        let mut texts = Vec::with_capacity(totals.by_properties.len());
        for name in &totals.by_properties {
            match Texts::new(run.properties()?.get(name)?.as_ref())? {
                Some(found) => texts.push(found),
                None => return Ok(None),
            }
        }
        let slots = match totals.by_period {
            Some(unit) => match Slots::new(unit, run) {
                Some(slots) => Some(slots),
                None => return Ok(None),
            },
            None => None,
        };
        let periods = slots.as_ref().map_or(1, |slots| slots.periods.len());
        let groups = texts
            .iter()
            .try_fold(periods, |groups, texts| {
                groups.checked_mul(texts.count() + 1)
            })
            .filter(|groups| *groups <= MOST_GROUPS);
        Ok(groups.map(|groups| Self {
            slots,
            texts,
            groups,
        }))
    }

    /// The period's number and the properties' codes of a group.
    pub(super) fn parts(&self, mut group: usize) -> (i64, Vec<Option<u32>>) {
        let mut codes = vec![None; self.texts.len()];
        for (code, texts) in codes.iter_mut().zip(&self.texts).rev() {
            let width = texts.count() + 1;
            *code = (group % width).checked_sub(1).map(|code| code as u32);
            group /= width;
        }
        let period = self.slots.as_ref().map_or(0, |slots| slots.periods[group]);
        (period, codes)
    }
}
