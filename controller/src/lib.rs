//! The controller of Weft: from what people ask for to the flow tables of every host.
//!
//! The way of an intent:
//!
//! 1. **API call.** [`api`] takes it, on a Unix socket or the loopback ([`api::server`]).
//! 2. **Authorise.** The door ([`api::door`]) finds out who calls and looks the method up in one table
//!    ([`authorise`]); what is not in the table is refused.
//! 3. **Validate.** The handler ([`api::cloud`]) hands the request to a planner of the [`model`], which checks it
//!    against everything that must hold and gives the changes it amounts to, or a fault that names field and
//!    remedy. Nothing has changed so far.
//! 4. **One store transaction.** [`controller::Controller::transact`] stores the changes ([`store`]), all or none,
//!    under the condition that our term is still the last; only then the model in memory follows.
//! 5. **Compile what it touches.** [`model::Model::touched`] names the hosts that the change concerns; each is marked,
//!    and its session ([`bus::session`]) compiles its state anew: [`compile::compile`] is a pure function.
//! 6. **Diff.** The bundle is what leads from the state that the switch has acknowledged to the new one
//!    ([`compile::state::HostState::bundle_to`]). No difference, no bundle.
//! 7. **Bundle per host.** It goes over the host's stream, under term, generation and base generation; one at a time,
//!    so that what changes meanwhile travels together in the next.
//! 8. **Acknowledgement.** The switch has applied it whole, or refused it whole and says why ([`bus::link`] keeps
//!    either). A switch that is somewhere else than we thought is compared by digests, and brought back.
//! 9. **Status** follows from the acknowledged generation: a port is ACTIVE when its own host holds it. Those who
//!    wait for it ([`api::cloud`], `wait_milliseconds`) are answered.
//!
//! What each can consume is bounded in [`limits`]. `main.rs` puts [`config`], store and server together.

pub mod api;
pub mod authorise;
pub mod bus;
pub mod compile;
pub mod config;
pub mod controller;
pub mod identity;
pub mod limits;
pub mod metrics;
pub mod model;
pub mod path;
pub mod private_file;
pub mod store;
