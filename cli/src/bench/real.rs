//! Cases on real ports: what the switch costs on the kernel's interfaces, beside the least that could do the same there.
//!
//! Each contender has interfaces and network namespaces of its own, and sleeps while another is measured. Frames are
//! made on the other core ([`real_flood`](super::real_flood)); TCP is iperf3's.

use super::Bench;
use super::cases::{Case, tenant};
use super::figure::{Figure, Judged};
use super::ours::{INPUT, OUTPUT, Ours, bundle_of};
use super::place::Place;
use super::process::Thread;
use super::real_flood::flood;
use super::real_l2fwd::{self, Control};
use super::real_tap;
use super::statistics::median;
use super::traffic::{Flow, shuffle};
use anyhow::{Context as _, Result, bail};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use weft_proto::v1::port_spec::Kind;
use weft_proto::v1::{AfXdpPort, PortSpec, TapPort, TunnelPort};
use weft_up::namespace::{self, ip, run_inside};

/// Before a measurement, for queues and caches to be as they will be.
const WARM_UP: Duration = Duration::from_millis(150);
/// The least time that TCP runs.
const LEAST_TCP: Duration = Duration::from_secs(1);
/// Between two datagrams whose round trip is measured.
const PAUSE: Duration = Duration::from_micros(500);

/// Runs `work` in a thread on this core, in a namespace.
fn on_core<T: Send + 'static>(
    namespace: &str,
    core: usize,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    namespace::start(namespace, move || {
        let mut set = rustix::thread::CpuSet::new();
        set.set(core);
        rustix::thread::sched_setaffinity(None, &set)?;
        work()
    })
}

/// A thread of our own that forwards, until it is dropped.
struct Forwarder {
    control: Arc<Control>,
    thread: Thread,
    handle: Option<JoinHandle<Result<()>>>,
}

