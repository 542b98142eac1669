//! TLS towards the controller: version 1.3 only, HTTP/2 only.
//!
//! The controller is whoever shows a certificate of its authority for the one name of all controllers: at which address
//! it was reached says nothing. A host knows the authority from joining; who joins knows its fingerprint.

use super::identity::Identity;
use super::{CONNECT, deepest, transport};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{self, CryptoProvider};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version,
};
use tonic::transport::{Channel, Uri};
use weft_proto::fault::Fault;
use weft_proto::join::CONTROLLER_NAME;

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = [0; 32];
    sum.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    sum
}

/// As a host that has joined.
///
/// # Errors
/// `identity_damaged`.
pub(super) fn of_host(identity: &Identity) -> Result<ClientConfig, Fault> {
    let config = || -> Result<ClientConfig, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(identity.authority.clone())?;
        ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![identity.certificate.clone()], identity.key.clone_key())
    };
    config().map_err(|error| {
        let problem = format!("this host's key and certificates cannot be used: {error}");
        Fault::invalid("identity_damaged", "", problem, "Join anew: `weft-switch join TOKEN`.")
    })
}

/// As a machine that joins, and knows the authority by its fingerprint.
///
/// # Errors
/// `tls_unusable`, if the library's own choice of algorithms does not fit together.
pub(super) fn of_stranger(authority: [u8; 32]) -> Result<ClientConfig, Fault> {
    let provider = Arc::new(crypto::ring::default_provider());
    let pinned = Pinned { authority, provider: Arc::clone(&provider) };
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&version::TLS13]);
    let builder = builder.map_err(|error| {
        Fault::invalid("tls_unusable", "", error.to_string(), "Report it: this is a mistake in weft-switch.")
    })?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned)).with_no_client_auth())
}

/// Connects; an error is a sentence.
pub(super) async fn connect(address: &str, mut config: ClientConfig) -> Result<Channel, String> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(config));
    let address = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let (connector, address) = (connector.clone(), address.clone());
        let connecting = async move {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from(CONTROLLER_NAME).map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        };
        async move { tokio::time::timeout(CONNECT, connecting).await? }
    });
    // TLS is the connector's: by the name `tonic` would want its own.
    transport("http://controller").connect_with_connector(connector).await.map_err(|error| deepest(&error))
}

/// What a failure of TLS comes from, and what to do, where that is known. They come as text: HTTP/2 keeps no more of
/// them.
pub(super) fn explained(error: String) -> String {
    let again = "Join again: `weft host join-token NAME` where the controller is, `weft-switch join TOKEN` here.";
    let meaning = if error.contains("received fatal alert: CertificateExpired") {
        format!("this host's certificate has expired, or the clocks differ. {again}")
    } else if error.contains("received fatal alert") {
        format!("the controller does not accept this host's certificate: it is of another authority. {again}")
    } else if error.contains("invalid peer certificate: UnknownIssuer") {
        format!("this is not the controller that this host, or the token, is of: its authority is another. {again}")
    } else if error.contains("invalid peer certificate: Expired") || error.contains("NotValidYet") {
        "the controller's certificate is not valid at this time. Set the clocks of both machines.".to_owned()
    } else if error.contains("invalid peer certificate") {
        format!("whoever answers there is not the controller. {again}")
    } else if error.contains("InvalidContentType") {
        "whoever answers there does not speak TLS. Name the port of the controller's bus_listen.".to_owned()
    } else {
        return error;
    };
    format!("{error}: {meaning}")
}

/// Trusts the authority of a fingerprint, which the other end must show along with its own certificate.
#[derive(Debug)]
struct Pinned {
    authority: [u8; 32],
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|certificate| sha256(certificate) == self.authority);
        let authority = authority.ok_or(Error::InvalidCertificate(CertificateError::UnknownIssuer))?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&self.provider))
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether these are the bytes of the certificate of that fingerprint.
pub(super) fn is(certificate: &CertificateDer<'_>, fingerprint: [u8; 32]) -> bool {
    sha256(certificate) == fingerprint
}
