//! The messages of one bundle, gathered within bounds. Rules are the bulk of a large bundle: they are read as their
//! message comes, so that never more than one message of them is there in the wire's form. Nothing is said about
//! them before the bundle is whole: what is wrong with its position goes before what is wrong with a rule.

use super::own;
use crate::flow::action::Instructions;
use crate::flow::message;
use crate::flow::rule::{Owner, Rule, RuleId};
use crate::limits::{BUNDLE_BYTES, BUNDLE_PARTS, RULES};
use prost::Message as _;
use std::sync::Arc;
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// Different instructions that a new rule is compared with, to share them: neighbours often do the same.
const RECENT: usize = 8;

/// See the module comment.
pub struct Parts {
    whole: Whole,
    messages: usize,
    bytes: usize,
}

impl Parts {
    /// Of bundles of this owner.
    #[must_use]
    pub fn new(owner: Owner) -> Self {
        Self { whole: Whole::new(owner), messages: 0, bytes: 0 }
    }

    /// Takes a message; gives the whole bundle once it was the last.
    ///
    /// # Errors
    /// There are too many; those that came so far are forgotten.
    pub fn push(&mut self, part: v1::Bundle) -> Result<Option<Whole>, Fault> {
        self.bytes += part.encoded_len();
        self.messages += 1;
        let owner = self.whole.owner;
        if self.messages > BUNDLE_PARTS || self.bytes > BUNDLE_BYTES {
            *self = Self::new(owner);
            return Err(Fault::invalid(
                "bundle_too_large",
                "",
                format!("the bundle has more than {BUNDLE_PARTS} messages or {BUNDLE_BYTES} bytes"),
                "Send messages of up to 1 MB each, and less in one bundle.",
            )
            .with_status(Code::ResourceExhausted));
        }
        let more = part.more;
        self.whole.take(part);
        Ok((!more).then(|| std::mem::replace(self, Self::new(owner)).whole))
    }

    /// Messages that wait for the rest.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }
}

/// A bundle, its rules read.
#[derive(Debug)]
pub struct Whole {
    pub(super) owner: Owner,
    /// All but the rules.
    pub(super) bundle: v1::Bundle,
    begun: bool,
    now: u64,
    add: Vec<Rule>,
    remove: Vec<RuleId>,
    /// The first thing that is wrong with a rule.
    fault: Option<Fault>,
    recent: Vec<Arc<Instructions>>,
}

impl Whole {
    fn new(owner: Owner) -> Self {
        Self {
            owner,
            bundle: v1::Bundle::default(),
            begun: false,
            now: crate::clock::now(),
            add: Vec::new(),
            remove: Vec::new(),
            fault: None,
            recent: Vec::new(),
        }
    }

    /// Of messages that somebody else has bounded.
    #[must_use]
    pub fn of(parts: Vec<v1::Bundle>, owner: Owner) -> Self {
        let mut whole = Self::new(owner);
        parts.into_iter().for_each(|part| whole.take(part));
        whole
    }

    /// Term and generation after it.
    #[must_use]
    pub fn position(&self) -> (u64, u64) {
        (self.bundle.term, self.bundle.generation)
    }

    /// The requests that led to it.
    #[must_use]
    pub fn requests(&self) -> &[String] {
        &self.bundle.request_ids
    }

    /// Whether there was any message.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    /// Its rules, those to add and those to remove.
    ///
    /// # Errors
    /// The first thing that is wrong with one.
    pub(super) fn take_rules(&mut self) -> Result<(Vec<Rule>, Vec<RuleId>), Fault> {
        match self.fault.take() {
            Some(fault) => Err(fault),
            None => Ok((std::mem::take(&mut self.add), std::mem::take(&mut self.remove))),
        }
    }

    fn take(&mut self, mut part: v1::Bundle) {
        let (add, remove) = (std::mem::take(&mut part.add_rules), std::mem::take(&mut part.remove_rules));
        if self.fault.is_none() {
            self.fault = self.read(add, remove).err();
        }
        if !std::mem::replace(&mut self.begun, true) {
            part.more = false;
            self.bundle = part;
            return;
        }
        let whole = &mut self.bundle;
        whole.tables.extend(part.tables);
        whole.add_ports.extend(part.add_ports);
        whole.remove_ports.extend(part.remove_ports);
        whole.set_address_sets.extend(part.set_address_sets);
        whole.extend_address_sets.extend(part.extend_address_sets);
        whole.shrink_address_sets.extend(part.shrink_address_sets);
        whole.remove_address_sets.extend(part.remove_address_sets);
        whole.origins.extend(part.origins);
        whole.set_groups.extend(part.set_groups);
        whole.remove_groups.extend(part.remove_groups);
        whole.request_ids.extend(part.request_ids);
        whole.announcements.extend(part.announcements);
        whole.set_meters.extend(part.set_meters);
        whole.remove_meters.extend(part.remove_meters);
    }

    fn read(&mut self, add: Vec<v1::Rule>, remove: Vec<v1::Rule>) -> Result<(), Fault> {
        if self.add.len() + add.len() > RULES {
            return Err(Fault::invalid(
                "limit_exceeded",
                "add_rules",
                format!("{} rules are more than the {RULES} of one switch", self.add.len() + add.len()),
                "Send fewer.",
            )
            .with_status(Code::ResourceExhausted));
        }
        for mut rule in add {
            let index = self.add.len();
            let place = |fault: Fault| fault.within(&format!("add_rules[{index}]"));
            own(&mut rule.owner, self.owner, "owner").map_err(place)?;
            let mut rule = message::rule_from_message(&rule, self.now).map_err(place)?;
            self.share(&mut rule.instructions);
            self.add.push(rule);
        }
        for mut rule in remove {
            let index = self.remove.len();
            let place = |fault: Fault| fault.within(&format!("remove_rules[{index}]"));
            own(&mut rule.owner, self.owner, "owner").map_err(place)?;
            self.remove.push(message::rule_id_from_message(&rule).map_err(place)?);
        }
        Ok(())
    }

    fn share(&mut self, instructions: &mut Arc<Instructions>) {
        if let Some(own) = self.recent.iter().find(|own| **own == *instructions) {
            *instructions = own.clone();
            return;
        }
        if self.recent.len() == RECENT {
            self.recent.remove(0);
        }
        self.recent.push(instructions.clone());
    }
}
