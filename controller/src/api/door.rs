//! Before any handler: who calls, and may they call this? The answer goes to the handler as a [`Caller`].

use super::tls::Peer;
use crate::authorise::{Caller, HostKey, authorise};
use crate::identity::{Identities, membership::revoked};
use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::codegen::http;
use tonic::{Request, Status};
use weft_proto::fault::Fault;

/// By which way a call comes in.
#[derive(Clone, Debug)]
pub enum Door {
    /// The Unix socket: the file's rights say who may.
    Socket,
    /// TCP: the token says it.
    Token(Arc<str>),
    /// TLS: the host's certificate says it.
    Certificate(Arc<Identities>),
}

impl Door {
    fn caller<In>(&self, request: &http::Request<In>) -> Result<Caller, Fault> {
        match self {
            Self::Socket => Ok(Caller::built_in_admin()),
            Self::Token(token) => {
                let given = request.headers().get(http::header::AUTHORIZATION);
                let given = given.and_then(|given| given.as_bytes().split_at_checked("Bearer ".len()));
                let right = given.is_some_and(|(scheme, given)| {
                    scheme.eq_ignore_ascii_case(b"Bearer ") && same(given, token.as_bytes())
                });
                if right { Ok(Caller::built_in_admin()) } else { Err(no_token()) }
            }
            Self::Certificate(identities) => {
                let shown = request.extensions().get::<Peer>().and_then(|peer| peer.certificate);
                let certificate = shown.ok_or_else(no_certificate)?;
                let host = identities.holder(&certificate).ok_or_else(revoked)?;
                Ok(Caller::of_host(HostKey { host, certificate }))
            }
        }
    }
}

fn no_token() -> Fault {
    Fault::invalid(
        "unauthenticated",
        "authorization",
        "the call does not say who calls",
        "Send the metadata \"authorization: Bearer TOKEN\" with the token of admin.token, or call by the Unix socket.",
    )
    .with_status(tonic::Code::Unauthenticated)
}

fn no_certificate() -> Fault {
    Fault::invalid(
        "no_certificate",
        "",
        "the host shows no certificate",
        "Make a token with `weft host join-token NAME` where the controller is, and run `weft-switch join TOKEN` here.",
    )
    .with_status(tonic::Code::Unauthenticated)
}

/// Compares in a time that does not tell how much is right.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |differs, (one, other)| differs | (one ^ other)) == 0
}

/// The caller of a request that came in by a door.
pub fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(|| {
        // The door lets nobody in without one, except to what asks for none.
        Fault::invalid("unauthenticated", "", "the call does not say who calls", "Call by a socket of the controller.")
            .with_status(tonic::Code::Unauthenticated)
            .into_status()
    })
}

/// Puts a door before services.
#[derive(Clone, Debug)]
pub struct DoorLayer(pub Door);

impl<Inner> tower::Layer<Inner> for DoorLayer {
    type Service = Guarded<Inner>;

    fn layer(&self, inner: Inner) -> Guarded<Inner> {
        Guarded { door: self.0.clone(), inner }
    }
}

/// Services behind a door.
#[derive(Clone, Debug)]
pub struct Guarded<Inner> {
    door: Door,
    inner: Inner,
}

impl<Inner, In, Out> tower::Service<http::Request<In>> for Guarded<Inner>
where
    Inner: tower::Service<http::Request<In>, Response = http::Response<Out>>,
    Out: Default,
{
    type Response = http::Response<Out>;
    type Error = Inner::Error;
    type Future = futures_util::future::Either<Inner::Future, Ready<Result<Self::Response, Self::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<In>) -> Self::Future {
        let caller = self.door.caller(&request);
        let user = caller.as_ref().ok().map(|caller| &caller.user);
        tracing::debug!(method = request.uri().path(), user, "call");
        if let Err(fault) = authorise(request.uri().path(), caller.as_ref()) {
            return futures_util::future::Either::Right(ready(Ok(fault.into_status().into_http())));
        }
        request.extensions_mut().remove::<Caller>();
        if let Ok(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        futures_util::future::Either::Left(self.inner.call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_token_opens() {
        let door = Door::Token("secret".into());
        let with = |value: &'static str| {
            door.caller(&http::Request::builder().header(http::header::AUTHORIZATION, value).body(()).unwrap())
        };
        assert_eq!(with("Bearer secret"), Ok(Caller::built_in_admin()));
        for wrong in ["Bearer secres", "Bearer secre", "Bearer secrets", "secret", "Basic secret", "Bearer", ""] {
            assert_eq!(with(wrong).unwrap_err().code, "unauthenticated", "{wrong}");
        }
        let bare = http::Request::new(());
        assert!(door.caller(&bare).is_err());
        assert_eq!(Door::Socket.caller(&bare), Ok(Caller::built_in_admin()));
        // The token is worth nothing where certificates are asked for.
        let asked = http::Request::builder().header(http::header::AUTHORIZATION, "Bearer secret").body(()).unwrap();
        assert_eq!(Door::Certificate(Arc::default()).caller(&asked).unwrap_err().code, "no_certificate");
    }
}
