//! `weft group`: security groups and their rules.

use super::{Cloud, Names, Object, Scope, deleted, find, project};
use crate::connect::Connection;
use crate::failure::Failure;
use crate::json;
use crate::output::{Output, Table, properties, write};
use weft_proto::v1;

/// The commands of `weft group`.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Creates a security group; everything may leave its ports, nothing may enter.
    Create {
        /// Its name.
        name: String,
        /// For people.
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Lists the security groups: of one project, or all.
    List {
        #[command(flatten)]
        scope: Scope,
    },
    /// Shows one security group and its rules.
    Show {
        /// Its name or id.
        group: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Gives a security group another name or description.
    Set {
        /// Its name or id.
        group: String,
        /// Its name from now on.
        #[arg(long)]
        name: Option<String>,
        /// Its description from now on.
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        #[command(flatten)]
        scope: Scope,
    },
    /// Deletes a security group that no port has and no other group's rule names.
    Delete {
        /// Its name or id.
        group: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Rules of security groups: what may pass.
    #[command(subcommand)]
    Rule(RuleCommand),
}

/// The commands of `weft group rule`.
#[derive(clap::Subcommand)]
pub enum RuleCommand {
    /// Adds a rule; it takes effect at once.
    ///
    /// For example: weft group rule add web --ingress --protocol tcp --port 80 --remote 0.0.0.0/0
    Add(Add),
    /// Lists the rules of a security group.
    List {
        /// Its name or id.
        group: String,
        #[command(flatten)]
        scope: Scope,
    },
    /// Deletes a rule; connections that it alone let through end within a second.
    Delete {
        /// Its id.
        rule: String,
    },
}

/// Arguments of `weft group rule add`.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("direction").required(true).args(["ingress", "egress"]))]
pub struct Add {
    /// The security group, by name or id.
    group: String,
    /// Lets something in.
    #[arg(long)]
    ingress: bool,
    /// Lets something out.
    #[arg(long)]
    egress: bool,
    /// tcp, udp, sctp, icmp, or a protocol's number; any unless given.
    #[arg(long, value_name = "PROTOCOL", default_value = "")]
    protocol: String,
    /// A destination port, or a range as in 8000-8100; all unless given.
    #[arg(long, value_name = "PORT[-PORT]", value_parser = ports)]
    port: Option<(u32, u32)>,
    /// A type of ICMP, such as 8 (echo request); all unless given.
    #[arg(long, value_name = "TYPE")]
    icmp_type: Option<u32>,
    /// A code of ICMP; all unless given.
    #[arg(long, value_name = "CODE", requires = "icmp_type")]
    icmp_code: Option<u32>,
    /// Who is at the other end: addresses as in 10.0.0.0/8, or group:NAME for the ports of a group; anybody unless given.
    #[arg(long, value_name = "CIDR|group:NAME", default_value = "")]
    remote: String,
    /// For people.
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    #[command(flatten)]
    scope: Scope,
}

fn ports(text: &str) -> Result<(u32, u32), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse().map_err(|_| format!("\"{text}\" is no port: write 80, or 8000-8100"));
    Ok((port(first)?, port(last)?))
}

impl Add {
    fn request(self) -> v1::CreateSecurityGroupRuleRequest {
        let (remote_ip_prefix, remote_group) = match self.remote.strip_prefix("group:") {
            Some(group) => (String::new(), group.to_owned()),
            None => (self.remote, String::new()),
        };
        v1::CreateSecurityGroupRuleRequest {
            security_group: self.group,
            project: self.scope.name(),
            direction: if self.ingress { "ingress" } else { "egress" }.to_owned(),
            ether_type: String::new(),
            protocol: self.protocol,
            port_range_min: self.port.map(|(first, _)| first),
            port_range_max: self.port.map(|(_, last)| last),
            icmp_type: self.icmp_type,
            icmp_code: self.icmp_code,
            remote_ip_prefix,
            remote_group,
            description: self.description,
        }
    }
}

impl Object for v1::SecurityGroup {
    const KIND: &'static str = "group";

    fn id(&self) -> &str {
        &self.id
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// The groups of a project, or all.
pub(super) async fn all(cloud: &mut Cloud, project: String) -> Result<Vec<v1::SecurityGroup>, Failure> {
    let request = v1::ListSecurityGroupsRequest { project };
    Ok(cloud.list_security_groups(request).await?.into_inner().security_groups)
}

/// Runs one of the commands.
pub async fn run(command: Command, connection: &Connection, output: Output) -> Result<(), Failure> {
    let mut cloud = connection.cloud().await?;
    match command {
        Command::Create { name, description, scope } => {
            let request = v1::CreateSecurityGroupRequest { name, project: scope.name(), description, stateful: None };
            let group = cloud.create_security_group(request).await?.into_inner();
            let text = format!(
                "Security group {} created. Next: weft group rule add {0} --ingress --protocol tcp --port 80",
                group.name
            );
            output.say(&text, &json::of(&group))
        }
        Command::List { scope } => {
            let groups = all(&mut cloud, scope.name()).await?;
            let names = names(&mut cloud, &groups, output).await?;
            let mut table = Table::new(&["name", "project", "rules", "description", "id"]);
            for group in &groups {
                table.row(vec![
                    group.name.clone(),
                    names.of(&group.project_id),
                    group.rules.len().to_string(),
                    group.description.clone(),
                    group.id.clone(),
                ]);
            }
            let empty = "No security groups. Create one: weft group create NAME";
            output.table(&table, empty, groups.iter().map(json::of).collect())
        }
        Command::Show { group, scope } => {
            let groups = all(&mut cloud, scope.name()).await?;
            let names = names(&mut cloud, &groups, output).await?;
            let group = find(&group, groups)?;
            let lines = [
                ("name", group.name.clone()),
                ("id", group.id.clone()),
                ("project", names.of(&group.project_id)),
                ("description", group.description.clone()),
            ];
            if output.json {
                return output.object(&lines, &json::of(&group));
            }
            write(&properties(&lines))?;
            rules(&group, &names, output)
        }
        Command::Set { group, name, description, scope } => {
            let request =
                v1::UpdateSecurityGroupRequest { security_group: group, project: scope.name(), name, description };
            let group = cloud.update_security_group(request).await?.into_inner();
            output.say(&format!("Security group {} changed.", group.name), &json::of(&group))
        }
        Command::Delete { group, scope } => {
            cloud.delete_security_group(v1::DeleteRequest { id: group.clone(), project: scope.name() }).await?;
            deleted("security group", &group, output)
        }
        Command::Rule(RuleCommand::Add(add)) => {
            let group = add.group.clone();
            let rule = cloud.create_security_group_rule(add.request()).await?.into_inner();
            output.say(&format!("Rule {} added to security group {group}.", rule.id), &json::of(&rule))
        }
        Command::Rule(RuleCommand::List { group, scope }) => {
            let groups = all(&mut cloud, scope.name()).await?;
            let names = names(&mut cloud, &groups, output).await?;
            rules(&find(&group, groups)?, &names, output)
        }
        Command::Rule(RuleCommand::Delete { rule }) => {
            let request = v1::DeleteRequest { id: rule.clone(), project: String::new() };
            cloud.delete_security_group_rule(request).await?;
            deleted("rule", &rule, output)
        }
    }
}

fn rules(group: &v1::SecurityGroup, names: &Names, output: Output) -> Result<(), Failure> {
    let mut table = Table::new(&["direction", "protocol", "port", "remote", "description", "id"]);
    for rule in &group.rules {
        table.row(vec![
            rule.direction.clone(),
            if rule.protocol.is_empty() { "any".to_owned() } else { rule.protocol.clone() },
            detail(rule),
            remote(rule, names),
            rule.description.clone(),
            rule.id.clone(),
        ]);
    }
    let empty = "No rules: nothing passes. Add one: weft group rule add GROUP --ingress --protocol tcp --port 80";
    output.table(&table, empty, group.rules.iter().map(json::of).collect())
}

fn detail(rule: &v1::SecurityGroupRule) -> String {
    match (rule.port_range_min, rule.port_range_max, rule.icmp_type, rule.icmp_code) {
        (Some(first), Some(last), ..) if first != last => format!("{first}-{last}"),
        (Some(first), ..) => first.to_string(),
        (_, _, Some(kind), Some(code)) => format!("type {kind} code {code}"),
        (_, _, Some(kind), None) => format!("type {kind}"),
        _ => "any".to_owned(),
    }
}

fn remote(rule: &v1::SecurityGroupRule, names: &Names) -> String {
    if !rule.remote_group_id.is_empty() {
        format!("group:{}", names.of(&rule.remote_group_id))
    } else if rule.remote_ip_prefix.is_empty() {
        "any".to_owned()
    } else {
        rule.remote_ip_prefix.clone()
    }
}

/// What a table needs to name; nothing, for a program.
async fn names(cloud: &mut Cloud, groups: &[v1::SecurityGroup], output: Output) -> Result<Names, Failure> {
    if output.json {
        return Ok(Names::default());
    }
    Ok(Names::default().add(groups).add(&project::all(cloud).await?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        add: Add,
    }

    fn request(words: &str) -> Result<v1::CreateSecurityGroupRuleRequest, String> {
        let words = std::iter::once("add").chain(words.split(' '));
        Line::try_parse_from(words).map(|line| line.add.request()).map_err(|error| error.to_string())
    }

    #[test]
    fn rules_are_read() {
        let rule = request("web --ingress --protocol tcp --port 8000-8100 --remote group:lb").unwrap();
        assert_eq!((rule.direction.as_str(), rule.protocol.as_str()), ("ingress", "tcp"));
        assert_eq!((rule.port_range_min, rule.port_range_max), (Some(8000), Some(8100)));
        assert_eq!((rule.remote_group.as_str(), rule.remote_ip_prefix.as_str()), ("lb", ""));
        let rule = request("web --egress --port 80 --remote 10.0.0.0/8").unwrap();
        assert_eq!((rule.direction.as_str(), rule.remote_ip_prefix.as_str()), ("egress", "10.0.0.0/8"));
        assert_eq!((rule.port_range_min, rule.port_range_max), (Some(80), Some(80)));
        assert!(request("web --protocol tcp").is_err(), "a direction is needed");
        assert!(request("web --ingress --egress").is_err(), "only one");
        assert!(request("web --ingress --port http").is_err());
        assert!(request("web --ingress --icmp-code 1").is_err(), "a code needs a type");
    }
}
