use super::*;
use crate::packet::memory::Memory;
use crate::switch::{KernelPorts, SwitchSettings};
use crate::worker::WorkerSettings;
use hyper_util::rt::TokioIo;
use std::os::unix::fs::PermissionsExt;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use v1::switch_client::SwitchClient;

struct Bench {
    switch: Arc<Switch>,
    stop: watch::Sender<bool>,
    server: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
    directory: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let switch = Switch::start(SwitchSettings {
            host: String::new(),
            managed: false,
            memory: Memory::map(512, 64).unwrap(),
            workers: vec![WorkerSettings { core: None, spin: false }],
            opener: Box::new(KernelPorts::default()),
            physical: std::collections::BTreeMap::new(),
        })
        .unwrap();
        let stop = watch::Sender::new(false);
        let mut socket = Socket::bind(&directory.path().join("switch.sock")).unwrap();
        let (served, stopped) = (switch.clone(), stop.subscribe());
        let server = tokio::spawn(async move { serve(served, &mut socket, stopped).await });
        Self { switch, stop, server: Some(server), directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("switch.sock")
    }

    async fn channel(&self) -> Channel {
        let path = self.path();
        let connector = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        Endpoint::from_static("http://switch").connect_with_connector(connector).await.unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.switch.stop();
    }
}

