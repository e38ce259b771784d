//! The allocator of the programs.
//!
//! A load frees what two million rows needed and asks for as much again a moment later; pages that went back to
//! the system in between come back cleared, which was a sixth of a load's time. So free memory is kept for ten
//! seconds, not one, unless `MIMALLOC_PURGE_DELAY` says otherwise.

use std::ffi::{c_int, c_long};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Milliseconds that free memory is kept: `mi_option_purge_delay` of mimalloc's `mi_option_e`.
const PURGE_DELAY: c_int = 15;
const KEPT_MILLIS: c_long = 10_000;

/// Sets how long free memory is kept.
#[expect(unsafe_code, reason = "mimalloc's settings are functions of C")]
pub(crate) fn keep_free_memory() {
    // SAFETY: the option exists, takes any number, and may be set at any time.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, KEPT_MILLIS) }
}

#[cfg(test)]
mod tests {
    #[test]
    #[expect(unsafe_code, reason = "mimalloc's settings are functions of C")]
    fn free_memory_is_kept() {
        // SAFETY: reads a number.
        let kept = || unsafe { libmimalloc_sys::mi_option_get(super::PURGE_DELAY) };
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
            assert_eq!(kept(), 1_000, "another option, or mimalloc has changed");
            super::keep_free_memory();
            assert_eq!(kept(), 10_000);
        }
    }
}
