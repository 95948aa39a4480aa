//! Turns requests and answers into HTTP's own types and back, and failures of TLS and HTTP into this crate's.
//!
//! Invariant: no text of another crate or of the server's gets into an error.

use std::io;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::Full;
use rustls::CertificateError;

use crate::{
    error::OutboundError,
    message::{Method, Request},
    target::Target,
};

/// The longest head of an answer, in bytes.
pub(crate) const MAX_HEAD: usize = 64 << 10;

/// What belongs to the connection and so is not the caller's; besides, everything that begins with `proxy-`.
const OURS: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "expect",
    "te",
    "trailer",
    "keep-alive",
    "http2-settings",
];

/// The headers that a call sends everywhere it goes.
pub(crate) fn headers(request: &Request) -> Result<HeaderMap, OutboundError> {
    let invalid = |what| OutboundError::Invalid { what };
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| invalid("the name of a header has characters that it cannot have"))?;
        if OURS.contains(&name.as_str()) || name.as_str().starts_with("proxy-") {
            return Err(invalid("a header belongs to the connection and is not the caller's"));
        }
        let mut value = HeaderValue::from_str(value)
            .map_err(|_| invalid("the value of a header has characters that it cannot have"))?;
        value.set_sensitive(true);
        headers.try_append(name, value).map_err(|_| invalid("there are too many headers"))?;
    }
    let mut missing = |name, value| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    missing(header::USER_AGENT, concat!("aito/", env!("CARGO_PKG_VERSION")));
    // What is compressed would come back as it is.
    missing(header::ACCEPT_ENCODING, "identity");
    missing(header::CONNECTION, "close");
    Ok(headers)
}

/// A request as it goes over the wire.
pub(crate) fn request(
    target: &Target,
    method: Method,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<http::Request<Full<Bytes>>, OutboundError> {
    let invalid = || OutboundError::Invalid { what: "the URL has characters that a request cannot have" };
    let mut request = http::Request::new(Full::new(body.clone()));
    *request.method_mut() = match method {
        Method::Get => http::Method::GET,
        Method::Head => http::Method::HEAD,
        Method::Post => http::Method::POST,
        Method::Put => http::Method::PUT,
        Method::Patch => http::Method::PATCH,
        Method::Delete => http::Method::DELETE,
    };
    *request.uri_mut() = http::Uri::try_from(target.path_and_query()).map_err(|_| invalid())?;
    *request.headers_mut() = headers.clone();
    let host = HeaderValue::from_str(target.authority()).map_err(|_| invalid())?;
    request.headers_mut().insert(header::HOST, host);
    Ok(request)
}

/// What to do about an answer's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is the answer.
    Done,
    /// The same again elsewhere.
    Repeat,
    /// A look elsewhere, by GET and without the body.
    Look,
    /// A redirect that leaves open which of the two.
    Ambiguous,
}

/// What to do about this status (RFC 9110 section 15.4). 300, 304, 305 and 306 redirect nobody by themselves.
pub(crate) fn step(status: StatusCode, method: Method) -> Step {
    let reads = matches!(method, Method::Get | Method::Head);
    match status {
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => Step::Repeat,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER if reads => Step::Repeat,
        StatusCode::SEE_OTHER => Step::Look,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => Step::Ambiguous,
        _ => Step::Done,
    }
}

/// The headers without those that describe a body.
pub(crate) fn without_body(mut headers: HeaderMap) -> HeaderMap {
    let about: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("content-")).cloned().collect();
    for name in about {
        headers.remove(name);
    }
    headers
}

