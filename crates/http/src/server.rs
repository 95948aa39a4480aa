//! Runs the HTTP server on listeners that are bound already.
//!
//! Invariants: nothing that is sent over a connection that is one too many counts; it listens before anything is recovered; a stalled peer's socket is freed by the system; on
//! stop, open streams end at once and requests under way are given time.

use std::{
    any::Any,
    io,
    net::{Shutdown, SocketAddr, TcpListener},
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
    limits::{Connection, Connections, Peer},
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
        // Of an IPv4 address in the form of an IPv6 one as of itself.
        let plain = |it: SocketAddr| SocketAddr::new(it.ip().to_canonical(), it.port());
        let ends = stream.local_addr().and_then(|local| Ok((plain(local), plain(stream.peer_addr()?))));
        let counted = ends.ok().and_then(|(local, peer)| {
            Some((guard::Over::Tcp(local, peer), connections.open(Peer::At(peer.ip()))?))
        });
        admit(counted, data, &socket);
    } else if let Some(stream) = connection.downcast_ref::<UnixStream>() {
        let peer = stream.peer_cred().ok().and_then(|peer| peer.pid()).map_or_else(String::new, place);
        let counted = connections.open(Peer::Local(peer)).map(|counted| (guard::Over::Unix, counted));
        admit(counted, data, &socket2::SockRef::from(stream));
    }
}

/// Notes what a connection is. One too many ends; what it has sent already is refused.
fn admit(counted: Option<(guard::Over, Connection)>, data: &mut Extensions, socket: &socket2::SockRef<'_>) {
    match counted {
        Some((over, counted)) => {
            data.insert(over);
            data.insert(counted);
        }
        None => {
            data.insert(guard::Over::Refused);
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Where a process is among others: its control group, which a container has of its own, or else the process itself.
fn place(pid: i32) -> String {
    let group = |of: &str| std::fs::read_to_string(format!("/proc/{of}/cgroup")).ok();
    let theirs = group(&pid.to_string()).filter(|theirs| Some(theirs) != group("self").as_ref());
    theirs.unwrap_or_else(|| pid.to_string())
}
