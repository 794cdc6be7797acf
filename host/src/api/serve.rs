//! The threads that serve clients: one that accepts, and one for each coordinator, with a single-threaded runtime that
//! keeps its connections until they end.
//!
//! Several runtimes of one thread take half of the processor time that one runtime of several threads does. Connections
//! are dealt out in turn by one thread, and not by the kernel, because the kernel's way (SO_REUSEPORT) would let a
//! second server share the ports.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::sleep;

use super::Settings;
use super::client_stream::Detached;
use super::connection;
use super::coordinator::Coordinator;
use super::descriptors;
use super::grpc::Service;
use super::listener::{Listeners, Listening, Purpose, SocketFile};
use crate::limits;
use crate::metrics::Calls;

/// A server that serves. Dropped, it stops as if it were killed.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    stopping: watch::Sender<bool>,
    /// Told how long the connections may take to end.
    grace: watch::Sender<Option<Duration>>,
    threads: Vec<JoinHandle<()>>,
}

/// Why it cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "the threads that serve clients cannot be started: {0}; see the system's limits on threads and files"
    )]
    Threads(#[from] std::io::Error),
    #[error("there is no coordinator to serve clients with")]
    NoCoordinator,
}

/// Serves clients on `listeners`, on one thread for each of the coordinators.
///
/// # Errors
/// Threads that cannot be started.
pub fn serve<C: Coordinator>(
    listeners: Listeners,
    coordinators: Vec<Arc<C>>,
    settings: Settings,
) -> Result<Server, ServeError> {
    if coordinators.is_empty() {
        return Err(ServeError::NoCoordinator);
    }
    let addresses = listeners.addresses();
    let (stopping, is_stopping) = watch::channel(false);
    let (grace, grace_given) = watch::channel(None);
    let settings = Arc::new(settings);
    let large_messages = Arc::new(Semaphore::new(limits::LARGE_MESSAGES_KIB));
    let threads = coordinators.len();
    let calls =
        Arc::new(Calls::new(descriptors::methods(), threads, settings.grpc.extensive_metrics));
    let mut server = Server { addresses, stopping, grace, threads: Vec::new() };
    let mut queues = Vec::new();
    for (number, coordinator) in coordinators.into_iter().enumerate() {
        let (queue, accepted) = mpsc::channel(limits::ACCEPTED_CONNECTIONS);
        queues.push(queue);
        let service = Arc::new(Service {
            coordinator,
            settings: settings.clone(),
            large_messages: large_messages.clone(),
            stopping: is_stopping.clone(),
            calls: calls.clone(),
            thread: number,
        });
        let grace = grace_given.clone();
        let runtime = single_threaded_runtime()?;
        let thread = std::thread::Builder::new()
            .name(format!("client-{number}"))
            .spawn(move || runtime.block_on(serve_connections(service, accepted, grace)))?;
        server.threads.push(thread);
    }
    let runtime = single_threaded_runtime()?;
    let sockets = {
        let _in_runtime = runtime.enter();
        let sockets = listeners.into_listening().into_iter();
        sockets
            .map(|(purpose, socket)| Ok((purpose, Accepting::new(socket)?)))
            .collect::<std::io::Result<Vec<_>>>()?
    };
    let acceptor = std::thread::Builder::new()
        .name("client-accept".to_owned())
        .spawn(move || runtime.block_on(accept_all(sockets, queues, is_stopping)))?;
    server.threads.push(acceptor);
    Ok(server)
}

fn single_threaded_runtime() -> std::io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

