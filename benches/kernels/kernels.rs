//! The innermost loops, each alone: users of two names met as words, rows of users from run
//! lengths, runs of rows in order, numbers of a column, ordinals of ids, and the three searches of a three-step funnel.
//! `cargo bench -p pugmark-kernels` takes their time; `benches/run.py kernels` counts their instructions.

use std::collections::BTreeMap;
use std::error::Error;
use std::hint::black_box;
use std::ops::Range;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use pugmark_engine::batch::{IdColumn, Kind};
use pugmark_engine::bitmap::Words;
use pugmark_engine::codec::PartView;
use pugmark_engine::segment::{NameRun, UserStarts};
use pugmark_engine::{Corruption, Snapshot, Store};
use pugmark_query::kernel::{
    Bounds, FunnelPlan, FunnelScratch, Lane, LaneBounds, LaneScratch, Link, StepEvents, UserEvents,
    find_chain, match_funnel, search,
};
use pugmark_query::population::{Population, PopulationConfig};
use pugmark_query::{Funnel, days};

/// 45 000 users, so that the first container is two thirds full.
const EVENTS: u64 = 1_000_000;

const STEPS: [&str; 3] = ["view", "cart", "purchase"];

/// Ids that are looked up.
const IDS: u32 = 4_096;

/// Numbers that are read of a column.
const NUMBERS: u32 = 65_536;

/// Runs a kernel, never as a part of its caller: the instructions in here are counted.
#[inline(never)]
fn counted<T>(kernel: impl FnOnce() -> T) -> T {
    black_box(kernel())
}

/// Says how many elements each kernel of a group goes through: for a rate of time, and, in words, for
/// who counts instructions.
#[expect(clippy::print_stderr, reason = "the harness reads it")]
fn elements(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, elements: u64) {
    group.throughput(Throughput::Elements(elements));
    eprintln!("elements of {name}: {elements}");
}

/// One user's events of the steps, for all searches.
#[derive(Default)]
struct User {
    times: Vec<i64>,
    steps: Vec<u64>,
    lists: [Vec<i64>; 3],
}

/// A user's events of the steps in one stretch.
struct Lists<'a>(&'a [Vec<i64>; 3]);

impl StepEvents for Lists<'_> {
    fn events(&mut self, step: usize, _: usize) -> Range<usize> {
        0..self.0[step].len()
    }

    fn time(&self, step: usize, _: usize, event: usize) -> i64 {
        self.0[step][event]
    }

    fn first_from(&self, step: usize, _: usize, events: Range<usize>, time: i64) -> usize {
        events.start + self.0[step][events].partition_point(|&other| other < time)
    }

    fn precedes(&self, _: usize, _: usize, _: (usize, &Link)) -> bool {
        // The generated population has no two events of a user at one time.
        false
    }
}

fn population() -> Population {
    Population::new(PopulationConfig::of_events(EVENTS))
}

fn loaded(store: &Store) -> Result<Snapshot, Box<dyn Error>> {
    let mut load = store.bulk_load(1)?;
    let mut rows = 0;
    for batch in population().batches() {
        rows += batch.len() as u64;
        load.append(batch, rows)?;
    }
    load.finish(rows)?;
    Ok(store.snapshot()?)
}

fn users() -> Vec<User> {
    let mut users: BTreeMap<i64, User> = BTreeMap::new();
    for batch in population().batches() {
        let IdColumn::Int(ids) = batch.users() else {
            continue;
        };
        for (row, (&id, &time)) in ids.iter().zip(batch.times()).enumerate() {
            let name = batch.events().get(row);
            if let Some(step) = STEPS.iter().position(|known| *known == name) {
                let user = users.entry(id).or_default();
                user.times.push(time);
                user.steps.push(1 << step);
                user.lists[step].push(time);
            }
        }
    }
    users.into_values().collect()
}

