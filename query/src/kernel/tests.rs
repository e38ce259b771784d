//! The kernel equals the judge, on random users and every combination of options.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use proptest::prelude::*;
use pugmark_engine::{Scalar, Value};

use super::{
    Bounds, CONDITION, DidEvents, DidPlan, DidScratch, ExcludedLane, Exclusion, FunnelPlan,
    FunnelScratch, Held, Interrupted, Lane, LaneBounds, LaneScratch, Link, Measure, Measures,
    NOT_THEN, StepEvents, THEN, UserEvents, find_chain, match_did, match_every, match_funnel,
    search,
};
use crate::behaviour::{
    Aggregate, AggregateTest, Attribute, ByKey, Condition, Did, Entries, EventRow, Funnel,
    FunnelMode, Literal, Operand, Skipped, compare,
};
use crate::model::{JudgedChain, ModelEvent, ModelStore};
use crate::tally::FunnelTally;
use crate::testing::{self, UNIT, cases};

/// An event with its user's traits.
struct Row<'a>(&'a ModelEvent, &'a BTreeMap<String, Value>);

impl EventRow for Row<'_> {
    fn event(&self) -> &str {
        &self.0.event
    }
    fn time(&self) -> i64 {
        self.0.time
    }
    fn property(&self, name: &str) -> Option<&Value> {
        self.0.properties.get(name)
    }
    fn user_trait(&self, name: &str) -> Option<&Value> {
        self.1.get(name)
    }
}

/// One user's history, gathered for the kernel.
struct Gathered<'a> {
    events: Vec<&'a ModelEvent>,
    traits: BTreeMap<String, Value>,
    held_ends: Vec<u32>,
    held_ids: Vec<u32>,
    held_values: Vec<Vec<String>>,
}

impl<'a> Gathered<'a> {
    fn new(
        events: Vec<&'a ModelEvent>,
        store: &ModelStore,
        holding: &[String],
        as_of: i64,
    ) -> Self {
        let combinations = |event: &ModelEvent| {
            let mut combinations = BTreeSet::from([Vec::<String>::new()]);
            for name in holding {
                let value = event.properties.get(name);
                let texts: Vec<String> = value
                    .iter()
                    .flat_map(|value| value.scalars())
                    .map(|scalar| scalar.canonical_text().into_owned())
                    .collect();
                combinations = combinations
                    .iter()
                    .flat_map(|start| {
                        let texts = texts.iter();
                        texts.map(|text| [start.as_slice(), std::slice::from_ref(text)].concat())
                    })
                    .collect();
            }
            combinations
        };
        let all: BTreeSet<_> = events
            .iter()
            .flat_map(|event| combinations(event))
            .collect();
        let held_values: Vec<_> = all.into_iter().collect();
        let (mut held_ends, mut held_ids) = (Vec::new(), Vec::new());
        for event in &events {
            let ids = combinations(event);
            held_ids.extend(
                ids.iter()
                    .map(|value| held_values.binary_search(value).unwrap() as u32),
            );
            held_ends.push(held_ids.len() as u32);
        }
        Self {
            traits: store.traits(0, as_of),
            events,
            held_ends,
            held_ids,
            held_values,
        }
    }

    fn held(&self, holding: &[String]) -> Held<'_> {
        if holding.is_empty() {
            return Held::Nothing;
        }
        Held::Ids {
            ends: &self.held_ends,
            ids: &self.held_ids,
        }
    }

    fn holds(&self, condition: &Condition, event: &ModelEvent) -> bool {
        condition
            .evaluate(&Row(event, &self.traits), &mut Skipped::default())
            .holds()
    }

    fn value(&self, held: Option<u32>) -> Vec<String> {
        held.map_or(Vec::new(), |held| self.held_values[held as usize].clone())
    }
}

struct Matched {
    chains: Vec<JudgedChain>,
    starts: BTreeMap<Option<i64>, i64>,
}

