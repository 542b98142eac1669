//! What neighbours are told once a bundle is in force.

use super::*;
use crate::packet::arp;
use std::time::Instant;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn announcement(port: u32, vlan: u32) -> v1::Announcement {
    v1::Announcement { port, vlan, address: vec![192, 0, 2, 10], mac: MAC.to_vec() }
}

#[test]
fn an_address_is_announced_three_times_by_a_port_of_the_same_bundle() {
    let bench = bench();
    let announcements = vec![announcement(1, 7)];
    bench.manual(v1::Bundle { announcements, ..two_ports() }).unwrap();
    let begun = Instant::now();
    for seconds in 0..3 {
        let frame = bench.ports.peers.lock().unwrap()[&1].wait(Duration::from_secs(5)).expect("it is not announced");
        assert_eq!(frame.bytes, arp::announcement(7, MAC, [192, 0, 2, 10]));
        let elapsed = begun.elapsed().as_millis();
        assert!(elapsed + 100 >= 1000 * seconds && elapsed < 1000 * seconds + 900, "{seconds}: {elapsed} ms");
    }
    std::thread::sleep(Duration::from_millis(1300));
    assert!(bench.ports.peers.lock().unwrap().values().all(|peer| peer.take().is_none()), "that was all");
}

#[test]
fn announcements_that_cannot_be_are_refused_with_the_whole_bundle() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    let good = announcement(1, 0);
    for (bad, code, field) in [
        (announcement(9, 0), "no_such_port", "port"),
        (announcement(2, 0), "no_such_port", "port"),
        (announcement(0, 0), "bad_port", "port"),
        (announcement(1, 4095), "bad_vlan", "vlan"),
        (v1::Announcement { address: vec![224, 0, 0, 1], ..good.clone() }, "bad_address", "address"),
        (v1::Announcement { address: vec![], ..good.clone() }, "missing_field", "address"),
        (v1::Announcement { mac: vec![0xff; 6], ..good.clone() }, "bad_mac", "mac"),
        (v1::Announcement { mac: vec![2; 5], ..good.clone() }, "bad_length", "mac"),
    ] {
        let announcements = vec![good.clone(), bad];
        let fault =
            bench.manual(v1::Bundle { announcements, remove_ports: vec![2], ..Default::default() }).unwrap_err();
        assert_eq!((fault.code.as_str(), fault.field), (code, format!("announcements[1].{field}")));
        assert!(!fault.remedy.is_empty());
    }
    let announcements = vec![good; crate::limits::announcement::WAITING + 1];
    let fault = bench.manual(v1::Bundle { announcements, ..Default::default() }).unwrap_err();
    assert_eq!((fault.code.as_str(), fault.field.as_str()), ("limit_exceeded", "announcements"));
    assert_eq!(bench.port_numbers(), [1, 2]);
    assert!(bench.ports.peers.lock().unwrap().values().all(|peer| peer.take().is_none()), "nothing was said");
}
