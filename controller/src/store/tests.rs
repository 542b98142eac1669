//! The store: transactions, schema, watching, terms, and that objects survive it.

use super::*;
use crate::model::{Change, Kind, Model, PhysicalInterface, Planned, UnderlayAddress};
use std::sync::Arc;
use uuid::Uuid;
use weft_proto::v1;

fn open(directory: &tempfile::TempDir) -> FileStore {
    FileStore::open(&directory.path().join("controller.redb")).unwrap()
}

fn put(key: &str, value: &[u8]) -> Operation {
    Operation::Put(key.to_owned(), value.to_vec())
}

#[test]
fn records_survive_and_are_listed_by_prefix() {
    let directory = tempfile::tempdir().unwrap();
    {
        let store = open(&directory);
        store.transact(&[], &[put("port/b", b"2"), put("port/a", b"1"), put("network/x", b"n")]).unwrap();
        store.transact(&[], &[put("port/c", b"3"), Operation::Delete("port/b".to_owned())]).unwrap();
    }
    let store = open(&directory);
    let (entries, revision) = store.list("port/").unwrap();
    let found: Vec<_> =
        entries.iter().map(|entry| (entry.key.as_str(), entry.value.as_slice(), entry.revision)).collect();
    assert_eq!(found, [("port/a", b"1".as_slice(), 1), ("port/c", b"3".as_slice(), 2)]);
    assert_eq!(revision, 2);
    assert_eq!(store.get("port/b").unwrap(), None);
    assert_eq!(store.get("network/x").unwrap().unwrap().value, b"n");
}

#[test]
fn a_transaction_happens_whole_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let absent = Compare { key: "a".to_owned(), revision: 0 };
    let revision = store.transact(std::slice::from_ref(&absent), &[put("a", b"1")]).unwrap();
    let refused = store.transact(&[absent], &[put("b", b"2"), put("a", b"2")]).unwrap_err();
    assert!(matches!(refused, StoreError::Conflict { ref key } if key == "a"), "{refused}");
    assert_eq!(store.get("b").unwrap(), None);
    let present = Compare { key: "a".to_owned(), revision };
    assert_eq!(store.transact(&[present], &[put("a", b"3")]).unwrap(), revision + 1);
}

/// Opens a store whose schema has this version.
fn refused(schema: u64) -> StoreError {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("controller.redb");
    drop(open(&directory));
    {
        let database = redb::Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
        transaction.open_table(meta).unwrap().insert("schema", schema).unwrap();
        transaction.commit().unwrap();
    }
    FileStore::open(&path).err().expect("another schema must be refused")
}

#[test]
fn another_schema_is_refused() {
    let newer = refused(SCHEMA + 1);
    assert!(matches!(newer, StoreError::NewerSchema { found, .. } if found == SCHEMA + 1), "{newer}");
    assert!(newer.to_string().contains("controller.redb") && newer.to_string().contains("newer weft-controller"));
    let older = refused(SCHEMA - 1);
    assert!(matches!(older, StoreError::OlderSchema { found, .. } if found == SCHEMA - 1), "{older}");
    assert!(older.to_string().contains("another state directory"));
}

#[test]
fn one_file_has_one_owner() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(&directory);
    let second = FileStore::open(&directory.path().join("controller.redb")).err().expect("two owners");
    assert!(matches!(second, StoreError::InUse { .. }), "{second}");
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("controller.redb");
    std::fs::write(&path, "this is no store, and long enough to look like one".repeat(200)).unwrap();
    assert!(matches!(FileStore::open(&path), Err(StoreError::File { .. })));
}

#[tokio::test]
async fn a_watcher_sees_every_event_once() {
    let directory = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(open(&directory));
    store.transact(&[], &[put("a", b"1")]).unwrap();
    let start = store.transact(&[], &[put("b", b"1")]).unwrap();
    let mut watch = store.watch(start);
    let writer = Arc::clone(&store);
    let writing = std::thread::spawn(move || {
        for round in 0..50_u8 {
            writer.transact(&[], &[put("c", &[round]), Operation::Delete("d".to_owned())]).unwrap();
        }
    });
    let mut seen = Vec::new();
    while seen.len() < 100 {
        let wait = std::time::Duration::from_secs(20);
        seen.extend(tokio::time::timeout(wait, watch.next()).await.expect("events come").unwrap());
    }
    writing.join().unwrap();
    for (index, pair) in seen.chunks(2).enumerate() {
        let round = u8::try_from(index).unwrap();
        let revision = start + 1 + u64::from(round);
        assert_eq!(pair[0], Event { revision, operation: put("c", &[round]) });
        assert_eq!(pair[1], Event { revision, operation: Operation::Delete("d".to_owned()) });
    }
    assert_eq!(store.events(start).unwrap(), seen);
}

#[test]
fn terms_ascend_and_only_the_last_may_write() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let first = term::begin(&store).unwrap();
    store.transact(&[first.still_ours()], &[put("a", b"1")]).unwrap();
    let second = term::begin(&store).unwrap();
    assert_eq!((first.number, second.number), (1, 2));
    assert!(matches!(store.transact(&[first.still_ours()], &[put("a", b"2")]), Err(StoreError::Conflict { .. })));
    // A switch has seen term 9: this one goes on writing, the next one begins 10.
    let raised = term::remember(&store, second, 9).unwrap();
    assert_eq!(raised.number, 2);
    assert_eq!(term::remember(&store, raised, 5).unwrap(), raised);
    store.transact(&[raised.still_ours()], &[put("a", b"3")]).unwrap();
    assert_eq!(term::begin(&store).unwrap().number, 10);
    // Whatever a switch claims, terms do not run out.
    let last = term::begin(&store).unwrap();
    term::remember(&store, last, u64::MAX).unwrap();
    assert_eq!(term::begin(&store).unwrap().number, u64::MAX / 2 + 1);
}

