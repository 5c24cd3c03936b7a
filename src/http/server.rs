//! Connections: how many, how long.

use std::convert::Infallible;
use std::io::Write;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::http::{Error, State};

/// What is left of the time of open connections at shutdown.
const GRACE: Duration = Duration::from_secs(1);

/// Pause after an accept() that failed: descriptors ran out, and the loop must not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// For a client that comes when there is no connection left.
const REFUSAL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\
    Retry-After: 1\r\nConnection: close\r\n\r\n";

/// Bounds on the server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    /// Connections served at once; more are refused.
    pub max_connections: usize,
    /// Time for a client to send the head of its request.
    pub header_timeout: Duration,
    /// Time from accept() to the last octet of the answer.
    pub connection_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_connections: 64,
            header_timeout: Duration::from_secs(5),
            connection_timeout: Duration::from_secs(10),
        }
    }
}

/// Serves until `shutdown` resolves; open connections then have one second to end.
///
/// # Errors
/// The listener cannot be handed to the event loop. Nothing that a client does is an error here.
pub async fn serve(
    listener: TcpListener,
    state: State,
    settings: Settings,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    listener.set_nonblocking(true).map_err(Error::Listener)?;
    let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Listener)?;
    let slots = Arc::new(Semaphore::new(settings.max_connections));
    let settings = Arc::new(settings);
    let state = Arc::new(state);
    // Both sets end their tasks when they go out of scope.
    let mut watcher = JoinSet::new();
    watcher.spawn(Arc::clone(&state).watch_reports());
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            // Ended connections are taken out at once, so the set stays as small as the bound.
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept an HTTP connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            refuse(stream);
            continue;
        };
        let (state, settings) = (Arc::clone(&state), Arc::clone(&settings));
        connections.spawn(async move {
            // A client that is cut off is its own problem: nothing to log, nothing to count.
            let _ = timeout(settings.connection_timeout, handle(stream, &state, &settings)).await;
            drop(slot);
        });
    }
    drop(listener);
    let _ = timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
    Ok(())
}

async fn handle(stream: TcpStream, state: &State, settings: &Settings) -> hyper::Result<()> {
    let service = service_fn(|request| {
        let response = state.respond(request.method(), request.uri().path());
        async { Ok::<_, Infallible>(response) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.header_timeout)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

/// Says 503 as far as that goes without waiting, and closes.
fn refuse(stream: TcpStream) {
    if let Ok(mut stream) = stream.into_std() {
        let _ = stream.write(REFUSAL);
    }
}