impl Forwarder {
    fn start(
        namespace: &str,
        core: usize,
        work: impl FnOnce(&Control, &dyn Fn()) -> Result<()> + Send + 'static,
    ) -> Result<Self> {
        let control = Arc::new(Control::default());
        let (tell, told) = sync_channel(1);
        let inside = Arc::clone(&control);
        let handle = on_core(namespace, core, move || {
            let id = rustix::thread::gettid();
            // Once: there is room for one, and who waits for it is there.
            work(&inside, &|| {
                let _told = tell.try_send(id);
            })
        })?;
        match told.recv_timeout(Duration::from_secs(10)) {
            Ok(id) => {
                let thread = Thread::of(std::process::id(), id.as_raw_nonzero().get());
                Ok(Self { control, thread, handle: Some(handle) })
            }
            Err(_) => {
                control.stop.store(true, Ordering::Relaxed);
                namespace::finish(handle)?;
                bail!("the bare loop did not begin")
            }
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.control.stop.store(true, Ordering::Relaxed);
        if let Some(handle) = self.handle.take() {
            let _ended = namespace::finish(handle);
        }
    }
}

/// Two namespaces that play hosts, and between them the interfaces `to-a` and `to-b` in `middle`. Whoever forwards
/// between those joins 10.0.0.1 and 10.0.0.2.
struct Ends {
    a: String,
    b: String,
}

impl Ends {
    fn around(place: &Place, middle: &str, name: &str) -> Result<Self> {
        let ends = Self { a: place.namespace(&format!("{name}-a"))?, b: place.namespace(&format!("{name}-b"))? };
        for (end, there, last) in [(&ends.a, "to-a", 1), (&ends.b, "to-b", 2)] {
            // An earlier case's, whose other end's namespace may still be on its way out.
            let _none = ip(&format!("-n {middle} link del {there}"));
            ip(&format!("-n {end} link add eth0 type veth peer name {there} netns {middle}"))?;
            // AF_XDP does not tell of unfinished checksums.
            run_inside(end, "ethtool -K eth0 tx off txvlan off")?;
            ip(&format!("-n {end} addr add 10.0.0.{last}/24 dev eth0"))?;
            ip(&format!("-n {end} link set eth0 up"))?;
            ip(&format!("-n {middle} link set {there} up"))?;
        }
        Ok(ends)
    }
}

fn port(number: u32, name: &str, kind: Kind) -> PortSpec {
    PortSpec { number, name: name.to_owned(), kind: Some(kind), ..Default::default() }
}

fn af_xdp(interface: &str) -> Kind {
    Kind::AfXdp(AfXdpPort { interface: interface.to_owned(), take_all: true, ..Default::default() })
}

fn tap(namespace: &str, mtu: u32) -> Kind {
    Kind::Tap(TapPort { interface: "eth0".to_owned(), netns: namespace.to_owned(), mtu, ..Default::default() })
}

/// Adds ports and rules in one bundle.
fn set_up(ours: &Ours, ports: Vec<PortSpec>, rules: &[String]) -> Result<()> {
    let mut bundle = bundle_of(rules)?;
    bundle[0].add_ports = ports;
    ours.apply(bundle)?;
    Ok(())
}

/// Our switch and the bare loop, each between two interfaces.
struct Pair {
    ours: Ours,
    our_ends: Ends,
    bare: Forwarder,
    bare_ends: Ends,
}

impl Pair {
    fn start(place: &Place, rules: &[String], spin: bool) -> Result<Self> {
        let ours = Ours::start_in(place, &place.ours(), "ours", place.core, spin)?;
        let our_ends = Ends::around(place, &place.ours(), "ours")?;
        set_up(&ours, vec![port(INPUT, "a", af_xdp("to-a")), port(OUTPUT, "b", af_xdp("to-b"))], rules)?;
        let bare_ends = Ends::around(place, &place.theirs(), "bare")?;
        let bare = Forwarder::start(&place.theirs(), place.core, move |control, ready| {
            real_l2fwd::run(["to-a", "to-b"], spin, control, ready)
        })?;
        Ok(Self { ours, our_ends, bare, bare_ends })
    }
}

/// Nanoseconds on the CPU for each frame that is forwarded while frames flood in; and how many millions a second.
fn flooded(
    bench: &Bench,
    ends: &Ends,
    frames: &Arc<Vec<Vec<u8>>>,
    thread: &Thread,
    forwarded: impl Fn() -> Result<u64>,
) -> Result<(f64, f64)> {
    let control = Arc::new(Control::default());
    let (stop, frames) = (Arc::clone(&control), Arc::clone(frames));
    let sender = on_core(&ends.a, bench.place.other_core(), move || flood("eth0", &frames, &stop.stop))?;
    std::thread::sleep(WARM_UP);
    let begin = (thread.on_cpu()?, forwarded()?, Instant::now());
    std::thread::sleep(bench.window);
    let (time, count, elapsed) = (thread.on_cpu()? - begin.0, forwarded()? - begin.1, begin.2.elapsed());
    control.stop.store(true, Ordering::Relaxed);
    namespace::finish(sender)?;
    if count == 0 {
        bail!("nothing was forwarded in {} ms", bench.window.as_millis());
    }
    Ok((time as f64 / count as f64, count as f64 / elapsed.as_secs_f64() / 1e6))
}

/// Our worker between two AF_XDP ports against the bare loop; `case.at_most` nanoseconds more are good.
fn forwarding(bench: &Bench, case: &Case, mut frames: Vec<Vec<u8>>, rules: &[String]) -> Result<Vec<Figure>> {
    shuffle(&mut frames);
    let frames = Arc::new(frames);
    let pair = Pair::start(&bench.place, rules, false)?;
    let (mut ours, mut bare, mut rates) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for turn in 0..bench.pairs * 2 {
        weft_up::interrupt::check()?;
        // Who goes first alternates.
        if matches!(turn % 4, 0 | 3) {
            let sent = || pair.ours.sent(OUTPUT);
            let (cost, rate) = flooded(bench, &pair.our_ends, &frames, pair.ours.worker(), sent)?;
            ours.push(cost);
            rates[0].push(rate);
        } else {
            let sent = || Ok(pair.bare.control.forwarded.load(Ordering::Relaxed));
            let (cost, rate) = flooded(bench, &pair.bare_ends, &frames, &pair.bare.thread, sent)?;
            bare.push(cost);
            rates[1].push(rate);
        }
    }
    let more = ours.iter().zip(&bare).map(|(ours, bare)| ours - bare).collect();
    let rates = format!("{:.3} and {:.3}", median(&rates[0]), median(&rates[1]));
    Ok(vec![Figure {
        name: case.name.to_owned(),
        about: format!("{}; beside a bare loop, what is decided is the difference", case.about),
        unit: "ns/packet",
        ours: median(&ours),
        theirs: Some(median(&bare)),
        judged: Judged::Bound(more, case.at_most),
        io: None,
        notes: vec![("Mpps", rates), ("driver", "veth, native XDP, copy, 1 queue".to_owned())],
    }])
}

/// One flow, one rule.
pub fn one_flow(bench: &Bench, case: &Case) -> Result<Vec<Figure>> {
    forwarding(bench, case, vec![Flow::number(0).frame(); 64], &["in_port=1,actions=output:2".to_owned()])
}

/// All that a tenant's packets pass, 10,000 connections.
pub fn tenant_pipeline(bench: &Bench, case: &Case) -> Result<Vec<Figure>> {
    forwarding(bench, case, (0..10_000).map(|flow| Flow::number(flow).frame()).collect(), &tenant())
}

/// The 99th percentile of round trips, microseconds; and their median.
fn round_trips(ends: &Ends, core: usize, time: Duration) -> Result<(f64, f64)> {
    let echo = namespace::inside(&ends.b, || {
        let socket = UdpSocket::bind("10.0.0.2:7")?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    })?;
    let answering = on_core(&ends.b, core, move || {
        let mut buffer = [0; 100];
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            echo.send_to(&buffer[..length], from)?;
        }
        Ok(())
    })?;
    let asking = on_core(&ends.a, core, move || {
        let socket = UdpSocket::bind("10.0.0.1:0")?;
        socket.connect("10.0.0.2:7")?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        let (mut trips, begin) = (Vec::new(), Instant::now());
        while begin.elapsed() < time {
            let sent = Instant::now();
            socket.send(&[7; 18])?;
            if socket.recv(&mut [0; 100]).is_ok() {
                trips.push(sent.elapsed().as_secs_f64() * 1e6);
            }
            std::thread::sleep(PAUSE);
        }
        Ok(trips)
    })?;
    let mut trips = namespace::finish(asking)?;
    namespace::finish(answering)?;
    if trips.len() < 100 {
        bail!("{} of the datagrams came back in {} ms", trips.len(), time.as_millis());
    }
    trips.sort_by(f64::total_cmp);
    Ok((trips[trips.len() * 99 / 100], median(&trips)))
}

