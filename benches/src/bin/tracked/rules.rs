//! The rules of the cases.

/// Of a case; `None`: there is no such.
pub fn rules(case: &str) -> Option<Vec<String>> {
    let lines = |lines: &[&str]| -> Vec<String> { lines.iter().map(ToString::to_string).collect() };
    let kind = case.split('-').next()?;
    let rules = match kind {
        "ct" => lines(&[
            "table=0,ip,actions=ct(zone=1),goto_table:1",
            "table=1,in_port=1,ip,ct_state=+new,actions=ct(commit,zone=1),output:2",
            "table=1,in_port=1,ip,ct_state=+est,actions=output:2",
            "table=1,in_port=2,ip,ct_state=+est,actions=output:1",
        ]),
        "snat" => lines(&[
            "table=0,in_port=1,ip,ip_src=10.0.0.5,actions=ct(commit,zone=1,nat(src=203.0.113.9)),output:2",
            "table=0,in_port=1,ip,ip_src=10.0.0.6,actions=ct(commit,zone=1,nat(src=203.0.113.10)),output:2",
            "table=0,in_port=2,ip,actions=ct(zone=1,nat),goto_table:1",
            "table=1,ip,ct_state=+est,actions=output:1",
        ]),
        "full" => {
            let mut rules = lines(&[
                "table=0,priority=100,in_port=1,vlan_tci=0/0x1000,actions=set_field:7->reg0,goto_table:10",
                "table=0,priority=100,in_port=2,vlan_tci=0/0x1000,actions=set_field:8->reg0,goto_table:10",
                "table=10,priority=100,in_port=1,eth_src=02:00:00:00:00:01,ip,ip_src=10.0.0.0/16,actions=goto_table:20",
                "table=10,priority=100,in_port=2,eth_src=02:00:00:00:00:02,ip,ip_src=198.51.100.7,actions=goto_table:20",
                "table=10,priority=100,in_port=1,eth_src=02:00:00:00:00:01,arp,arp_spa=10.0.0.5,actions=goto_table:20",
                "table=10,priority=0,actions=drop(spoofed)",
                "table=20,priority=100,reg0=7,arp,arp_op=1,arp_tpa=10.0.0.1,actions=arp_reply:02:00:00:00:01:01",
                "table=20,priority=200,in_port=1,udp,udp_src=68,udp_dst=67,actions=drop(policy)",
                "table=20,priority=0,actions=goto_table:30",
                "table=30,priority=100,in_port=1,ip,actions=ct(commit,zone=1,follow_policy),set_field:0x77->reg2,goto_table:31",
                "table=30,priority=100,in_port=2,ip,actions=ct(commit,zone=2,follow_policy),set_field:0x78->reg2,goto_table:31",
                "table=30,priority=0,actions=goto_table:40",
                "table=31,priority=300,ct_state=-new-inv,actions=goto_table:40",
                "table=31,priority=200,ct_state=+inv,actions=drop(policy)",
                "table=31,priority=100,reg2=0x77,ct_state=+new,ip,actions=goto_table:40",
                "table=31,priority=10,reg2=0x77,actions=drop(policy)",
                "table=31,priority=10,reg2=0x78,actions=drop(policy)",
                "table=40,priority=200,reg0=7,ip,eth_dst=02:00:00:00:01:01,actions=set_field:3->reg3,set_field:3->reg4,goto_table:45",
                "table=40,priority=200,reg0=8,ip,eth_dst=02:00:00:00:01:02,actions=set_field:3->reg3,goto_table:45",
                "table=40,priority=0,actions=goto_table:65",
                "table=45,priority=200,reg0=8,ip,ip_dst=203.0.113.9,actions=ct(zone=16777219,nat),goto_table:50",
                "table=45,priority=200,reg0=8,ip,ip_dst=203.0.113.10,actions=ct(zone=16777219,nat),goto_table:50",
                "table=45,priority=0,actions=goto_table:50",
                "table=50,priority=300,reg3=3,icmp,ip_dst=10.0.0.1,actions=icmp_reply",
                "table=50,priority=124,reg3=3,ip,ip_dst=198.51.100.0/24,actions=dec_ttl(answer=10.0.0.1),check_mtu(1500,answer=10.0.0.1,fragment),set_field:02:00:00:00:01:02->eth_src,set_field:8->reg0,goto_table:60",
                "table=50,priority=124,reg3=3,ip,ip_dst=10.0.0.0/16,actions=dec_ttl(answer=10.0.0.1),check_mtu(1500,answer=10.0.0.1,fragment),set_field:02:00:00:00:01:01->eth_src,set_field:7->reg0,goto_table:60",
                "table=60,priority=100,reg0=8,reg4=3,ip,ip_src=10.0.0.5,actions=ct(commit,zone=16777219,nat(src=203.0.113.9),follow_policy),goto_table:62",
                "table=60,priority=100,reg0=8,reg4=3,ip,ip_src=10.0.0.6,actions=ct(commit,zone=16777219,nat(src=203.0.113.10),follow_policy),goto_table:62",
                "table=60,priority=0,actions=goto_table:62",
                "table=62,priority=100,reg0=8,reg3=3,ip,ip_dst=198.51.100.7,actions=set_field:02:00:00:00:00:02->eth_dst,goto_table:65",
                "table=62,priority=100,reg0=7,reg3=3,ip,ip_dst=10.0.0.5,actions=set_field:02:00:00:00:00:01->eth_dst,goto_table:65",
                "table=62,priority=100,reg0=7,reg3=3,ip,ip_dst=10.0.0.6,actions=set_field:02:00:00:00:00:01->eth_dst,goto_table:65",
                "table=65,priority=100,reg0=7,eth_dst=02:00:00:00:00:01,actions=set_field:1->reg1,goto_table:70",
                "table=65,priority=100,reg0=8,eth_dst=02:00:00:00:00:02,actions=set_field:2->reg1,goto_table:70",
                "table=70,priority=100,reg1=1,ip,actions=ct(commit,zone=1,follow_policy),set_field:0x77->reg2,goto_table:71",
                "table=70,priority=100,reg1=2,ip,actions=ct(commit,zone=2,follow_policy),set_field:0x78->reg2,goto_table:71",
                "table=70,priority=0,actions=goto_table:80",
                "table=71,priority=300,ct_state=-new-inv,actions=goto_table:80",
                "table=71,priority=200,ct_state=+inv,actions=drop(policy)",
                "table=71,priority=10,reg2=0x77,actions=drop(policy)",
                "table=71,priority=10,reg2=0x78,actions=drop(policy)",
                "table=80,priority=100,reg1=1,actions=output:1",
                "table=80,priority=100,reg1=2,actions=output:2",
            ]);
            for port in [22, 80, 443, 8080] {
                for protocol in ["tcp", "udp"] {
                    let begins = "table=71,priority=100,reg2=0x78,ct_state=+new";
                    rules.push(format!("{begins},{protocol},{protocol}_dst={port},actions=goto_table:80"));
                }
            }
            rules
        }
        _ => return None,
    };
    Some(rules)
}
