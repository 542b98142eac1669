//! The action set of a walk, which is carried out when no table follows.

use super::{Observer, Walk};
use crate::drop::DropReason;
use crate::flow::action::{Action, SetField};
use crate::flow::rule::Rule;
use std::sync::Arc;

/// OpenFlow's action set: at most one action of each kind [1.3.5, 5.10].
#[derive(Default)]
pub(super) struct ActionSet {
    meter: Option<Action>,
    pop_vlan: bool,
    push_vlan: Option<u16>,
    dec_ttl: Option<Action>,
    set_field: Option<SetField>,
    check_mtu: Option<Action>,
    /// Goes before an output.
    group: Option<(u32, Arc<Rule>)>,
    /// Output, or what stands in its place, and the rule that wrote it.
    last: Option<(Action, Arc<Rule>)>,
}

impl Walk<'_> {
    pub(super) fn execute_action_set(
        &mut self,
        rule: &Arc<Rule>,
        observer: &mut impl Observer,
    ) -> Result<(), DropReason> {
        let set = std::mem::take(&mut self.set);
        if let Some(meter) = set.meter {
            self.apply(&meter, rule, observer)?;
        }
        if set.pop_vlan {
            self.apply(&Action::PopVlan, rule, observer)?;
        }
        if let Some(ether_type) = set.push_vlan {
            self.apply(&Action::PushVlan(ether_type), rule, observer)?;
        }
        if let Some(dec_ttl) = set.dec_ttl {
            self.apply(&dec_ttl, rule, observer)?;
        }
        if let Some(set_field) = set.set_field {
            self.apply(&Action::SetField(Arc::new(set_field)), rule, observer)?;
        }
        if let Some(check_mtu) = set.check_mtu {
            self.apply(&check_mtu, rule, observer)?;
        }
        if let Some((number, rule)) = set.group {
            return self.apply(&Action::Group(number), &rule, observer);
        }
        set.last.map_or(Ok(()), |(action, rule)| self.apply(&action, &rule, observer))
    }
}

impl ActionSet {
    pub(super) fn merge(&mut self, action: &Action, rule: &Arc<Rule>) {
        match action {
            Action::Meter(_) => self.meter = Some(action.clone()),
            Action::PopVlan => self.pop_vlan = true,
            Action::PushVlan(ether_type) => self.push_vlan = Some(*ether_type),
            Action::DecTtl { .. } => self.dec_ttl = Some(action.clone()),
            Action::CheckMtu { .. } => self.check_mtu = Some(action.clone()),
            Action::SetField(new) => match &mut self.set_field {
                None => self.set_field = Some((**new).clone()),
                Some(old) => old.merge(new),
            },
            Action::Group(number) => self.group = Some((*number, rule.clone())),
            last => self.last = Some((last.clone(), rule.clone())),
        }
    }
}
