//! Named points at which a test may kill the process; nothing without the feature `failpoints`.

/// Every point, so that a test can pass them all.
#[cfg(feature = "failpoints")]
pub const CRASH_POINTS: &[&str] = &[
    "append.synced",
    "flush.frozen",
    "flush.segments_written",
    "flush.ids_written",
    "flush.published",
    "publish.written",
    "publish.renamed",
    "compact.segments_written",
    "compact.published",
    "drop.published",
    "bulk.segments_written",
    "ids.merged",
    "message_ids.merged",
    "recover.garbage_removed",
    "recover.replayed",
];

/// True where the name is listed; checked when the engine is compiled.
#[cfg(feature = "failpoints")]
pub(crate) const fn is_listed(name: &str) -> bool {
    let mut index = 0;
    while index < CRASH_POINTS.len() {
        if is_same(CRASH_POINTS[index].as_bytes(), name.as_bytes()) {
            return true;
        }
        index += 1;
    }
    false
}

#[cfg(feature = "failpoints")]
const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

/// A point that crash tests know by name.
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        {
            const {
                assert!(
                    crate::crash::is_listed($name),
                    "a crash point is not listed"
                )
            };
            fail::fail_point!($name);
        }
    };
}
pub(crate) use crash_point;
