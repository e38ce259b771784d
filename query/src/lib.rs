//! Segments and funnels over a Pugmark store.

pub mod population;
