//! A switch and a controller in one, on a Unix socket and on TCP loopback, that answer from memory and
//! note what they were asked.

mod cloud;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};
use weft_proto::fault::Fault;
use weft_proto::text;
use weft_proto::v1::cloud_server::CloudServer;
use weft_proto::v1::switch_server::{Switch, SwitchServer};
use weft_proto::v1::*;

/// What was asked.
#[derive(Default)]
struct Notes {
    bundles: Vec<Bundle>,
    removals: Vec<DumpRulesRequest>,
    hosts: Vec<String>,
    authorizations: Vec<String>,
    networks: Vec<Network>,
    subnets: Vec<CreateSubnetRequest>,
    ports: Vec<CreatePortRequest>,
    plugs: Vec<PlugPortRequest>,
}

/// The running servers; they end with the test.
pub struct Fake {
    directory: tempfile::TempDir,
    tcp: SocketAddr,
    notes: Arc<Mutex<Notes>>,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Clone)]
struct Service(Arc<Mutex<Notes>>);

impl Fake {
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory for the socket");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let notes = Arc::new(Mutex::new(Notes::default()));
        let service = Service(Arc::clone(&notes));
        let entered = runtime.enter();
        let unix = tokio::net::UnixListener::bind(directory.path().join("socket")).expect("the socket can be bound");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        listener.set_nonblocking(true).unwrap();
        let tcp = listener.local_addr().unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        drop(entered);
        let router = || {
            tonic::transport::Server::builder()
                .add_service(SwitchServer::new(service.clone()))
                .add_service(CloudServer::new(service.clone()))
        };
        runtime.spawn(router().serve_with_incoming(UnixListenerStream::new(unix)));
        runtime.spawn(router().serve_with_incoming(TcpListenerStream::new(listener)));
        Self { directory, tcp, notes, _runtime: runtime }
    }

    /// `unix:PATH`, for a host and for a controller.
    pub fn host(&self) -> String {
        format!("unix:{}", self.directory.path().join("socket").display())
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.tcp)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    pub fn bundles(&self) -> Vec<Bundle> {
        self.notes.lock().unwrap().bundles.clone()
    }

    pub fn removals(&self) -> Vec<DumpRulesRequest> {
        self.notes.lock().unwrap().removals.clone()
    }

    pub fn subnets(&self) -> Vec<CreateSubnetRequest> {
        self.notes.lock().unwrap().subnets.clone()
    }

    pub fn ports(&self) -> Vec<CreatePortRequest> {
        self.notes.lock().unwrap().ports.clone()
    }

    pub fn plugs(&self) -> Vec<PlugPortRequest> {
        self.notes.lock().unwrap().plugs.clone()
    }

    pub fn hosts_named(&self) -> Vec<String> {
        self.notes.lock().unwrap().hosts.clone()
    }

    pub fn authorizations(&self) -> Vec<String> {
        self.notes.lock().unwrap().authorizations.clone()
    }
}

impl Service {
    fn note<T>(&self, request: Request<T>) -> T {
        let text = |name: &str| request.metadata().get(name).map(|value| value.to_str().unwrap().to_owned());
        let mut notes = self.0.lock().unwrap();
        notes.hosts.extend(text("weft-host"));
        notes.authorizations.extend(text("authorization"));
        drop(notes);
        request.into_inner()
    }
}

fn rules() -> Vec<RuleState> {
    let state = |line: &str, packets, age_seconds, origin: &str, table_name: &str| RuleState {
        idle_seconds: None,
        rule: Some(text::parse_rule(line).unwrap()),
        packets,
        bytes: packets * 60,
        age_seconds,
        origin: origin.to_owned(),
        table_name: table_name.to_owned(),
    };
    vec![
        state(
            "owner=fabric,cookie=1,priority=100,in_port=1,tcp,tcp_dst=80,actions=goto_table:10",
            7,
            60,
            "port web-1 of network blue",
            "classify",
        ),
        state("owner=manual,table=10,priority=1,actions=drop(spoofed)", 0, 5, "", "port_security"),
    ]
}

fn tap(number: u32, interface: &str) -> PortStatus {
    let tap = TapPort { interface: interface.into(), netns: "web".into(), ..TapPort::default() };
    PortStatus {
        spec: Some(PortSpec {
            number,
            name: interface.into(),
            owner: Owner::Manual.into(),
            kind: Some(port_spec::Kind::Tap(tap)),
        }),
        interface: interface.into(),
        state: if interface == "broken" { "failed: no such device".into() } else { "up".into() },
        ..PortStatus::default()
    }
}

fn plugged(fixed_ips: &[FixedIp]) -> Port {
    Port {
        network_id: "n1".into(),
        host_id: "h1".into(),
        number: 7,
        fixed_ips: fixed_ips.to_vec(),
        status: "DOWN".into(),
        ..Port::default()
    }
}