fn segments(criterion: &mut Criterion) -> Result<(), Box<dyn Error>> {
    let directory = tempfile::tempdir()?;
    let store = Store::builder(directory.path()).open()?;
    let snapshot = loaded(&store)?;
    let largest = snapshot
        .event_segments()
        .iter()
        .max_by_key(|segment| segment.meta().rows);
    let segment = largest.ok_or("no segment")?;
    let (views, carts) = (segment.run("view"), segment.run("cart"));
    let (views, carts) = (views.ok_or("no views")?, carts.ok_or("no carts")?);
    let (viewers, collectors) = (views.users()?, carts.users()?);

    let name = "a container of 65 536 users";
    let mut group = criterion.benchmark_group(name);
    elements(&mut group, name, viewers.cardinality());
    let mut words = Words::new();
    group.bench_function("users of one name and another", |bencher| {
        bencher.iter(|| {
            counted(|| {
                words.clear();
                viewers.or_into(0, &mut words);
                collectors.and_into(0, &mut words);
                words.len()
            })
        });
    });
    let mut found = UserStarts::default();
    group.bench_function("users and their rows", |bencher| {
        bencher.iter(|| counted(|| views.user_starts(0, 0..1 << 16, &mut found).is_ok()));
    });
    let mut starts = vec![0; 65_537];
    group.bench_function("rows of each user", |bencher| {
        bencher.iter(|| counted(|| views.row_starts(0, &mut starts).is_ok()));
    });
    group.finish();
    let order = segment.order()?;
    let (places, mut runs) = (order.container_rows(0)?, Vec::new());
    let name = "the rows of a container, user by user";
    let mut group = criterion.benchmark_group(name);
    elements(&mut group, name, places.len() as u64);
    group.bench_function("their runs in order", |bencher| {
        bencher.iter(|| {
            counted(|| {
                runs.clear();
                order.runs(places.clone(), &mut runs).is_ok()
            })
        });
    });
    group.finish();
    columns(criterion, views)?;
    ids(criterion, &snapshot)
}

/// A column that is stored as it is, one through a table, and one that follows from that.
fn columns(criterion: &mut Criterion, run: NameRun<'_>) -> Result<(), Box<dyn Error>> {
    let properties = run.properties()?;
    for (property, kind) in [
        ("platform", Kind::Text),
        ("product_id", Kind::I64),
        ("price", Kind::F64),
    ] {
        let column = properties.get(property)?;
        let part = column.as_ref().and_then(|column| column.part(kind));
        if !part.is_some_and(PartView::is_all) {
            return Err(format!("views without a {property}").into());
        }
    }
    let name = "a column's numbers, opened and read";
    let mut group = criterion.benchmark_group(name);
    let rows = 0..NUMBERS.min(run.rows());
    elements(&mut group, name, rows.len() as u64);
    let mut codes = Vec::new();
    group.bench_function("codes of platforms", |bencher| {
        bencher.iter(|| {
            counted(|| -> Result<(), Corruption> {
                codes.clear();
                let column = run.properties()?.get("platform")?;
                let part = column.as_ref().and_then(|column| column.part(Kind::Text));
                let coded = part.and_then(PartView::coded);
                coded.map_or(Ok(()), |coded| coded.codes(rows.clone(), &mut codes))
            })
        });
    });
    let (mut whole, mut floats) = (Vec::new(), Vec::new());
    group.bench_function("products", |bencher| {
        bencher.iter(|| {
            counted(|| -> Result<(), Corruption> {
                whole.clear();
                let column = run.properties()?.get("product_id")?;
                let part = column.as_ref().and_then(|column| column.part(Kind::I64));
                part.map_or(Ok(()), |part| part.ints(rows.clone(), &mut whole))
            })
        });
    });
    group.bench_function("prices", |bencher| {
        bencher.iter(|| {
            counted(|| -> Result<(), Corruption> {
                floats.clear();
                let column = run.properties()?.get("price")?;
                let part = column.as_ref().and_then(|column| column.part(Kind::F64));
                part.map_or(Ok(()), |part| part.floats(rows.clone(), &mut floats))
            })
        });
    });
    group.finish();
    Ok(())
}

fn ids(criterion: &mut Criterion, snapshot: &Snapshot) -> Result<(), Box<dyn Error>> {
    let dictionary = snapshot.dictionary();
    let step = (dictionary.len() / IDS).max(1);
    let mut ids = Vec::new();
    for ordinal in (0..dictionary.len()).step_by(step as usize) {
        ids.extend(dictionary.id(ordinal)?);
    }
    let name = "the dictionary of ids";
    let mut group = criterion.benchmark_group(name);
    elements(&mut group, name, ids.len() as u64);
    group.bench_function("ordinals of ids, one by one", |bencher| {
        bencher.iter(|| {
            counted(|| {
                let found = ids.iter().map(|id| dictionary.find(id.key()));
                found.filter(|found| matches!(found, Ok(Some(_)))).count()
            })
        });
    });
    group.finish();
    Ok(())
}

