//! What guards a port: port security, security groups, address pairs; chosen with it, and changed.

use super::lookup::in_use;
use super::{AddressPair, Change, DEFAULT_GROUP, Direction, Ipv4Prefix, Mac, Model, Planned, Port, SecurityGroup};
use crate::limits;
use std::collections::BTreeSet;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::v1;

/// What guards a port.
#[derive(Default)]
pub(super) struct Guard {
    pub(super) port_security: bool,
    pub(super) groups: Vec<Uuid>,
    pub(super) pairs: Vec<AddressPair>,
}

impl Model {
    /// What guards a new port.
    pub(super) fn choose_guard(&self, request: &v1::CreatePortRequest, project: Uuid) -> Result<Guard, Fault> {
        let pairs = Some(request.allowed_address_pairs.as_slice()).filter(|pairs| !pairs.is_empty());
        let port_security = request.port_security_enabled.unwrap_or(true);
        self.guard(project, port_security, None, request.security_groups.as_ref(), pairs)
    }

    /// What guards a port that had `before`, if these are asked for.
    fn guard(
        &self,
        project: Uuid,
        port_security: bool,
        before: Option<&Port>,
        groups: Option<&v1::SecurityGroupChoice>,
        pairs: Option<&[v1::AddressPair]>,
    ) -> Result<Guard, Fault> {
        if !port_security {
            let groups = groups.filter(|choice| !choice.groups.is_empty()).map(|_| ("security_groups", "groups"));
            let pairs = pairs.filter(|pairs| !pairs.is_empty()).map(|_| ("allowed_address_pairs", "address pairs"));
            let Some((field, what)) = groups.or(pairs) else { return Ok(Guard::default()) };
            return Err(Fault::invalid(
                "port_security_off",
                field,
                format!("the port has port security off, so it has no {what}"),
                format!("Turn port security on, or give no {what}."),
            ));
        }
        let mut guard = Guard { port_security, ..Guard::default() };
        let kept = before.filter(|port| port.port_security);
        match (groups, kept) {
            (Some(choice), _) => guard.groups = self.choose_groups(&choice.groups, project)?,
            (None, Some(port)) => guard.groups.clone_from(&port.groups),
            (None, None) => guard.groups = self.choose_groups(&[DEFAULT_GROUP.to_owned()], project)?,
        }
        match (pairs, kept) {
            (Some(pairs), _) => guard.pairs = choose_pairs(pairs)?,
            (None, Some(port)) => guard.pairs.clone_from(&port.pairs),
            (None, None) => {}
        }
        Ok(guard)
    }

    /// The groups that a request names.
    fn choose_groups(&self, asked: &[String], project: Uuid) -> Result<Vec<Uuid>, Fault> {
        if asked.len() > limits::GROUPS_PER_PORT {
            let problem = format!("{} security groups are too many", asked.len());
            let remedy = format!("Give at most {}.", limits::GROUPS_PER_PORT);
            return Err(Fault::invalid("too_many", "security_groups", problem, remedy));
        }
        let project = project.to_string();
        let find = |(index, named): (usize, &String)| {
            let field = format!("security_groups.groups[{index}]");
            Ok(self.find::<SecurityGroup>(named, &project, &field)?.id)
        };
        let groups = asked.iter().enumerate().map(find).collect::<Result<BTreeSet<_>, Fault>>()?;
        Ok(groups.into_iter().collect())
    }

    /// Whether what guards a port is within the limits.
    pub(super) fn check_guard(&self, before: Option<&Port>, port: &Port) -> Result<(), Fault> {
        for direction in [Direction::Ingress, Direction::Egress] {
            self.check_flows(&port.groups, direction, 0)?;
        }
        for group in port.groups.iter().filter_map(|&group| self.security_groups.get(group)) {
            let counted = before.filter(|port| port.groups.contains(&group.id)).map_or(0, Port::members);
            self.check_members(group, port.members().saturating_sub(counted))?;
        }
        Ok(())
    }

    /// Plans a port's other name, groups, pairs; or port security on or off.
    pub fn update_port(&self, request: &v1::UpdatePortRequest) -> Planned<Port> {
        let port: &Port = self.find(&request.port, &request.project, "port")?;
        self.not_of_device(port)?;
        let mut updated = port.clone();
        if let Some(name) = request.name.as_ref().filter(|name| **name != port.name) {
            self.rename::<Port>(port.project, name)?;
            if port.plug.is_some() {
                // The switch would have to make its interface anew.
                let remedy = format!("Unplug it first: `weft port unplug {}`.", port.name);
                return Err(in_use(port, "name", "is plugged", remedy));
            }
            updated.name.clone_from(name);
        }
        let port_security = request.port_security_enabled.unwrap_or(port.port_security);
        let pairs = request.allowed_address_pairs.as_ref().map(|choice| choice.pairs.as_slice());
        let guard = self.guard(port.project, port_security, Some(port), request.security_groups.as_ref(), pairs)?;
        (updated.port_security, updated.groups, updated.pairs) = (guard.port_security, guard.groups, guard.pairs);
        self.check_guard(Some(port), &updated)?;
        let changes = if updated == *port { Vec::new() } else { vec![Change::put(updated.clone())] };
        Ok((changes, updated))
    }
}

fn choose_pairs(asked: &[v1::AddressPair]) -> Result<Vec<AddressPair>, Fault> {
    if asked.len() > limits::ADDRESS_PAIRS_PER_PORT {
        let problem = format!("{} address pairs are too many", asked.len());
        let remedy = format!(
            "Give at most {}, or a range instead of single addresses: 10.0.0.96/27.",
            limits::ADDRESS_PAIRS_PER_PORT
        );
        return Err(Fault::invalid("too_many", "allowed_address_pairs", problem, remedy));
    }
    let mut pairs = Vec::new();
    for (index, entry) in asked.iter().enumerate() {
        let place = format!("allowed_address_pairs[{index}]");
        let pair = choose_pair(entry, &place)?;
        if pairs.contains(&pair) {
            let problem = format!("{} is given twice", pair.prefix);
            return Err(Fault::invalid("duplicate_pair", place, problem, "Give each pair once."));
        }
        pairs.push(pair);
    }
    Ok(pairs)
}

fn choose_pair(entry: &v1::AddressPair, place: &str) -> Result<AddressPair, Fault> {
    let field = format!("{place}.ip_address");
    let prefix = Ipv4Prefix::parse_or_address(&entry.ip_address, &field)?;
    if prefix.length() < limits::ADDRESS_PAIR_PREFIX {
        return Err(Fault::invalid(
            "address_pair_too_wide",
            field,
            format!("{prefix} is too wide a range for a port to send from"),
            format!(
                "Give a prefix length of at least {}, or turn port security off for this port.",
                limits::ADDRESS_PAIR_PREFIX
            ),
        ));
    }
    if !prefix.is_unicast() {
        let problem = format!("nobody may send from {prefix}");
        return Err(Fault::invalid("bad_address_pair", field, problem, "Give a unicast range: 10.0.0.96/27."));
    }
    let mac = if entry.mac_address.is_empty() {
        None
    } else {
        Some(Mac::parse(&entry.mac_address, &format!("{place}.mac_address"))?)
    };
    Ok(AddressPair { prefix, mac })
}
