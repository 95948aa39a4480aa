//! Raw requests on the transport that docker-api uses too: for what it lacks, and for streams.
//!
//! Invariants: whatever is read whole has a bound; a stream that is dropped closes its connection.

use std::{future::Future, path::PathBuf, pin::Pin};

use bytes::Bytes;
use containers_api::conn::{
    Headers, Payload, RequestClient, Transport, get_unix_connector,
    hyper::{Body, Client, Response, body::HttpBody as _},
};

use super::Fault;

/// The longest answer that is read whole, in bytes.
const LONGEST: usize = 8 << 20;

/// The longest explanation of a refusal, in bytes.
const LONGEST_WHY: usize = 16 << 10;

/// Requests on one socket.
#[derive(Debug)]
pub(super) struct Wire(RequestClient<Fault>);

impl Wire {
    pub(super) fn new(socket: PathBuf) -> Self {
        // A kept connection would outlive an engine that was restarted, and belong to the runtime that opened it.
        let client = Client::builder().pool_max_idle_per_host(0).build(get_unix_connector());
        Self(RequestClient::new(Transport::Unix { client, path: socket }, Box::new(judge)))
    }

    /// A whole answer.
    pub(super) async fn get(&self, path: &str) -> Result<Vec<u8>, Fault> {
        whole(self.0.get(path).await?.into_body(), LONGEST).await
    }

    /// An answer as it comes.
    pub(super) async fn stream(&self, path: &str) -> Result<Chunks, Fault> {
        Ok(Chunks(self.0.get(path).await?.into_body()))
    }

    /// The whole answer to a document.
    pub(super) async fn post(&self, path: &str, json: Vec<u8>) -> Result<Vec<u8>, Fault> {
        let answer = self.0.post(path, Payload::Json(json), Headers::none()).await?;
        whole(answer.into_body(), LONGEST).await
    }
}

/// A body that is read piece by piece.
#[derive(Debug)]
pub(crate) struct Chunks(Body);

impl Chunks {
    /// The next piece; `None` at the regular end. It can be dropped while it waits, without a loss.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Fault>> {
        let chunk = self.0.data().await?;
        Some(chunk.map_err(|error| Fault::Lost(error.into())))
    }
}

async fn whole(mut body: Body, at_most: usize) -> Result<Vec<u8>, Fault> {
    let mut read = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|error| Fault::Lost(error.into()))?;
        if read.len() + chunk.len() > at_most {
            return Err(Fault::Lost(format!("an answer of more than {at_most} bytes").into()));
        }
        read.extend_from_slice(&chunk);
    }
    Ok(read)
}

type Judged = Pin<Box<dyn Future<Output = Result<Response<Body>, Fault>> + Send + Sync>>;

/// Passes on success, also "not modified"; reads why it is none otherwise.
fn judge(response: Response<Body>) -> Judged {
    Box::pin(async move {
        let status = response.status();
        if status.is_success() || status.as_u16() == 304 {
            return Ok(response);
        }
        let text = whole(response.into_body(), LONGEST_WHY).await.unwrap_or_default();
        let said = serde_json::from_slice::<serde_json::Value>(&text).ok();
        let said = said.as_ref().and_then(|said| said["message"].as_str());
        let message = said.or(status.canonical_reason()).unwrap_or("no reason").to_owned();
        Err(Fault::Answer { status: status.as_u16(), message })
    })
}