fn matchers(criterion: &mut Criterion) {
    let users = users();
    let funnel = Funnel::new(STEPS).within(days(1));
    let events = users.iter().map(|user| user.times.len() as u64).sum();
    let name = "view, cart, purchase within a day";
    let mut group = criterion.benchmark_group(name);
    elements(&mut group, name, events);
    let bounds = Bounds {
        first: i64::MIN,
        last: i64::MAX,
        within: Some(days(1).micros as u64),
        exclude: None,
    };
    let mut chain = Vec::new();
    group.bench_function("each step's times", |bencher| {
        bencher.iter(|| {
            counted(|| {
                let mut levels = 0;
                for user in &users {
                    let mut lists = Lists(&user.lists);
                    for level in (1..=3).rev() {
                        chain.clear();
                        chain.resize(level, Link::default());
                        if find_chain(&mut lists, 0, &bounds, &mut chain, &|| false) == Ok(true) {
                            levels += level;
                            break;
                        }
                    }
                }
                levels
            })
        });
    });
    let (offsets, rows) = lanes(&users);
    let mut scratch = LaneScratch::default();
    group.bench_function("many users at once", |bencher| {
        bencher.iter(|| counted(|| levels_of(&offsets, &rows, &mut scratch)));
    });
    let (plan, mut scratch) = (FunnelPlan::new(&funnel), FunnelScratch::default());
    group.bench_function("events in order", |bencher| {
        bencher.iter(|| {
            counted(|| {
                let mut levels = 0;
                for user in &users {
                    let events = UserEvents {
                        times: &user.times,
                        steps: &user.steps,
                        ..UserEvents::default()
                    };
                    let emit =
                        |outcome: pugmark_query::kernel::Outcome<'_>| levels += outcome.level;
                    let _ends = match_funnel(&plan, &events, &mut scratch, &|| false, emit);
                }
                levels
            })
        });
    });
    group.finish();
}

/// Each step's times in milliseconds, user after user, and where each user's are.
type Rows = [Vec<Range<u32>>; 3];

fn lanes(users: &[User]) -> ([Vec<u32>; 3], Rows) {
    let times = users.iter().flat_map(|user| user.times.first()).copied();
    let origin = times.min().unwrap_or(0);
    let (mut offsets, mut rows) = <([Vec<u32>; 3], Rows)>::default();
    for user in users {
        for step in 0..STEPS.len() {
            let first = offsets[step].len() as u32;
            let own = user.lists[step].iter();
            offsets[step].extend(own.map(|time| ((time - origin) / 1_000) as u32));
            rows[step].push(first..offsets[step].len() as u32);
        }
    }
    (offsets, rows)
}

/// The sum of all users' levels: those without a chain of three steps are asked for one of two.
fn levels_of(offsets: &[Vec<u32>; 3], rows: &Rows, scratch: &mut LaneScratch) -> usize {
    let lane = |offsets| Lane {
        offsets,
        shift: 0,
        held: &[],
    };
    let lanes: Vec<Lane<'_>> = offsets.iter().map(|of| lane(of.as_slice())).collect();
    let bounds = LaneBounds {
        first: -1,
        last: 1 << 60,
        within: days(1).micros / 1_000,
        before: -1 << 60,
    };
    let mut left: Vec<usize> = (0..rows[0].len()).collect();
    let mut levels = 0;
    for level in (1..=3).rev() {
        let mut found = vec![false; left.len()];
        let own = |step: usize, user: usize| rows[step][left[user]].clone();
        search(
            &lanes[..level],
            None,
            &bounds,
            left.len(),
            own,
            scratch,
            |user, chain| {
                found[user] = chain.is_some();
            },
        );
        levels += level * found.iter().filter(|found| **found).count();
        let mut found = found.into_iter();
        left.retain(|_| found.next() != Some(true));
    }
    levels
}

#[expect(
    clippy::panic,
    reason = "a benchmark that cannot begin has nothing to say"
)]
fn stored(criterion: &mut Criterion) {
    if let Err(error) = segments(criterion) {
        panic!("{error}");
    }
}

criterion_group!(kernels, stored, matchers);
criterion_main!(kernels);
