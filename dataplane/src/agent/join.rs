//! How this machine becomes a host, and stays one: it gets a certificate for a key that it has made, at first with a
//! token, later with the certificate it has.

use super::identity::{Draft, Identity};
use super::tls;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tonic::Code;
use weft_proto::fault::Fault;
use weft_proto::join::JoinToken;
use weft_proto::v1;
use weft_proto::v1::membership_client::MembershipClient;

/// How long the controller may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often it is looked whether the certificate is to be renewed.
const LOOK: Duration = Duration::from_secs(3600);

/// Joins with a token; gives the file that was written.
///
/// # Errors
/// Those of the file ([`super::identity`]); `controller_unreachable`; the controller's `join_token_unknown`,
/// `join_token_used` and `join_token_expired`. The token is used up only if the controller has accepted it.
pub async fn join(token: &JoinToken, directory: &Path) -> Result<PathBuf, Fault> {
    let draft = Draft::begin(directory)?;
    let config = tls::of_stranger(token.authority)?;
    let request =
        v1::JoinRequest { host: token.host.clone(), secret: token.secret.to_vec(), public_key: draft.public_key() };
    let issued = answered(&token.address, async {
        let channel =
            tls::connect(&token.address, config).await.map_err(|error| unreachable(&token.address, &error))?;
        Ok(MembershipClient::new(channel)
            .join(request)
            .await
            .map_err(|status| Fault::from_status(&status))?
            .into_inner())
    })
    .await?;
    let authority = CertificateDer::from_pem_slice(issued.authority.as_bytes()).ok();
    if !authority.is_some_and(|authority| tls::is(&authority, token.authority)) {
        return Err(other_authority("the token names"));
    }
    draft.finish(&issued)
}

/// Renews the certificate when it is time to, for as long as it runs. The new one is used from the next connection on.
pub(super) async fn keep_fresh(address: String, directory: PathBuf) {
    loop {
        // Without an identity there is nothing to renew; connecting says what is wrong with it.
        if let Ok(identity) = Identity::read(&directory) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
            if now >= identity.renew_after {
                match renew(&address, &identity, &directory).await {
                    Ok(path) => tracing::info!(file = %path.display(), "this host's certificate was renewed"),
                    Err(fault) => {
                        tracing::warn!(%fault, "this host's certificate was not renewed: tried again in an hour")
                    }
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn renew(address: &str, identity: &Identity, directory: &Path) -> Result<PathBuf, Fault> {
    let draft = Draft::begin(directory)?;
    let config = tls::of_host(identity)?;
    let request = v1::RenewRequest { public_key: draft.public_key() };
    let issued = answered(address, async {
        let channel = tls::connect(address, config).await.map_err(|error| unreachable(address, &error))?;
        Ok(MembershipClient::new(channel)
            .renew(request)
            .await
            .map_err(|status| Fault::from_status(&status))?
            .into_inner())
    })
    .await?;
    // Whom this host trusts was decided when it joined.
    if CertificateDer::from_pem_slice(issued.authority.as_bytes()).ok().as_ref() != Some(&identity.authority) {
        return Err(other_authority("this host has joined"));
    }
    draft.finish(&issued)
}

async fn answered<T>(address: &str, asking: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let silent = |_| Err(unreachable(address, "it does not answer"));
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(silent)
}

fn other_authority(than: &str) -> Fault {
    let problem = format!("the controller's answer holds another authority than {than}");
    Fault::invalid("bad_certificate", "", problem, "Make another token, and join again.")
}

fn unreachable(address: &str, problem: &str) -> Fault {
    let problem = format!("the controller's bus at {address} cannot be reached: {}", problem.trim_end_matches('.'));
    let remedy = "If it should be elsewhere, make a token with --address; else look at its log and at firewalls.";
    Fault::invalid("controller_unreachable", "", problem, remedy).with_status(Code::Unavailable)
}
