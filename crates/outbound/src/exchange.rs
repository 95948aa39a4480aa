//! One request and its answer on one connection.
//!
//! Invariants: a connection serves one request, and it ends with the future that drives it, so nothing goes on after
//! a caller has given up. No more of a body is kept than the limit; what is declared to be longer is not read at all.

use std::{
    convert::Infallible,
    future::pending,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;

use crate::{connect::Stream, error::OutboundError, translate};

/// Sends the request and reads the whole answer. `sent` is set just before the request is on its way.
pub(crate) async fn exchange(
    stream: Box<dyn Stream>,
    request: http::Request<Full<Bytes>>,
    max_body: usize,
    sent: &AtomicBool,
) -> Result<http::Response<Bytes>, OutboundError> {
    let failed = |error: hyper::Error| translate::exchange(&error);
    let mut builder = http1::Builder::new();
    builder.max_header_size(translate::MAX_HEAD).max_buf_size(translate::MAX_HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // What the connection fails with, the exchange is told too. It may end first, with the answer's rest at hand.
    let driven = async {
        let _ = connection.await;
        pending::<Infallible>().await
    };
    let exchanged = async {
        sent.store(true, Ordering::Relaxed);
        let (head, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let what = "the server goes over to another protocol";
            return Err(OutboundError::Protocol { what, sent: true });
        }
        Ok(http::Response::from_parts(head, whole(body, max_body).await?))
    };
    tokio::select! {
        done = exchanged => done,
        never = driven => match never {},
    }
}

async fn whole(mut body: Incoming, limit: usize) -> Result<Bytes, OutboundError> {
    let too_large = OutboundError::TooLarge { part: "body", limit };
    if usize::try_from(body.size_hint().lower()).map_or(true, |least| least > limit) {
        return Err(too_large);
    }
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(|error| translate::exchange(&error))?.into_data() else { continue };
        if piece.len() > limit - whole.len() {
            return Err(too_large);
        }
        whole.extend_from_slice(&piece);
    }
    Ok(whole.freeze())
}
