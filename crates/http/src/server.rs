//! Runs the HTTP server on listeners that are bound already.
//!
//! Invariants: it listens before anything is recovered; a stalled peer's socket is freed by the system; on
//! stop, open streams end at once and requests under way are given time.

use std::{any::Any, io, net::TcpListener, os::unix::net::UnixListener, time::Duration};

use actix_web::{
    App, HttpServer,
    dev::{Extensions, Server},
    middleware::from_fn,
    rt::net::{TcpStream, UnixStream},
    web,
};

use crate::{guard, routes, state::AppState};

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
    let mut server = HttpServer::new(move || {
        App::new().app_data(state.clone()).wrap(from_fn(guard::around)).configure(routes::configure)
    })
    .workers(workers)
    .client_request_timeout(HEAD_LIMIT)
    .shutdown_timeout(STOP_LIMIT)
    .disable_signals()
    .on_connect(connected);
    for listener in listeners {
        server = match listener {
            Listener::Tcp(listener) => server.listen(listener)?,
            Listener::Unix(listener) => server.listen_uds(listener)?,
        };
    }
    Ok(server.run())
}

fn connected(connection: &dyn Any, data: &mut Extensions) {
    if let Some(stream) = connection.downcast_ref::<TcpStream>() {
        let socket = socket2::SockRef::from(stream);
        // Both are improvements only; a system that refuses them still serves.
        let _ = socket.set_tcp_user_timeout(Some(STALLED));
        let _ = socket.set_tcp_nodelay(true);
        if let Ok(local) = stream.local_addr() {
            data.insert(guard::Over::Tcp(local));
        }
    } else if connection.downcast_ref::<UnixStream>().is_some() {
        data.insert(guard::Over::Unix);
    }
}
