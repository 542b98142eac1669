use super::*;
use crate::packet::sample;
use etherparse::{LinkExtHeader, LinkHeader, NetHeaders, PacketHeaders, TransportHeader};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

const PORT: u32 = 0x00ff_0001;

fn parsed(bytes: &[u8]) -> Result<(FlowKey, Layout), DropReason> {
    let mut key = FlowKey { metadata: [0xff; 8], tun_id: [0xff; 8], ..FlowKey::ZERO };
    parse_bytes(bytes, bytes.len(), PORT, &mut key).map(|layout| (key, layout))
}

fn sample(name: &str) -> Vec<u8> {
    sample::frames().into_iter().find(|frame| frame.0 == name).unwrap_or_else(|| panic!("no sample {name}")).1
}

/// What `etherparse` makes of the frame, as a key; `None` where it cannot say (it stops at another
/// place, or knows less).
fn oracle(bytes: &[u8]) -> Option<FlowKey> {
    let packet = PacketHeaders::from_ethernet_slice(bytes).ok()?;
    let Some(LinkHeader::Ethernet2(ethernet)) = &packet.link else { return None };
    let mut key = FlowKey { in_port: PORT.to_be_bytes(), ..FlowKey::ZERO };
    key.eth_dst = ethernet.destination;
    key.eth_src = ethernet.source;
    let mut kind = ethernet.ether_type.0;
    for (index, tag) in packet.link_exts.iter().enumerate() {
        let LinkExtHeader::Vlan(tag) = tag else { return None };
        // It knows a third kind of tag, and MACsec.
        if !matches!(kind, 0x8100 | 0x88a8) {
            return None;
        }
        let tci = u16::from(tag.pcp.value()) << 13 | 0x1000 | tag.vlan_id.value();
        *(if index == 0 { &mut key.vlan_tci } else { &mut key.vlan_inner_tci }) = tci.to_be_bytes();
        kind = tag.ether_type.0;
        if index == 2 {
            return None;
        }
    }
    if matches!(kind, 0x9100 | 0x88e5 | 0x8100 | 0x88a8) {
        return None;
    }
    key.eth_type = if kind < 0x600 { [5, 0xff] } else { kind.to_be_bytes() };
    match &packet.net {
        Some(NetHeaders::Ipv4(ip, extensions)) => {
            key.ipv4_src = ip.source;
            key.ipv4_dst = ip.destination;
            key.ip_proto = ip.protocol.0;
            key.ip_tos = ip.dscp.value() << 2 | ip.ecn.value();
            key.ip_ttl = ip.time_to_live;
            key.ip_frag = match (ip.fragment_offset.value(), ip.more_fragments) {
                (0, false) => 0,
                (0, true) => 1,
                _ => 3,
            };
            // It walks IPv4's authentication header, which is a protocol of its own to a switch.
            if extensions.auth.is_some() {
                return Some(key);
            }
        }
        Some(NetHeaders::Ipv6(ip, extensions)) => {
            key.ipv6_src = ip.source;
            key.ipv6_dst = ip.destination;
            key.ip_tos = ip.traffic_class;
            key.ip_ttl = ip.hop_limit;
            key.ipv6_label = ip.flow_label.value().to_be_bytes();
            if let Some(fragment) = &extensions.fragment {
                key.ip_frag = match (fragment.fragment_offset.value(), fragment.more_fragments) {
                    (0, false) => 0,
                    (0, true) => 1,
                    _ => 3,
                };
            }
            key.ip_proto = match key.ip_frag {
                3 => extensions.fragment.as_ref()?.next_header.0,
                _ => extensions.next_header(ip.next_header).ok()?.0,
            };
            // It stops at a header that it has seen once already.
            if matches!(key.ip_proto, 0 | 43 | 44 | 51 | 60) && key.ip_frag != LATER_FRAGMENT {
                return None;
            }
            if key.ip_frag == 1 {
                // It does not look for a transport header in a first fragment.
                return Some(key);
            }
        }
        Some(NetHeaders::Arp(arp))
            if arp.hw_addr_type.0 == 1
                && arp.proto_addr_type.0 == 0x0800
                && arp.hw_addr_size() == 6
                && arp.protocol_addr_size() == 4 =>
        {
            key.arp_op = arp.operation.0.to_be_bytes();
            key.ipv4_src = arp.sender_protocol_addr().try_into().unwrap();
            key.ipv4_dst = arp.target_protocol_addr().try_into().unwrap();
            key.link_source = arp.sender_hw_addr().try_into().unwrap();
            key.link_target = arp.target_hw_addr().try_into().unwrap();
        }
        Some(NetHeaders::Arp(_)) | None => {}
    }
    match &packet.transport {
        Some(TransportHeader::Tcp(tcp)) => {
            key.l4_src = tcp.source_port.to_be_bytes();
            key.l4_dst = tcp.destination_port.to_be_bytes();
            let raw = tcp.to_bytes();
            key.tcp_flags = [raw[12] & 0x0f, raw[13]];
        }
        Some(TransportHeader::Udp(udp)) => {
            key.l4_src = udp.source_port.to_be_bytes();
            key.l4_dst = udp.destination_port.to_be_bytes();
        }
        Some(TransportHeader::Icmpv4(icmp)) => {
            let raw = icmp.to_bytes();
            (key.l4_src, key.l4_dst) = ([0, raw[0]], [0, raw[1]]);
            // Echo, timestamp, information and address mask: request and reply (RFC 792, RFC 950).
            if [0, 8, 13, 14, 15, 16, 17, 18].contains(&raw[0]) {
                key.icmp_identifier = [raw[4], raw[5]];
            }
        }
        Some(TransportHeader::Icmpv6(icmp)) => {
            let raw = icmp.to_bytes();
            (key.l4_src, key.l4_dst) = ([0, raw[0]], [0, raw[1]]);
            if [128, 129].contains(&raw[0]) {
                key.icmp_identifier = [raw[4], raw[5]];
            }
        }
        _ => {}
    }
    Some(key)
}

