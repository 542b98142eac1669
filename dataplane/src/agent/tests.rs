//! The agent against a controller of a few lines.

use super::*;
use crate::packet::memory::Memory;
use crate::switch::{KernelPorts, SwitchSettings};
use crate::worker::WorkerSettings;
use prost::Message as _;
use std::path::Path;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use weft_proto::v1::bus_server::{Bus, BusServer};
use weft_proto::v1::{self, FromSwitch, ToSwitch, from_switch, to_switch};

/// What the test says and hears in a session.
struct Session {
    say: mpsc::Sender<Result<ToSwitch, Status>>,
    hear: Streaming<FromSwitch>,
}

struct Controller {
    sessions: mpsc::Sender<Session>,
}

#[tonic::async_trait]
impl Bus for Controller {
    type AttachStream = ReceiverStream<Result<ToSwitch, Status>>;

    async fn attach(&self, request: Request<Streaming<FromSwitch>>) -> Result<Response<Self::AttachStream>, Status> {
        let (say, stream) = mpsc::channel(64);
        let _ = self.sessions.send(Session { say, hear: request.into_inner() }).await;
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

impl Session {
    async fn hear(&mut self) -> from_switch::Message {
        let heard = tokio::time::timeout(PATIENCE, self.hear.message()).await.expect("the switch says something");
        heard.unwrap().expect("the stream goes on").message.unwrap()
    }

    async fn hello(&mut self) -> v1::Hello {
        let from_switch::Message::Hello(hello) = self.hear().await else { panic!("Hello comes first") };
        hello
    }

    async fn say(&self, message: to_switch::Message) {
        self.say.send(Ok(ToSwitch { message: Some(message) })).await.unwrap();
    }

    async fn welcome(&mut self) {
        self.say(to_switch::Message::Welcome(v1::Welcome { controller_version: "test".to_owned(), term: 1 })).await;
        assert!(matches!(self.hear().await, from_switch::Message::Report(_)));
    }

    async fn bundle(&mut self, bundle: v1::Bundle) -> v1::Acknowledgement {
        self.say(to_switch::Message::Bundle(bundle)).await;
        let from_switch::Message::Acknowledgement(heard) = self.hear().await else { panic!("an acknowledgement") };
        heard
    }

    async fn call(&mut self, id: u64, method: &str, request: Vec<u8>) {
        self.say(to_switch::Message::Call(v1::Call { id, method: method.to_owned(), request, ..Default::default() }))
            .await;
    }

    async fn reply(&mut self) -> v1::CallReply {
        let from_switch::Message::CallReply(reply) = self.hear().await else { panic!("a reply") };
        reply
    }
}

/// A controller's socket, until it is dropped.
struct Listening {
    sessions: mpsc::Receiver<Session>,
    server: tokio::task::JoinHandle<()>,
}

impl Listening {
    fn at(path: &Path) -> Self {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let (sender, sessions) = mpsc::channel(4);
        let server = tonic::transport::Server::builder()
            .add_service(BusServer::new(Controller { sessions: sender }))
            .serve_with_incoming(UnixListenerStream::new(listener));
        Self { sessions, server: tokio::spawn(async move { server.await.unwrap() }) }
    }

    async fn session(&mut self) -> Session {
        tokio::time::timeout(PATIENCE, self.sessions.recv()).await.expect("the switch connects").unwrap()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Bench {
    switch: Arc<Switch>,
    stop: watch::Sender<bool>,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let switch = Switch::start(SwitchSettings {
            host: "one".to_owned(),
            managed: true,
            memory: Memory::map(512, 64).unwrap(),
            workers: vec![WorkerSettings { core: None, spin: false }],
            opener: Box::new(KernelPorts::default()),
            physical: [("provider".to_owned(), crate::config::Place { interface: "lo".to_owned(), shared: false })]
                .into(),
        })
        .unwrap();
        let bench = Self { switch, stop: watch::Sender::new(false), directory: tempfile::tempdir().unwrap() };
        tokio::spawn(run(bench.switch.clone(), Endpoint::Unix(bench.path()), bench.stop.subscribe()));
        bench
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("controller.sock")
    }

    async fn status(&self, holds: impl Fn(&str) -> bool) -> String {
        let begun = std::time::Instant::now();
        loop {
            let switch = self.switch.clone();
            let status = tokio::task::spawn_blocking(move || switch.status()).await.unwrap().controller;
            if holds(&status) {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the controller's status stays: {status}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.switch.stop();
    }
}

fn bundle(generation: u64) -> v1::Bundle {
    v1::Bundle { term: 1, generation, ..Default::default() }
}

fn recording(number: u32) -> v1::PortSpec {
    let kind = v1::port_spec::Kind::Pcap(v1::PcapPort::default());
    v1::PortSpec { number, name: format!("port{number}"), kind: Some(kind), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_from_hello_to_cancel() {
    let bench = Bench::new();
    bench.status(|status| status.starts_with("connecting: unix:")).await;
    let mut controller = Listening::at(&bench.path());
    let mut session = controller.session().await;
    let hello = session.hello().await;
    assert_eq!((hello.host.as_str(), hello.protocol), ("one", weft_proto::PROTOCOL));
    assert_eq!((hello.term, hello.generation, hello.boot_id), (0, 0, bench.switch.boot_id()));
    // Nobody has told this switch which interfaces there are.
    let provider =
        v1::PhysicalNetwork { name: "provider".to_owned(), interface: "lo".to_owned(), mtu: 0, shared: false };
    assert_eq!(hello.physical_networks, [provider]);
    session.welcome().await;
    bench.status(|status| status == "connected").await;

    // A bundle in two parts, with a port: acknowledged with it, and reported.
    let first = v1::Bundle { more: true, add_ports: vec![recording(5)], ..bundle(1) };
    session.say(to_switch::Message::Bundle(first)).await;
    let done = session.bundle(v1::Bundle { add_ports: vec![recording(6)], ..bundle(1) }).await;
    assert_eq!((done.fault, done.generation, done.ports.len()), (None, 1, 2));
    let from_switch::Message::Report(report) = session.hear().await else { panic!("a report") };
    assert_eq!(report.ports.len(), 2);
    let refused = session.bundle(v1::Bundle { base_generation: 7, ..bundle(8) }).await;
    assert_eq!((refused.generation, refused.fault.unwrap().code.as_str()), (8, "generation_mismatch"));
    session.say(to_switch::Message::Compare(v1::CompareRequest {})).await;
    let from_switch::Message::Digests(digests) = session.hear().await else { panic!("digests") };
    assert_eq!((digests.term, digests.generation), (1, 1));
    assert_ne!(digests.ports, 0);

    // Calls: one reply, a stream and its end, faults.
    session.call(1, "ListPorts", Vec::new()).await;
    let reply = session.reply().await;
    assert!(reply.last);
    assert_eq!(v1::ListPortsReply::decode(reply.reply.as_slice()).unwrap().ports.len(), 2);
    let rule = v1::Rule { priority: 9, ..Default::default() };
    session.call(2, "ApplyBundle", v1::Bundle { add_rules: vec![rule], ..Default::default() }.encode_to_vec()).await;
    let reply = session.reply().await;
    assert_eq!(v1::BundleResult::decode(reply.reply.as_slice()).unwrap().rules_added, 1);
    session.call(3, "DumpRules", Vec::new()).await;
    let reply = session.reply().await;
    let rules = v1::DumpRulesReply::decode(reply.reply.as_slice()).unwrap().rules;
    assert_eq!(rules[0].rule.as_ref().unwrap().owner(), v1::Owner::Manual, "a person's call makes manual rules");
    let end = session.reply().await;
    assert_eq!((reply.last, end.last, end.reply.len(), end.id), (false, true, 0, 3));
    session.call(4, "Explode", Vec::new()).await;
    let reply = session.reply().await;
    assert_eq!((reply.fault.unwrap().code.as_str(), reply.status_code), ("unknown_method", Code::Unimplemented as u32));
    session.call(5, "ListPorts", vec![0xff]).await;
    assert_eq!(session.reply().await.fault.unwrap().code, "unreadable");

    // A stream without end lives until it is cancelled.
    session.call(6, "WatchPunts", Vec::new()).await;
    session.say(to_switch::Message::Cancel(v1::Cancel { id: 6 })).await;
    for id in 10..10 + crate::limits::PUNT_LISTENERS as u64 {
        session.call(id, "WatchPunts", Vec::new()).await;
    }
    session.call(7, "GetStatus", Vec::new()).await;
    assert_eq!(session.reply().await.id, 7, "none of the listeners was refused: the cancelled one is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_controller_changes_nothing_and_is_found_again() {
    let bench = Bench::new();
    let mut controller = Listening::at(&bench.path());
    let mut session = controller.session().await;
    session.hello().await;
    session.welcome().await;
    let rules = vec![v1::Rule { priority: 1, ..Default::default() }];
    session.bundle(v1::Bundle { add_rules: rules, ..bundle(3) }).await;
    drop((session, controller));
    bench.status(|status| status.starts_with("connecting")).await;
    let switch = bench.switch.clone();
    assert_eq!(tokio::task::spawn_blocking(move || switch.status()).await.unwrap().rules, 1);
    let mut controller = Listening::at(&bench.path());
    let hello = controller.session().await.hello().await;
    assert_eq!((hello.term, hello.generation), (1, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_shown_in_full() {
    let bench = Bench::new();
    let mut controller = Listening::at(&bench.path());
    let mut session = controller.session().await;
    session.hello().await;
    let fault =
        Fault::invalid("unknown_host", "hello.host", "there is no host one", "Create it: weft host create one.");
    session.say.send(Err(fault.with_status(Code::NotFound).into_status())).await.unwrap();
    let status = bench.status(|status| status.starts_with("refused")).await;
    assert_eq!(status, "refused: unknown_host: hello.host: there is no host one. Create it: weft host create one.");
}

#[test]
fn endpoints_are_read_as_they_are_written() {
    let parse = |text| Endpoint::parse(text, Path::new("/certificates"));
    for text in
        ["unix:/run/weft/controller.sock", "https://127.0.0.1:9461", "https://controller:9461", "https://[::1]:9"]
    {
        assert_eq!(parse(text).unwrap().to_string(), text);
    }
    let wrong =
        ["", "unix:", "/run/weft/controller.sock", "https://host", "http://", "http://h:9460", "127.0.0.1:9460"];
    for text in wrong {
        assert!(parse(text).unwrap_err().contains(". Write "), "{text}");
    }
}

#[test]
fn pauses_differ_a_little() {
    for _ in 0..100 {
        let pause = jittered(Duration::from_secs(4));
        assert!((Duration::from_secs(3)..=Duration::from_secs(5)).contains(&pause), "{pause:?}");
    }
}
