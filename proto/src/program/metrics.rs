//! `/metrics`: a server's counters as Prometheus reads them (text exposition format 0.0.4), over HTTP, unencrypted and
//! for everybody who reaches the address; off unless the settings give one (`metrics_listen`).
//!
//! [`Page`] writes the format, [`serve`] answers `GET /metrics` and nothing else. Calls of gRPC services are counted here
//! too, by `called`, for both servers: by method and code, with their latency until the answer begins.
//!
//! Bounds: connections at a time and the time each has; a request's head; methods that are told apart. Nobody but
//! `program/request.rs` calls `called`.

use super::settings::{Said, SettingsError};
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tonic::Code;

/// Connections that are answered at a time; others wait.
const CONNECTIONS: usize = 8;
/// How long one may take, from its beginning to its end.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const HEAD: usize = 8192;
/// Pairs of method and code that are counted apart: more than there are. What strangers call, which no service has, is one.
const CALLS: usize = 512;
/// Upper bounds of the latencies' buckets, seconds.
const BUCKETS: [f64; 7] = [0.001, 0.003, 0.01, 0.03, 0.1, 1.0, 10.0];

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the program ends.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A page of metrics, written from top to bottom.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// Begins a metric: what follows are its samples. A counter's name ends with `_total`.
    pub fn metric(&mut self, name: &str, kind: Kind, help: &str) -> Samples<'_> {
        let kind = if kind == Kind::Counter { "counter" } else { "gauge" };
        self.head(name, kind, help);
        Samples { page: self, name: name.to_owned() }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a text cannot fail.
        let _ =
            write!(self.0, "# HELP {name} {}\n# TYPE {name} {kind}\n", help.replace('\\', "\\\\").replace('\n', "\\n"));
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// Adds the calls that were answered so far.
    pub fn calls(&mut self) {
        let calls = calls().lock().unwrap_or_else(PoisonError::into_inner).clone();
        let name = "weft_api_calls_total";
        self.head(name, "counter", "Calls of the API that were answered, by method and gRPC code.");
        for ((method, code), of) in &calls {
            self.line(name, &[("method", method), ("code", code)], of.count);
        }
        let name = "weft_api_call_seconds";
        self.head(name, "histogram", "Time until the answer to a call began.");
        let mut by_method: BTreeMap<&str, Calls> = BTreeMap::new();
        for ((method, _), of) in &calls {
            by_method.entry(method).or_default().add(of);
        }
        for (method, of) in by_method {
            let mut below = 0;
            for (bound, count) in BUCKETS.iter().zip(of.buckets) {
                below += count;
                self.line(&format!("{name}_bucket"), &[("method", method), ("le", &bound.to_string())], below);
            }
            self.line(&format!("{name}_bucket"), &[("method", method), ("le", "+Inf")], of.count);
            self.line(&format!("{name}_sum"), &[("method", method)], of.seconds);
            self.line(&format!("{name}_count"), &[("method", method)], of.count);
        }
    }
}

impl From<Page> for String {
    fn from(page: Page) -> Self {
        page.0
    }
}

/// One metric of a page.
#[derive(Debug)]
pub struct Samples<'a> {
    page: &'a mut Page,
    name: String,
}

impl Samples<'_> {
    /// One value, told apart from the metric's others by labels.
    pub fn value(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        self.page.line(&self.name, labels, value);
        self
    }
}

/// What is known of some calls.
#[derive(Clone, Copy, Default)]
struct Calls {
    count: u64,
    seconds: f64,
    buckets: [u64; BUCKETS.len()],
}

impl Calls {
    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.seconds += other.seconds;
        self.buckets.iter_mut().zip(other.buckets).for_each(|(bucket, more)| *bucket += more);
    }
}

type AllCalls = BTreeMap<(String, String), Calls>;

fn calls() -> &'static Mutex<AllCalls> {
    static CALLS: Mutex<AllCalls> = Mutex::new(BTreeMap::new());
    &CALLS
}

/// Notes that a call was answered.
pub(super) fn called(path: &str, code: Code, took: Duration) {
    // "/weft.v1.Cloud/CreatePort". What no service has is a stranger's to choose.
    let method = if code == Code::Unimplemented { "unknown" } else { path.trim_start_matches('/') };
    let mut calls = calls().lock().unwrap_or_else(PoisonError::into_inner);
    let key = (method.to_owned(), format!("{code:?}"));
    if calls.len() >= CALLS && !calls.contains_key(&key) {
        return;
    }
    let seconds = took.as_secs_f64();
    let mut one = Calls { count: 1, seconds, ..Calls::default() };
    if let Some(bucket) = BUCKETS.iter().position(|bound| seconds <= *bound) {
        one.buckets[bucket] = 1;
    }
    calls.entry(key).or_default().add(&one);
}

