//! The cases: rules in the text syntax, and the frames that come in by port 1, again and again.
//!
//! Port 2 discards. Port 20 is a VXLAN tunnel over port 2, port 21 a GRE tunnel over it, port 22 a VXLAN tunnel over
//! port 1; the remote end is 10.99.0.2, ours 10.99.0.1.

use crate::frames::{Flow, in_vxlan, shuffled};

/// One case.
pub struct Case {
    /// Its name, as on the command line.
    pub name: &'static str,
    /// Makes them.
    pub make: fn() -> Matter,
}

/// Rules in the text syntax, and frames.
pub type Matter = (Vec<String>, Vec<Vec<u8>>);

/// All of them.
pub const CASES: &[Case] = &[
    Case { name: "one-flow", make: || (rules(&["in_port=1,actions=output:2"]), flows(1)) },
    Case { name: "one-flow-masked", make: || (masked("output:2"), flows(1)) },
    Case { name: "10k-flows-simple", make: || (rules(&["in_port=1,actions=output:2"]), flows(10_000)) },
    Case { name: "10k-flows-masked", make: || (masked("output:2"), flows(10_000)) },
    Case { name: "10k-exact", make: || (exact(10_000), flows(10_000)) },
    Case { name: "200k-exact", make: || (exact(200_000), flows(200_000)) },
    Case { name: "200k-16-masks", make: || (masks(200_000), flows(200_000)) },
    Case { name: "10k-16-masks", make: || (masks(10_000), flows(10_000)) },
    Case { name: "push-vlan", make: || (masked("push_vlan:0x8100,set_field:0x1064->vlan_tci,output:2"), flows(1)) },
    Case {
        name: "ttl-macs",
        make: || {
            (
                masked("dec_ttl,set_field:02:00:00:00:00:55->eth_src,set_field:02:00:00:00:00:66->eth_dst,output:2"),
                flows(1),
            )
        },
    },
    Case {
        name: "vxlan-push",
        make: || (masked("set_field:77->tun_id,set_field:10.99.0.2->tun_dst,output:20"), flows(1)),
    },
    Case {
        name: "gre-push",
        make: || (masked("set_field:77->tun_id,set_field:10.99.0.2->tun_dst,output:21"), flows(1)),
    },
    Case {
        name: "vxlan-pop",
        make: || {
            let frame = in_vxlan(77, &Flow::number(1).frame());
            (rules(&["in_port=22,tun_id=77,actions=output:2"]), vec![frame; 64])
        },
    },
    Case { name: "drop", make: || (rules(&["in_port=1,actions=drop"]), flows(1)) },
    Case { name: "two-outputs", make: || (rules(&["in_port=1,actions=output:2,output:3"]), flows(1)) },
    // More flows than the cache has entries, each of which takes an entry of its own: nearly all are new.
    Case { name: "new-flows", make: || (looked_at("actions=output:2"), flows(1_000_000)) },
    Case {
        name: "track-1k",
        make: || {
            let rules = rules(&[
                "table=0,udp,actions=ct(zone=7),goto_table:1",
                "table=1,udp,ct_state=+new+trk,actions=ct(commit,zone=7),output:2",
                "table=1,udp,ct_state=+est+trk,actions=output:2",
            ]);
            (rules, flows(1000))
        },
    },
];

fn rules(lines: &[&str]) -> Vec<String> {
    lines.iter().map(ToString::to_string).collect()
}

/// One rule that looks at parts of all five numbers of a flow.
fn masked(actions: &str) -> Vec<String> {
    vec![format!(
        "in_port=1,udp,ip_src=10.0.0.0/9,ip_dst=10.128.0.0/9,udp_src=0x8000/0x8000,udp_dst=0x8000/0x8000,actions={actions}"
    )]
}

/// All five numbers of a flow are looked at, for the sake of one that never comes.
fn looked_at(instructions: &str) -> Vec<String> {
    let never = "in_port=1,udp,ip_src=192.0.2.1,ip_dst=192.0.2.2,udp_src=1,udp_dst=1";
    vec![format!("priority=2,{never},actions=drop"), format!("priority=1,in_port=1,{instructions}")]
}

/// A rule for each flow, of just its packets.
pub(crate) fn exact(count: u32) -> Vec<String> {
    (0..count).map(|number| format!("in_port=1,{},actions=output:2", Flow::number(number).exact())).collect()
}

/// Rules of 16 masks, each flow under one: the last bits of the source say which table has its rule, and each table
/// looks at other bits of the addresses.
fn masks(count: u32) -> Vec<String> {
    let of_group =
        |group: u32| format!("table=0,in_port=1,udp,ip_src=0.0.0.{group}/0.0.0.15,actions=goto_table:{}", group + 1);
    let rule = |number: u32| {
        let flow = Flow::number(number);
        let (source, destination) = (u32::from_be_bytes(flow.source), u32::from_be_bytes(flow.destination));
        let group = source % 16;
        let mask = u32::MAX << (group / 4);
        let source_mask = (u32::MAX << (4 + group % 4)) | 0xf;
        let dotted = |value: u32| std::net::Ipv4Addr::from(value);
        format!(
            "table={},udp,ip_src={}/{},ip_dst={}/{},udp_src={},udp_dst={},actions=output:2",
            group + 1,
            dotted(source & source_mask),
            dotted(source_mask),
            dotted(destination & mask),
            dotted(mask),
            flow.source_port,
            flow.destination_port,
        )
    };
    (0..16).map(of_group).chain((0..count).map(rule)).collect()
}

/// Packets of so many flows in random order; of a single one more than one batch.
fn flows(count: u32) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = (0..count).map(|number| Flow::number(number).frame()).collect();
    if count < 64 {
        all = all.iter().cycle().take(64).cloned().collect();
    }
    shuffled(all)
}
