//! Before any handler: who calls, and may they call this? The answer goes to the handler as a [`Caller`].

use crate::authorise::{Caller, authorise};
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
}

impl Door {
    fn caller(&self, headers: &http::HeaderMap) -> Option<Caller> {
        match self {
            Self::Socket => Some(Caller::built_in_admin()),
            Self::Token(token) => {
                let given = headers.get(http::header::AUTHORIZATION)?.as_bytes();
                let (scheme, given) = given.split_at_checked("Bearer ".len())?;
                (scheme.eq_ignore_ascii_case(b"Bearer ") && same(given, token.as_bytes())).then(Caller::built_in_admin)
            }
        }
    }
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
        let caller = self.door.caller(request.headers());
        tracing::debug!(method = request.uri().path(), user = caller.as_ref().map(|caller| &caller.user), "call");
        if let Err(fault) = authorise(request.uri().path(), caller.as_ref()) {
            return futures_util::future::Either::Right(ready(Ok(fault.into_status().into_http())));
        }
        request.extensions_mut().remove::<Caller>();
        if let Some(caller) = caller {
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
            let mut headers = http::HeaderMap::new();
            headers.insert(http::header::AUTHORIZATION, http::HeaderValue::from_static(value));
            door.caller(&headers)
        };
        assert_eq!(with("Bearer secret"), Some(Caller::built_in_admin()));
        for wrong in ["Bearer secres", "Bearer secre", "Bearer secrets", "secret", "Basic secret", "Bearer", ""] {
            assert_eq!(with(wrong), None, "{wrong}");
        }
        assert_eq!(door.caller(&http::HeaderMap::new()), None);
        assert_eq!(Door::Socket.caller(&http::HeaderMap::new()), Some(Caller::built_in_admin()));
    }
}
