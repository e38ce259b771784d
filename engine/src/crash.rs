//! Named points at which a test may kill the process; nothing without the feature `failpoints`.

/// A point that crash tests know by name.
#[macro_export]
#[doc(hidden)]
macro_rules! crash_point {
    ($name:literal) => {
        #[cfg(feature = "failpoints")]
        fail::fail_point!($name);
    };
}
