//! The bus for other machines: joining, certificates, and who is kept out.

use super::fake_switch::FakeSwitch;
use super::{Cloud, Running, complete, fault};
use rcgen::KeyPair;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto, version};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};
use weft_proto::fault::Fault;
use weft_proto::join::{CONTROLLER_NAME, JoinToken};
use weft_proto::v1;
use weft_proto::v1::membership_client::MembershipClient;

/// A key, and what was issued for it.
struct Identity {
    key: KeyPair,
    issued: v1::IssuedCertificate,
}

/// A channel over TLS to whoever is of the authority, with a certificate or without.
async fn channel(bus: SocketAddr, authority: &str, identity: Option<&Identity>) -> Result<Channel, String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { key, issued }) => {
            let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let connector = tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(bus).await?;
            let name = ServerName::try_from(CONTROLLER_NAME).unwrap();
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(connector.connect(name, stream).await?))
        }
    });
    let connected = Endpoint::from_static("http://controller").connect_with_connector(connector).await;
    connected.map_err(|error| format!("{error:?}"))
}

fn authority(running: &Running) -> String {
    let text = std::fs::read_to_string(running.directory().join("authority.pem")).unwrap();
    text[text.find("-----BEGIN CERTIFICATE").unwrap()..].to_owned()
}

async fn token(cloud: &mut Cloud, host: &str, lifetime_seconds: u32) -> JoinToken {
    let request = v1::CreateJoinTokenRequest { host: host.into(), lifetime_seconds, address: String::new() };
    cloud.0.create_join_token(request).await.unwrap().into_inner().token.parse().unwrap()
}

async fn join(running: &Running, token: &JoinToken) -> Result<Identity, Status> {
    let key = KeyPair::generate().unwrap();
    let channel = channel(running.bus, &authority(running), None).await.unwrap();
    let request = v1::JoinRequest {
        host: token.host.clone(),
        secret: token.secret.to_vec(),
        public_key: key.public_key_raw().to_vec(),
    };
    let issued = MembershipClient::new(channel).join(request).await?.into_inner();
    Ok(Identity { key, issued })
}

/// A host of this name, and its identity.
async fn joined(running: &Running, cloud: &mut Cloud, host: &str) -> Identity {
    cloud.host(host).await;
    let token = token(cloud, host, 0).await;
    join(running, &token).await.unwrap()
}

async fn bus(running: &Running, identity: &Identity) -> Channel {
    channel(running.bus, &identity.issued.authority, Some(identity)).await.unwrap()
}

#[tokio::test]
async fn a_machine_joins_attaches_and_finds_the_controller_again() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    let token = token(&mut cloud, "one", 0).await;
    assert_eq!(token.address, running.bus.to_string());
    let identity = join(&running, &token).await.unwrap();
    let switch = FakeSwitch::new("one", 1);
    let stream = switch.connect(bus(&running, &identity).await);
    switch.until("the first bundle", |held| held.generation == 1).await;
    let host = cloud.until("one", "connected", |host| host.connected).await;
    let year = 365 * 86_400;
    let lasts = host.certificate_expires - (identity.issued.renew_after - year / 2);
    assert_eq!(lasts, year);
    // The authority and the certificate outlive the controller; its own certificate is another.
    let running = running.restart().await;
    stream.ended().await;
    let _stream = switch.connect(bus(&running, &identity).await);
    switch.until("a bundle of the next term", |held| held.term == 2).await;
}

#[tokio::test]
async fn a_token_works_once_and_in_its_time_and_is_told_why_it_does_not() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    let refused = async |token: &JoinToken| {
        let fault = Fault::from_status(&join(&running, token).await.err().expect("it must be refused"));
        complete(&fault);
        fault
    };
    let first = token(&mut cloud, "one", 0).await;
    join(&running, &first).await.unwrap();
    let fault = refused(&first).await;
    assert_eq!(fault.code, "join_token_used");
    assert!(fault.remedy.contains("weft host join-token one"), "{fault}");
    let second = token(&mut cloud, "one", 1).await;
    assert_eq!(refused(&first).await.code, "join_token_unknown", "another was made since");
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(refused(&second).await.code, "join_token_expired");
    // Who does not know the secret cannot tell a host that exists from one that does not.
    let guess = refused(&JoinToken { secret: [0; 16], ..second.clone() }).await;
    assert_eq!(guess.code, "join_token_unknown");
    assert_eq!(refused(&JoinToken { host: "nobody".into(), ..second }).await, guess);
}