/// The parts of a key that the oracle can tell: it knows no SCTP, its view of neighbour discovery is a
/// payload, and it leaves first fragments of IPv6 and IPv4's authentication headers alone.
fn comparable(mut key: FlowKey) -> FlowKey {
    let version6 = key.eth_type == [0x86, 0xdd];
    (key.nd_target, key.reserved_wide) = ([0; 16], [0; 4]);
    if version6 {
        (key.link_source, key.link_target) = ([0; 6], [0; 6]);
    }
    let ip = version6 || key.eth_type == [8, 0];
    if ip && (matches!(key.ip_proto, 132 | 51) || key.ip_frag == 1) {
        (key.l4_src, key.l4_dst, key.tcp_flags) = ([0; 2], [0; 2], [0; 2]);
        key.icmp_identifier = [0; 2];
    }
    // The three reserved flags.
    key.tcp_flags[0] &= 1;
    // To it ICMP is ICMP, over either version.
    if key.ip_proto == if version6 { 1 } else { 58 } {
        (key.l4_src, key.l4_dst, key.icmp_identifier) = ([0; 2], [0; 2], [0; 2]);
    }
    key
}

#[test]
fn every_sample_is_parsed_as_the_oracle_does() {
    for (name, bytes) in sample::frames() {
        let (key, _) = parsed(&bytes).unwrap_or_else(|reason| panic!("{name}: {reason:?}"));
        let expected = oracle(&bytes).unwrap_or_else(|| panic!("{name}: no oracle"));
        assert_eq!(comparable(key), comparable(expected), "{name}");
    }
}

#[test]
fn the_oracle_tells_a_wrong_key() {
    for (name, bytes) in sample::frames() {
        let (mut key, _) = parsed(&bytes).unwrap();
        key.eth_type[1] ^= 1;
        assert_ne!(comparable(key), comparable(oracle(&bytes).unwrap()), "{name}");
    }
}