/// The funnel of user 0 by the kernel. Events that cannot matter are left out if `sparse`.
fn by_kernel(
    store: &ModelStore,
    funnel: &Funnel,
    as_of: i64,
    sparse: bool,
    scratch: &mut FunnelScratch,
) -> Matched {
    let range = funnel.range.resolve(as_of);
    let mut history = store.history(0, as_of);
    history.retain(|event| range.contains(event.time));
    let whole = Gathered::new(history.clone(), store, &[], as_of);
    let steps_of = |event: &ModelEvent| {
        let steps = funnel.steps.iter().enumerate();
        steps.fold(0_u64, |bits, (index, step)| {
            bits | u64::from(whole.holds(&step.condition, event)) << index
        })
    };
    let is_excluded = |event: &ModelEvent| {
        let exclude = funnel.exclude.as_ref();
        exclude.is_some_and(|condition| whole.holds(condition, event))
    };
    let positions: Vec<u32> = (0..history.len() as u32)
        .filter(|&index| {
            let event = history[index as usize];
            !sparse || steps_of(event) != 0 || is_excluded(event)
        })
        .collect();
    let kept: Vec<_> = positions
        .iter()
        .map(|&index| history[index as usize])
        .collect();
    let gathered = Gathered::new(kept.clone(), store, &funnel.holding, as_of);
    let times: Vec<i64> = kept.iter().map(|event| event.time).collect();
    let steps: Vec<u64> = kept.iter().map(|event| steps_of(event)).collect();
    let excluded: Vec<bool> = kept.iter().map(|event| is_excluded(event)).collect();
    let events = UserEvents {
        times: &times,
        steps: &steps,
        excluded: if funnel.exclude.is_some() {
            &excluded
        } else {
            &[]
        },
        positions: if sparse { &positions } else { &[] },
        held: gathered.held(&funnel.holding),
    };
    let plan = FunnelPlan::new(funnel);
    let mut matched = Matched {
        chains: Vec::new(),
        starts: BTreeMap::new(),
    };
    let original = |events: &mut dyn Iterator<Item = (usize, usize)>| {
        let events = events.map(|(step, index)| (step, positions[index] as usize));
        events.collect::<Vec<_>>()
    };
    if funnel.entries == Entries::Every {
        match_every(&plan, &events, scratch, &|| false, |counted| {
            matched.chains.push(JudgedChain {
                row: counted.step,
                bucket: counted.bucket,
                held: gathered.value(counted.held),
                events: original(&mut counted.events()),
            });
        })
        .unwrap();
        matched.chains.sort();
    } else {
        match_funnel(&plan, &events, scratch, &|| false, |outcome| {
            matched.starts.insert(outcome.bucket, outcome.last_start);
            let chain = JudgedChain {
                row: 0,
                bucket: outcome.bucket,
                held: gathered.value(outcome.held),
                events: original(&mut outcome.events()),
            };
            let required = chain.events.iter().filter(|(step, _)| {
                funnel.mode == FunnelMode::AnyOrder || !funnel.steps[*step].optional
            });
            assert_eq!(required.count(), outcome.level);
            matched.chains.push(chain);
        })
        .unwrap();
    }
    matched
}