type Stream<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

#[tonic::async_trait]
impl Switch for Service {
    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<SwitchStatus>, Status> {
        self.note(request);
        Ok(Response::new(SwitchStatus { controller: "none configured".into(), ..SwitchStatus::default() }))
    }

    async fn apply_bundle(&self, request: Request<Streaming<Bundle>>) -> Result<Response<BundleResult>, Status> {
        let mut messages = self.note(request);
        let mut bundle = Bundle::default();
        while let Some(message) = messages.message().await? {
            bundle.add_rules.extend(message.add_rules);
            bundle.add_ports.extend(message.add_ports);
            bundle.set_address_sets.extend(message.set_address_sets);
            bundle.extend_address_sets.extend(message.extend_address_sets);
            bundle.shrink_address_sets.extend(message.shrink_address_sets);
            bundle.remove_address_sets.extend(message.remove_address_sets);
            bundle.set_groups.extend(message.set_groups);
            bundle.remove_groups.extend(message.remove_groups);
            bundle.remove_rules.extend(message.remove_rules);
            bundle.set_meters.extend(message.set_meters);
            bundle.remove_meters.extend(message.remove_meters);
        }
        for (index, rule) in bundle.add_rules.iter().enumerate() {
            if text::format_rule(rule).contains("output:666") {
                let place = format!("add_rules[{index}].instructions");
                let remedy = "Add it with \"weft ports add\".";
                return Err(Fault::invalid("no_port", place, "port 666 does not exist", remedy).into());
            }
        }
        let ports = bundle.add_ports.iter().map(|spec| tap(spec.number, &spec.name)).collect();
        let rules_added = bundle.add_rules.len() as u32;
        self.0.lock().unwrap().bundles.push(bundle);
        Ok(Response::new(BundleResult { rules_added, ports, ..BundleResult::default() }))
    }

    type DumpRulesStream = Stream<DumpRulesReply>;

    async fn dump_rules(&self, request: Request<DumpRulesRequest>) -> Result<Response<Self::DumpRulesStream>, Status> {
        let filter = self.note(request);
        let selected = |state: &RuleState| {
            let rule = state.rule.as_ref().unwrap();
            filter.table.is_none_or(|table| table == rule.table)
                && (filter.owner() == Owner::Unspecified || filter.owner() == rule.owner())
        };
        let replies: Vec<_> =
            rules().into_iter().filter(selected).map(|state| Ok(DumpRulesReply { rules: vec![state] })).collect();
        Ok(Response::new(tokio_stream::iter(replies)))
    }

    async fn remove_rules(&self, request: Request<DumpRulesRequest>) -> Result<Response<BundleResult>, Status> {
        let filter = self.note(request);
        self.0.lock().unwrap().removals.push(filter);
        Ok(Response::new(BundleResult { rules_removed: 1, ..BundleResult::default() }))
    }

    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<TraceReply>, Status> {
        self.note(request);
        let step = |state: RuleState| TraceStep {
            table: state.rule.as_ref().unwrap().table,
            table_name: state.table_name.clone(),
            rule: Some(state),
            ..TraceStep::default()
        };
        Ok(Response::new(TraceReply {
            steps: rules().into_iter().map(step).collect(),
            drop_reason: "spoofed".into(),
            drop_meaning: "The source MAC or IP is not the port's.".into(),
            consulted: text::parse_match("in_port=1,tcp,tcp_dst=80").unwrap(),
            ..TraceReply::default()
        }))
    }

    async fn list_tables(&self, request: Request<ListTablesRequest>) -> Result<Response<ListTablesReply>, Status> {
        self.note(request);
        let config = TableConfig { name: "classify".into(), ..TableConfig::default() };
        let tables = vec![TableState { config: Some(config), rules: 1, masks: 1, lookups: 5, matches: 4 }];
        Ok(Response::new(ListTablesReply { tables }))
    }

    type DumpAddressSetsStream = Stream<AddressSetState>;

    async fn dump_address_sets(
        &self,
        request: Request<DumpAddressSetsRequest>,
    ) -> Result<Response<Self::DumpAddressSetsStream>, Status> {
        let name = self.note(request).name;
        let set = AddressSet { name: "web".into(), members: vec![Prefix { address: vec![10, 1, 0, 0], length: 16 }] };
        let state = AddressSetState { set: Some(set), owner: Owner::Manual.into() };
        let found = [state].into_iter().filter(|_| name.is_empty() || name == "web").map(Ok);
        Ok(Response::new(tokio_stream::iter(found.collect::<Vec<_>>())))
    }

    type DumpGroupsStream = Stream<GroupState>;