#[test]
fn fields_the_oracle_does_not_know() {
    let (key, layout) = parsed(&sample("sctp4")).unwrap();
    assert_eq!((key.l4_src, key.l4_dst, layout.l4), ([0x0b, 0x59], [0x0b, 0x5a], 34));
    let (key, _) = parsed(&sample("first fragment6")).unwrap();
    assert_eq!((key.ip_frag, key.ip_proto, key.l4_dst), (FIRST_FRAGMENT, 17, [0, 53]));
    let (key, _) = parsed(&sample("first fragment4")).unwrap();
    assert_eq!((key.ip_frag, key.ip_proto, key.l4_dst), (FIRST_FRAGMENT, 17, [0, 53]));
    let (key, layout) = parsed(&sample("later fragment6")).unwrap();
    assert_eq!((key.ip_frag, key.ip_proto, key.l4_dst, layout.l4), (LATER_FRAGMENT, 17, [0, 0], 0));
    let (key, layout) = parsed(&sample("atomic fragment6")).unwrap();
    assert_eq!((key.ip_frag, key.l4_dst, layout.l4), (WHOLE, [0, 53], 62));
    let (key, _) = parsed(&sample("solicitation")).unwrap();
    assert_eq!(
        (key.l4_src, key.nd_target[15], key.link_source, key.link_target),
        ([0, 135], 7, [2, 0, 0, 0, 0, 1], [0; 6])
    );
    let (key, _) = parsed(&sample("advertisement")).unwrap();
    assert_eq!(
        (key.l4_src, key.nd_target[15], key.link_source, key.link_target),
        ([0, 136], 7, [0; 6], [2, 0, 0, 0, 0, 7])
    );
    let (key, layout) = parsed(&sample("llc")).unwrap();
    assert_eq!((key.eth_type, layout.l3, layout.l4), ([5, 0xff], 0, 0));
    let (key, layout) = parsed(&sample("double tagged udp6")).unwrap();
    assert_eq!(
        (key.vlan_tci, key.vlan_inner_tci, layout.vlan_tags, layout.l3, layout.l4),
        ([0x10, 5], [0x10, 6], 2, 22, 62)
    );
}

#[test]
fn tcp_flags_have_twelve_bits() {
    let segment = sample::tcp(true, 0xf52, &[], b"");
    let (key, _) = parsed(&sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 6, 0, &segment))).unwrap();
    assert_eq!(key.tcp_flags, [0x0f, 0x52]);
}

#[test]
fn pipeline_and_tunnel_fields_are_zeroed() {
    let (key, _) = parsed(&sample("tcp4")).unwrap();
    assert_eq!((key.metadata, key.tun_id, key.port()), ([0; 8], [0; 8], PORT));
}

#[test]
fn options_of_neighbour_discovery_that_make_no_sense_are_not_set() {
    let target = [9_u8; 16];
    let with = |options: &[u8]| {
        let message = sample::icmp(false, 135, 0, &[&target[..], options].concat());
        parsed(&sample::ethernet(&[], 0x86dd, &sample::ipv6(&[], 58, &message))).unwrap().0.link_source
    };
    let option = [1, 1, 2, 3, 4, 5, 6, 7];
    assert_eq!(with(&option), [2, 3, 4, 5, 6, 7]);
    assert_eq!(with(&[&[9, 1, 0, 0, 0, 0, 0, 0][..], &option].concat()), [2, 3, 4, 5, 6, 7]);
    for nonsense in [
        &option[..7],
        &[1, 0, 2, 3, 4, 5, 6, 7],
        &[1, 2, 2, 3, 4, 5, 6, 7],
        &[option; 2].concat(),
        &[2, 1, 2, 3, 4, 5, 6, 7],
    ] {
        assert_eq!(with(nonsense), [0; 6], "{nonsense:?}");
    }
}

