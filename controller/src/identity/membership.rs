//! Tokens, joining, renewal and revocation: each checked against what is stored, then stored, then true.

use super::record::{Certificate, HostIdentity, Token, sha256};
use super::{Authority, Fingerprint, now};
use crate::controller::Controller;
use crate::limits;
use crate::model::Host;
use std::sync::Arc;
use tonic::Code;
use uuid::Uuid;
use weft_proto::fault::Fault;
use weft_proto::join::{JoinToken, valid_address};
use weft_proto::v1;

/// What joining takes: there is one if the bus listens for other machines.
pub struct Membership {
    /// Who signs.
    pub authority: Authority,
    /// Where hosts reach the bus, if the settings say.
    pub address: Option<String>,
}

impl Controller {
    fn membership(&self) -> Result<&Membership, Fault> {
        self.membership.get().ok_or_else(|| {
            Fault::invalid(
                "bus_not_listening",
                "",
                "this controller's bus does not listen for other machines",
                "Set bus_listen, as in bus_listen = \"0.0.0.0:9461\", and restart it.",
            )
            .with_status(Code::FailedPrecondition)
        })
    }

    /// Makes a token for a host; it takes the place of the one before.
    pub async fn create_join_token(
        self: &Arc<Self>,
        request: v1::CreateJoinTokenRequest,
    ) -> Result<v1::JoinToken, Fault> {
        let membership = self.membership()?;
        let authority = membership.authority.fingerprint();
        let address = match request.address.as_str() {
            "" => {
                membership.address.clone().ok_or_else(|| bad_address("no address is said, and the settings have none"))
            }
            given if valid_address(given) => Ok(given.to_owned()),
            given => Err(bad_address(&format!("{given:?} is not an address and a port"))),
        }?;
        let lifetime = match u64::from(request.lifetime_seconds) {
            0 => limits::JOIN_TOKEN_SECONDS,
            given if given <= limits::JOIN_TOKEN_SECONDS_MOST => given,
            given => {
                return Err(Fault::invalid(
                    "bad_lifetime",
                    "lifetime_seconds",
                    format!("a token cannot live for {given} s"),
                    format!("Give at most {} s, 7 days.", limits::JOIN_TOKEN_SECONDS_MOST),
                ));
            }
        };
        let expires = now() + lifetime;
        let secret: [u8; 16] = rand::random();
        let token = Token { hash: sha256(&secret).to_vec(), expires, used: false };
        let host = self
            .transact_identity(move |model, of| {
                let host = model.find::<Host>(&request.host, "", "host")?;
                Ok((host.id, HostIdentity { token: Some(token), ..of(host.id) }, host.name.clone()))
            })
            .await?;
        let token = JoinToken { host: host.clone(), address: address.clone(), authority, secret };
        Ok(v1::JoinToken { host, token: token.to_string(), expires, address })
    }

    /// A machine joins as a host: gives it a certificate, and accepts no other of that host.
    pub async fn join(self: &Arc<Self>, request: v1::JoinRequest) -> Result<v1::IssuedCertificate, Fault> {
        self.membership()?;
        let controller = Arc::clone(self);
        let (host, reply) = self
            .transact_identity(move |model, of| {
                let time = now();
                let host = model.find::<Host>(&request.host, "", "").ok();
                let stored = host.map(|host| of(host.id)).unwrap_or_default();
                let (host, token) = admit(host, stored.token, &request.secret, time)?;
                let (certificate, reply) = issue(controller.membership()?, host, &request.public_key, time)?;
                let identity = HostIdentity { certificates: vec![certificate], token: Some(token) };
                Ok((host.id, identity, (host.clone(), reply)))
            })
            .await?;
        tracing::info!(host = host.name, "a machine has joined");
        // Whoever is connected has shown a certificate that is accepted no more; or came by the Unix socket.
        self.links.of(host.id).end(
            Fault::invalid("replaced", "", "a machine has joined as this host", "Join again if it was not this one.")
                .with_status(Code::Aborted),
        );
        Ok(reply)
    }

