//! Affinity: what lies in each basket, then, item by item, what lies beside it.
//!
//! Users are read first, and what every thread put into baskets is brought together, as a basket
//! may hold events of many users. Pairs are then counted for one item after the other: all
//! baskets that have it are walked, and the items beside it counted in one array. So no table of
//! pairs exists, and the memory is that of the baskets' items and of the pairs that are given.

use std::cmp::Reverse;
use std::ops::Range;

use crate::behaviour::{Affinity, AffinityResult, AffinityRow, Notices};

use super::Executor;
use super::control::{Control, QueryError};
use super::each_user::{Fold, Reads, UserHistory};
use super::intern::Interner;
use super::memory::Reservation;
use super::morsel;
use super::values::texts;

/// The operands, as they are read.
const ITEM: usize = 0;
const BASKET: usize = 1;

/// Items that a thread takes at a time.
const ITEMS_AT_ONCE: usize = 64;
/// Baskets between two looks at whether to stop.
const BASKETS_BETWEEN_CHECKS: usize = 1 << 10;

impl Executor {
    /// Which items lie in the same baskets, those in most first.
    ///
    /// Holds 16 bytes for every item of every basket, and all rows at once (with a `top`, not
    /// many more than these); the memory budget says how many that can be. The time is that of
    /// reading the events, and of walking all pairs inside each basket.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn affinity(&self, affinity: &Affinity) -> Result<AffinityResult, QueryError> {
        affinity.validate()?;
        let control = Control::start(self.options());
        let (parts, notices) = self.contents(affinity, &control)?;
        let found = result(affinity, parts, self.threads(), &control)?;
        Ok(AffinityResult { notices, ..found })
    }

    /// What each thread finds; its threads have different users.
    pub(super) fn contents<'c>(
        &self,
        affinity: &Affinity,
        control: &'c Control,
    ) -> Result<(Vec<Contents<'c>>, Notices), QueryError> {
        let reads = Reads {
            conditions: vec![&affinity.condition],
            range: affinity.range.resolve(self.as_of()),
            only_with: None,
            users: affinity.users.as_ref(),
            operands: [&affinity.item].into_iter().chain(&affinity.per).collect(),
        };
        let per_user = affinity.per.is_none();
        let fill = Fill { per_user, control };
        self.each_user_under(control, &reads, &fill)
    }
}

/// The answer from all that was found, without remarks.
pub(super) fn result(
    affinity: &Affinity,
    parts: Vec<Contents<'_>>,
    threads: usize,
    control: &Control,
) -> Result<AffinityResult, QueryError> {
    let mut whole = Contents::new(control);
    for part in parts {
        control.check()?;
        whole.merge(part, affinity.per.is_none())?;
    }
    let (baskets, _memory) = Baskets::new(whole)?;
    let pairs = baskets.pairs(affinity, threads, control)?;
    let mut memory = control.reservation();
    let mut rows = Vec::with_capacity(pairs.len());
    for pair in &pairs {
        let row = baskets.row(pair);
        memory.grow(size_of::<AffinityRow>() + row.x.len() + row.y.len())?;
        rows.push(row);
    }
    Ok(AffinityResult {
        rows,
        baskets: baskets.count as u64,
        notices: Notices::default(),
    })
}

/// What was found in baskets.
pub(super) struct Contents<'c> {
    items: Interner,
    /// Names of the baskets, where they are not users.
    baskets: Interner,
    /// Basket and item, some perhaps twice.
    found: Vec<(u32, u32)>,
    memory: Reservation<'c>,
}

impl<'c> Contents<'c> {
    fn new(control: &'c Control) -> Self {
        Self {
            items: Interner::default(),
            baskets: Interner::default(),
            found: Vec::new(),
            memory: control.reservation(),
        }
    }

    /// Puts an item into a basket.
    fn put(&mut self, basket: u32, item: u32) -> Result<(), QueryError> {
        if self.found.len() == self.found.capacity() {
            // What is there twice may make room.
            self.found.sort_unstable();
            self.found.dedup();
            self.found.reserve(self.found.len().max(64));
        }
        self.found.push((basket, item));
        let found = self.found.capacity() * size_of::<(u32, u32)>();
        let names = self.items.byte_len() + self.baskets.byte_len();
        self.memory.at_least(found + names)
    }