#[test]
fn truncated_and_malformed_are_told_apart() {
    let reason = |bytes: &[u8]| parsed(bytes).unwrap_err();
    let changed = |name: &str, place: usize, value: u8| {
        let mut bytes = sample(name);
        bytes[place] = value;
        reason(&bytes)
    };
    assert_eq!(reason(&[]), Truncated);
    assert_eq!(reason(&sample("tcp4")[..13]), Truncated);
    assert_eq!(reason(&sample("tagged tcp4")[..17]), Truncated);
    assert_eq!(reason(&sample("tcp4")[..33]), Truncated, "within IPv4");
    assert_eq!(reason(&sample("options4")[..40]), Truncated, "within IPv4's options");
    assert_eq!(reason(&sample("tcp6")[..53]), Truncated, "within IPv6");
    assert_eq!(reason(&sample("arp")[..41]), Truncated, "within ARP");
    assert_eq!(reason(&sample("tcp4")[..60]), Malformed, "shorter than IPv4's length");
    assert_eq!(changed("tcp4", 14, 0x44), Malformed, "IHL below 5");
    assert_eq!(changed("tcp4", 14, 0x65), Malformed, "version 6 as IPv4");
    assert_eq!(changed("tcp4", 17, 19), Malformed, "length below the header");
    assert_eq!(changed("tcp4", 16, 9), Malformed, "length beyond the frame");
    assert_eq!(changed("tcp4", 46, 0x40), Malformed, "TCP data offset 4");
    assert_eq!(changed("tcp4", 46, 0xf0), Truncated, "TCP options beyond the packet");
    assert_eq!(changed("tcp4", 17, 39), Truncated, "half a TCP header");
    assert_eq!(changed("tcp4", 17, 51), Truncated, "all but a byte of TCP's options");
    let mut exact = sample("tcp4");
    exact[17] = 52;
    assert!(parsed(&exact).is_ok(), "options to the packet's last byte");
    assert_eq!(changed("udp4", 17, 27), Truncated, "all but a byte of a UDP header");
    assert_eq!(changed("udp4", 39, 7), Malformed, "UDP length below 8");
    assert_eq!(changed("udp4", 39, 60), Malformed, "UDP length beyond the packet");
    assert_eq!(changed("tiny udp4", 39, 9), Malformed, "likewise, off the fast path");
    assert_eq!(changed("tcp6", 14, 0x45), Malformed, "version 4 as IPv6");
    assert_eq!(changed("tcp6", 18, 9), Malformed, "payload length beyond the frame");
    assert_eq!(changed("extensions6", 55, 200), Truncated, "an extension header beyond the packet");
    assert_eq!(changed("extensions6", 54, 0), Malformed, "hop-by-hop options in second place");
    // A first fragment must show its whole transport header; a later one must not rewrite it.
    let short = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 6, 0x2000, &sample::tcp(true, 2, &[], b"")[..16]));
    assert_eq!(reason(&short), Truncated);
    let rewriting = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 6, 0x0001, &[0; 16]));
    assert_eq!(reason(&rewriting), Malformed);
    let giant = sample::ethernet(&[], 0x0800, &sample::ipv4(&[], 1, 0x1fff, &[0; 16]));
    assert_eq!(reason(&giant), Malformed);
    let endless = vec![(60, sample::padding_options(1)); EXTENSION_HEADERS + 1];
    assert_eq!(reason(&sample::ethernet(&[], 0x86dd, &sample::ipv6(&endless, 59, &[]))), Malformed);
    assert!(parsed(&sample::ethernet(&[], 0x86dd, &sample::ipv6(&endless[1..], 59, &[]))).is_ok());
}

#[test]
fn padding_ends_outside_the_packet() {
    let mut bytes = sample("tiny udp4");
    let length = bytes.len();
    bytes.resize(60, 0xee);
    let (key, layout) = parsed(&bytes).unwrap();
    assert_eq!((key.l4_dst, layout.end as usize), ([0, 53], length));
}

#[test]
fn no_truncation_panics_or_reads_beyond() {
    for (name, bytes) in sample::frames() {
        for length in 0..bytes.len() {
            // As a whole frame and as the first segment of one: what is parsed then lies within it.
            let _ = parsed(&bytes[..length]);
            let mut key = FlowKey::ZERO;
            if let Ok(layout) = parse_bytes(&bytes[..length], bytes.len(), PORT, &mut key) {
                assert!(usize::from(layout.l3.max(layout.l4)) <= length, "{name} at {length}: {layout:?}");
                assert_eq!(key, parsed(&bytes).unwrap().0, "{name} at {length}");
            }
        }
    }
}

