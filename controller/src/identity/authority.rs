//! The controller's certificate authority: one file with its key and its certificate, mode 0600, made at the first
//! start that needs it. Whoever has the file can pose as the controller, and whoever loses it must let all hosts
//! join again.

use super::record::{Fingerprint, sha256};
use crate::limits;
use anyhow::{Context as _, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto, version};
use uuid::Uuid;
use weft_proto::join::to_hexadecimal;

/// The file in the state directory.
pub const FILE: &str = "authority.pem";

/// How long the authority, and the controller's certificate, are valid. The latter is made anew at each start.
const AUTHORITY_DAYS: u64 = 20 * 365;

/// By how much the clocks of hosts may lag behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// See the module comment.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// A certificate of a host.
pub struct Issued {
    /// As the host gets it.
    pub pem: String,
    /// What it is known by.
    pub fingerprint: Fingerprint,
    /// Seconds since 1970.
    pub expires: u64,
}

/// A public key on P-256 that a host sent.
struct HostKey(Vec<u8>);

impl PublicKeyData for HostKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl Authority {
    /// Opens the authority in a state directory, or makes it. A file that others can read is refused.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => {
                let mode = std::fs::metadata(&path)?.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    bail!(
                        "{} can be read by others (mode {mode:o}), and who has read it can pose as this controller. If \
                         nobody has: chmod 600 {0}. Else remove it, and let all hosts join again",
                        path.display()
                    );
                }
                text
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let text = generate().context("no certificate authority can be made")?;
                crate::private_file::write(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
                tracing::info!(file = %path.display(), "made a certificate authority");
                text
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        Self::read(&text).with_context(|| {
            format!(
                "{} holds no authority: restore it from a backup, or remove it and let all hosts join again",
                path.display()
            )
        })
    }

    fn read(text: &str) -> anyhow::Result<Self> {
        let certificate = CertificateDer::from_pem_slice(text.as_bytes())?;
        let key = KeyPair::from_pem(text)?;
        let issuer = Issuer::new(parameters(&key)?, key);
        let begin = text.find("-----BEGIN CERTIFICATE-----").context("no certificate")?;
        Ok(Self { issuer, certificate, pem: text[begin..].to_owned() })
    }

    /// What hosts that join know it by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        sha256(&self.certificate)
    }

    /// Its certificate, in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for a host's public key, valid from now (seconds since 1970) for [`limits::CERTIFICATE_DAYS`].
    /// `None` if that is no point of P-256, uncompressed.
    pub fn issue(&self, host: &str, id: Uuid, public_key: &[u8], now: u64) -> Option<Issued> {
        // Whether the point lies on the curve shows when its signature is checked.
        if public_key.len() != 65 || public_key[0] != 4 {
            return None;
        }
        let mut parameters = leaf(&format!("host:{host}"), now, limits::CERTIFICATE_DAYS).ok()?;
        let names = [format!("weft:host:{host}"), format!("urn:uuid:{id}")];
        for name in names {
            parameters.subject_alt_names.push(SanType::URI(name.try_into().ok()?));
        }
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = parameters.signed_by(&HostKey(public_key.to_vec()), &self.issuer).ok()?;
        let expires = now + limits::CERTIFICATE_DAYS * 86_400;
        Some(Issued { pem: certificate.pem(), fingerprint: sha256(certificate.der()), expires })
    }

    /// How the bus speaks TLS: 1.3 only, HTTP/2 only, no resumption (each connection shows its certificate). A
    /// client's certificate must be of this authority; a client without one may join, and nothing else: the door
    /// (`api/door.rs`) sees to that.
    pub fn server_config(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let key = KeyPair::generate()?;
        let mut parameters = leaf("controller", super::now(), AUTHORITY_DAYS)?;
        parameters.subject_alt_names.push(SanType::DnsName(weft_proto::join::CONTROLLER_NAME.try_into()?));
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let provider = Arc::new(crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
        // The authority's own certificate goes along: who joins knows its fingerprint only.
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// Key and certificate of a new authority, in PEM.
fn generate() -> anyhow::Result<String> {
    let key = KeyPair::generate()?;
    let mut parameters = parameters(&key)?;
    validity(&mut parameters, super::now(), AUTHORITY_DAYS);
    let certificate = parameters.self_signed(&key)?;
    Ok(key.serialize_pem() + &certificate.pem())
}

/// All of an authority that the certificates it issues name. Its own name tells it from others, so that a certificate of
/// another is one of an unknown issuer, and not one that was forged.
fn parameters(key: &KeyPair) -> anyhow::Result<CertificateParams> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    let own = to_hexadecimal(&sha256(key.public_key_raw())[..8]);
    parameters.distinguished_name.push(DnType::CommonName, format!("Weft controller authority {own}"));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(parameters)
}

fn leaf(name: &str, now: u64, days: u64) -> anyhow::Result<CertificateParams> {
    let mut parameters = CertificateParams::new(Vec::new())?;
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.use_authority_key_identifier_extension = true;
    let mut serial: [u8; 16] = rand::random();
    // Positive, and of full length (RFC 5280, 4.1.2.2).
    serial[0] = serial[0] & 0x7f | 0x40;
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    validity(&mut parameters, now, days);
    Ok(parameters)
}

fn validity(parameters: &mut CertificateParams, now: u64, days: u64) {
    let start = rcgen::date_time_ymd(1970, 1, 1);
    parameters.not_before = start + Duration::from_secs(now).saturating_sub(CLOCK_SKEW);
    parameters.not_after = start + Duration::from_secs(now + days * 86_400);
}