fn check_funnel(store: &ModelStore, funnel: &Funnel, as_of: i64) -> Result<(), TestCaseError> {
    let mut judged = store.judged_chains(funnel, 0, as_of);
    if funnel.entries == Entries::Every {
        judged.sort();
    }
    let mut scratch = FunnelScratch::default();
    for sparse in [false, true] {
        let matched = by_kernel(store, funnel, as_of, sparse, &mut scratch);
        prop_assert_eq!(&judged, &matched.chains, "sparse: {}", sparse);
        if funnel.entries != Entries::Every {
            prop_assert_eq!(&store.judged_starts(funnel, 0, as_of), &matched.starts);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(20_000))]

    #[test]
    fn funnels_equal_the_judge(
        store in testing::store(1, 8),
        funnel in testing::funnel(),
        as_of in testing::present(),
    ) {
        check_funnel(&store, &funnel, as_of)?;
    }

    #[test]
    fn skipped_steps_equal_the_judge(
        store in testing::store(1, 9),
        funnel in testing::optional_funnel(),
    ) {
        check_funnel(&store, &funnel, 20 * UNIT)?;
    }

    #[test]
    fn conditions_simplify_to_the_same(
        store in testing::store(1, 6),
        condition in testing::condition(),
    ) {
        let traits = store.traits(0, 20 * UNIT);
        for event in store.events() {
            let row = Row(event, &traits);
            let truth = condition.evaluate(&row, &mut Skipped::default());
            let rest = condition.for_event(&event.event);
            prop_assert_eq!(truth, rest.evaluate(&row, &mut Skipped::default()));
            // Only an expression may still look at the name.
            let computes = format!("{rest:?}").contains("Computed");
            prop_assert!(computes || !rest.reads().event_name);
            prop_assert!(!truth.holds() || condition.names().contains(&event.event));
        }
    }

    #[test]
    fn dids_equal_the_judge(
        store in testing::store(1, 8),
        did in testing::a_did(),
        as_of in testing::present(),
    ) {
        let judged = store.segment(&did.clone().into(), as_of).unwrap();
        let matched = did_by_kernel(&store, &did, as_of);
        prop_assert_eq!(judged.contains(&0), matched);
    }

    #[test]
    fn steps_equal_the_general_matcher(
        gaps in prop::collection::vec((0..4_i64, 0..4_usize), 0..24),
        steps in 1..=4_usize,
        within in prop::option::of(0..20_i64),
        mut cuts in prop::collection::vec(0..24_usize, 0..4),
        (first, last) in (-1..30_i64, 0..60_i64),
        exclude in prop::option::of(0..4_usize),
    ) {
        let exclude = exclude.map(|after| Exclusion { step: steps, after: after % steps });
        let names = steps + usize::from(exclude.is_some());
        let mut time = 0;
        let events = gaps.into_iter().map(|(gap, step)| {
            time += gap;
            (time, step)
        });
        let events: Vec<(i64, usize)> = events.filter(|&(_, step)| step < names).collect();
        let inside = events.iter().enumerate();
        let inside = inside.filter(|(_, (time, _))| (first..=last).contains(time));
        let inside: Vec<(usize, (i64, u64))> =
            inside.map(|(place, &(time, step))| (place, (time, 1 << step))).collect();
        let (places, (times, masks)): (Vec<usize>, (Vec<i64>, Vec<u64>)) =
            inside.into_iter().unzip();
        let mut funnel = Funnel::new(["a", "b", "c", "d"].into_iter().take(steps));
        funnel.within = within.map(crate::behaviour::micros);
        let excluded = masks.iter().map(|mask| exclude.is_some() && *mask == 1 << steps);
        let excluded: Vec<bool> = excluded.collect();
        if let Some(exclude) = exclude {
            funnel = funnel.exclude("x").after_step(exclude.after + 1);
        }
        let seen = UserEvents {
            times: &times,
            steps: &masks,
            excluded: &excluded,
            ..UserEvents::default()
        };
        let mut expected = Vec::new();
        let plan = FunnelPlan::new(&funnel);
        match_funnel(&plan, &seen, &mut FunnelScratch::default(), &|| false, |outcome| {
            expected = outcome.events().map(|(_, event)| places[event]).collect();
        }).unwrap();

        cuts.sort_unstable();
        let mut user = Stretches::new(&events, names, &cuts);
        let bounds = Bounds { first, last, within: within.map(|within| within as u64), exclude };
        let mut chain = Vec::new();
        'levels: for level in (1..=steps).rev() {
            chain.resize(level, Link::default());
            for stretch in 0..=cuts.len() {
                if user.find(stretch, &bounds, &mut chain) {
                    break 'levels;
                }
            }
            chain.clear();
        }
        let steps = chain.iter().enumerate();
        let found: Vec<usize> = steps
            .map(|(step, link)| user.0[step][link.stretch][link.event].1)
            .collect();
        prop_assert_eq!(found, expected);
    }
}

/// A user's times by step and stretch, each with its place in total order.
struct Stretches(Vec<Vec<Vec<(i64, usize)>>>);

impl Stretches {
    fn new(events: &[(i64, usize)], steps: usize, cuts: &[usize]) -> Self {
        let mut times = vec![vec![Vec::new(); cuts.len() + 1]; steps];
        for (place, &(time, step)) in events.iter().enumerate() {
            times[step][cuts.partition_point(|&cut| cut <= place)].push((time, place));
        }
        Self(times)
    }

