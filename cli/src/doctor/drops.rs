//! What switches drop, by reasons that tell of a fault. What rules drop as they should (`policy`) is no fault, nor what
//! an instance may well send into the void.

use super::Finding;
use super::evidence::Evidence;
use weft_proto::TUNNEL_PORT;

/// Reasons, and what to do.
const REASONS: &[(&str, &str)] = &[
    (
        "spoofed",
        "Give its instance the MAC and address of the port (DHCP does); if it forwards for others, allow them: weft port \
         set PORT --address-pair …",
    ),
    ("miss_budget", "It begins more flows than its share; see them: weft cache HOST"),
    ("responder_budget", "It asks more than its share of ARP, DHCP or ICMP; look at what its instance sends."),
    (
        "no_buffer",
        "It has more frames under way than its share; look at who sends so much, and at the buffers: weft status HOST",
    ),
    ("ring_overrun", "The switch does not keep up; give it more workers in its settings."),
    ("transmit_full", "It does not take its frames as fast as they come; look at its instance."),
    ("connection_limit", "See who has so many connections: weft connections HOST"),
    ("nat_ports_exhausted", "Give the router another external address, or see who has so many connections."),
    ("hand_over_full", "The workers do not keep up with each other; see weft status HOST."),
    ("hand_over_limit", "Connections move between workers all the time; please report it."),
    ("neighbour_unresolved", "See weft neighbours HOST: is the other host up, and on the same network?"),
    ("no_route", "Give the host a route to the other one; see weft neighbours HOST."),
    ("port_down", "See which port is not up: weft ports list HOST"),
    (
        "no_such_port",
        "A rule sends to a port that is not there: look at those made by hand, weft flows dump HOST --owner manual",
    ),
    ("table_miss", "See which packets no rule matches: weft cache HOST"),
    (
        "unknown_segment",
        "Packets come through the tunnel whose VNI is of no network with a port here: look for a rule made by hand where \
         they come from, and who else sends VXLAN to this host.",
    ),
    (
        "unknown_destination",
        "Packets are sent to a MAC or address that nobody has; follow one: weft trace --from PORT --to ADDRESS",
    ),
    ("too_big", "Let the instance keep to the MTU that DHCP tells it."),
    ("bad_tunnel", "Somebody sends tunnel packets of another kind to this host."),
    ("no_listener", "A rule hands packets to a program, and none listens: weft flows dump HOST --owner manual"),
    ("bad_request", "Look at what its DHCP client or ARP sends: they make no sense."),
    (
        "bad_action",
        "An action does not fit what comes to it: look at rules made by hand, weft flows dump HOST --owner manual",
    ),
];

/// What was dropped while we looked.
pub fn growing(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, switch) in evidence.answering() {
        for ((port, port_name, reason), packets) in &switch.growth {
            let Some((_, remedy)) = REASONS.iter().find(|(known, _)| known == reason) else { continue };
            let total = switch.drops.get(&(*port, port_name.clone(), reason.clone()));
            let (sum, meaning) = total.map_or((*packets, ""), |(sum, meaning)| (*sum, meaning.as_str()));
            let owner = evidence.ports.iter().find(|known| known.number == *port);
            let object = match (port, owner) {
                (0, _) => format!("host {name}"),
                (_, Some(owner)) => format!("port {}", owner.name),
                (&TUNNEL_PORT, None) => format!("host {name}, its tunnel"),
                _ => format!("host {name}, its port {port_name}"),
            };
            let remedy = remedy.replace("HOST", name);
            let remedy = owner.map_or(remedy.clone(), |owner| {
                let name = format!("{}{}", owner.name, evidence.scope(&owner.project_id));
                remedy.replace("PORT", &name)
            });
            found.push(Finding::new(
                object,
                format!(
                    "{packets} packets were dropped in {} s as {reason}, {sum} so far on host {name}: {meaning}",
                    evidence.watched.as_secs()
                ),
                remedy,
            ));
        }
    }
    found
}
