//! Connections of other machines: accepted, shaken hands with, and bounded, before HTTP/2 sees them.
//!
//! Own code, for `tonic`'s TLS bounds neither the number of handshakes nor the time that one takes. A connection that
//! shows no certificate is a machine that joins: there are few of those, and none lives long, so that strangers do not
//! keep hosts out.

use crate::identity::Fingerprint;
use crate::identity::record::sha256;
use crate::limits;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// How long a connection that was refused may take to close.
const LINGER: Duration = Duration::from_secs(1);

/// Who is at the other end, as every request of the connection finds it in its extensions.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Of the certificate it has shown, which is of our authority.
    pub certificate: Option<Fingerprint>,
}

/// A connection after its handshake.
pub struct Connection {
    stream: Box<TlsStream<TcpStream>>,
    peer: Peer,
    /// When it ends, if it has shown no certificate.
    deadline: Option<Pin<Box<Sleep>>>,
    _places: Vec<OwnedSemaphorePermit>,
}

/// The connections that come in; listening ends when the stream is dropped.
pub fn incoming(listener: TcpListener, config: Arc<ServerConfig>) -> ReceiverStream<io::Result<Connection>> {
    let (ready, connections) = mpsc::channel(16);
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(config);
        let places = Arc::new(Semaphore::new(limits::BUS_CONNECTIONS));
        let joining = Arc::new(Semaphore::new(limits::JOINING_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                () = ready.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: others must end first.
                    tracing::warn!(%error, "a connection to the bus was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                tracing::warn!(%address, "too many connections to the bus: one was closed");
                continue;
            };
            let (acceptor, joining, ready) = (acceptor.clone(), Arc::clone(&joining), ready.clone());
            tokio::spawn(async move {
                match shake_hands(&acceptor, stream, place, joining).await {
                    // Nobody listening: the controller stops.
                    Ok(connection) => drop(ready.send(Ok(connection)).await),
                    Err(error) => tracing::info!(%address, %error, "a connection to the bus was refused"),
                }
            });
        }
    });
    ReceiverStream::new(connections)
}

async fn shake_hands(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    joining: Arc<Semaphore>,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let patience = Duration::from_secs(limits::HANDSHAKE_SECONDS);
    let stream = match tokio::time::timeout(patience, acceptor.accept(stream).into_fallible()).await? {
        Ok(stream) => Box::new(stream),
        Err((error, mut stream)) => {
            // The other end is to read why, which it does not if its own bytes are left unread here: then the system
            // resets the connection.
            let _ = stream.shutdown().await;
            let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut stream, &mut tokio::io::sink())).await;
            return Err(error);
        }
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let peer = Peer { certificate: shown.map(|certificate| sha256(certificate)) };
    let mut places = vec![place];
    let mut deadline = None;
    if peer.certificate.is_none() {
        let busy = |_| io::Error::other("too many machines join at once");
        places.push(joining.try_acquire_owned().map_err(busy)?);
        deadline = Some(Box::pin(tokio::time::sleep(Duration::from_secs(limits::JOINING_SECONDS))));
    }
    Ok(Connection { stream, peer, deadline, _places: places })
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut *self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(context)
    }
}