impl Server {
    /// Where it is listened.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops: accepts nothing more, tells clients to go elsewhere, and lets calls in work end within `grace`. Then what
    /// is left is cut off. Blocks until all threads have ended.
    pub fn stop(self, grace: Duration) {
        self.grace.send_replace(Some(grace));
        self.stopping.send_replace(true);
        for thread in self.threads {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }
}

/// A connection that counts towards the limit until this is dropped.
struct Slot(Arc<AtomicUsize>);

impl Slot {
    /// None if there are too many.
    fn take(connections: &Arc<AtomicUsize>) -> Option<Slot> {
        let slot = Slot(connections.clone());
        let before = connections.fetch_add(1, Ordering::Relaxed);
        (before < limits::CLIENT_CONNECTIONS).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Accepted = (Detached, Purpose, Slot);

/// A socket of the accepting thread's runtime.
enum Accepting {
    Tcp(TcpListener),
    Unix {
        socket: UnixListener,
        /// Removed at the end.
        _file: SocketFile,
    },
}

impl Accepting {
    fn new(socket: Listening) -> std::io::Result<Accepting> {
        Ok(match socket {
            Listening::Tcp(socket) => Accepting::Tcp(TcpListener::from_std(socket)?),
            Listening::Unix(socket, file) => {
                Accepting::Unix { socket: UnixListener::from_std(socket)?, _file: file }
            }
        })
    }

    /// A connection with its options, freed from this thread's runtime. None if it broke at once.
    async fn accept(&self) -> std::io::Result<Option<Detached>> {
        Ok(match self {
            Accepting::Tcp(socket) => prepare(socket.accept().await?.0).ok().map(Detached::Tcp),
            Accepting::Unix { socket, .. } => {
                socket.accept().await?.0.into_std().ok().map(Detached::Unix)
            }
        })
    }
}

/// Accepts on all sockets until the server stops. The sockets are closed at the end.
async fn accept_all(
    sockets: Vec<(Purpose, Accepting)>,
    queues: Vec<mpsc::Sender<Accepted>>,
    mut stopping: watch::Receiver<bool>,
) {
    let queues: Arc<[mpsc::Sender<Accepted>]> = queues.into();
    let turn = Arc::new(AtomicUsize::new(0));
    let connections = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for (purpose, socket) in sockets {
        let accepting =
            accept((purpose, socket), queues.clone(), turn.clone(), connections.clone());
        tasks.push(tokio::spawn(accepting));
    }
    // An error means that the server was dropped: that is a stop as well.
    let _ = stopping.wait_for(|stopping| *stopping).await;
    for task in tasks {
        task.abort();
    }
}

async fn accept(
    (purpose, socket): (Purpose, Accepting),
    queues: Arc<[mpsc::Sender<Accepted>]>,
    turn: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
) {
    loop {
        let stream = match socket.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                if is_lasting(&error) {
                    tracing::warn!(%error, "accepting a client failed, and is tried again");
                    sleep(limits::ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let Some(slot) = Slot::take(&connections) else {
            tracing::warn!(limit = limits::CLIENT_CONNECTIONS, "too many clients, one was refused");
            continue;
        };
        let Some(stream) = stream else { continue };
        let queue = &queues[turn.fetch_add(1, Ordering::Relaxed) % queues.len()];
        if queue.send((stream, purpose, slot)).await.is_err() {
            return;
        }
    }
}

/// Whether accepting is likely to fail again, as it does without a free file descriptor; the alternative is a client
/// that went away before it was accepted.
fn is_lasting(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Gives a TCP connection its options, and frees it from this thread's runtime.
fn prepare(stream: TcpStream) -> std::io::Result<std::net::TcpStream> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(limits::TCP_KEEPALIVE).with_interval(limits::TCP_KEEPALIVE);
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    stream.into_std()
}

/// One client thread: serves the connections it is dealt until the server stops.
async fn serve_connections<C: Coordinator>(
    service: Arc<Service<C>>,
    mut accepted: mpsc::Receiver<Accepted>,
    mut grace: watch::Receiver<Option<Duration>>,
) {
    let background = tokio::spawn(service.coordinator.clone().run());
    // Every connection holds a sender: when all of them have ended, nothing can be received any more.
    let (connection_alive, mut connections_ended) = mpsc::channel::<()>(1);
    while let Some((stream, purpose, slot)) = accepted.recv().await {
        let stream = match stream.attach() {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a client could not be taken over by its thread");
                continue;
            }
        };
        let (service, alive) = (service.clone(), connection_alive.clone());
        tokio::spawn(async move {
            connection::serve(service, stream, purpose).await;
            drop((alive, slot));
        });
    }
    drop(connection_alive);
    // Accepting has ended, because the server stops or was dropped.
    if let Ok(grace) = grace.wait_for(Option::is_some).await.map(|grace| *grace) {
        let all_ended = connections_ended.recv();
        let _ = tokio::time::timeout(grace.unwrap_or_default(), all_ended).await;
    }
    background.abort();
}
