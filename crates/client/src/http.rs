//! One request, one answer: time-outs, the credential, the size of answers and the sorting of errors.
//!
//! Invariants:
//! - No proxy of the environment and no redirect is followed: the token goes to the named server only.
//! - An answer longer than 32 MiB is refused.

use crate::{Endpoint, Error};
use reqwest::{
    Method, RequestBuilder, Response, Url,
    header::{AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER},
    redirect,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, time::Duration};

const MAX_ANSWER: usize = 32 << 20;

/// A bearer token. Its `Debug` output hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// A text that can't be a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token: it must be 1 to 4096 visible ASCII characters")]
pub struct TokenError;

impl Token {
    /// Takes a token as it stands.
    ///
    /// # Errors
    /// It is empty, longer than 4096 characters or has a character that no header can carry.
    pub fn new(text: impl Into<String>) -> Result<Self, TokenError> {
        let text = text.into();
        let fits = (1..=4096).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text)) } else { Err(TokenError) }
    }

    /// Whether `text` gives this token away.
    pub fn is_within(&self, text: &str) -> bool {
        text.contains(&self.0)
    }

    pub(crate) fn header(&self) -> HeaderValue {
        let mut value = HeaderValue::from_str(&format!("Bearer {}", self.0))
            .unwrap_or_else(|_| unreachable!("the characters were checked"));
        value.set_sensitive(true);
        value
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// How a client calls.
#[derive(Clone, Debug)]
pub struct Options {
    /// The credential; none by default.
    pub token: Option<Token>,
    /// How long connecting may take; 5 s.
    pub connect_timeout: Duration,
    /// How long a call may take, its whole answer included; 30 s. A call that asks the server to wait may take that
    /// much longer.
    pub timeout: Duration,
    /// The same for start, stop and restart, which wait for the runtime; 120 s.
    pub effect_timeout: Duration,
    /// How long a stream may be silent. The server gives a sign of life every 15 s; 45 s.
    pub idle_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            token: None,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            effect_timeout: Duration::from_secs(120),
            idle_timeout: Duration::from_secs(45),
        }
    }
}

/// A client of one server. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    endpoint: Endpoint,
    options: Options,
}

/// An answer as it came, for callers that look at the protocol itself.
#[derive(Clone, Debug)]
pub struct RawAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: bytes::Bytes,
}

impl RawAnswer {
    /// The value of the first header of this name; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// [`Error::Protocol`] when it is none.
    pub fn json(&self) -> Result<serde_json::Value, Error> {
        serde_json::from_slice(&self.body).map_err(|error| Error::Protocol(format!("not JSON: {error}")))
    }
}

