//! Runs the HTTP server on listeners that are bound already.
//!
//! Invariants: a connection that is one too many ends before anything is read from it; it listens before anything is recovered; a stalled peer's socket is freed by the system; on
//! stop, open streams end at once and requests under way are given time.

use std::{
    any::Any,
    io,
    net::{Shutdown, TcpListener},
    os::unix::net::UnixListener,
    time::Duration,
};

use actix_cors::Cors;
use actix_web::{
    App, HttpServer,
    dev::{Extensions, Server},
    middleware::{Compat, from_fn},
    rt::net::{TcpStream, UnixStream},
    web,
};

use crate::{
    guard,
    limits::Connections,
    routes,
    state::{Access, AppState},
};

/// How long data may stay unacknowledged before the system drops a connection.
const STALLED: Duration = Duration::from_secs(30);
/// How long a client may take to send its request's head.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long requests under way may take after a stop, in seconds.
const STOP_LIMIT: u64 = 5;

/// Where to listen.
#[derive(Debug)]
pub enum Listener {
    /// For operators.
    Tcp(TcpListener),
    /// For agents.
    Unix(UnixListener),
}

/// Builds the server; it runs once it is polled, and stops through its handle.
///
/// # Errors
/// When a listener cannot be used.
pub fn serve(state: web::Data<AppState>, listeners: Vec<Listener>, workers: usize) -> io::Result<Server> {
    let limits = state.rates.limits();
    let connections = Connections::new(limits, state.access.proxies.clone());
    let mut server = HttpServer::new(move || {
        // The last one is the outermost.
        App::new()
            .app_data(state.clone())
            .wrap(from_fn(guard::admit))
            .wrap(Compat::new(cross_origin(&state.access)))
            .wrap(from_fn(guard::around))
            .configure(routes::configure)
    })
    .workers(workers)
    .client_request_timeout(HEAD_LIMIT)
    .shutdown_timeout(STOP_LIMIT)
    .disable_signals()
    .on_connect(move |connection, data| connected(&connections, connection, data));
    for listener in listeners {
        server = match listener {
            Listener::Tcp(listener) => server.listen(listener)?,
            Listener::Unix(listener) => server.listen_uds(listener)?,
        };
    }
    Ok(server.run())
}

/// What pages of other sites may do: nothing, unless their origin is allowed.
fn cross_origin(access: &Access) -> Cors {
    let mut cors = Cors::default()
        .allowed_methods(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])
        .allowed_headers(["authorization", "content-type", "idempotency-key", "if-match", "x-request-id"])
        .expose_headers([
            "etag",
            "location",
            "ratelimit-limit",
            "ratelimit-remaining",
            "ratelimit-reset",
            "retry-after",
            "x-request-id",
        ])
        // What is not allowed is refused by the guard, with a reason.
        .block_on_origin_mismatch(false)
        .max_age(600);
    for origin in &access.origins {
        cors = cors.allowed_origin(origin);
    }
    cors
}

fn connected(connections: &Connections, connection: &dyn Any, data: &mut Extensions) {
    if let Some(stream) = connection.downcast_ref::<TcpStream>() {
        let socket = socket2::SockRef::from(stream);
        // Both are improvements only; a system that refuses them still serves.
        let _ = socket.set_tcp_user_timeout(Some(STALLED));
        let _ = socket.set_tcp_nodelay(true);
        let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return };
        match connections.open(Some(peer.ip())) {
            Some(counted) => {
                data.insert(guard::Over::Tcp(local, peer));
                data.insert(counted);
            }
            // One too many: it ends before anything is read from it.
            None => _ = socket.shutdown(Shutdown::Both),
        }
    } else if let Some(stream) = connection.downcast_ref::<UnixStream>() {
        match connections.open(None) {
            Some(counted) => {
                data.insert(guard::Over::Unix);
                data.insert(counted);
            }
            None => _ = socket2::SockRef::from(stream).shutdown(Shutdown::Both),
        }
    }
}