#[tokio::test]
async fn no_token_is_made_that_leads_nowhere() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    let make = async |cloud: &mut Cloud, host: &str, lifetime_seconds, address: &str| {
        let request = v1::CreateJoinTokenRequest { host: host.into(), lifetime_seconds, address: address.into() };
        let fault = fault(cloud.0.create_join_token(request).await);
        complete(&fault);
        fault.code
    };
    assert_eq!(make(&mut cloud, "two", 0, "").await, "unknown_host");
    assert_eq!(make(&mut cloud, "one", 604_801, "").await, "bad_lifetime");
    assert_eq!(make(&mut cloud, "one", 0, "somewhere").await, "bus_address_unknown");
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_and_the_token_goes_on_working() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    cloud.host("one").await;
    let token = token(&mut cloud, "one", 0).await;
    for public_key in [vec![], vec![4; 64], vec![2; 65], vec![4; 4000]] {
        let channel = channel(running.bus, &authority(&running), None).await.unwrap();
        let request = v1::JoinRequest { host: "one".into(), secret: token.secret.to_vec(), public_key };
        let fault = fault(MembershipClient::new(channel).join(request).await);
        complete(&fault);
        assert_eq!(fault.code, "bad_public_key");
    }
    join(&running, &token).await.unwrap();
}

#[tokio::test]
async fn without_a_certificate_there_is_nothing_but_joining() {
    let running = Running::start().await;
    running.cloud().await.host("one").await;
    let stranger = channel(running.bus, &authority(&running), None).await.unwrap();
    let fault = FakeSwitch::new("one", 1).connect(stranger.clone()).ended().await;
    complete(&fault);
    assert_eq!((fault.code.as_str(), fault.status), ("no_certificate", Code::Unauthenticated));
    assert!(fault.remedy.contains("weft-switch join"), "{fault}");
    let renewal = MembershipClient::new(stranger.clone()).renew(v1::RenewRequest::default()).await;
    assert_eq!(super::fault(renewal).code, "no_certificate");
    // The cloud's API is not there, with the token or without.
    let mut request = tonic::Request::new(v1::ListHostsRequest {});
    request.metadata_mut().insert("authorization", format!("Bearer {}", super::TOKEN).parse().unwrap());
    let asked = v1::cloud_client::CloudClient::new(stranger).list_hosts(request).await;
    assert_eq!(super::fault(asked).code, "no_certificate");
}

#[tokio::test]
async fn a_host_is_nobody_but_itself() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    let one = joined(&running, &mut cloud, "one").await;
    cloud.host("two").await;
    let fault = FakeSwitch::new("two", 2).connect(bus(&running, &one).await).ended().await;
    complete(&fault);
    assert_eq!(fault.code, "certificate_mismatch");
    assert!(fault.remedy.contains("\"one\""), "{fault}");
    // An older one cannot have its fault noted as another's either.
    let mut old = FakeSwitch::new("two", 2);
    old.protocol += 1;
    assert_eq!(old.connect(bus(&running, &one).await).ended().await.code, "certificate_mismatch");
    assert!(cloud.hosts().await.iter().all(|host| host.fault.is_empty()));
    // Nor is it the administrator.
    let asked = v1::cloud_client::CloudClient::new(bus(&running, &one).await).list_hosts(v1::ListHostsRequest {}).await;
    assert_eq!(super::fault(asked).code, "not_allowed");
    // Its own faults are told as they are to others.
    let mut old = FakeSwitch::new("one", 1);
    old.protocol += 1;
    assert_eq!(old.connect(bus(&running, &one).await).ended().await.code, "protocol_mismatch");
}

#[tokio::test]
async fn certificates_of_another_authority_are_worth_nothing() {
    let (running, other) = (Running::start().await, Running::start().await);
    let mut cloud = running.cloud().await;
    let here = joined(&running, &mut cloud, "one").await;
    let there = joined(&other, &mut other.cloud().await, "one").await;
    // The host does not take another controller for its own.
    let error = channel(other.bus, &here.issued.authority, Some(&here)).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    // The controller does not take another's host for its own. It hears so when it first speaks, or at once.
    if let Ok(channel) = channel(running.bus, &here.issued.authority, Some(&there)).await {
        let fault = FakeSwitch::new("one", 1).connect(channel).ended().await;
        assert_eq!(fault.status, Code::Unknown, "{fault:?}");
    }
    // A certificate that lets its bearer be a host does not let it be the controller.
    assert!(!cloud.hosts().await[0].connected);
}