impl Client {
    /// A client for the server at `endpoint`. Nothing is connected yet.
    ///
    /// # Errors
    /// [`Error::Protocol`] when the HTTP client cannot be set up.
    pub fn new(endpoint: Endpoint, options: Options) -> Result<Self, Error> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .connect_timeout(options.connect_timeout)
            // Servers close what is idle for 5 s: a call that meets that is lost, and nobody knows how it ended.
            .pool_idle_timeout(Duration::from_secs(3))
            .user_agent(concat!("aito-client/", env!("CARGO_PKG_VERSION")));
        if let Endpoint::Unix(path) = &endpoint {
            builder = builder.unix_socket(path.as_path());
        }
        let http = builder.build().map_err(Error::from_transport)?;
        Ok(Self { http, base: endpoint.base(), endpoint, options })
    }

    /// Where this client calls.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// The address of `segments` below the root, each one escaped.
    pub(crate) fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.clear().extend(segments);
        }
        url
    }

    /// A request with the time-out of ordinary calls.
    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url).timeout(self.options.timeout)
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, url: Url) -> Result<T, Error> {
        self.json(self.request(Method::GET, url)).await
    }

    pub(crate) async fn post<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        url: Url,
        body: &B,
    ) -> Result<T, Error> {
        self.json(self.request(Method::POST, url).json(body)).await
    }

    pub(crate) async fn post_once<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        url: Url,
        body: &B,
        key: &str,
    ) -> Result<T, Error> {
        self.json(self.request(Method::POST, url).header("idempotency-key", key).json(body)).await
    }

    /// A POST without a body that waits for the runtime.
    pub(crate) async fn effect<T: DeserializeOwned>(&self, url: Url) -> Result<T, Error> {
        self.json(self.http.request(Method::POST, url).timeout(self.options.effect_timeout)).await
    }

    pub(crate) async fn text(&self, url: Url) -> Result<String, Error> {
        let response = self.send(self.request(Method::GET, url)).await?;
        let body = read(accept(response).await?).await?;
        String::from_utf8(body).map_err(|_| Error::Protocol("the text is not UTF-8".to_owned()))
    }

    /// An answer whose body is the wanted one also when `status` is 503.
    pub(crate) async fn get_even_unavailable<T: DeserializeOwned>(&self, url: Url) -> Result<T, Error> {
        let response = self.send(self.request(Method::GET, url)).await?;
        let (status, wait) = (response.status().as_u16(), retry_after(response.headers()));
        let body = read(response).await?;
        match serde_json::from_slice(&body) {
            Ok(answer) if status == 200 || status == 503 => Ok(answer),
            Err(error) if status == 200 => Err(Error::Protocol(error.to_string())),
            _ => Err(Error::from_answer(status, wait, &body)),
        }
    }

    /// Opens a stream; only its head has a time-out here.
    pub(crate) async fn stream(&self, url: Url) -> Result<Response, Error> {
        self.stream_from(url, None).await
    }

    /// The same, from after the message with this id on.
    pub(crate) async fn stream_from(&self, url: Url, last_id: Option<&str>) -> Result<Response, Error> {
        let mut request = self.http.request(Method::GET, url).header("accept", "text/event-stream");
        if let Some(id) = last_id {
            request = request.header("last-event-id", id);
        }
        let limit = self.options.timeout;
        let response = crate::time::within(limit, self.send(request))
            .await
            .unwrap_or_else(|| Err(Error::timed_out("the answer", limit, true)))?;
        accept(response).await
    }

    /// Sends any request and hands back the answer as it came, whatever its status. `path` starts with `/`
    /// and may have a query; it is sent as it stands.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no answer came, [`Error::Protocol`] when the request cannot be written.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<RawAnswer, Error> {
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_| Error::Protocol(format!("not a method: {method}")))?;
        let url =
            self.base.join(path).map_err(|error| Error::Protocol(format!("not a path: {path}: {error}")))?;
        let mut request = self.http.request(method, url).timeout(self.options.effect_timeout);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let response = self.send(request).await?;
        let status = response.status().as_u16();
        let headers = response
            .headers()
            .iter()
            .map(|(name, value)| {
                (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect();
        Ok(RawAnswer { status, headers, body: read(response).await?.into() })
    }

    /// Sends a request whose answer holds a secret: an answer of another shape is not quoted.
    pub(crate) async fn get_secret<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let body = read(accept(self.send(request).await?).await?).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Error::Protocol(format!("another shape from column {} on", error.column())))
    }

    pub(crate) async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, Error> {
        let body = read(accept(self.send(request).await?).await?).await?;
        serde_json::from_slice(&body).map_err(|error| Error::Protocol(error.to_string()))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let request = match &self.options.token {
            Some(token) => request.header(AUTHORIZATION, token.header()),
            None => request,
        };
        request.send().await.map_err(Error::from_transport)
    }
}

/// Lets a success pass and turns everything else into an error.
async fn accept(response: Response) -> Result<Response, Error> {
    if response.status().is_success() {
        return Ok(response);
    }
    let (status, wait) = (response.status().as_u16(), retry_after(response.headers()));
    // A refusal whose text is cut off is still that refusal.
    let body = read(response).await.unwrap_or_default();
    Err(Error::from_answer(status, wait, &body))
}

async fn read(mut response: Response) -> Result<Vec<u8>, Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Error::from_transport)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(Error::Protocol(format!("the answer is longer than {MAX_ANSWER} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The delay form only (RFC 9110, section 10.2.3); the server never sends a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_checked_and_hidden() {
        for bad in ["", "a b", "a\nb", "ä", &"x".repeat(4097)] {
            assert_eq!(Token::new(bad), Err(TokenError));
        }
        let token = Token::new("s3cret-value").unwrap();
        let options = Options { token: Some(token.clone()), ..Options::default() };
        let client = Client::new(Endpoint::unix("/nowhere"), options).unwrap();
        assert!(!format!("{client:?} {token:?} {:?}", token.header()).contains("s3cret"));
    }

    #[test]
    fn path_segments_are_escaped() {
        let client = Client::new("http://h:1".parse().unwrap(), Options::default()).unwrap();
        assert_eq!(client.url(&["agents", "a/../b?c"]).as_str(), "http://h:1/agents/a%2F..%2Fb%3Fc");
    }
}