/// An answer's headers as callers see them.
pub(crate) fn told(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// A failed exchange; the request was on its way.
pub(crate) fn exchange(error: &hyper::Error) -> OutboundError {
    let protocol = |what| OutboundError::Protocol { what, sent: true };
    if error.is_parse_too_large() {
        OutboundError::TooLarge { part: "head", limit: MAX_HEAD }
    } else if error.is_parse() {
        protocol("the answer is not HTTP")
    } else if error.is_user() {
        OutboundError::Invalid { what: "the request is not HTTP" }
    } else {
        protocol("the connection ended before the answer did")
    }
}

/// A failed agreement on TLS; nothing was sent.
pub(crate) fn tls(error: &io::Error) -> OutboundError {
    let protocol = |what| OutboundError::Protocol { what, sent: false };
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        None => {
            OutboundError::Unreachable { what: "the connection ended before TLS was agreed on", source: None }
        }
        Some(rustls::Error::InvalidCertificate(why)) => protocol(match why {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the certificate is another host's"
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the certificate has expired"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "the certificate is not valid yet"
            }
            CertificateError::UnknownIssuer => "the certificate is by an authority that is not known",
            _ => "the certificate is not valid",
        }),
        Some(rustls::Error::AlertReceived(_)) => protocol("the server refuses the terms of TLS"),
        Some(_) => protocol("the server does not speak TLS as it should"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(request: Request) -> HeaderMap {
        headers(&request).unwrap()
    }

    fn plain() -> Request {
        Request::new(Method::Post, "https://hooks.example/")
    }

    #[test]
    fn headers_are_completed_and_those_of_the_connection_are_not_the_callers() {
        let map = sent(plain().header("X-Key", "a").header("x-key", "b"));
        assert_eq!(map.get_all("x-key").iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(map["accept-encoding"], "identity");
        assert!(map["user-agent"].to_str().unwrap().starts_with("aito/") && map["connection"] == "close");
        let own = sent(plain().header("User-Agent", "mine").header("Accept-Encoding", "gzip"));
        assert_eq!(
            (&own["user-agent"], &own["accept-encoding"]),
            (&"mine".parse().unwrap(), &"gzip".parse().unwrap())
        );
        for (name, value) in [
            ("Host", "other.example"),
            ("content-length", "3"),
            ("Transfer-Encoding", "chunked"),
            ("Connection", "upgrade"),
            ("Upgrade", "websocket"),
            ("Expect", "100-continue"),
            ("TE", "trailers"),
            ("Proxy-Authorization", "x"),
            ("Proxy-Connection", "x"),
            ("Keep-Alive", "x"),
            ("bad name", "x"),
            ("", "x"),
            ("x", "a\r\nHost: other.example"),
            ("x", "a\nb"),
            ("x", "a\0"),
        ] {
            let error = headers(&plain().header(name, value));
            assert!(matches!(error, Err(OutboundError::Invalid { .. })), "{name}: {value:?}");
        }
    }

    #[test]
    fn a_header_is_hidden_wherever_it_goes() {
        let map = sent(plain().header("authorization", "Bearer secret"));
        assert!(!format!("{map:?}").contains("secret"));
    }

    #[test]
    fn the_method_stays_only_where_the_status_says_so() {
        for (status, method, wanted) in [
            (307, Method::Post, Step::Repeat),
            (308, Method::Delete, Step::Repeat),
            (308, Method::Get, Step::Repeat),
            (301, Method::Get, Step::Repeat),
            (302, Method::Head, Step::Repeat),
            (303, Method::Get, Step::Repeat),
            (303, Method::Post, Step::Look),
            (301, Method::Post, Step::Ambiguous),
            (302, Method::Put, Step::Ambiguous),
            (300, Method::Get, Step::Done),
            (304, Method::Get, Step::Done),
            (305, Method::Get, Step::Done),
            (200, Method::Get, Step::Done),
            (500, Method::Post, Step::Done),
        ] {
            assert_eq!(step(StatusCode::from_u16(status).unwrap(), method), wanted, "{status} {method:?}");
        }
        let map = without_body(sent(plain().header("content-type", "x").header("x-key", "y")));
        assert!(!map.contains_key("content-type") && map.contains_key("x-key"));
    }

    #[test]
    fn failures_of_tls_say_what_a_human_must_mend() {
        let told = |error: rustls::Error| tls(&io::Error::new(io::ErrorKind::InvalidData, error)).to_string();
        let certificate = |why| told(rustls::Error::InvalidCertificate(why));
        assert!(certificate(CertificateError::Expired).contains("has expired"));
        assert!(certificate(CertificateError::NotValidForName).contains("another host's"));
        assert!(certificate(CertificateError::UnknownIssuer).contains("not known"));
        assert!(certificate(CertificateError::BadSignature).contains("not valid"));
        assert!(
            told(rustls::Error::General("secret".to_owned())).ends_with("does not speak TLS as it should")
        );
        let ended = tls(&io::Error::from(io::ErrorKind::UnexpectedEof));
        assert!(matches!(ended, OutboundError::Unreachable { .. }) && !ended.may_have_been_sent());
    }

    #[test]
    fn values_that_are_no_text_are_told_as_far_as_they_are() {
        let mut map = HeaderMap::new();
        map.insert("x-a", HeaderValue::from_bytes(b"a\xffb").unwrap());
        assert_eq!(told(&map), [("x-a".to_owned(), "a\u{fffd}b".to_owned())]);
    }
}
