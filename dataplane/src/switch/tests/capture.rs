//! What a caller is told of frames, and how a capture ends.

use super::*;
use tokio::sync::mpsc::Receiver;

type Replies = Receiver<v1::CaptureFramesReply>;

fn begin(bench: &Bench, request: v1::CaptureFramesRequest) -> Result<Replies, Fault> {
    let mut replies = bench.switch.capture(&request)?;
    let begun = replies.blocking_recv().unwrap();
    assert!(begun.started);
    let names: Vec<(u32, &str)> = begun.ports.iter().map(|port| (port.port, port.name.as_str())).collect();
    assert_eq!(names, [(1, "mem1"), (2, "mem2")]);
    Ok(replies)
}

/// The next so many frames.
fn frames(replies: &mut Replies, count: usize) -> Vec<v1::CapturedFrame> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(replies.blocking_recv().expect("the capture runs").frames);
    }
    assert_eq!(all.len(), count);
    all
}

fn everything() -> v1::CaptureFramesRequest {
    v1::CaptureFramesRequest::default()
}

#[test]
fn frames_come_with_time_direction_and_the_rule_that_drops() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as u64;
    let mut replies = begin(&bench, everything()).unwrap();
    bench.peer(1).send(frame(7)).unwrap();
    let both = frames(&mut replies, 2);
    let seen = |frame: &v1::CapturedFrame| (frame.port, frame.direction(), frame.walk.is_some());
    assert_eq!(seen(&both[0]), (1, v1::FrameDirection::Received, false));
    assert_eq!(seen(&both[1]), (2, v1::FrameDirection::Sent, false));
    assert_eq!((&both[0].frame, both[0].length as usize), (&frame(7), frame(7).len()));
    assert!((before - 10_000..before + 60_000_000).contains(&both[0].time_microseconds), "{before} {both:?}");

    // Without a rule, and by one.
    bench.peer(2).send(frame(8)).unwrap();
    let missed = frames(&mut replies, 1).remove(0);
    assert_eq!(missed.drop_reason, "table_miss");
    let step = missed.walk.unwrap().trace.unwrap().steps.remove(0);
    assert_eq!((step.table_name.as_str(), step.rule), ("classify", None));
    let drop = action(Wire::Drop(v1::Drop { cause: v1::DropCause::Policy.into() }));
    let drops = rule(7, vec![from_port(2)], vec![drop]);
    let origins = vec![v1::Origin { cookie: 7, text: "port web".to_owned() }];
    bench.manual(v1::Bundle { add_rules: vec![drops], origins, ..Default::default() }).unwrap();
    bench.peer(2).send(frame(8)).unwrap();
    let dropped = frames(&mut replies, 1).remove(0);
    assert_eq!((dropped.drop_reason.as_str(), dropped.drop_meaning.as_str()), ("policy", "A rule drops it."));
    let step = dropped.walk.unwrap().trace.unwrap().steps.remove(0);
    assert_eq!(step.rule.unwrap().origin, "port web");
    let count = bench.switch.drops(&v1::ListDropsRequest::default());
    let policy = count.drops.iter().find(|drop| drop.reason == "policy").unwrap();
    assert_eq!((policy.rules[0].packets, policy.rules[0].origin.as_str()), (1, "port web"));
}

#[test]
fn a_walk_is_told_whole_if_it_is_asked_for() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    let request = v1::CaptureFramesRequest {
        walk: true,
        snap_length: 1,
        direction: v1::FrameDirection::Received.into(),
        r#match: vec![exact(Field::EthDst, &[2, 0, 0, 0, 0, 7])],
        ..Default::default()
    };
    let mut replies = begin(&bench, request).unwrap();
    for last in [8, 7, 7] {
        bench.peer(1).send(frame(last)).unwrap();
        bench.peer(2).wait(PATIENCE).expect("the frame arrives");
    }
    let two = frames(&mut replies, 2);
    for (one, cached) in two.iter().zip([true, true]) {
        let walk = one.walk.as_ref().unwrap();
        let trace = walk.trace.as_ref().unwrap();
        assert_eq!((one.frame.len(), walk.cached, trace.steps.len()), (1, cached, 1));
        assert_eq!(trace.steps[0].rule.as_ref().unwrap().origin, "a wire from 1 to 2");
        assert!(matches!(&trace.effects[0].effect, Some(v1::effect::Effect::Output(out)) if out.port_name == "mem2"));
        assert!(walk.packet.contains(&exact(Field::UdpDst, &2000_u16.to_be_bytes())), "{:?}", walk.packet);
    }
}

#[test]
fn captures_are_bounded_and_end_with_their_callers_and_with_the_switch() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    let refused = |request| begin(&bench, request).unwrap_err().code;
    assert_eq!(refused(v1::CaptureFramesRequest { ports: vec![3], ..everything() }), "no_such_port");
    assert_eq!(refused(v1::CaptureFramesRequest { ports: vec![1; 65], ..everything() }), "bad_capture");
    let register = vec![exact(Field::Reg0, &[0, 0, 0, 1])];
    assert_eq!(refused(v1::CaptureFramesRequest { r#match: register, ..everything() }), "bad_capture");
    let set = v1::FieldMatch { field: Field::Ipv4Src.into(), address_set: "friends".into(), ..Default::default() };
    let set = vec![exact(Field::EthType, &[8, 0]), set];
    assert_eq!(refused(v1::CaptureFramesRequest { r#match: set, ..everything() }), "bad_capture");

    let mut all: Vec<Replies> = (0..crate::limits::CAPTURES).map(|_| begin(&bench, everything()).unwrap()).collect();
    assert_eq!(refused(everything()), "too_many_captures");
    all.pop();
    eventually("a capture whose caller is gone makes room", || match begin(&bench, everything()) {
        Ok(another) => {
            all.push(another);
            true
        }
        Err(_) => false,
    });
    bench.peer(1).send(frame(7)).unwrap();
    bench.peer(2).wait(PATIENCE).expect("the frame arrives");
    bench.switch.stop();
    for mut replies in all {
        assert_eq!(frames(&mut replies, 2).len(), 2, "what was seen before the end is told");
        assert_eq!(replies.blocking_recv(), None);
    }
}

/// A caller that does not read loses frames, and is told how many; packets are not held up.
#[test]
fn a_caller_that_does_not_keep_up_is_told_what_it_lost() {
    let bench = bench();
    bench.manual(two_ports()).unwrap();
    let mut replies = begin(&bench, v1::CaptureFramesRequest { ports: vec![1], ..everything() }).unwrap();
    let large = vec![2; 60_000];
    let sent = 400;
    for _ in 0..sent {
        while bench.peer(1).send(large.clone()).is_err() {}
        bench.peer(2).wait(PATIENCE).expect("the frame passes");
    }
    let (mut seen, mut lost) = (0, 0);
    while seen + lost < sent {
        let reply = replies.blocking_recv().expect("the capture runs");
        seen += reply.frames.len();
        lost = reply.lost.iter().map(|port| port.packets as usize).next_back().unwrap_or(lost);
    }
    assert!(lost > 0 && seen > 100, "{seen} seen, {lost} lost");
}