/// The address of the setting `metrics_listen`; `None`: none.
///
/// # Errors
/// It is none.
pub fn listen_address(said: Option<Said>) -> Result<Option<SocketAddr>, SettingsError> {
    let Some(said) = said.filter(|said| said.value != "none") else { return Ok(None) };
    said.value.parse().map(Some).map_err(|_| {
        let problem = format!("\"{}\" is not an address with a port", said.value);
        SettingsError::new(&said.place, problem, "Write 127.0.0.1:9462, one address of this machine, or none.")
    })
}

/// Answers `GET /metrics` with the page, one request a connection, until it is aborted. `page` may block.
pub async fn serve(listener: TcpListener, page: impl Fn() -> String + Send + Sync + 'static) {
    let (page, room) = (Arc::new(page), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        // It is never closed.
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: not to be asked again at once.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let page = Arc::clone(&page);
        tokio::spawn(async move {
            // Whoever is too slow, or has gone, does not need it.
            let _ = tokio::time::timeout(PATIENCE, answer(stream, page)).await;
            drop(place);
        });
    }
}

async fn answer(mut stream: TcpStream, page: Arc<impl Fn() -> String + Send + Sync + 'static>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut part = [0; 1024];
        let length = stream.read(&mut part).await?;
        if length == 0 || head.len() + length > HEAD {
            return Ok(());
        }
        head.extend_from_slice(&part[..length]);
    }
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
    let (status, body) = match (method, path) {
        (b"GET", b"/metrics") => match tokio::task::spawn_blocking(move || page()).await {
            Ok(body) => ("200 OK", body),
            Err(_) => ("500 Internal Server Error", "the counters cannot be read: see the log\n".to_owned()),
        },
        (b"GET", _) => ("404 Not Found", "what there is: /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "what there is: GET /metrics\n".to_owned()),
    };
    let kind =
        if status == "200 OK" { "text/plain; version=0.0.4; charset=utf-8" } else { "text/plain; charset=utf-8" };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all((head + &body).as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_written_as_prometheus_reads_it() {
        let mut page = Page::default();
        page.metric("weft_drops_total", Kind::Counter, "Frames that\nwent nowhere.")
            .value(&[("reason", "policy"), ("port", "a\"b\\c")], 7)
            .value(&[], 0.5);
        let expected = "# HELP weft_drops_total Frames that\\nwent nowhere.\n# TYPE weft_drops_total counter\n\
                        weft_drops_total{reason=\"policy\",port=\"a\\\"b\\\\c\"} 7\nweft_drops_total 0.5\n";
        assert_eq!(page.0, expected);
    }

    #[test]
    fn calls_are_counted_by_method_and_code() {
        called("/weft.v1.Test/One", Code::Ok, Duration::from_millis(2));
        called("/weft.v1.Test/One", Code::Ok, Duration::from_secs(60));
        called("/weft.v1.Test/One", Code::NotFound, Duration::from_millis(5));
        called("/made/up", Code::Unimplemented, Duration::from_millis(5));
        let mut page = Page::default();
        page.calls();
        for line in [
            "weft_api_calls_total{method=\"weft.v1.Test/One\",code=\"NotFound\"} 1",
            "weft_api_calls_total{method=\"weft.v1.Test/One\",code=\"Ok\"} 2",
            "weft_api_calls_total{method=\"unknown\",code=\"Unimplemented\"} 1",
            "weft_api_call_seconds_bucket{method=\"weft.v1.Test/One\",le=\"0.001\"} 0",
            "weft_api_call_seconds_bucket{method=\"weft.v1.Test/One\",le=\"0.003\"} 1",
            "weft_api_call_seconds_bucket{method=\"weft.v1.Test/One\",le=\"10\"} 2",
            "weft_api_call_seconds_bucket{method=\"weft.v1.Test/One\",le=\"+Inf\"} 3",
            "weft_api_call_seconds_count{method=\"weft.v1.Test/One\"} 3",
        ] {
            assert!(page.0.lines().any(|one| one == line), "{line}: {}", page.0);
        }
        assert!(!page.0.contains("made/up"));
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers in text");
        answer
    }

    #[tokio::test]
    async fn only_the_page_is_served() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let serving = tokio::spawn(serve(listener, || "weft_up 1\n".to_owned()));
        let page = ask(address, "GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(page.starts_with("HTTP/1.1 200 OK\r\n") && page.ends_with("\r\n\r\nweft_up 1\n"), "{page}");
        assert!(page.contains("\r\nContent-Length: 10\r\n") && page.contains("version=0.0.4"), "{page}");
        assert!(ask(address, "GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405 "));
        // Too long, and no end.
        assert_eq!(ask(address, &"x".repeat(HEAD + 1)).await, "");
        serving.abort();
    }
}
