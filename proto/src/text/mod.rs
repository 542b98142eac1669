//! Rules as a person reads and writes them: the syntax of `ovs-ofctl`, both directions.
//!
//! `table=0,priority=100,in_port=1,ip,nw_src=10.0.0.0/24,actions=dec_ttl,output:2`
//!
//! In reading order: `scan` cuts a line into words with their columns; `value` reads and writes one
//! field's value; `name` finds fields by any of their names; `matching` does lists of matches and
//! described packets; `action` actions and instructions, with `dhcp` and `icmp` for the longer ones;
//! `rule` whole rules and filters; `group` groups; `meter` meters; `effect` what a trace reports.
//!
//! Invariants: for every valid rule, `parse_rule(format_rule(rule))` is `digest::canonical(rule)`; likewise of groups.
//! Parsing never panics, whatever the input, and every error names its column, what is wrong and what
//! to write instead. Formatting never fails either: values that no parser would accept (a foreign
//! peer's) are printed as bytes.
//!
//! Where the syntax is stricter than `ovs-ofctl`'s: instructions must be written in the order in which
//! they are executed; a masked value's other bits are dropped as there. Where it is wider: every field
//! takes a mask, `ip_src=@name` matches an address set, `clone` takes a `goto_table:N`, and there are
//! `drop(cause)`, `punt(…)`, `arp_reply:MAC`, `dhcp_reply(…)`, `icmp_reply`, `icmp_unreachable(…)`, `check_mtu(…)`,
//! `neighbour(…)`, `learn_neighbour` and `translate(…)`.

mod action;
mod dhcp;
mod effect;
mod gateway;
mod group;
mod icmp;
mod matching;
mod meter;
mod name;
mod rule;
mod scan;
mod track;
mod value;

#[cfg(test)]
mod tests;

pub use action::{format_action, format_actions, format_instructions};
pub use effect::format_effect;
pub use group::{format_group, group_type_name, parse_group};
pub use matching::{format_match, parse_match, parse_packet};
pub use meter::{format_meter, parse_meter};
pub use rule::{DEFAULT_PRIORITY, format_life, format_rule, owner_name, parse_filter, parse_rule};
pub use value::{format_ip, format_mac, parse_mac};
