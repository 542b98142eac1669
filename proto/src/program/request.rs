//! Identifiers of requests, by which one call is found in the logs of all programs that had part in it.
//!
//! A call may bring its own in the metadata `request-id`; otherwise it gets one. All that is logged on its
//! behalf stands in a span `call` with the identifier; the reply's metadata names it, also when the call
//! fails; what the call causes elsewhere (a relayed call, a bundle) carries it on, by [`current`].

use std::future::Future;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::{Code, Status};
use tracing::Instrument as _;

/// The metadata key.
pub const KEY: &str = "request-id";

/// The longest identifier that is taken from a caller, bytes.
pub const LONGEST: usize = 64;

tokio::task_local! {
    static CURRENT: Arc<str>;
}

/// The request on whose behalf the task runs, if it is one's.
#[must_use]
pub fn current() -> Option<Arc<str>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Runs a future on behalf of a request: its log lines and [`current`] say so. An empty or unusable
/// identifier is replaced by a new one.
pub async fn within<F: Future>(id: &str, method: &str, work: F) -> F::Output {
    let id: Arc<str> = if usable(id) { id.into() } else { fresh() };
    let span = tracing::info_span!("call", request = %id, method);
    CURRENT.scope(id, work).instrument(span).await
}

/// Carries the present request, if there is one, into a future that is to run elsewhere.
pub fn carried<F: Future + Send + 'static>(work: F) -> impl Future<Output = F::Output> + Send + 'static {
    let work = work.in_current_span();
    let id = current();
    async move {
        match id {
            Some(id) => CURRENT.scope(id, work).await,
            None => work.await,
        }
    }
}

/// Letters, digits and `-`, `_`, `.`: nothing that could forge a line of a log.
fn usable(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=LONGEST).contains(&id.len()) && id.bytes().all(allowed)
}

/// Sixteen hexadecimal digits that do not come again: the standard library's seed of this process, hashed
/// with a count.
fn fresh() -> Arc<str> {
    static SEED: std::sync::OnceLock<RandomState> = std::sync::OnceLock::new();
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let mut hasher = SEED.get_or_init(RandomState::new).build_hasher();
    hasher.write_u64(COUNT.fetch_add(1, Ordering::Relaxed));
    format!("{:016x}", hasher.finish()).into()
}

/// Gives every call of a server its identifier.
#[derive(Clone, Copy, Debug, Default)]
pub struct RequestLayer;

impl<Inner> tower::Layer<Inner> for RequestLayer {
    type Service = Identified<Inner>;

    fn layer(&self, inner: Inner) -> Identified<Inner> {
        Identified { inner }
    }
}

/// Services whose calls have identifiers.
#[derive(Clone, Debug)]
pub struct Identified<Inner> {
    inner: Inner,
}

impl<Inner, In, Out> tower::Service<Request<In>> for Identified<Inner>
where
    Inner: tower::Service<Request<In>, Response = Response<Out>>,
    Inner::Future: Send + 'static,
{
    type Response = Response<Out>;
    type Error = Inner::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let given = request.headers().get(KEY).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let id: Arc<str> = if usable(given) { given.into() } else { fresh() };
        let path = request.uri().path().to_owned();
        let span = tracing::info_span!("call", request = %id, method = path);
        let began = Instant::now();
        // Handlers may begin to work before their future is first polled.
        let called = CURRENT.sync_scope(id.clone(), || span.in_scope(|| self.inner.call(request)));
        let named = id.clone();
        let answered = async move {
            let mut response = called.await?;
            // Without one in the headers it has begun well.
            let status = Status::from_header_map(response.headers());
            let code = status.as_ref().map_or(Code::Ok, Status::code);
            super::metrics::called(&path, code, began.elapsed());
            if let Some(status) = status.filter(|_| code != Code::Ok) {
                tracing::info!(?code, "refused: {}", status.message());
            }
            if let Ok(value) = HeaderValue::from_str(&named) {
                response.headers_mut().insert(KEY, value);
            }
            Ok(response)
        };
        Box::pin(CURRENT.scope(id, answered).instrument(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::{Layer as _, Service as _};

    /// Calls a service that answers with the request it knows of, and fails.
    async fn call(id: Option<&str>) -> (String, String) {
        let service = tower::service_fn(|_: Request<()>| async {
            let known = carried(async { current() });
            let known = tokio::spawn(known).await.expect("the task ends").expect("it runs for a request");
            let failed = Status::not_found(known.to_string()).into_http::<()>();
            Ok::<_, std::convert::Infallible>(failed)
        });
        let mut request = Request::new(());
        if let Some(id) = id {
            request.headers_mut().insert(KEY, HeaderValue::from_str(id).expect("a header"));
        }
        let response = RequestLayer.layer(service).call(request).await.expect("it answers");
        let status = Status::from_header_map(response.headers()).expect("it fails");
        let told = status.metadata().get(KEY).expect("the failure names the request");
        (told.to_str().expect("text").to_owned(), status.message().to_owned())
    }

    #[tokio::test]
    async fn a_call_keeps_its_identifier_or_gets_one() {
        assert_eq!(call(Some("web-1.7")).await, ("web-1.7".to_owned(), "web-1.7".to_owned()));
        let (first, known) = call(None).await;
        assert_eq!((first.len(), &first), (16, &known));
        assert_ne!(call(None).await.0, first);
        for unusable in ["a b", "", "x\"y", &"a".repeat(LONGEST + 1)] {
            assert_ne!(call(Some(unusable)).await.0, unusable);
        }
        assert_eq!(current(), None);
    }
}