#[test]
fn the_fast_path_and_the_general_one_agree() {
    for (name, bytes) in sample::frames() {
        let mut key = FlowKey { in_port: PORT.to_be_bytes(), ..FlowKey::ZERO };
        let mut layout = Layout { end: bytes.len() as u32, ..Layout::default() };
        general(&bytes, bytes.len(), &mut key, &mut layout).unwrap();
        assert_eq!(parsed(&bytes).unwrap(), (key, layout), "{name}");
    }
}

/// Port security has looked at the source address when the checksum is completed: it must not be
/// possible to have another address written there.
#[test]
fn a_partial_checksum_cannot_point_at_an_address() {
    let mut pool = sample::pool();
    let mut accepts = |name: &str, start: u16, offset: u16| {
        let mut frame = pool.frame(crate::port::PortSlot::new(0), &sample(name)).unwrap();
        frame.checksum = Checksum::Partial { start, offset };
        let accepted = parse(&frame, PORT, &mut FlowKey::ZERO.clone()).is_ok();
        pool.free(frame);
        accepted
    };
    assert!(accepts("tcp4", 34, 16) && accepts("udp4", 34, 6) && accepts("tagged tcp4", 38, 16));
    assert!(accepts("tcp6", 54, 16) && accepts("ping6", 54, 2) && accepts("atomic fragment6", 62, 6));
    assert!(accepts("gre4", 34, 2), "behind all that was parsed");
    assert!(accepts("tcp4", 66, 2), "in a guest's own tunnel");
    for (name, start, offset) in [
        ("tcp4", 34, 6),
        ("tcp4", 0, 26),
        ("tcp4", 26, 0),
        ("tcp4", 35, 1),
        ("tcp4", 34, 400),
        ("tcp4", 65_535, 65_535),
        ("udp4", 34, 16),
        ("udp4", 35, 0),
        ("udp4", 34, 0),
        ("arp", 14, 14),
        ("arp", 28, 0),
        ("llc", 14, 0),
        ("sctp4", 34, 8),
        ("solicitation", 62, 0),
        ("solicitation", 54, 8),
        ("later fragment4", 34, 6),
        ("first fragment4", 34, 6),
    ] {
        assert!(!accepts(name, start, offset), "{name} from {start} at {offset}");
    }
    assert_eq!(pool.outstanding(), 0);
}

