//! Who a host is, to a controller on another machine: certificates, and the tokens that lead to them.
//!
//! - [`authority`]: the controller's own certificate authority, in its state directory. It signs two things: the
//!   controller's certificate, made anew at each start, whose key is never written down; and hosts' certificates.
//! - [`record`]: what is stored of a host: the fingerprints of the certificates it may use, and the hash of its
//!   join token.
//! - [`membership`]: tokens, joining, renewal, revocation, each as one transaction.
//!
//! The way of a host: somebody makes a join token (a secret, the authority's fingerprint, the bus's address). The
//! host makes a key, which it keeps, connects by TLS to whoever shows the authority of that fingerprint, and sends
//! secret and public key. It gets a certificate, with which it opens every stream from then on.
//!
//! Invariants:
//! - A certificate is accepted if it is of the authority *and* its fingerprint stands in its host's record: revoking is
//!   forgetting. A deleted host has no record, and a host created again under its name has another.
//! - A host has one token and two certificates at most: what is stored is bounded by the number of hosts. A new token
//!   takes the place of the one before, a join that of all certificates, a renewal that of the one not used for it.
//! - A secret is stored as its hash only; a used or expired one is told so only to who knows it.
//! - What a certificate says of its host is for people: who a caller is stands in the record.
//!
//! A host sends its bare public key, not a certificate request (PKCS #10): all that such a request says beyond the
//! key (names, extensions) is the controller's to say, and reading one from strangers would take an ASN.1 parser.
//! That it holds the private key it proves whenever it connects.

pub mod authority;
pub mod membership;
pub mod record;

pub use authority::Authority;
pub use record::{Fingerprint, HostIdentity};

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// The records of all hosts, as the store holds them.
#[derive(Debug, Default)]
pub struct Identities(RwLock<HashMap<Uuid, HostIdentity>>);

impl Identities {
    /// From what the store holds.
    pub fn new(records: HashMap<Uuid, HostIdentity>) -> Self {
        Self(RwLock::new(records))
    }

    /// The record of a host; an empty one if it has none.
    pub fn of(&self, host: Uuid) -> HostIdentity {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&host).cloned().unwrap_or_default()
    }

    /// Makes a stored record true.
    pub fn set(&self, host: Uuid, identity: Option<HostIdentity>) {
        let mut records = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match identity {
            Some(identity) => records.insert(host, identity),
            None => records.remove(&host),
        };
    }

    /// The host that may use a certificate.
    pub fn holder(&self, certificate: &Fingerprint) -> Option<Uuid> {
        let records = self.0.read().unwrap_or_else(PoisonError::into_inner);
        records.iter().find(|(_, identity)| identity.accepts(certificate)).map(|(host, _)| *host)
    }
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
