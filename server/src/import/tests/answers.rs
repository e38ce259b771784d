//! The real files, imported into a store and asked: answers that unrelated programs agree on.

use pugmark_engine::Store;
use pugmark_query::{
    Executor, Funnel, QueryOptions, Span, days, did, event, minutes, not, seconds, step,
};

use super::real::{cdnow_options, data, fixed};
#[cfg(feature = "sql")]
use super::statements;
use crate::import::{ImportOptions, Meter, import_files};
use crate::load::StoreTarget;

/// Imports a file twice (the second time changes nothing) and asks on every layout: as imported,
/// compacted, and reopened by a reader.
fn ask(file: &str, options: &ImportOptions, check: impl Fn(&Store)) {
    let Some(folder) = data() else { return };
    let directory = tempfile::tempdir().unwrap();
    let mut options = options.clone();
    options.rejects = Some(directory.path().join("rejects.csv"));
    let path = directory.path().join("store");
    let builder = Store::builder(&path);
    let files = [folder.join(file)];
    for _ in 0..2 {
        let mut target = StoreTarget::new(builder.clone());
        import_files(&files, &options, &mut target, &Meter::default()).unwrap();
    }
    let store = builder.open().unwrap();
    check(&store);
    store.compact().unwrap();
    check(&store);
    store.verify().unwrap();
    drop(store);
    check(&Store::builder(&path).read_only().open().unwrap());
}

/// Questions whose present is the last event.
fn latest(store: &Store) -> Executor {
    let (_, last) = store.stats().unwrap().times.unwrap();
    let options = QueryOptions {
        as_of: Some(last),
        ..QueryOptions::default()
    };
    Executor::new(store.snapshot().unwrap()).with_options(options)
}

fn counts(executor: &Executor, funnel: Funnel) -> Vec<u64> {
    executor
        .funnel(&funnel)
        .unwrap()
        .rows
        .iter()
        .map(|row| row.users)
        .collect()
}

#[test]
fn rees46() {
    let options = ImportOptions::new("user_id", "event_time", "event_type");
    ask("rees46-2019-oct.csv", &options, |store| {
        let executor = &latest(store);
        #[cfg(feature = "sql")]
        statements::rees46(store);
        assert_eq!(executor.snapshot().events(), 17_434);
        assert_eq!(executor.count(pugmark_query::everyone()).unwrap(), 4_504);
        for (name, users) in [("view", 4_504), ("cart", 111), ("purchase", 193)] {
            assert_eq!(executor.users(did(name)).unwrap().len(), users, "{name}");
        }
        let funnel = || Funnel::new(["view", "cart", "purchase"]);
        let within = |span: Span| counts(executor, funnel().within(span));
        assert_eq!(within(seconds(60)), [4_504, 91, 16]);
        assert_eq!(within(minutes(5)), [4_504, 110, 54]);
        assert_eq!(within(minutes(30)), [4_504, 111, 62]);
        assert_eq!(counts(executor, funnel().holding("product_id"))[2], 61);
        let left = did("cart").and(not(did("purchase")));
        assert_eq!(executor.count(&left).unwrap(), 49);
    });
}

#[test]
fn online_retail() {
    let mut options = ImportOptions::new("CustomerID", "InvoiceDate", "");
    options.naming = fixed("purchase");
    options.naming.rules = vec!["InvoiceNo^=C:cancel".parse().unwrap()];
    ask("online-retail.csv.gz", &options, |store| {
        let executor = &latest(store);
        #[cfg(feature = "sql")]
        statements::online_retail(store);
        let funnel = Funnel::new(["purchase", "cancel"]).within(days(30));
        assert_eq!(counts(executor, funnel), [4_339, 1_392]);
        // Ties within a minute go by arrival.
        let funnel = Funnel::new(["cancel", "purchase"]).within(days(1));
        assert_eq!(counts(executor, funnel)[1], 330);
    });
}

#[test]
fn bpic2012() {
    let mut options = ImportOptions::new("case_id", "timestamp", "");
    options.naming.columns = vec!["activity".to_owned(), "lifecycle".to_owned()];
    ask("bpic2012.csv.gz", &options, |store| {
        let executor = &latest(store);
        #[cfg(feature = "sql")]
        statements::bpic2012(store);
        let steps = ["SUBMITTED", "PREACCEPTED", "ACCEPTED", "APPROVED"];
        let steps = steps.map(|name| step(event(&format!("A_{name}|COMPLETE"))));
        let funnel = Funnel::new(steps).within(days(7));
        assert_eq!(counts(executor, funnel), [13_087, 7_366, 5_023, 126]);
    });
}

#[test]
fn cdnow() {
    ask("cdnow.txt", &cdnow_options(), |store| {
        let executor = &latest(store);
        #[cfg(feature = "sql")]
        statements::cdnow(store);
        let often = executor.users(did("purchase").at_least(3)).unwrap();
        assert_eq!(often.len(), 7_583);
        let asleep = executor.users(did("purchase").idle_for(days(180))).unwrap();
        assert_eq!(asleep.len(), 18_210);
    });
}