    /// As the general search finds it; what the search of lanes decides must be the same.
    fn find(&mut self, stretch: usize, bounds: &Bounds, chain: &mut [Link]) -> bool {
        let found = find_chain(self, stretch, bounds, chain, &|| false).unwrap();
        let earlier = self.0.iter().flat_map(|step| &step[..stretch]).flatten();
        let within = bounds.within.map_or(1 << 62, |within| within as i64);
        let lane_bounds = LaneBounds {
            first: bounds.first,
            last: bounds.last,
            within,
            before: earlier.map(|&(time, _)| time).max().unwrap_or(-1 << 62),
        };
        // Strangers' events lie before and behind the user's.
        let strangers = |count| std::iter::repeat_n(5_u32, count);
        let offsets = |step: usize| -> Vec<u32> {
            let own = self.0[step][stretch]
                .iter()
                .map(|&(time, _)| (time + step as i64) as u32);
            strangers(step).chain(own).chain(strangers(7)).collect()
        };
        let steps = 0..self.0.len();
        let offsets: Vec<Vec<u32>> = steps.map(offsets).collect();
        let lanes = offsets.iter().enumerate();
        let lanes: Vec<Lane<'_>> = lanes
            .map(|(step, offsets)| Lane {
                offsets,
                shift: -(step as i64),
                held: &[],
            })
            .collect();
        let exclude = bounds.exclude.map(|exclude| ExcludedLane {
            lane: lanes[exclude.step],
            number: exclude.step,
            after: exclude.after,
        });
        let lanes = &lanes[..chain.len()];
        let rows = |step: usize| step as u32..(step + self.0[step][stretch].len()) as u32;
        let (mut scratch, mut told) = (LaneScratch::default(), None);
        search(
            lanes,
            exclude.as_ref(),
            &lane_bounds,
            1,
            |step, _| rows(step),
            &mut scratch,
            |_, chain| {
                let events = chain.map(|of| {
                    (0..lanes.len())
                        .map(|lane| of.event(lane))
                        .collect::<Vec<_>>()
                });
                assert!(told.replace(events).is_none());
            },
        );
        match told {
            None => assert!(!found),
            Some(None) => {}
            Some(Some(events)) => {
                let links = chain.iter().enumerate();
                let expected = links.map(|(step, link)| (step + link.event) as u32);
                assert!(found && events == expected.collect::<Vec<_>>());
                assert!(chain.iter().all(|link| link.stretch == stretch));
            }
        }
        found
    }
}

impl StepEvents for Stretches {
    fn events(&mut self, step: usize, stretch: usize) -> Range<usize> {
        0..self.0[step][stretch].len()
    }

    fn time(&self, step: usize, stretch: usize, event: usize) -> i64 {
        self.0[step][stretch][event].0
    }

    fn first_from(&self, step: usize, stretch: usize, events: Range<usize>, time: i64) -> usize {
        let times = &self.0[step][stretch][events.clone()];
        events.start + times.partition_point(|&(other, _)| other < time)
    }

    fn precedes(&self, step: usize, event: usize, (next_step, next): (usize, &Link)) -> bool {
        self.0[step][next.stretch][event].1 < self.0[next_step][next.stretch][next.event].1
    }
}

fn did_by_kernel(store: &ModelStore, did: &Did, as_of: i64) -> bool {
    let gathered = Gathered::new(store.history(0, as_of), store, &did.holding, as_of);
    let events = &gathered.events;
    let times: Vec<i64> = events.iter().map(|event| event.time).collect();
    let flag = |condition: Option<&Condition>, event: &ModelEvent, flag: u8| {
        let holds = condition.is_some_and(|condition| gathered.holds(condition, event));
        if holds { flag } else { 0 }
    };
    let flags: Vec<u8> = events
        .iter()
        .map(|event| {
            flag(Some(&did.condition), event, CONDITION)
                | flag(did.then.as_ref(), event, THEN)
                | flag(did.not_then.as_ref(), event, NOT_THEN)
        })
        .collect();
    let columns: Vec<(Vec<u32>, Vec<Measure>)> = did
        .aggregates
        .iter()
        .map(|test| measures(test, events))
        .collect();
    let measures: Vec<Measures<'_>> = columns
        .iter()
        .map(|(ends, values)| Measures { ends, values })
        .collect();
    let events = DidEvents {
        times: &times,
        flags: &flags,
        held: gathered.held(&did.holding),
        measures: &measures,
    };
    let plan = DidPlan::new(did, as_of);
    match_did(&plan, &events, &mut DidScratch::default(), &|| false).unwrap()
}

