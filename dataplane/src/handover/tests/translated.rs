//! NAT by several workers: answers come in by another one than questions.

use super::{Bench, sample, udp};
use std::collections::HashSet;

const EXTERNAL: [u8; 4] = [192, 0, 2, 1];

fn rules() -> Vec<String> {
    let rules = [
        "table=0,in_port=1,ip,actions=ct(commit,zone=9,nat(src=192.0.2.1)),output:2",
        "table=0,in_port=2,ip,actions=ct(zone=9,nat),goto_table:1",
        "table=1,ip,ip_dst=10.0.0.0/24,actions=output:1",
    ];
    rules.map(str::to_owned).to_vec()
}

fn with_destination(mut frame: Vec<u8>, address: [u8; 4]) -> Vec<u8> {
    frame[30..34].copy_from_slice(&address);
    frame
}

#[test]
fn answers_and_errors_find_their_way_back_by_any_worker() {
    const WORKERS: usize = 3;
    let bench = Bench::new(WORKERS, 2, &rules());
    let mut externals = HashSet::new();
    for client in 10..40_u8 {
        let mut own = HashSet::new();
        // Each conversation of one end by another worker: all get the port of the first.
        for (index, remote) in (53..59_u16).enumerate() {
            let worker = (index + usize::from(client)) % WORKERS;
            let sent = udp((client, 2), (5000, remote), 1);
            bench.send(1, worker, sent.clone());
            let left = bench.receive(2);
            assert_eq!((&left[26..30], &left[36..38]), (&EXTERNAL[..], &remote.to_be_bytes()[..]));
            let port = u16::from_be_bytes([left[34], left[35]]);
            own.insert(port);
            for answering in 0..WORKERS {
                bench.send(2, answering, with_destination(udp((2, 0), (remote, port), 2), EXTERNAL));
                assert_eq!(bench.receive(1)[26..38], udp((2, client), (remote, 5000), 2)[26..38]);
                let error = sample::ipv4(&[], 1, 0, &sample::icmp(true, 3, 1, &left[14..42]));
                bench.send(2, answering, with_destination(sample::ethernet(&[], 0x0800, &error), EXTERNAL));
                let arrived = bench.receive(1);
                assert_eq!((&arrived[30..34], &arrived[42..70]), (&[10, 0, 0, client][..], &sent[14..42]));
            }
        }
        assert_eq!(own.len(), 1, "10.0.0.{client} has several external ports: {own:?}");
        externals.extend(own);
    }
    assert_eq!(externals.len(), 30, "each has its own");
    assert!(bench.drops().is_empty(), "{:?}", bench.drops());
    bench.finish();
}
