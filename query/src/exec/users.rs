//! Segments: sets of users, as bitmap algebra over morsels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pugmark_engine::bitmap::{BitmapView, Words};
use pugmark_engine::segment::NameRun;
use pugmark_engine::{Corruption, Snapshot};
use roaring::RoaringBitmap;

use crate::behaviour::{Condition, Operand, Segment, TimeRange, Truth};

use super::computed::of_users;
use super::control::QueryError;
use super::did::{Parts, PreparedDid};
use super::effort;
use super::exists::{Bounds, rows_in_range};
use super::morsel::Morsel;
use super::traits::{TraitRow, TraitTable};
use super::worker::Worker;

/// A segment made ready for a snapshot.
#[derive(Debug)]
pub(crate) struct PreparedUsers<'a> {
    root: Node<'a>,
    /// Number of `did(…)` in it.
    dids: usize,
    /// Who there is; not needed where the predicate is true of such users only.
    known: Option<Known<'a>>,
    traits: BTreeSet<String>,
    snapshot: &'a Snapshot,
    as_of: i64,
}

#[derive(Debug)]
enum Node<'a> {
    Everyone,
    /// With its number among all of them.
    Did(Box<PreparedDid<'a>>, usize),
    Trait(Condition),
    Users(Arc<RoaringBitmap>),
    And(Vec<Node<'a>>),
    Or(Vec<Node<'a>>),
    Not(Box<Node<'a>>),
    Except(Box<Node<'a>>, Box<Node<'a>>),
}

/// Where a predicate holds and where it is unknown, among a morsel's users.
#[derive(Debug)]
struct Found {
    holds: Words,
    /// Only traits that are missing leave anything unknown.
    unknown: Option<Words>,
}

impl<'a> PreparedUsers<'a> {
    /// Prepares a validated segment.
    pub(crate) fn new(
        snapshot: &'a Snapshot,
        segment: &Segment,
        as_of: i64,
    ) -> Result<Self, QueryError> {
        let mut dids = 0;
        let root = Node::new(snapshot, segment, as_of, &mut dids)?;
        let mut traits = BTreeSet::new();
        root.visit(&mut |node| match node {
            Node::Did(did, _) => {
                let scans = did.scans();
                traits.extend(
                    scans
                        .into_iter()
                        .flat_map(|scan| scan.traits.iter().cloned()),
                );
            }
            Node::Trait(condition) => traits.extend(condition.reads().traits),
            _ => {}
        });
        let known = match root.needs_events() {
            true => None,
            false => Some(Known::new(snapshot, as_of)?),
        };
        Ok(Self {
            root,
            dids,
            known,
            traits,
            snapshot,
            as_of,
        })
    }

    /// The containers that have users, with about the rows to be read for each.
    pub(crate) fn containers(&self) -> Result<BTreeMap<u16, u64>, Corruption> {
        let mut rows = BTreeMap::new();
        if let Some(known) = &self.known {
            known.keys(&mut rows)?;
        }
        let mut failed = Ok(());
        self.root.visit(&mut |node| {
            if let Node::Did(did, _) = node {
                for scan in did.scans() {
                    if failed.is_ok() {
                        failed = scan.count_rows(&mut rows, did.reads_rows());
                    }
                }
            }
        });
        failed.map(|()| rows)
    }

    /// The morsel's users that are in the segment.
    pub(crate) fn users(
        &self,
        morsel: &Morsel,
        worker: &mut Worker<'_>,
    ) -> Result<Words, QueryError> {
        let mut everyone = Words::of_range(morsel.lows.clone());
        if let Some(known) = &self.known {
            everyone = known.users(morsel)?;
        }
        worker.reserve_bounds(self.dids)?;
        let mut dids = vec![Parts::new(); self.dids];
        let Bounds {
            surely: mut holds,
            possibly: mut open,
        } = self.root.bounds(morsel, &everyone, &mut dids)?;
        holds.and(&everyone);
        open.and(&everyone);
        open.and_not(&holds);
        if !open.is_empty() {
            let traits = TraitTable::read(self.snapshot, &self.traits, morsel, self.as_of)?;
            let mut ask = Ask {
                morsel,
                dids: &dids,
                traits: &traits,
                worker,
            };
            let mut found = self.root.users(&open, &mut ask)?.holds;
            found.and(&open);
            holds.or(&found);
        }
        Ok(holds)
    }
}

/// What is needed to look at a morsel's rows.
struct Ask<'m, 'c> {
    morsel: &'m Morsel,
    dids: &'m [Parts],
    traits: &'m TraitTable,
    worker: &'m mut Worker<'c>,
}

impl<'a> Node<'a> {
    /// `dids` counts the `did(…)` met.
    fn new(
        snapshot: &'a Snapshot,
        segment: &Segment,
        as_of: i64,
        dids: &mut usize,
    ) -> Result<Self, QueryError> {
        let mut new = |part: &Segment| Self::new(snapshot, part, as_of, dids);
        let mut all = |parts: &[Segment]| parts.iter().map(&mut new).collect::<Result<Vec<_>, _>>();
        Ok(match segment {
            Segment::Everyone => Self::Everyone,
            Segment::Did(did) => {
                let did = PreparedDid::new(snapshot, did, as_of)?;
                *dids += 1;
                Self::Did(Box::new(did), *dids - 1)
            }
            Segment::Trait(condition) => Self::Trait(condition.clone()),
            Segment::Users(users) => Self::Users(Arc::clone(users)),
            Segment::And(parts) => {
                let mut parts = all(parts)?;
                // Each part is asked only about users that the parts before it left over.
                parts.sort_by_key(Self::most_users);
                Self::And(parts)
            }
            Segment::Or(parts) => Self::Or(all(parts)?),
            Segment::Not(inner) => Self::Not(Box::new(new(inner)?)),
            Segment::Except(left, right) => {
                Self::Except(Box::new(new(left)?), Box::new(new(right)?))
            }
        })
    }

    /// About how many users will be found, at most.
    fn most_users(&self) -> u64 {
        match self {
            Self::Did(did, _) => did.most_users(),
            Self::Users(users) => users.len(),
            Self::And(parts) => parts.iter().map(Self::most_users).min().unwrap_or(u64::MAX),
            Self::Or(parts) => parts
                .iter()
                .map(Self::most_users)
                .fold(0, u64::saturating_add),
            Self::Except(left, _) => left.most_users(),
            Self::Everyone | Self::Trait(_) | Self::Not(_) => u64::MAX,
        }
    }

    /// True where only users with an event satisfy it.
    fn needs_events(&self) -> bool {
        match self {
            Self::Did(..) => true,
            Self::And(parts) => parts.iter().any(Self::needs_events),
            Self::Or(parts) => parts.iter().all(Self::needs_events),
            Self::Except(left, _) => left.needs_events(),
            Self::Everyone | Self::Trait(_) | Self::Users(_) | Self::Not(_) => false,
        }
    }

    fn visit<'n>(&'n self, each: &mut impl FnMut(&'n Self)) {
        each(self);
        match self {
            Self::And(parts) | Self::Or(parts) => parts.iter().for_each(|part| part.visit(each)),
            Self::Not(inner) => inner.visit(each),
            Self::Except(left, right) => {
                left.visit(each);
                right.visit(each);
            }
            Self::Everyone | Self::Did(..) | Self::Trait(_) | Self::Users(_) => {}
        }
    }

    /// What bitmaps alone tell of the morsel's users among `everyone`: for whom it surely holds, and
    /// for whom it possibly holds or is unknown. Those of each `did(…)` are put into `dids`.
    fn bounds(
        &self,
        morsel: &Morsel,
        everyone: &Words,
        dids: &mut [Parts],
    ) -> Result<Bounds, Corruption> {
        Ok(match self {
            Self::Everyone => Bounds::certain(everyone.clone()),
            Self::Did(did, number) => {
                let (whole, parts) = did.bounds(morsel)?;
                dids[*number] = parts;
                whole
            }
            Self::Trait(_) => Bounds {
                surely: Words::new(),
                possibly: everyone.clone(),
            },
            Self::Users(users) => Bounds::certain(saved_users(users, morsel)),
            Self::And(parts) => {
                let mut all: Option<Bounds> = None;
                for part in parts {
                    let part = part.bounds(morsel, everyone, dids)?;
                    all = Some(match all {
                        Some(mut all) => {
                            all.surely.and(&part.surely);
                            all.possibly.and(&part.possibly);
                            all
                        }
                        None => part,
                    });
                }
                all.unwrap_or_else(|| Bounds::certain(everyone.clone()))
            }
            Self::Or(parts) => {
                let mut any = Bounds::default();
                for part in parts {
                    let part = part.bounds(morsel, everyone, dids)?;
                    any.surely.or(&part.surely);
                    any.possibly.or(&part.possibly);
                }
                any
            }
            Self::Not(inner) => {
                Bounds::certain(everyone.clone()).except(&inner.bounds(morsel, everyone, dids)?)
            }
            Self::Except(left, right) => {
                let left = left.bounds(morsel, everyone, dids)?;
                left.except(&right.bounds(morsel, everyone, dids)?)
            }
        })
    }

    /// The users among `within` for whom the predicate holds or is unknown; what it tells of others
    /// means nothing.
    fn users(&self, within: &Words, ask: &mut Ask<'_, '_>) -> Result<Found, QueryError> {
        Ok(match self {
            Self::Everyone => Found::certain(within.clone()),
            Self::Did(did, number) => {
                let parts = &ask.dids[*number];
                let users = did.users(ask.morsel, parts, within, ask.traits, ask.worker)?;
                Found::certain(users)
            }
            Self::Trait(condition) => trait_users(condition, within, ask.traits, ask.worker)?,
            Self::Users(users) => Found::certain(saved_users(users, ask.morsel)),
            Self::And(parts) => {
                let mut all = Found::certain(within.clone());
                for part in parts {
                    if all.is_hopeless() {
                        break;
                    }
                    let possible = all.possible();
                    all = all.and(part.users(&possible, ask)?);
                }
                all
            }
            Self::Or(parts) => {
                let mut any = Found::certain(Words::new());
                for part in parts {
                    any = any.or(part.users(within, ask)?);
                }
                any
            }
            Self::Not(inner) => inner.users(within, ask)?.negate(within),
            Self::Except(left, right) => {
                let mut holds = left.users(within, ask)?.holds;
                holds.and_not(&right.users(&holds, ask)?.holds);
                Found::certain(holds)
            }
        })
    }
}

impl Found {
    fn certain(holds: Words) -> Self {
        Self {
            holds,
            unknown: None,
        }
    }

    fn is_hopeless(&self) -> bool {
        self.holds.is_empty() && self.unknown.as_ref().is_none_or(Words::is_empty)
    }

    fn possible(&self) -> Words {
        let mut possible = self.holds.clone();
        if let Some(unknown) = &self.unknown {
            possible.or(unknown);
        }
        possible
    }

    fn and(mut self, other: Self) -> Self {
        let unknown = (self.unknown.is_some() || other.unknown.is_some()).then(|| {
            let mut possible = self.possible();
            possible.and(&other.possible());
            possible
        });
        self.holds.and(&other.holds);
        self.unknown = unknown.map(|mut unknown| {
            unknown.and_not(&self.holds);
            unknown
        });
        self
    }

    fn or(mut self, other: Self) -> Self {
        self.holds.or(&other.holds);
        self.unknown = match (self.unknown, other.unknown) {
            (Some(mut one), Some(other)) => {
                one.or(&other);
                Some(one)
            }
            (one, other) => one.or(other),
        };
        if let Some(unknown) = &mut self.unknown {
            unknown.and_not(&self.holds);
        }
        self
    }

    fn negate(self, known: &Words) -> Self {
        let mut holds = known.clone();
        holds.and_not(&self.holds);
        if let Some(unknown) = &self.unknown {
            holds.and_not(unknown);
        }
        Self {
            holds,
            unknown: self.unknown,
        }
    }
}

fn saved_users(users: &RoaringBitmap, morsel: &Morsel) -> Words {
    let base = u32::from(morsel.key) << 16;
    let mut found = Words::new();
    let last = base + (morsel.lows.end - 1);
    for ordinal in users.range(base + morsel.lows.start..=last) {
        found.insert(ordinal as u16);
    }
    found
}

fn trait_users(
    condition: &Condition,
    known: &Words,
    traits: &TraitTable,
    worker: &mut Worker<'_>,
) -> Result<Found, QueryError> {
    let lows: Vec<u16> = match condition.expressions().is_empty() {
        true => Vec::new(),
        false => known.iter().collect(),
    };
    let expressions = of_users(condition, &lows, traits, worker.control)?;
    for (computed, found) in &expressions {
        let operand = Operand::Computed(computed.clone());
        worker.skipped.add(&operand, found.failed);
    }
    let mut place = 0;
    let mut found = Found {
        holds: Words::new(),
        unknown: Some(Words::new()),
    };
    known.for_each(|low| {
        let row = TraitRow {
            traits,
            low,
            place,
            expressions: &expressions,
        };
        place += 1;
        match condition.evaluate(&row, &mut worker.skipped) {
            Truth::True => found.holds.insert(low),
            Truth::Unknown => {
                if let Some(unknown) = &mut found.unknown {
                    unknown.insert(low);
                }
            }
            Truth::False => {}
        }
    });
    Ok(found)
}

/// The users that have an event or a trait up to the question's present.
#[derive(Debug)]
pub(crate) struct Known<'a> {
    whole: Vec<BitmapView<'a>>,
    /// Runs that reach beyond the present, whose rows tell.
    edges: Vec<NameRun<'a>>,
    range: TimeRange,
}

impl<'a> Known<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, as_of: i64) -> Result<Self, Corruption> {
        let range = TimeRange {
            first: i64::MIN,
            last: as_of,
        };
        let mut known = Self {
            whole: Vec::new(),
            edges: Vec::new(),
            range,
        };
        for segment in snapshot.segments() {
            let meta = segment.meta();
            if meta.max_time <= as_of {
                known.whole.push(segment.any_users()?);
            } else if meta.min_time <= as_of {
                for run in segment.all_runs() {
                    if run.max_time() <= as_of {
                        known.whole.push(run.users()?);
                    } else if run.min_time() <= as_of {
                        known.edges.push(run);
                    }
                }
            }
        }
        effort::bitmaps(known.whole.len());
        Ok(known)
    }

    fn keys(&self, rows: &mut BTreeMap<u16, u64>) -> Result<(), Corruption> {
        for users in &self.whole {
            users.keys().for_each(|(key, _)| {
                rows.entry(key).or_default();
            });
        }
        for run in &self.edges {
            run.users()?.keys().for_each(|(key, _)| {
                rows.entry(key).or_default();
            });
        }
        Ok(())
    }

    fn users(&self, morsel: &Morsel) -> Result<Words, Corruption> {
        let mut known = Words::new();
        for users in &self.whole {
            users.or_into(morsel.key, &mut known);
        }
        for run in &self.edges {
            let mut unknown = Words::of_range(morsel.lows.clone());
            unknown.and_not(&known);
            let mut candidates = Vec::new();
            run.users()?.common(morsel.key, &unknown, &mut candidates);
            rows_in_range(*run, morsel.key, self.range, &candidates, &mut known)?;
        }
        known.restrict(morsel.lows.clone());
        Ok(known)
    }
}