fn measures(test: &AggregateTest, events: &[&ModelEvent]) -> (Vec<u32>, Vec<Measure>) {
    let mut distinct: Vec<String> = Vec::new();
    let (mut ends, mut values) = (Vec::new(), Vec::new());
    for event in events {
        let property = event.properties.get(&test.property);
        for scalar in property.iter().flat_map(|value| value.scalars()) {
            if test.aggregate == Aggregate::CountDistinct {
                let text = scalar.canonical_text().into_owned();
                let known = distinct.iter().position(|other| *other == text);
                values.push(Measure::I64(known.unwrap_or(distinct.len()) as i64));
                distinct.push(text);
                continue;
            }
            let wanted = match test.literal {
                Literal::Timestamp(_) => compare(scalar, &test.literal).is_some(),
                _ => true,
            };
            match scalar {
                Scalar::Timestamp(value)
                    if wanted && matches!(test.literal, Literal::Timestamp(_)) =>
                {
                    values.push(Measure::I64(value));
                }
                Scalar::I64(value) if wanted => values.push(Measure::I64(value)),
                Scalar::F64(value) if wanted => values.push(Measure::F64(value)),
                _ => {}
            }
        }
        ends.push(values.len() as u32);
    }
    (ends, values)
}

#[test]
fn a_large_user_is_linear_and_can_be_interrupted() {
    let count = 300_000;
    let times: Vec<i64> = (0..count).collect();
    let steps: Vec<u64> = (0..count).map(|index| 1 << (index % 3)).collect();
    let events = UserEvents {
        times: &times,
        steps: &steps,
        ..UserEvents::default()
    };
    // The window is too short for the last step, so that nothing ends the search early.
    let funnel = Funnel::new(["a", "b", "c", "never"]).within(crate::behaviour::micros(5));
    let plan = FunnelPlan::new(&funnel);
    let mut scratch = FunnelScratch::default();
    let mut levels = Vec::new();
    match_funnel(&plan, &events, &mut scratch, &|| false, |outcome| {
        levels.push((outcome.level, outcome.event(0), outcome.event(2)));
    })
    .unwrap();
    assert_eq!(levels, [(3, Some(0), Some(2))]);
    let asked = std::cell::Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 2
    };
    let stopped = match_funnel(&plan, &events, &mut scratch, &stop, |_| {});
    assert_eq!(stopped, Err(Interrupted));
}

/// The breakdown of a chain, by the words of the contract.
fn breakdown(
    gathered: &Gathered<'_>,
    funnel: &Funnel,
    held: Option<u32>,
    chain: &[usize],
) -> Option<ByKey> {
    let operand = funnel.by.as_ref()?;
    if let Operand::Property(name) = operand
        && let Some(at) = funnel.holding.iter().position(|held| held == name)
    {
        return Some(ByKey::Value(gathered.value(held)[at].clone()));
    }
    let event = match funnel.attribute.unwrap_or_default() {
        Attribute::First => chain.first()?,
        Attribute::Last => chain.last()?,
    };
    let row = Row(gathered.events[*event], &gathered.traits);
    let (value, _) = crate::behaviour::operand_value(operand, &row);
    let scalars = value.iter().flat_map(|value| value.scalars());
    let texts = scalars.map(|scalar| scalar.canonical_text().into_owned());
    Some(texts.min().map_or(ByKey::None, ByKey::Value))
}