/// The round trip of a datagram at light load, beside the bare loop: both asleep between two frames, then both spinning.
pub fn latency(bench: &Bench, case: &Case) -> Result<Vec<Figure>> {
    let rules = ["in_port=1,actions=output:2", "in_port=2,actions=output:1"].map(str::to_owned);
    let mut figures = Vec::new();
    for spin in [false, true] {
        let pair = Pair::start(&bench.place, &rules, spin)?;
        let core = bench.place.other_core();
        let time = bench.window * 2;
        // Neighbours are found.
        for ends in [&pair.our_ends, &pair.bare_ends] {
            run_inside(&ends.a, "ping -n -c 2 -i 0.2 -W 2 10.0.0.2").context("nothing passes")?;
        }
        let (mut ours, mut bare, mut middles) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
        for turn in 0..bench.pairs * 2 {
            weft_up::interrupt::check()?;
            let of_ours = matches!(turn % 4, 0 | 3);
            if spin {
                // Only one can have the core.
                pair.bare.control.paused.store(of_ours, Ordering::Relaxed);
                if of_ours { pair.ours.resume() } else { pair.ours.pause() }
            }
            let ends = if of_ours { &pair.our_ends } else { &pair.bare_ends };
            let (late, middle) = round_trips(ends, core, time)?;
            if of_ours {
                ours.push(late)
            } else {
                bare.push(late)
            }
            middles[usize::from(!of_ours)].push(middle);
        }
        pair.ours.resume();
        let more = ours.iter().zip(&bare).map(|(ours, bare)| ours - bare).collect();
        figures.push(Figure {
            name: format!("{}{}", case.name, if spin { "-spinning" } else { "" }),
            about: format!("{}{}", case.about, if spin { ", never asleep" } else { "" }),
            unit: "µs",
            ours: median(&ours),
            theirs: Some(median(&bare)),
            judged: if spin { Judged::Not } else { Judged::Bound(more, case.at_most) },
            io: None,
            notes: vec![("medians, µs", format!("{:.1} and {:.1}", median(&middles[0]), median(&middles[1])))],
        });
    }
    Ok(figures)
}

