//! The real files, where they are at hand.

use std::collections::{HashMap, HashSet};

use super::super::{Delimiter, EventNaming, TimeFormat};
use super::*;

/// Where the files lie, if they do: `PUGMARK_DATA`, else beside the repository.
pub(super) fn data() -> Option<PathBuf> {
    let beside = Path::new("../../shared/data");
    let folder = std::env::var_os("PUGMARK_DATA").map_or_else(|| beside.to_owned(), PathBuf::from);
    let there = folder.join("SOURCES.md").is_file();
    if !there {
        eprintln!(
            "SKIPPED: no real event data in {}; set PUGMARK_DATA",
            folder.display()
        );
    }
    there.then_some(folder)
}

/// How the purchases of CDNOW are read.
pub(super) fn cdnow_options() -> ImportOptions {
    let mut options = ImportOptions::new("customer_id", "date", "");
    options.naming = fixed("purchase");
    options.delimiter = Some(Delimiter::Blanks);
    options.time_format = Some(TimeFormat::new("%Y%m%d").unwrap());
    options
}

fn load(file: &str, options: &ImportOptions) -> Option<(Collector, FileReport)> {
    let path = data()?.join(file);
    let rejects = tempfile::tempdir().unwrap();
    let mut options = options.clone();
    options.rejects = Some(rejects.path().join("rejects.csv"));
    let mut collector = Collector::default();
    let report = import(&[&path], &options, &mut collector)
        .unwrap()
        .remove(0);
    Some((collector, report))
}

fn users(collector: &Collector) -> usize {
    let ids = |batch: &pugmark_engine::EventBatch| -> Vec<String> {
        (0..batch.len())
            .map(|row| batch.users().key(row).to_string())
            .collect()
    };
    collector
        .batches
        .iter()
        .flat_map(ids)
        .collect::<HashSet<_>>()
        .len()
}

pub(super) fn fixed(name: &str) -> EventNaming {
    EventNaming {
        rules: Vec::new(),
        columns: Vec::new(),
        fixed: Some(name.to_owned()),
    }
}

#[test]
fn rees46() {
    let options = ImportOptions::new("user_id", "event_time", "event_type");
    let Some((collector, report)) = load("rees46-2019-oct.csv", &options) else {
        return;
    };
    assert_eq!(
        (report.rows, report.events, users(&collector)),
        (17_434, 17_434, 4_504)
    );
    let names = [("cart", 165), ("purchase", 214), ("view", 17_055)];
    assert_eq!(
        report.names,
        names.map(|(name, count)| (name.to_owned(), count)).into()
    );
    let types = types(&report);
    assert_eq!(types["price"], [("f64", 17_434)]);
    assert_eq!(types["product_id"], [("i64", 17_434)]);
    assert_eq!(types["category_id"], [("i64", 17_434)]);
    assert_eq!(types["user_session"], [("text", 17_434)]);
    assert!(types["brand"][0].1 < 17_434, "an empty brand is missing");
    assert_eq!(
        events(&collector)[1],
        "554748717 2019-10-01T00:00:00Z view product_id=3900821 \
        category_id=2053013552326770905 category_code=\"appliances.environment.water_heater\" \
        brand=\"aqua\" price=33.2 user_session=\"9333dfbd-b87a-4708-9857-6336556b0fcc\""
    );
}

#[test]
fn rees46_duplicates() {
    let options = ImportOptions::new("user_id", "event_time", "event_type");
    let Some((collector, report)) = load("rees46-electronics-duplicates.csv", &options) else {
        return;
    };
    assert_eq!((report.events, users(&collector)), (1_284, 570));
    assert_eq!(
        events(&collector).into_iter().collect::<HashSet<_>>().len(),
        629
    );
    assert_eq!(report.times.unwrap().0, 1_600_955_467_000_000);
}

