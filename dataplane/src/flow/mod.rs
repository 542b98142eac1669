//! Flow tables and the way of a packet through them; in reading order:
//!
//! - [`key`]: what can be matched.
//! - [`action`]: what can be done.
//! - [`rule`], [`classifier`], [`table`], [`tables`]: rules, found by key; tables that change atomically.
//! - [`resolve`]: the walk of one packet; [`trace`]: the same walk, written down.
//! - [`message`]: rules from and to the wire, validated.
//! - [`program`]: the walk's result, compiled to steps; [`cache`]: where programs are found again.

pub mod action;
pub mod classifier;
pub mod key;
pub mod log;
pub mod rule;
pub mod tables;
pub mod buckets;
pub mod cache;
pub mod message;
pub mod program;
pub mod resolve;
pub mod rewrite;
pub mod state;
pub mod trace;