    async fn dump_groups(
        &self,
        request: Request<DumpGroupsRequest>,
    ) -> Result<Response<Self::DumpGroupsStream>, Status> {
        let asked = self.note(request).group;
        let group = text::parse_group("group_id=7,owner=manual,type=all,bucket=actions=output:2").unwrap();
        let state =
            GroupState { group: Some(group), packets: 3, buckets: vec![Default::default()], ..Default::default() };
        let found = [state].into_iter().filter(|_| asked.is_none_or(|number| number == 7)).map(Ok);
        Ok(Response::new(tokio_stream::iter(found.collect::<Vec<_>>())))
    }

    async fn list_ports(&self, request: Request<ListPortsRequest>) -> Result<Response<ListPortsReply>, Status> {
        self.note(request);
        Ok(Response::new(ListPortsReply { ports: vec![tap(1, "web-1")] }))
    }

    async fn list_drops(&self, request: Request<ListDropsRequest>) -> Result<Response<ListDropsReply>, Status> {
        self.note(request);
        let drops = vec![DropCount { reason: "spoofed".into(), packets: 3, ..DropCount::default() }];
        Ok(Response::new(ListDropsReply { drops, ..ListDropsReply::default() }))
    }

    async fn list_neighbours(
        &self,
        request: Request<ListNeighboursRequest>,
    ) -> Result<Response<ListNeighboursReply>, Status> {
        self.note(request);
        Ok(Response::new(ListNeighboursReply::default()))
    }

    async fn dump_cache(&self, request: Request<DumpCacheRequest>) -> Result<Response<DumpCacheReply>, Status> {
        self.note(request);
        Ok(Response::new(DumpCacheReply::default()))
    }

    type ListConnectionsStream = Stream<ListConnectionsReply>;

    async fn list_connections(
        &self,
        request: Request<ListConnectionsRequest>,
    ) -> Result<Response<Self::ListConnectionsStream>, Status> {
        let request = self.note(request);
        let zone = request.filter.and_then(|filter| filter.zone).unwrap_or(7);
        let one = Connection { zone, protocol: 17, state: "replied".into(), replied: true, ..Connection::default() };
        let reply = ListConnectionsReply { connections: vec![one] };
        Ok(Response::new(tokio_stream::iter(vec![Ok(reply)])))
    }

    async fn flush_connections(
        &self,
        request: Request<FlushConnectionsRequest>,
    ) -> Result<Response<FlushConnectionsReply>, Status> {
        self.note(request);
        Ok(Response::new(FlushConnectionsReply { ended: 2 }))
    }

    type WatchPuntsStream = Stream<PacketIn>;

    async fn watch_punts(
        &self,
        request: Request<WatchPuntsRequest>,
    ) -> Result<Response<Self::WatchPuntsStream>, Status> {
        self.note(request);
        let packet = PacketIn { in_port: 1, reason: 3, total_length: 14, frame: vec![2; 14], ..PacketIn::default() };
        Ok(Response::new(tokio_stream::iter(vec![Ok(packet); 3])))
    }

    async fn send_packets(&self, request: Request<SendPacketsRequest>) -> Result<Response<SendPacketsReply>, Status> {
        let handled = self.note(request).packets.len() as u32;
        Ok(Response::new(SendPacketsReply { handled }))
    }

    type WatchRemovalsStream = Stream<FlowRemoved>;

    async fn watch_removals(
        &self,
        request: Request<WatchRemovalsRequest>,
    ) -> Result<Response<Self::WatchRemovalsStream>, Status> {
        self.note(request);
        let removed = FlowRemoved { packets: 4, ..FlowRemoved::default() };
        Ok(Response::new(tokio_stream::iter(vec![Ok(removed); 2])))
    }

    async fn list_meters(&self, request: Request<ListMetersRequest>) -> Result<Response<ListMetersReply>, Status> {
        self.note(request);
        let meter = Meter { meter: 7, unit: MeterUnit::Packets.into(), rate: 100, burst: 0 };
        let state = MeterState { meter: Some(meter), packets: 9, dropped_packets: 2, ..MeterState::default() };
        Ok(Response::new(ListMetersReply { meters: vec![state] }))
    }

    type CaptureFramesStream = Stream<CaptureFramesReply>;

    async fn capture_frames(
        &self,
        request: Request<CaptureFramesRequest>,
    ) -> Result<Response<Self::CaptureFramesStream>, Status> {
        self.note(request);
        let begun = CaptureFramesReply {
            started: true,
            ports: vec![CapturedPort { port: 1, name: "vm1".into() }],
            ..CaptureFramesReply::default()
        };
        let frame = CapturedFrame {
            port: 1,
            direction: FrameDirection::Received.into(),
            time_microseconds: 1_000_000,
            length: 60,
            frame: vec![2; 60],
            ..CapturedFrame::default()
        };
        let frames = CaptureFramesReply { frames: vec![frame; 3], ..CaptureFramesReply::default() };
        Ok(Response::new(tokio_stream::iter(vec![Ok(begun), Ok(frames)])))
    }
}