/// Gbit/s of one TCP stream that arrive.
fn tcp(from: &str, to: &str, address: &str, time: Duration) -> Result<f64> {
    let seconds = time.max(LEAST_TCP).as_secs();
    let server = namespace::start(to, move || {
        namespace::run("timeout", &[&(seconds + 10).to_string(), "iperf3", "--server", "--one-off"])
    })?;
    let begin = Instant::now();
    while run_inside(to, "ss -Hltn sport = :5201")?.is_empty() {
        if begin.elapsed() > Duration::from_secs(5) {
            bail!("iperf3 does not listen. Install iperf3 and iproute2.");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let printed = run_inside(from, &format!("iperf3 --client {address} --time {seconds} --json"));
    let _served = namespace::finish(server);
    let answer: serde_json::Value = serde_json::from_str(&printed?)?;
    let rate = answer["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(rate.context("iperf3 names no rate")? / 1e9)
}

/// Rates of ours and of others, in turn, whose first one is what ours are held against.
fn rates(bench: &Bench, case: &Case, contenders: &[(&'static str, [&str; 2], &str)]) -> Result<Vec<Figure>> {
    let mut all = vec![Vec::new(); contenders.len()];
    for turn in 0..bench.pairs as usize {
        for place in 0..contenders.len() {
            weft_up::interrupt::check()?;
            let which = (place + turn) % contenders.len();
            let (name, [from, to], address) = &contenders[which];
            all[which].push(tcp(from, to, address, bench.window).with_context(|| (*name).to_owned())?);
        }
    }
    let ratios = all[0].iter().zip(&all[1]).map(|(ours, theirs)| theirs / ours).collect();
    let shown = |place: usize| (contenders[place].0, format!("{:.2} Gbit/s", median(&all[place])));
    Ok(vec![Figure {
        name: case.name.to_owned(),
        about: format!("{}; more is better, the ratio is theirs to ours", case.about),
        unit: "Gbit/s",
        ours: median(&all[0]),
        theirs: Some(median(&all[1])),
        judged: Judged::Ratios(ratios, case.at_most),
        io: None,
        notes: (1..contenders.len()).map(shown).collect(),
    }])
}

fn give(namespace: &str, address: &str) -> Result<()> {
    ip(&format!("-n {namespace} addr add {address}/24 dev eth0"))?;
    ip(&format!("-n {namespace} link set eth0 up"))?;
    Ok(())
}

/// TCP between two TAPs, beside a loop that reads and writes, and the kernel's bridge.
pub fn taps(bench: &Bench, case: &Case) -> Result<Vec<Figure>> {
    let place = &bench.place;
    let pair = |name: &str| -> Result<[String; 2]> {
        Ok([place.namespace(&format!("{name}-1"))?, place.namespace(&format!("{name}-2"))?])
    };
    let ours = Ours::start_in(place, &place.ours(), "ours", place.core, false)?;
    let own = pair("ours")?;
    let rules = ["in_port=1,actions=output:2", "in_port=2,actions=output:1"].map(str::to_owned);
    set_up(&ours, vec![port(1, "one", tap(&own[0], 1500)), port(2, "two", tap(&own[1], 1500))], &rules)?;

    let bare = pair("bare")?;
    let one = namespace::inside(&bare[0], || real_tap::open("eth0"))?;
    let two = namespace::inside(&bare[1], || real_tap::open("eth0"))?;
    let _forwarder = Forwarder::start(&bare[0], place.core, move |control, ready| {
        ready();
        real_tap::run([&one, &two], control);
        Ok(())
    })?;

    let (bridged, middle) = (pair("bridge")?, place.theirs());
    ip(&format!("-n {middle} link add br0 type bridge"))?;
    ip(&format!("-n {middle} link set br0 up"))?;
    for (end, name) in bridged.iter().zip(["to-1", "to-2"]) {
        ip(&format!("-n {end} link add eth0 type veth peer name {name} netns {middle}"))?;
        ip(&format!("-n {middle} link set {name} master br0 up"))?;
    }
    for ends in [&own, &bare, &bridged] {
        give(&ends[0], "10.0.0.1")?;
        give(&ends[1], "10.0.0.2")?;
    }
    let ends = |ends: &'_ [String; 2]| [ends[0].clone(), ends[1].clone()];
    let all = [("ours", ends(&own)), ("bare loop", ends(&bare)), ("bridge on veth", ends(&bridged))];
    let all: Vec<_> =
        all.iter().map(|(name, ends)| (*name, [ends[0].as_str(), ends[1].as_str()], "10.0.0.2")).collect();
    rates(bench, case, &all)
}

/// Two hosts, joined by a cable: 10.99.0.1 and 10.99.0.2 on `eth0`.
fn hosts(place: &Place, name: &str, offload: bool) -> Result<[String; 2]> {
    let hosts = [place.namespace(&format!("{name}-h1"))?, place.namespace(&format!("{name}-h2"))?];
    let [one, two] = &hosts;
    ip(&format!("-n {one} link add eth0 type veth peer name eth0 netns {two}"))?;
    for (host, address) in hosts.iter().zip(["10.99.0.1", "10.99.0.2"]) {
        if !offload {
            run_inside(host, "ethtool -K eth0 tx off")?;
        }
        give(host, address)?;
    }
    Ok(hosts)
}

/// TCP over VXLAN between instances of two switches, beside Open vSwitch on AF_XDP, and the kernel's own.
pub fn vxlan(bench: &Bench, case: &Case) -> Result<Vec<Figure>> {
    const INNER: u32 = 1450;
    let place = &bench.place;
    let own_hosts = hosts(place, "ours", false)?;
    let mut own = Vec::new();
    let mut switches = Vec::new();
    for (index, host) in own_hosts.iter().enumerate() {
        let name = format!("ours{index}");
        let core = if index == 0 { place.core } else { place.other_core() };
        let ours = Ours::start_in(place, host, &name, core, false)?;
        let instance = place.namespace(&format!("{name}-vm"))?;
        let remote = ["10.99.0.2", "10.99.0.1"][index];
        let rules = [
            format!("in_port=1,actions=set_field:100->tun_id,set_field:{remote}->tun_dst,output:3"),
            "in_port=3,tun_id=100,actions=output:1".to_owned(),
        ];
        let underlay = Kind::AfXdp(AfXdpPort { interface: "eth0".to_owned(), ..Default::default() });
        let tunnel = Kind::Vxlan(TunnelPort { underlay_port: 2, ..Default::default() });
        let ports =
            vec![port(1, "vm", tap(&instance, INNER)), port(2, "underlay", underlay), port(3, "tunnel", tunnel)];
        set_up(&ours, ports, &rules)?;
        give(&instance, ["10.0.0.1", "10.0.0.2"][index])?;
        own.push(instance);
        switches.push(ours);
    }

    let kernel = hosts(place, "kernel", true)?;
    for (index, host) in kernel.iter().enumerate() {
        let [local, remote] = if index == 0 { ["10.99.0.1", "10.99.0.2"] } else { ["10.99.0.2", "10.99.0.1"] };
        let tunnel = format!("vxlan id 100 local {local} remote {remote} dstport 4789 dev eth0");
        ip(&format!("-n {host} link add vxlan0 mtu {INNER} type {tunnel}"))?;
        ip(&format!("-n {host} addr add 10.0.0.{}/24 dev vxlan0", index + 1))?;
        ip(&format!("-n {host} link set vxlan0 up"))?;
    }
    for from in [&own[0], &kernel[0]] {
        run_inside(from, "ping -n -c 3 -i 0.3 -W 2 10.0.0.2").context("nothing passes")?;
    }
    let mut contenders = vec![("ours", [own[0].as_str(), own[1].as_str()], "10.0.0.2")];
    let theirs;
    if !bench.ours_only {
        theirs = super::real_ovs::Topology::start(place)?;
        contenders.push(("Open vSwitch afxdp", theirs.ends(), "10.0.0.2"));
    }
    contenders.push(("kernel VXLAN", [kernel[0].as_str(), kernel[1].as_str()], "10.0.0.2"));
    rates(bench, case, &contenders)
}

/// Between two interfaces of the caller's namespace that frames flood into from elsewhere: for any NIC.
pub fn on_interfaces(bench: &Bench, interfaces: [&str; 2]) -> Result<Figure> {
    let place = &bench.place;
    let ours = Ours::start_here(place, "ours", place.core)?;
    let ports = vec![port(INPUT, "one", af_xdp(interfaces[0])), port(OUTPUT, "two", af_xdp(interfaces[1]))];
    let rules = ["in_port=1,actions=output:2", "in_port=2,actions=output:1"].map(str::to_owned);
    set_up(&ours, ports, &rules)?;
    let forwarded = || Ok::<_, anyhow::Error>(ours.sent(INPUT)? + ours.sent(OUTPUT)?);
    let mut costs = Vec::new();
    let (mut packets, begin) = (0, Instant::now());
    while costs.len() < bench.pairs as usize {
        weft_up::interrupt::check()?;
        let before = (ours.worker().on_cpu()?, forwarded()?);
        std::thread::sleep(bench.window);
        let (time, count) = (ours.worker().on_cpu()? - before.0, forwarded()? - before.1);
        if count > 0 {
            costs.push(time as f64 / count as f64);
            packets += count;
        } else if begin.elapsed() > Duration::from_secs(60) {
            bail!(
                "no frame came in by {} or {} within a minute. Let a generator send to them.",
                interfaces[0],
                interfaces[1]
            );
        }
    }
    let details = ours.details()?;
    // What the kernel calls the driver: the link behind the interface's device.
    let driver = |interface: &str| {
        let link = std::fs::read_link(format!("/sys/class/net/{interface}/device/driver"));
        link.ok().and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned())).unwrap_or("no device".into())
    };
    Ok(Figure {
        name: format!("ports-{}-{}", interfaces[0], interfaces[1]),
        about: "frames from elsewhere, forwarded between two interfaces".to_owned(),
        unit: "ns/packet",
        ours: median(&costs),
        theirs: None,
        judged: Judged::Not,
        io: None,
        notes: vec![
            ("drivers", interfaces.map(driver).join(", ")),
            ("ports", details),
            ("packets", packets.to_string()),
            ("Mpps", format!("{:.3}", packets as f64 / begin.elapsed().as_secs_f64() / 1e6)),
        ],
    })
}
