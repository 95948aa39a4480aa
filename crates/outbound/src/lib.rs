//! The one way out: every HTTP call to a place that somebody else named goes through [`Outbound`] and its [`Policy`].
//!
//! Invariants:
//! - A connection is made only to an address that the policy admits, judged after the name was looked up and on
//!   every connection anew; so neither a form of writing, nor a redirect, nor a name that changes leads around it.
//! - `https` only, by certificates of the public authorities (compiled in); `http` where the policy says so.
//! - No proxy, no cookie, no cache, no decompression; a redirect is followed within its origin or is an error.
//! - Every call ends in its time and reads no more than its limit. A call is sent once; nothing is tried again.
//! - What a URL, a header or a body says is in no error and in no `Debug` output.
//!
//! HTTP/1.1, one connection per request: a call costs a handshake, and no connection outlives its judgement.

mod address;
mod connect;
mod error;
mod exchange;
mod lookup;
mod message;
mod policy;
mod target;
mod translate;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::header;
use rustls::RootCertStore;
use tokio::time::timeout;

pub use error::{OutboundError, Refusal};
pub use message::{Method, Request, Response};
pub use policy::{Network, NetworkError, Policy, PolicyError};

use connect::Connector;
use lookup::{Lookup, SystemLookup};
use target::Target;
use translate::Step;

/// Makes calls as its policy allows. Clones share it; there is no connection that they could share.
#[derive(Clone)]
pub struct Outbound {
    policy: Arc<Policy>,
    connector: Arc<Connector>,
}

impl Outbound {
    /// Makes calls under this policy. Nothing is connected.
    ///
    /// # Errors
    /// The policy makes no sense: a time-out of zero, or a network that is public or never allowed.
    pub fn new(policy: Policy) -> Result<Self, PolicyError> {
        let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
        Self::with(policy, Arc::new(SystemLookup::new()), roots)
    }

    fn with(policy: Policy, lookup: Arc<dyn Lookup>, roots: RootCertStore) -> Result<Self, PolicyError> {
        policy.check()?;
        let connector = Connector::new(lookup, roots)
            .unwrap_or_else(|_| unreachable!("the provider has every version that rustls has by default"));
        Ok(Self { policy: Arc::new(policy), connector: Arc::new(connector) })
    }

    /// Sends a request and gives the answer, whatever its status. A redirect within the origin is followed: with the
    /// same method and body on 307 and 308, by GET on 303.
    ///
    /// # Errors
    /// See [`OutboundError`]; none says more than a rule or a kind of failure.
    pub async fn send(&self, request: Request) -> Result<Response, OutboundError> {
        let sent = AtomicBool::new(false);
        match timeout(self.policy.timeout, self.follow(request, &sent)).await {
            Ok(done) => done,
            Err(_) => Err(OutboundError::TimedOut { sent: sent.load(Ordering::Relaxed) }),
        }
    }

    async fn follow(&self, request: Request, sent: &AtomicBool) -> Result<Response, OutboundError> {
        let mut target = Target::parse(&request.url)?;
        if target.plain() && self.policy.never_plain() {
            return Err(Refusal::PlainHttp.into());
        }
        let mut headers = translate::headers(&request)?;
        let (mut method, mut body) = (request.method, request.body);
        let mut redirects = 0;
        loop {
            let asked = async {
                let asked = translate::request(&target, method, &headers, &body)?;
                let stream = self.connector.open(&target, &self.policy).await?;
                exchange::exchange(stream, asked, self.policy.max_body, sent).await
            };
            let answer =
                asked.await.map_err(|error| if redirects > 0 { error.after_redirect() } else { error })?;
            match translate::step(answer.status(), method) {
                Step::Done => {
                    let (head, body) = answer.into_parts();
                    let headers = translate::told(&head.headers);
                    return Ok(Response { status: head.status.as_u16(), headers, body });
                }
                Step::Ambiguous => return Err(Refusal::AmbiguousRedirect.into()),
                Step::Repeat => {}
                Step::Look => {
                    method = Method::Get;
                    body = Bytes::new();
                    headers = translate::without_body(headers);
                }
            }
            let location = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let nowhere = OutboundError::Protocol { what: "the redirect leads nowhere", sent: true };
            target = target.redirected(location.ok_or(nowhere)?)?;
            if redirects == self.policy.max_redirects {
                return Err(Refusal::TooManyRedirects(redirects).into());
            }
            redirects += 1;
        }
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("policy", &self.policy).finish_non_exhaustive()
    }
}