#[test]
fn online_retail() {
    let mut options = ImportOptions::new("CustomerID", "InvoiceDate", "");
    options.naming = fixed("purchase");
    options.naming.rules = vec!["InvoiceNo^=C:cancel".parse().unwrap()];
    let Some((collector, report)) = load("online-retail.csv.gz", &options) else {
        return;
    };
    assert_eq!(
        (report.rows, report.events, users(&collector)),
        (541_909, 406_829, 4_372)
    );
    assert_eq!(rejected(&report), [("no user id", 135_080)]);
    let types = types(&report);
    assert_eq!(types["Quantity"], [("i64", 406_829)]);
    assert_eq!(types["InvoiceNo"], [("text", 406_829)]);
    assert_eq!(types["StockCode"], [("text", 406_829)]);
    assert_eq!(types["UnitPrice"], [("f64", 406_829)]);
    assert_eq!(
        events(&collector)[0],
        "17850.0 2010-12-01T08:26:00Z purchase InvoiceNo=\"536365\" \
        StockCode=\"85123A\" Description=\"WHITE HANGING HEART T-LIGHT HOLDER\" Quantity=6 \
        UnitPrice=2.55 Country=\"United Kingdom\""
    );
    let (buyers, cancelled) = purchase_then_cancel(&collector);
    assert_eq!((buyers, cancelled), (4_339, 1_392));
}

/// Users with a purchase, and with a cancellation after one (by arrival where times are equal)
/// within 30 days.
fn purchase_then_cancel(collector: &Collector) -> (usize, usize) {
    let mut of_user: HashMap<String, Vec<(i64, bool)>> = HashMap::new();
    for batch in &collector.batches {
        for row in 0..batch.len() {
            let event = (batch.times()[row], batch.events().get(row) == "cancel");
            of_user
                .entry(batch.users().key(row).to_string())
                .or_default()
                .push(event);
        }
    }
    let (mut buyers, mut cancelled) = (0, 0);
    for events in of_user.values_mut() {
        events.sort_by_key(|&(time, _)| time);
        let (mut last_purchase, mut found) = (None, false);
        for &(time, is_cancel) in events.iter() {
            match (is_cancel, last_purchase) {
                (false, _) => last_purchase = Some(time),
                (true, Some(bought)) => found |= time - bought <= 30 * 86_400_000_000i64,
                (true, None) => {}
            }
        }
        buyers += usize::from(last_purchase.is_some());
        cancelled += usize::from(found);
    }
    (buyers, cancelled)
}

#[test]
fn bpic2012() {
    let mut options = ImportOptions::new("case_id", "timestamp", "");
    options.naming.columns = vec!["activity".to_owned(), "lifecycle".to_owned()];
    let Some((collector, report)) = load("bpic2012.csv.gz", &options) else {
        return;
    };
    assert_eq!((report.events, users(&collector)), (262_200, 13_087));
    assert_eq!(report.names.len(), 36);
    assert_eq!(report.names["A_SUBMITTED|COMPLETE"], 13_087);
    assert!(
        events(&collector)[0]
            .starts_with("173688 2011-09-30T22:38:44.546Z A_SUBMITTED|COMPLETE seq=0 ")
    );
}

#[test]
fn otto() {
    let mut options = ImportOptions::new("session", "ts", "type");
    options.explode = Some("events".to_owned());
    let Some((collector, report)) = load("otto.jsonl", &options) else {
        return;
    };
    assert_eq!(
        (report.rows, report.events, users(&collector)),
        (20, 862, 20)
    );
    assert_eq!(
        events(&collector)[0],
        "0 2022-07-31T22:00:00.025Z clicks aid=1517085"
    );
    assert_eq!(report.properties.len(), 1);
}

#[test]
fn cdnow() {
    let options = cdnow_options();
    let Some((collector, report)) = load("cdnow.txt", &options) else {
        return;
    };
    assert_eq!(
        (report.rows, report.events, users(&collector)),
        (69_659, 69_659, 23_570)
    );
    assert_eq!(types(&report)["dollar_value"], [("f64", 69_659)]);
    assert_eq!(types(&report)["number_of_cds"], [("i64", 69_659)]);
    assert_eq!(
        events(&collector)[0],
        "00001 1997-01-01T00:00:00Z purchase number_of_cds=1 dollar_value=11.77"
    );
}