#[tokio::test]
async fn a_revoked_host_is_cut_off_until_it_joins_again() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    let first = joined(&running, &mut cloud, "one").await;
    let unused = token(&mut cloud, "one", 0).await;
    let switch = FakeSwitch::new("one", 1);
    let stream = switch.connect(bus(&running, &first).await);
    switch.until("the first bundle", |held| held.generation == 1).await;
    let revoked = cloud.0.revoke_host(v1::RevokeHostRequest { host: "one".into() }).await.unwrap().into_inner();
    assert_eq!(revoked.certificate_expires, 0);
    let fault = stream.ended().await;
    complete(&fault);
    assert_eq!(fault.code, "certificate_revoked");
    assert_eq!(switch.connect(bus(&running, &first).await).ended().await.code, "certificate_revoked");
    let fault = Fault::from_status(&join(&running, &unused).await.err().unwrap());
    assert_eq!(fault.code, "join_token_unknown", "the token went with it");
    // Also after the controller has restarted.
    let running = running.restart().await;
    let mut cloud = running.cloud().await;
    assert_eq!(switch.connect(bus(&running, &first).await).ended().await.code, "certificate_revoked");

    // Joining again; and then another machine joins as the same host.
    let second = join(&running, &token(&mut cloud, "one", 0).await).await.unwrap();
    let stream = switch.connect(bus(&running, &second).await);
    switch.until("another welcome", |held| held.welcomes.len() == 2).await;
    join(&running, &token(&mut cloud, "one", 0).await).await.unwrap();
    assert_eq!(stream.ended().await.code, "replaced");
    assert_eq!(switch.connect(bus(&running, &second).await).ended().await.code, "certificate_revoked");
}

#[tokio::test]
async fn a_deleted_hosts_certificate_is_not_that_of_its_namesake() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    let identity = joined(&running, &mut cloud, "one").await;
    cloud.0.delete_host(v1::DeleteRequest { id: "one".into(), project: String::new() }).await.unwrap();
    cloud.host("one").await;
    let fault = FakeSwitch::new("one", 1).connect(bus(&running, &identity).await).ended().await;
    assert_eq!(fault.code, "certificate_revoked");
}

#[tokio::test]
async fn a_renewed_certificate_is_accepted_beside_the_one_before() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    let first = joined(&running, &mut cloud, "one").await;
    let renew = async |identity: &Identity| {
        let key = KeyPair::generate().unwrap();
        let request = v1::RenewRequest { public_key: key.public_key_raw().to_vec() };
        let client = MembershipClient::new(bus(&running, identity).await).renew(request).await;
        client.map(|issued| Identity { key, issued: issued.into_inner() })
    };
    let second = renew(&first).await.unwrap();
    let switch = FakeSwitch::new("one", 1);
    for (count, identity) in [&first, &second, &first].into_iter().enumerate() {
        let stream = switch.connect(bus(&running, identity).await);
        switch.until("a welcome", |held| held.welcomes.len() == count + 1).await;
        stream.cut().await;
    }
    // The one that a renewal was not asked with goes.
    let third = renew(&second).await.unwrap();
    assert_eq!(Fault::from_status(&renew(&first).await.err().unwrap()).code, "certificate_revoked");
    renew(&third).await.unwrap();
}

#[tokio::test]
async fn an_authority_that_others_can_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let open = || weft_controller::identity::Authority::open(directory.path());
    let first = open().unwrap().fingerprint();
    let file = directory.path().join("authority.pem");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(open().unwrap().fingerprint(), first);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    let error = format!("{:#}", open().err().unwrap());
    assert!(error.contains("mode 640") && error.contains("chmod 600"), "{error}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, "nothing").unwrap();
    assert!(format!("{:#}", open().err().unwrap()).contains("restore it from a backup"));
}

#[tokio::test]
async fn strangers_that_say_nothing_keep_nobody_out() {
    let running = Running::start().await;
    let mut cloud = running.cloud().await;
    let identity = joined(&running, &mut cloud, "one").await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(running.bus).await.unwrap());
    }
    let mut joining = Vec::new();
    for _ in 0..80 {
        joining.push(channel(running.bus, &authority(&running), None).await);
    }
    let switch = FakeSwitch::new("one", 1);
    let _stream = switch.connect(bus(&running, &identity).await);
    switch.until("the first bundle", |held| held.generation == 1).await;
}
