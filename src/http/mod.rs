//! The HTTP server: metrics, health, a status page and the report as JSON.
//!
//! It may be reachable for anybody, so it gives little away to be held up by: one request per
//! connection, so that a connection's whole life is one deadline; a bound on connections; bodies of
//! requests are never read; the answer is ready before its first octet is sent.

mod page;
mod routes;
mod server;

use std::io;
use std::net::{SocketAddr, TcpListener};

pub use routes::State;
pub use server::{Settings, serve};

/// What goes wrong with the listening socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be handed to the event loop.
    #[error("cannot serve on the listening socket: {0}")]
    Listener(io::Error),
}

/// Binds the listening socket; apart from [`serve`], because privileges may be dropped in between.
///
/// # Errors
/// The address is in use, is not this host's, or needs a privilege.
pub fn bind(address: SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address).map_err(|source| Error::Bind { address, source })
}