fn rule(priority: u32) -> v1::Rule {
    v1::Rule { priority, ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_added_dumped_and_refused_over_the_socket() {
    let bench = Bench::new();
    let mut client = SwitchClient::new(bench.channel().await);
    let parts = vec![
        v1::Bundle { add_rules: vec![rule(1)], more: true, ..Default::default() },
        v1::Bundle { add_rules: vec![rule(2)], ..Default::default() },
    ];
    let done = client.apply_bundle(tokio_stream::iter(parts)).await.unwrap().into_inner();
    assert_eq!(done.rules_added, 2);
    let dump = client.dump_rules(v1::DumpRulesRequest::default()).await.unwrap().into_inner();
    let rules: Vec<_> = dump.map(|reply| reply.unwrap().rules.len()).collect().await;
    assert_eq!(rules, [2]);

    let fault = |status: Status| (Fault::from_status(&status).code, status.code());
    let half = vec![v1::Bundle { more: true, ..Default::default() }];
    let refused = client.apply_bundle(tokio_stream::iter(half)).await.unwrap_err();
    assert_eq!(fault(refused), ("incomplete_bundle".to_owned(), Code::InvalidArgument));
    let bad = vec![v1::Bundle { add_rules: vec![rule(70_000)], ..Default::default() }];
    let refused = client.apply_bundle(tokio_stream::iter(bad)).await.unwrap_err();
    assert_eq!(Fault::from_status(&refused).field, "add_rules[0].priority");
    let text = "x".repeat(MESSAGE_BYTES + 1);
    let large = v1::Bundle { origins: vec![v1::Origin { cookie: 1, text }], ..Default::default() };
    let refused = client.apply_bundle(tokio_stream::iter(vec![large])).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert_eq!(client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner().rules, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_and_the_socket_is_ours_alone() {
    let mut bench = Bench::new();
    assert_eq!(std::fs::metadata(bench.path()).unwrap().permissions().mode() & 0o777, 0o600);
    let mut health = tonic_health::pb::health_client::HealthClient::new(bench.channel().await);
    let request = tonic_health::pb::HealthCheckRequest { service: "weft.v1.Switch".to_owned() };
    let status = health.check(request).await.unwrap().into_inner().status;
    assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving as i32);
    assert!(matches!(Socket::bind(&bench.path()), Err(SocketError::Taken(_))));
    // A watched stream does not keep the switch from stopping.
    let mut client = SwitchClient::new(bench.channel().await);
    let _watched = client.watch_punts(v1::WatchPuntsRequest {}).await.unwrap();
    bench.stop.send_replace(true);
    let server = bench.server.take().unwrap();
    tokio::time::timeout(GRACE * 3, server).await.expect("it stops").unwrap().unwrap();
    assert!(!bench.path().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn address_sets_are_changed_and_dumped() {
    let bench = Bench::new();
    let mut client = SwitchClient::new(bench.channel().await);
    let member = |last| v1::Prefix { address: vec![10, 0, 0, last], length: 32 };
    let set = |name: &str, members| v1::AddressSet { name: name.to_owned(), members };
    let whole = vec![set("web", vec![member(1)]), set("database", Vec::new())];
    let extend = vec![set("web", vec![member(2)])];
    let bundle = v1::Bundle { set_address_sets: whole, extend_address_sets: extend, ..Default::default() };
    client.apply_bundle(tokio_stream::iter([bundle])).await.unwrap();
    let mut dump = async |name: &str| {
        let request = v1::DumpAddressSetsRequest { name: name.to_owned() };
        let replies = client.dump_address_sets(request).await.unwrap().into_inner();
        replies.map(Result::unwrap).collect::<Vec<_>>().await
    };
    let all = dump("").await;
    let names: Vec<&str> = all.iter().map(|state| state.set.as_ref().unwrap().name.as_str()).collect();
    assert_eq!(names, ["database", "web"]);
    assert_eq!(all[1].owner(), v1::Owner::Manual);
    assert_eq!(all[1].set.as_ref().unwrap().members, [member(1), member(2)]);
    assert_eq!(dump("web").await, all[1..]);
    assert_eq!(dump("we").await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_rules_are_streamed_and_who_is_slow_is_told_so() {
    let bench = Bench::new();
    let mut client = SwitchClient::new(bench.channel().await);
    let mut watch = async || client.watch_removals(v1::WatchRemovalsRequest {}).await.unwrap().into_inner();
    let mut removals = watch().await;
    let told = |priority| v1::Rule { notify_removal: true, ..rule(priority) };
    let add = v1::Bundle { add_rules: (0..10_000).map(told).collect(), ..Default::default() };
    let remove = v1::Bundle { remove_rules: (0..10_000).map(rule).collect(), ..Default::default() };
    let mut client = SwitchClient::new(bench.channel().await);
    client.apply_bundle(tokio_stream::iter([add])).await.unwrap();
    client.apply_bundle(tokio_stream::iter([remove])).await.unwrap();
    let (mut received, mut missed) = (0, 0);
    while received + missed < 10_000 {
        let removed = removals.next().await.unwrap().unwrap();
        assert_eq!(removed.reason(), v1::RemovalReason::Delete);
        received += 1;
        missed += removed.missed;
    }
    assert!(missed > 0 && received >= crate::limits::REMOVALS_KEPT as u64, "{received} {missed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_the_request() {
    let bench = Bench::new();
    let mut client = SwitchClient::new(bench.channel().await);
    let mut request =
        Request::new(tokio_stream::iter([v1::Bundle { add_rules: vec![rule(70_000)], ..Default::default() }]));
    request.metadata_mut().insert("request-id", "deploy-7".parse().unwrap());
    let refused = client.apply_bundle(request).await.unwrap_err();
    assert_eq!(refused.metadata().get("request-id").unwrap(), "deploy-7");
    let answered = client.get_status(v1::GetStatusRequest {}).await.unwrap();
    assert_eq!(answered.metadata().get("request-id").unwrap().len(), 16);
}

#[tokio::test]
async fn a_socket_is_not_put_into_a_directory_that_is_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("typo/switch.sock");
    let error = Socket::bind(&path).err().expect("there is no directory");
    assert!(error.to_string().contains("typo/switch.sock: there is no directory"), "{error}");
    assert!(std::error::Error::source(&error).is_none(), "the cause would be said twice");
    assert!(!directory.path().join("typo").exists());
}

#[tokio::test]
async fn a_socket_that_nobody_answers_on_is_replaced_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("switch.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Socket::bind(&path).unwrap());
    assert!(!path.exists());
    std::fs::write(&path, "precious").unwrap();
    assert!(matches!(Socket::bind(&path), Err(SocketError::NotASocket(_))));
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}