/// Any of the headers we know, in any sensible order, with any values in the fields.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let tags = proptest::collection::vec((prop_oneof![Just(0x8100_u16), Just(0x88a8)], any::<u16>()), 0..3);
    let words = |most: usize| proptest::collection::vec(any::<[u8; 4]>(), 0..most).prop_map(|words| words.concat());
    let payload = || proptest::collection::vec(any::<u8>(), 0..80);
    let transport = move |version4: bool| {
        prop_oneof![
            4 => (any::<u16>(), words(4), payload()).prop_map(move |(flags, _, payload)| {
                (6_u8, sample::tcp(version4, flags & 0x0fff, &[1; 8], &payload))
            }),
            4 => payload().prop_map(move |payload| (17, sample::udp(version4, &payload))),
            2 => (any::<[u8; 2]>(), payload()).prop_map(move |([kind, code], payload)| {
                (if version4 { 1 } else { 58 }, sample::icmp(version4, kind, code, &payload))
            }),
            1 => Just((132, sample::sctp())),
            1 => (any::<u8>(), payload()),
        ]
    };
    let version4 = (words(4), transport(true), prop_oneof![3 => Just(0x4000_u16), 1 => any::<u16>()]).prop_map(
        |(_options, (protocol, payload), fragment)| (0x0800, sample::ipv4(&[1; 4], protocol, fragment, &payload), 24),
    );
    let plain4 = transport(true).prop_map(|(protocol, payload)| (0x0800, sample::ipv4(&[], protocol, 0, &payload), 20));
    let options = |number: u8| (1_usize..3).prop_map(move |units| (number, sample::padding_options(units)));
    let routing = any::<u8>().prop_map(|kind| (43_u8, vec![0, 0, kind, 0, 0, 0, 0, 0]));
    let fragment = prop_oneof![Just(0_u16), Just(1), any::<u16>()]
        .prop_map(|place| (44_u8, [&[0, 0][..], &place.to_be_bytes(), &[0, 0, 0, 1]].concat()));
    let authentication = any::<[u8; 4]>().prop_map(|spi| (51_u8, [&[0, 4, 0, 0][..], &spi, &[0; 16]].concat()));
    let maybe = |strategy: BoxedStrategy<(u8, Vec<u8>)>| proptest::option::weighted(0.3, strategy);
    let version6 = (
        maybe(options(0).boxed()),
        maybe(options(60).boxed()),
        maybe(routing.boxed()),
        maybe(fragment.boxed()),
        maybe(authentication.boxed()),
        transport(false),
    )
        .prop_map(|(hop, destination, routing, fragment, authentication, (protocol, payload))| {
            let extensions: Vec<_> =
                [hop, destination, routing, fragment, authentication].into_iter().flatten().collect();
            (0x86dd, sample::ipv6(&extensions, protocol, &payload), 40)
        });
    let arp = any::<u8>().prop_map(|operation| (0x0806, sample::arp(operation), 28));
    let other = (any::<u16>(), payload()).prop_map(|(kind, payload)| (kind, payload, 0));
    (tags, prop_oneof![3 => plain4, 3 => version4, 5 => version6, 1 => arp, 1 => other], any::<[u8; 12]>()).prop_map(
        |(tags, (kind, mut payload, header), addresses)| {
            // Fields that no length or type depends on take any value.
            if header == 40 {
                payload[0] = 0x60 | (addresses[0] & 0x0f);
                payload[1..4].copy_from_slice(&addresses[1..4]);
                payload[7..19].copy_from_slice(&addresses);
            } else if header == 20 || header == 24 {
                payload[1] = addresses[0];
                payload[8] = addresses[1];
                payload[12..20].copy_from_slice(&addresses[2..10]);
            }
            let mut frame = sample::ethernet(&tags, kind, &payload);
            frame[..12].copy_from_slice(&addresses);
            frame
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn what_is_parsed_agrees_with_the_oracle(frame in packets()) {
        if let (Ok((key, _)), Some(expected)) = (parsed(&frame), oracle(&frame)) {
            prop_assert_eq!(comparable(key), comparable(expected));
        }
    }

    #[test]
    fn flipped_bits_agree_with_the_oracle(
        frame in packets(),
        flips in proptest::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 1..4),
    ) {
        let mut frame = frame;
        for (place, bit) in flips {
            let place = place.index(frame.len());
            frame[place] ^= 1 << bit;
        }
        if let (Ok((key, layout)), Some(expected)) = (parsed(&frame), oracle(&frame)) {
            prop_assert_eq!(comparable(key), comparable(expected));
            prop_assert!(layout.end as usize <= frame.len());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..6_usize, more in 0..100_usize) {
        let mut bytes = bytes;
        if bytes.len() > 15 {
            let kinds = [[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x08, 0x06], [0, 40], [0x88, 0xa8]];
            bytes[12..14].copy_from_slice(&kinds[kind]);
            bytes[14] = [0x45, 0x60, bytes[14], 0, 0, 0][kind];
        }
        let mut key = FlowKey::ZERO;
        if let Ok(layout) = parse_bytes(&bytes, bytes.len() + more, 1, &mut key) {
            prop_assert!(usize::from(layout.l3.max(layout.l4)) <= bytes.len());
            prop_assert!(layout.end as usize <= bytes.len() + more);
        }
    }
}

/// The comparisons above say nothing if hardly any packet is compared.
#[test]
fn most_packets_are_compared() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let compared = (0..1000)
        .filter(|_| {
            let frame = packets().new_tree(&mut runner).unwrap().current();
            parsed(&frame).is_ok() && oracle(&frame).is_some()
        })
        .count();
    assert!(compared > 700, "{compared} of 1000");
}