/// Adds one user to a tally, as an executor would.
fn tally_user(
    store: &ModelStore,
    funnel: &Funnel,
    user: u32,
    as_of: i64,
    tally: &mut FunnelTally,
    scratch: &mut FunnelScratch,
) {
    let range = funnel.range.resolve(as_of);
    let mut history = store.history(user, as_of);
    history.retain(|event| range.contains(event.time));
    let mut gathered = Gathered::new(history, store, &funnel.holding, as_of);
    gathered.traits = store.traits(user, as_of);
    let times: Vec<i64> = gathered.events.iter().map(|event| event.time).collect();
    let steps: Vec<u64> = gathered
        .events
        .iter()
        .map(|event| {
            let steps = funnel.steps.iter().enumerate();
            steps.fold(0, |bits, (index, step)| {
                bits | u64::from(gathered.holds(&step.condition, event)) << index
            })
        })
        .collect();
    let excluded: Vec<bool> = gathered
        .events
        .iter()
        .map(|event| {
            let exclude = funnel.exclude.as_ref();
            exclude.is_some_and(|condition| gathered.holds(condition, event))
        })
        .collect();
    let events = UserEvents {
        times: &times,
        steps: &steps,
        excluded: &excluded,
        positions: &[],
        held: gathered.held(&funnel.holding),
    };
    let plan = FunnelPlan::new(funnel);
    let is_open = |start: i64| {
        funnel
            .within
            .is_some_and(|within| as_of - start < within.micros)
    };
    let chain = |events: &mut dyn Iterator<Item = (usize, usize)>| {
        events.map(|event| event.1).collect::<Vec<usize>>()
    };
    if funnel.entries == Entries::Every {
        match_every(&plan, &events, scratch, &|| false, |counted| {
            let chain = chain(&mut counted.events());
            let by = breakdown(&gathered, funnel, counted.held, &chain);
            let group = tally.group(counted.bucket, by);
            tally.add_counted(group, &counted, &times, is_open(times[chain[0]]));
        })
        .unwrap();
    } else {
        match_funnel(&plan, &events, scratch, &|| false, |outcome| {
            let chain = chain(&mut outcome.events());
            let by = breakdown(&gathered, funnel, outcome.held, &chain);
            let group = tally.group(outcome.bucket, by);
            tally.add(group, &outcome, &times, is_open(outcome.last_start));
        })
        .unwrap();
    }
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn tables_equal_the_judge(
        store in testing::store(4, 16),
        funnel in testing::funnel(),
        as_of in testing::present(),
    ) {
        let mut tallies = [FunnelTally::new(&funnel), FunnelTally::new(&funnel)];
        let mut scratch = FunnelScratch::default();
        for user in store.known_users(as_of) {
            let tally = &mut tallies[user as usize % 2];
            tally_user(&store, &funnel, user, as_of, tally, &mut scratch);
        }
        let [mut whole, other] = tallies;
        whole.merge(other);
        prop_assert_eq!(store.funnel(&funnel, as_of).unwrap().rows, whole.finish(&funnel));
    }

    #[test]
    fn users_are_those_that_the_table_counts(
        store in testing::store(4, 16),
        funnel in testing::funnel(),
        segment in testing::segment(),
        as_of in testing::present(),
    ) {
        let mut funnel = funnel;
        funnel.users = Some(segment);
        // Chains are counted there, not users.
        if funnel.entries == Entries::Every {
            funnel.entries = Entries::Best;
        }
        let rows = store.funnel(&funnel, as_of).unwrap().rows;
        let users = store.funnel_users(&funnel, &[], as_of).unwrap().rows;
        for row in rows {
            let behind: BTreeSet<u32> = users
                .iter()
                .filter(|user| user.bucket == row.bucket && user.by == row.by)
                .filter(|user| user.steps.contains(&row.step))
                .map(|user| user.user)
                .collect();
            prop_assert_eq!(behind.len() as u64, row.users);
        }
    }

    #[test]
    fn histograms_hold_everyone(micros in prop::collection::vec(0..50_i64, 0..20), bins in 1..8_usize) {
        let rows = crate::tally::histogram(&micros, bins);
        prop_assert_eq!(rows.iter().map(|row| row.users).sum::<u64>(), micros.len() as u64);
        // Edges in microseconds times bins are whole, so that every bin can be counted exactly.
        let longest = micros.iter().copied().max().unwrap_or(0);
        for (bin, row) in rows.iter().enumerate().filter(|_| longest > 0) {
            let (bin, bins) = (bin as i64, bins as i64);
            let inside = micros.iter().filter(|&&time| {
                time * bins >= longest * bin
                    && (time * bins < longest * (bin + 1) || bin + 1 == bins)
            });
            prop_assert_eq!(inside.count() as u64, row.users);
        }
    }
}