    /// A host that has shown one certificate gets another; both are accepted.
    pub async fn renew(
        self: &Arc<Self>,
        id: Uuid,
        shown: Fingerprint,
        request: v1::RenewRequest,
    ) -> Result<v1::IssuedCertificate, Fault> {
        let controller = Arc::clone(self);
        self.transact_identity(move |model, of| {
            let stored = of(id);
            let mut certificates = stored.certificates;
            certificates.retain(|known| known.fingerprint == shown);
            let host = model.hosts.get(id).filter(|_| !certificates.is_empty()).ok_or_else(revoked)?;
            let (certificate, reply) = issue(controller.membership()?, host, &request.public_key, now())?;
            certificates.push(certificate);
            tracing::info!(host = host.name, "a host's certificate was renewed");
            Ok((id, HostIdentity { certificates, token: stored.token }, reply))
        })
        .await
    }

    /// Accepts no certificate and no token of a host any more, and disconnects it.
    pub async fn revoke_host(self: &Arc<Self>, named: String) -> Result<Host, Fault> {
        let host = self
            .transact_identity(move |model, _| {
                let host = model.find::<Host>(&named, "", "host")?;
                Ok((host.id, HostIdentity::default(), host.clone()))
            })
            .await?;
        tracing::info!(host = host.name, "a host was revoked");
        self.links.of(host.id).end(revoked());
        Ok(host)
    }

    /// Forgets what a deleted host was known by. Without it nothing would be accepted either: no caller is let in
    /// as a host that is not in the model.
    pub async fn forget_host(self: &Arc<Self>, id: Uuid) -> Result<(), Fault> {
        self.transact_identity(move |_, _| Ok((id, HostIdentity::default(), ()))).await
    }
}

/// Checks a token. Who does not know its secret learns nothing, not even whether there is such a host.
fn admit<'a>(
    host: Option<&'a Host>,
    token: Option<Token>,
    secret: &[u8],
    now: u64,
) -> Result<(&'a Host, Token), Fault> {
    let refused = |code: &str, problem: &str| {
        let name = host.map_or("NAME", |host| host.name.as_str());
        let remedy = format!("Make another with `weft host join-token {name}` where the controller is.");
        Err(Fault::invalid(code, "token", problem, remedy).with_status(Code::PermissionDenied))
    };
    let hash = sha256(secret);
    let (Some(host), Some(token)) = (host, token.filter(|token| token.hash == hash)) else {
        return Err(Fault::invalid(
            "join_token_unknown",
            "token",
            "the controller does not know this token: another was made since, or the host was revoked or deleted",
            "Make another with `weft host join-token NAME` where the controller is.",
        )
        .with_status(Code::PermissionDenied));
    };
    if token.used {
        return refused("join_token_used", "the token has been used: it works once");
    }
    if token.expires <= now {
        return refused("join_token_expired", "the token has expired");
    }
    Ok((host, Token { used: true, ..token }))
}

fn issue(
    membership: &Membership,
    host: &Host,
    public_key: &[u8],
    now: u64,
) -> Result<(Certificate, v1::IssuedCertificate), Fault> {
    let issued = membership.authority.issue(&host.name, host.id, public_key, now).ok_or_else(|| {
        let problem = format!("{} bytes that are no public key", public_key.len());
        Fault::invalid("bad_public_key", "public_key", problem, "Send an uncompressed point of P-256, 65 bytes.")
    })?;
    let reply = v1::IssuedCertificate {
        certificate: issued.pem,
        authority: membership.authority.pem().to_owned(),
        renew_after: now + (issued.expires - now) / 2,
    };
    Ok((Certificate { fingerprint: issued.fingerprint.to_vec(), expires: issued.expires }, reply))
}

fn bad_address(problem: &str) -> Fault {
    Fault::invalid(
        "bus_address_unknown",
        "address",
        problem,
        "Say where hosts reach the controller's bus: --address ADDRESS:PORT, or bus_address in its settings.",
    )
}

/// For who shows a certificate that is not accepted any more.
pub fn revoked() -> Fault {
    Fault::invalid(
        "certificate_revoked",
        "",
        "the controller accepts this host's certificate no more: the host was revoked or deleted, or another machine \
         has joined in its place",
        "Make a token with `weft host join-token NAME` where the controller is, and run `weft-switch join TOKEN` here.",
    )
    .with_status(Code::Unauthenticated)
}
