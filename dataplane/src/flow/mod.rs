//! Flow tables and the way of a packet through them; in reading order:
//!
//! - [`key`]: what can be matched; [`action`]: what can be done; [`message`]: rules, from and to the wire.
//! - [`matched`], [`rule`], [`classifier`], [`state`], [`tables`]: rules, found by key, in tables that change
//!   atomically; [`group`], [`groups`]: what rules share; [`log`]: what changed lately.
//! - [`resolve`]: the walk of one packet; [`effect`]: what comes of it; [`trace`]: the same walk, written down.
//! - [`statistics`]: packets by table.
//! - [`program`], [`rewrite`]: the walk's result, compiled to steps; [`cache`], [`buckets`]: where
//!   programs are found again; [`region`]: the memory they lie in.

pub mod action;
pub mod buckets;
pub mod cache;
pub mod classifier;
pub mod effect;
pub mod group;
pub mod groups;
pub mod key;
pub mod log;
pub mod matched;
pub mod members;
pub mod message;
pub mod own;
pub mod program;
pub mod region;
pub mod resolve;
pub mod rewrite;
pub mod rule;
mod shared;
pub mod state;
pub mod statistics;
pub mod tables;
pub mod trace;
pub mod translate;

#[cfg(test)]
mod tests;