fn done<T>(model: &mut Model, store: &FileStore, planned: Planned<T>) -> T {
    let (changes, result) = planned.unwrap();
    let operations: Vec<_> = changes.iter().map(record::operation).collect();
    store.transact(&[], &operations).unwrap();
    changes.iter().for_each(|change| model.apply(change));
    result
}

#[test]
fn the_model_survives_to_the_bit() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let mut model = Model::default();
    let id = Uuid::new_v4;
    let planned = model.create_project(&v1::CreateProjectRequest { name: "default".into() }, id());
    done(&mut model, &store, planned);
    let planned = model.create_host(&v1::CreateHostRequest { name: "one".into() }, id());
    let host = done(&mut model, &store, planned);
    let report = crate::model::HostReport {
        underlay: UnderlayAddress::only([10, 9, 0, 1], 9000),
        physical: [("provider".to_owned(), PhysicalInterface { interface: "eth1".into(), mtu: 1500, shared: true })]
            .into(),
        version: "0.1".into(),
    };
    let planned = model.report_host(host.id, &report);
    done(&mut model, &store, planned);
    let planned = model.create_network(&v1::CreateNetworkRequest { name: "blue".into(), ..Default::default() }, id());
    done(&mut model, &store, planned);
    let request = v1::CreateSubnetRequest {
        name: "s".into(),
        network: "blue".into(),
        cidr: "10.0.0.0/24".into(),
        dns_nameservers: vec!["10.0.0.2".into(), "10.0.0.3".into()],
        host_routes: vec![v1::HostRoute { destination: "10.9.0.0/16".into(), nexthop: "10.0.0.9".into() }],
        domain_name: "cloud.example".into(),
        ..Default::default()
    };
    let planned = model.create_subnet(&request, id());
    done(&mut model, &store, planned);
    let planned = model.create_router(&v1::CreateRouterRequest { name: "main".into(), ..Default::default() }, id());
    done(&mut model, &store, planned);
    let (router, subnet) = (String::from("main"), String::from("s"));
    let interface = v1::AddRouterInterfaceRequest { router: router.clone(), subnet, ..Default::default() };
    let planned = model.add_router_interface(&interface, id());
    done(&mut model, &store, planned);
    let (destination, nexthop) = (String::from("10.8.0.0/16"), String::from("10.0.0.9"));
    let planned =
        model.add_router_route(&v1::AddRouterRouteRequest { router, destination, nexthop, ..Default::default() });
    done(&mut model, &store, planned);
    for name in ["web", "db", "gone"] {
        let request = v1::CreatePortRequest { name: name.into(), network: "blue".into(), ..Default::default() };
        let planned = model.create_port(&request, id());
        done(&mut model, &store, planned);
    }
    let request = v1::PlugPortRequest { port: "web".into(), netns: "ns".into(), ..Default::default() };
    let planned = model.plug_port(&request);
    done(&mut model, &store, planned);
    let planned = model.delete_port("gone", "");
    done(&mut model, &store, planned);
    let request = v1::CreateNetworkRequest {
        name: "internet".into(),
        external: true,
        segment_type: "flat".into(),
        physical_network: "provider".into(),
        ..Default::default()
    };
    let planned = model.create_network(&request, id());
    done(&mut model, &store, planned);
    let request = v1::CreateSubnetRequest {
        name: "outside".into(),
        network: "internet".into(),
        cidr: "203.0.113.0/24".into(),
        allocation_pools: vec![v1::AllocationPool { start: "203.0.113.5".into(), end: "203.0.113.9".into() }],
        ..Default::default()
    };
    let planned = model.create_subnet(&request, id());
    done(&mut model, &store, planned);
    let (router, network) = (String::from("main"), String::from("internet"));
    let request = v1::SetRouterGatewayRequest { router, network, ..Default::default() };
    let planned = model.set_router_gateway(&request, id(), &|_| true);
    done(&mut model, &store, planned);
    for port in ["web", ""] {
        let network = String::from("internet");
        let request = v1::CreateFloatingIpRequest { network, port: port.into(), ..Default::default() };
        let planned = model.create_floating_ip(&request, id(), id());
        done(&mut model, &store, planned);
    }
    // Debug prints every field and every index.
    assert_eq!(format!("{:?}", record::load(&store).unwrap()), format!("{model:?}"));
}

#[test]
fn a_damaged_record_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(&directory);
    let key = format!("port/{}", Uuid::new_v4());
    store.transact(&[], &[put(&key, b"\xff\xff\xff")]).unwrap();
    let error = record::load(&store).unwrap_err();
    assert!(matches!(&error, StoreError::Damaged { key: named, .. } if *named == key), "{error}");
    // A record under another's key.
    let change = Change::Remove(Kind::Port, Uuid::nil());
    assert_eq!(record::operation(&change), Operation::Delete(format!("port/{}", Uuid::nil())));
    let project = crate::model::Project { id: Uuid::new_v4(), name: "p".into() };
    let Operation::Put(_, value) = record::operation(&Change::Put(project.into())) else { panic!("a put") };
    store.transact(&[], &[Operation::Delete(key), put(&format!("project/{}", Uuid::new_v4()), &value)]).unwrap();
    assert!(matches!(record::load(&store), Err(StoreError::Damaged { .. })));
}
