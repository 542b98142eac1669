//! What is stored of a host's identity, under `identity/HOST-ID`: no object of the model, for nothing is
//! compiled from it.

use crate::store::{Operation, Store, StoreError};
use prost::Message as _;
use std::collections::HashMap;
use uuid::Uuid;

/// SHA-256 of a certificate (DER).
pub type Fingerprint = [u8; 32];

/// SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    let mut sum = [0; 32];
    sum.copy_from_slice(digest.as_ref());
    sum
}

/// A host's record.
#[derive(Clone, PartialEq, prost::Message)]
pub struct HostIdentity {
    /// Those that the host may use: at most two, the newest last.
    #[prost(message, repeated, tag = "1")]
    pub certificates: Vec<Certificate>,
    /// The token made last, also when it has been used.
    #[prost(message, optional, tag = "2")]
    pub token: Option<Token>,
}

/// A certificate that was issued.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Certificate {
    /// A [`Fingerprint`].
    #[prost(bytes = "vec", tag = "1")]
    pub fingerprint: Vec<u8>,
    /// Seconds since 1970.
    #[prost(uint64, tag = "2")]
    pub expires: u64,
}

/// A join token.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Token {
    /// SHA-256 of its secret. The secret has 128 random bits: a slow hash would add nothing.
    #[prost(bytes = "vec", tag = "1")]
    pub hash: Vec<u8>,
    /// Seconds since 1970.
    #[prost(uint64, tag = "2")]
    pub expires: u64,
    /// Whether a host has joined with it.
    #[prost(bool, tag = "3")]
    pub used: bool,
}

impl HostIdentity {
    /// Whether the host may use a certificate. When it expires is the handshake's matter.
    #[must_use]
    pub fn accepts(&self, certificate: &Fingerprint) -> bool {
        self.certificates.iter().any(|known| known.fingerprint == certificate)
    }

    /// When the newest certificate expires, in seconds since 1970; 0 without any.
    #[must_use]
    pub fn expires(&self) -> u64 {
        self.certificates.last().map_or(0, |certificate| certificate.expires)
    }
}

const PREFIX: &str = "identity/";

/// The step that stores a record, or removes it.
#[must_use]
pub fn operation(host: Uuid, identity: Option<&HostIdentity>) -> Operation {
    let key = format!("{PREFIX}{host}");
    match identity {
        Some(identity) => Operation::Put(key, identity.encode_to_vec()),
        None => Operation::Delete(key),
    }
}

/// Reads all records.
pub fn load(store: &dyn Store) -> Result<HashMap<Uuid, HostIdentity>, StoreError> {
    let read = |entry: crate::store::Entry| {
        let host = entry.key.strip_prefix(PREFIX).and_then(|id| Uuid::try_parse(id).ok());
        match (host, HostIdentity::decode(entry.value.as_slice())) {
            (Some(host), Ok(identity)) => Ok((host, identity)),
            (_, read) => {
                let problem = read.err().map_or_else(|| "its key names no host".to_owned(), |error| error.to_string());
                Err(StoreError::Damaged { key: entry.key, problem })
            }
        }
    };
    store.list(PREFIX)?.0.into_iter().map(read).collect()
}