    /// Adds what another thread found.
    fn merge(&mut self, other: Self, per_user: bool) -> Result<(), QueryError> {
        let items = other.items.into_texts();
        let items: Vec<u32> = items.iter().map(|item| self.items.number(item)).collect();
        let baskets = other.baskets.into_texts();
        let baskets: Vec<u32> = baskets
            .iter()
            .map(|basket| self.baskets.number(basket))
            .collect();
        for (basket, item) in other.found {
            let basket = match per_user {
                true => basket,
                false => baskets[basket as usize],
            };
            self.put(basket, items[item as usize])?;
        }
        Ok(())
    }
}

/// Puts the items of users' events into baskets.
struct Fill<'c> {
    per_user: bool,
    control: &'c Control,
}

impl<'c> Fold for Fill<'c> {
    type Sum = Contents<'c>;

    fn begin(&self) -> Contents<'c> {
        Contents::new(self.control)
    }

    fn user(&self, user: &UserHistory<'_>, sum: &mut Contents<'c>) -> Result<(), QueryError> {
        for event in 0..user.len() {
            let items = texts(user.value(ITEM, event)?);
            if items.is_empty() {
                continue;
            }
            let baskets: Vec<u32> = match self.per_user {
                true => vec![user.ordinal],
                false => texts(user.value(BASKET, event)?)
                    .iter()
                    .map(|basket| sum.baskets.number(basket))
                    .collect(),
            };
            if baskets.is_empty() {
                continue;
            }
            for item in &items {
                let item = sum.items.number(item);
                for &basket in &baskets {
                    sum.put(basket, item)?;
                }
            }
        }
        Ok(())
    }

    fn byte_len(&self, _: &Contents<'c>) -> usize {
        // Reserved as items come.
        0
    }
}

/// Lists of numbers, one after the other.
struct Lists {
    starts: Vec<u32>,
    values: Vec<u32>,
}

impl Lists {
    /// The second numbers of each first one; pairs are sorted, the first numbers are dense.
    fn new(pairs: &[(u32, u32)]) -> Self {
        let mut starts = Vec::new();
        for (index, &(first, _)) in (0..).zip(pairs) {
            while starts.len() <= first as usize {
                starts.push(index);
            }
        }
        starts.push(pairs.len() as u32);
        Self {
            starts,
            values: pairs.iter().map(|&(_, second)| second).collect(),
        }
    }

    fn len(&self) -> usize {
        self.starts.len() - 1
    }

    fn list(&self, index: u32) -> &[u32] {
        let index = index as usize;
        &self.values[self.starts[index] as usize..self.starts[index + 1] as usize]
    }
}

/// Baskets and items, each by the other.
struct Baskets {
    /// The items, in the order of their texts' bytes.
    items: Vec<String>,
    /// How many baskets have any item.
    count: usize,
    items_of: Lists,
    baskets_of: Lists,
}

/// Two items and how many baskets have both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    both: u32,
    x: u32,
    y: u32,
}

impl Pair {
    /// The order of rows: items are numbered in the order of their texts.
    fn place(&self) -> (Reverse<u32>, u32, u32) {
        (Reverse(self.both), self.x, self.y)
    }
}

impl Baskets {
    fn new(contents: Contents<'_>) -> Result<(Self, Reservation<'_>), QueryError> {
        let Contents {
            items,
            mut found,
            mut memory,
            ..
        } = contents;
        // Both kinds of lists, while what they are made of is still there.
        memory.grow(found.len() * 2 * size_of::<(u32, u32)>())?;
        let texts = items.into_texts();
        let mut order: Vec<u32> = (0..texts.len() as u32).collect();
        order.sort_unstable_by_key(|&item| &texts[item as usize]);
        let mut rank = vec![0; texts.len()];
        for (place, &item) in (0..).zip(&order) {
            rank[item as usize] = place;
        }
        for (_, item) in &mut found {
            *item = rank[*item as usize];
        }
        found.sort_unstable();
        found.dedup();
        // Baskets are numbered anew, without holes.
        let mut count = 0;
        for basket in found.chunk_by_mut(|left, right| left.0 == right.0) {
            basket.iter_mut().for_each(|(number, _)| *number = count);
            count += 1;
        }
        let items_of = Lists::new(&found);
        for pair in &mut found {
            *pair = (pair.1, pair.0);
        }
        found.sort_unstable();
        let mut sorted = texts;
        sorted.sort_unstable();
        let baskets = Self {
            items: sorted,
            count: count as usize,
            items_of,
            baskets_of: Lists::new(&found),
        };
        Ok((baskets, memory))
    }

