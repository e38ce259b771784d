//! From calls of the tracking API to the store: read ([`message`]), then written together with what
//! other requests brought ([`writer`]), and acknowledged once that is durable.

pub mod message;
pub mod writer;
