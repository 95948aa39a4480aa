//! Reads URLs, once: what is checked here is what is connected to and sent.
//!
//! Invariants: the scheme is `https` or `http`; there is no user information; a host that stands for an address in
//! whatever form (decimal, octal, hexadecimal, full-width digits) is an address from here on. A redirect gives a
//! target of the same origin or a refusal.

use std::net::IpAddr;

use url::{Host, Position, Url};

use crate::error::{OutboundError, Refusal};

/// The longest URL, in bytes.
const MAX_URL: usize = 8 << 10;

/// Where a request goes.
#[derive(Clone)]
pub(crate) struct Target {
    url: Url,
    host: Place,
    port: u16,
}

/// A host.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// An address, however it was written.
    Address(IpAddr),
    /// A name to look up.
    Name(String),
}

impl Target {
    /// Reads what a caller wrote.
    pub(crate) fn parse(text: &str) -> Result<Self, OutboundError> {
        let invalid = |what| OutboundError::Invalid { what };
        if text.len() > MAX_URL {
            return Err(invalid("the URL is longer than 8192 bytes"));
        }
        // The parser would drop or rewrite these; nobody means them.
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(invalid("the URL has white space, control characters or backslashes"));
        }
        let (scheme, rest) = text.split_once("://").ok_or(invalid("the URL has no scheme and host"))?;
        if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
            return Err(Refusal::Scheme.into());
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.is_empty() {
            return Err(invalid("the URL has no host"));
        }
        if authority.contains('@') {
            return Err(Refusal::UserInfo.into());
        }
        Self::of(Url::parse(text).map_err(|_| invalid("the URL is not well formed"))?)
    }

    /// Where a redirect from here leads.
    pub(crate) fn redirected(&self, location: &str) -> Result<Self, OutboundError> {
        let nowhere = OutboundError::Protocol { what: "the redirect leads nowhere", sent: true };
        let Ok(url) = self.url.join(location) else { return Err(nowhere) };
        let differs = |what| Err(Refusal::Redirect(what).into());
        if url.scheme() != self.url.scheme() {
            return differs("scheme");
        }
        if url.host() != self.url.host() {
            return differs("host");
        }
        if url.port_or_known_default() != Some(self.port) {
            return differs("port");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return differs("user");
        }
        if url.as_str().len() > MAX_URL {
            return Err(nowhere);
        }
        Self::of(url)
    }

    fn of(url: Url) -> Result<Self, OutboundError> {
        let host = match url.host() {
            Some(Host::Ipv4(address)) => Place::Address(address.into()),
            Some(Host::Ipv6(address)) => Place::Address(IpAddr::V6(address).to_canonical()),
            Some(Host::Domain(name)) if !name.is_empty() => Place::Name(name.to_owned()),
            _ => return Err(OutboundError::Invalid { what: "the URL has no host" }),
        };
        match url.port_or_known_default() {
            Some(port) if port > 0 => Ok(Self { url, host, port }),
            _ => Err(OutboundError::Invalid { what: "the URL's port is not one" }),
        }
    }

    /// Whether it is reached without TLS.
    pub(crate) fn plain(&self) -> bool {
        self.url.scheme() != "https"
    }

    /// The host.
    pub(crate) fn host(&self) -> &Place {
        &self.host
    }

    /// The port; never 0.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Host, and port unless it is the scheme's own, as the `Host` header has them.
    pub(crate) fn authority(&self) -> &str {
        &self.url[Position::BeforeHost..Position::AfterPort]
    }

    /// Path and query, as the request line has them.
    pub(crate) fn path_and_query(&self) -> &str {
        &self.url[Position::BeforePath..Position::AfterQuery]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(url: &str) -> Place {
        Target::parse(url).unwrap_or_else(|error| panic!("{url}: {error}")).host
    }

    fn error(url: &str) -> String {
        Target::parse(url).err().unwrap_or_else(|| panic!("{url} was taken")).to_string()
    }

    #[test]
    fn every_form_of_an_address_is_that_address() {
        for (url, address) in [
            ("https://127.0.0.1/", "127.0.0.1"),
            ("https://127.1/", "127.0.0.1"),
            ("https://2130706433/", "127.0.0.1"),
            ("https://0x7f000001/", "127.0.0.1"),
            ("https://0x7f.0.0.0x1:8443/", "127.0.0.1"),
            ("https://0177.0.0.01/", "127.0.0.1"),
            ("https://017700000001/", "127.0.0.1"),
            ("https://127.0.0.1./", "127.0.0.1"),
            ("https://0/", "0.0.0.0"),
            ("https://%31%32%37.0.0.1/", "127.0.0.1"),
            ("https://１２７。０。０。１/", "127.0.0.1"),
            ("https://①②⑦.0.0.1/", "127.0.0.1"),
            ("https://2852039166/", "169.254.169.254"),
            ("https://[::1]/", "::1"),
            ("https://[0:0:0:0:0:0:0:1]/", "::1"),
            ("https://[::ffff:10.0.0.1]/", "10.0.0.1"),
            ("https://[::ffff:a00:1]:8443/", "10.0.0.1"),
            ("https://[64:ff9b::10.0.0.1]/", "64:ff9b::a00:1"),
        ] {
            let wanted = Place::Address(address.parse().unwrap());
            assert!(host(url) == wanted, "{url}");
        }
        for (url, name) in [
            ("https://Hooks.Example/x", "hooks.example"),
            ("HTTPS://hooks.example.:8443", "hooks.example."),
            ("https://bücher.example", "xn--bcher-kva.example"),
        ] {
            assert!(host(url) == Place::Name(name.to_owned()), "{url}");
        }
    }

    #[test]
    fn what_is_no_url_for_a_call_is_refused_with_the_reason() {
        for (url, reason) in [
            ("", "no scheme"),
            ("hooks.example/x", "no scheme"),
            ("https:hooks.example", "no scheme"),
            ("https:///hooks.example", "no host"),
            ("https://?x", "no host"),
            ("ftp://hooks.example/", "neither https nor http"),
            ("file:///etc/passwd", "neither https nor http"),
            ("javascript://x", "neither https nor http"),
            ("https://user@hooks.example/", "user information"),
            ("https://user:password@hooks.example/", "user information"),
            ("https://@hooks.example/", "user information"),
            ("https://:@hooks.example/", "user information"),
            ("https://good.example\\@hooks.example/", "backslashes"),
            ("https://hooks.example/a b", "white space"),
            (" https://hooks.example/", "white space"),
            ("https://hooks.\texample/", "white space"),
            ("https://hooks.example/\r\nX: y", "white space"),
            ("https://hooks.example:0/", "port"),
            ("https://hooks.example:65536/", "not well formed"),
            ("https://hooks.example:x/", "not well formed"),
            ("https://256.0.0.1/", "not well formed"),
            ("https://1.2.3.4.5/", "not well formed"),
            ("https://[fe80::1%25eth0]/", "not well formed"),
            ("https://[fe80::1%eth0]/", "not well formed"),
            ("https://[::1/", "not well formed"),
            ("https://%00/", "not well formed"),
            ("https://a%2fb/", "not well formed"),
        ] {
            let told = error(url);
            assert!(told.contains(reason), "{url}: {told}");
        }
        assert!(error(&format!("https://hooks.example/{}", "a".repeat(MAX_URL))).contains("longer"));
        assert!(host("https://hooks.example/@x?y=@z") == Place::Name("hooks.example".to_owned()));
    }

    #[test]
    fn request_line_and_host_are_taken_from_the_same_reading() {
        let target = Target::parse("https://Hooks.Example:443/a/../b?c=d#secret").unwrap();
        assert_eq!((target.authority(), target.path_and_query()), ("hooks.example", "/b?c=d"));
        let target = Target::parse("http://[::ffff:10.0.0.1]:81?q").unwrap();
        assert_eq!((target.authority(), target.path_and_query()), ("[::ffff:a00:1]:81", "/?q"));
        assert!(target.plain() && target.port() == 81);
    }

    #[test]
    fn a_redirect_stays_within_the_origin_or_says_how_it_does_not() {
        let from = Target::parse("https://hooks.example/a/b?c").unwrap();
        let to = |location| from.redirected(location).map(|target| target.path_and_query().to_owned());
        for (location, path) in [
            ("/x?y#z", "/x?y"),
            ("x", "/a/x"),
            ("https://HOOKS.example:443/x", "/x"),
            ("//hooks.example/x", "/x"),
            ("", "/a/b?c"),
        ] {
            assert_eq!(to(location).unwrap(), path, "{location}");
        }
        for (location, differs) in [
            ("http://hooks.example/", "scheme"),
            ("ftp://hooks.example/", "scheme"),
            ("file:///etc/passwd", "scheme"),
            ("https://hooks.example./", "host"),
            ("https://other.example/", "host"),
            ("//127.0.0.1/", "host"),
            ("\\\\other.example\\", "host"),
            ("https://169.254.169.254/latest", "host"),
            ("https://hooks.example:8443/", "port"),
            ("https://me:secret@hooks.example/", "user"),
        ] {
            let Err(OutboundError::Refused { why: Refusal::Redirect(told) }) = to(location) else {
                panic!("{location} was followed")
            };
            assert_eq!(told, differs, "{location}");
        }
        for nowhere in ["https://", "https://[::1", &format!("/{}", "a".repeat(MAX_URL))] {
            assert!(matches!(to(nowhere), Err(OutboundError::Protocol { .. })), "{nowhere}");
        }
    }
}