    /// The pairs that are wanted, in the order of rows.
    fn pairs(
        &self,
        affinity: &Affinity,
        threads: usize,
        control: &Control,
    ) -> Result<Vec<Pair>, QueryError> {
        let all = 0..self.baskets_of.len();
        let wanted: Range<usize> = match &affinity.for_item {
            None => all,
            Some(item) => match self.items.binary_search(item) {
                Ok(item) => item..item + 1,
                Err(_) => 0..0,
            },
        };
        let pieces: Vec<Range<usize>> = wanted
            .clone()
            .step_by(ITEMS_AT_ONCE)
            .map(|start| start..wanted.end.min(start + ITEMS_AT_ONCE))
            .collect();
        let begin = || Counting::new(self, affinity, control);
        let counted = morsel::run(&pieces, threads, control, begin, |counting, items| {
            items.clone().try_for_each(|x| counting.count(x as u32))
        })?;
        let mut memory = control.reservation();
        let mut pairs = Vec::new();
        for mut counting in counted {
            memory.grow(counting.pairs.len() * size_of::<Pair>())?;
            pairs.append(&mut counting.pairs);
        }
        pairs.sort_unstable_by_key(Pair::place);
        pairs.truncate(affinity.top.unwrap_or(usize::MAX));
        Ok(pairs)
    }

    fn row(&self, pair: &Pair) -> AffinityRow {
        let with = |item| self.baskets_of.list(item).len() as f64;
        let (both, all) = (f64::from(pair.both), self.count as f64);
        let (with_x, with_y) = (with(pair.x), with(pair.y));
        let confidence = both / with_x;
        AffinityRow {
            x: self.items[pair.x as usize].clone(),
            y: self.items[pair.y as usize].clone(),
            users: u64::from(pair.both),
            support: both / all,
            confidence,
            lift: confidence / (with_y / all),
            jaccard: both / (with_x + with_y - both),
        }
    }
}

/// What a thread counts pairs with.
struct Counting<'b> {
    baskets: &'b Baskets,
    least: u64,
    top: usize,
    /// For each item, the baskets that also have the item at hand.
    beside: Vec<u32>,
    /// Items of which there are any.
    touched: Vec<u32>,
    pairs: Vec<Pair>,
    control: &'b Control,
    memory: Reservation<'b>,
}

impl<'b> Counting<'b> {
    fn new(baskets: &'b Baskets, affinity: &Affinity, control: &'b Control) -> Self {
        Self {
            baskets,
            least: affinity.min_users.unwrap_or(1),
            top: affinity.top.unwrap_or(usize::MAX),
            beside: Vec::new(),
            touched: Vec::new(),
            pairs: Vec::new(),
            control,
            memory: control.reservation(),
        }
    }

    /// Counts what lies beside an item.
    fn count(&mut self, x: u32) -> Result<(), QueryError> {
        let items = self.baskets.baskets_of.len();
        self.reserve(items)?;
        self.beside.resize(items, 0);
        for (index, &basket) in self.baskets.baskets_of.list(x).iter().enumerate() {
            if index % BASKETS_BETWEEN_CHECKS == 0 {
                self.control.check()?;
            }
            for &y in self.baskets.items_of.list(basket) {
                if self.beside[y as usize] == 0 {
                    self.touched.push(y);
                }
                self.beside[y as usize] += 1;
            }
        }
        self.reserve(items)?;
        for y in self.touched.drain(..) {
            let both = std::mem::take(&mut self.beside[y as usize]);
            if y != x && u64::from(both) >= self.least {
                self.pairs.push(Pair { both, x, y });
            }
        }
        self.cut();
        self.reserve(items)
    }

    /// Drops pairs beyond the first `top`, once there are many.
    fn cut(&mut self) {
        let most = self.top.saturating_mul(2).saturating_add(ITEMS_AT_ONCE);
        if self.pairs.len() > most {
            self.pairs.select_nth_unstable_by_key(self.top, Pair::place);
            self.pairs.truncate(self.top);
        }
    }

    fn reserve(&mut self, items: usize) -> Result<(), QueryError> {
        let pairs = self.pairs.capacity() + self.touched.len();
        self.memory
            .at_least(items * 2 * size_of::<u32>() + pairs * size_of::<Pair>())
    }
}
