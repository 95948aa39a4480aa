//! Names of internet domains, in the one form in which they are kept, compared and shown.
//!
//! Invariants: a [`DomainName`] is lower-case ASCII without a final dot, at most 253 characters of labels of 1 to 63
//! (RFC 1035, section 2.3.4), non-ASCII in punycode (UTS 46, non-transitional), so that what only looks like another
//! name is seen to be one; it is no address, and it can be registered by somebody: no public suffix when it was parsed. Parsing
//! is the only way in for what is given; what was stored is read back as it is. Parsing what it prints gives the same
//! again.

use std::{fmt, str::FromStr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Serialize};

/// The longest name that is looked at, in bytes of what was given; longer ones have no valid form.
const MAX_GIVEN: usize = 2048;

/// A domain's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainName(String);

/// Why a text is no [`DomainName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadDomainName {
    /// It has a scheme, path, user, or other parts of a URL.
    #[error("must be a domain's name alone, not a URL")]
    Url,
    /// It has a port.
    #[error("must be a domain's name without a port")]
    Port,
    /// It has a `*`.
    #[error("must have no wildcard: an entry covers its subdomains anyway")]
    Wildcard,
    /// It is an address, or would be taken for one.
    #[error("must be a domain's name, not an IP address")]
    Address,
    /// It is one under which others register names.
    #[error("must not be a public suffix, such as com or co.uk: it would cover domains of strangers")]
    PublicSuffix,
    /// Anything else: lengths, characters, punycode.
    #[error("must be a valid domain name of at most 253 characters, as internationalised names are written")]
    Form,
}

impl DomainName {
    /// A name that was kept in its form before: the list of public suffixes may have changed since, and what is stored
    /// must be read all the same.
    ///
    /// # Errors
    /// [`BadDomainName::Form`] for what is in no name's normal form.
    pub fn stored(text: String) -> Result<Self, BadDomainName> {
        let label = |label: &str| {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            (1..=63).contains(&label.len()) && label.bytes().all(plain)
        };
        let good = text.len() <= 253 && text.contains('.') && text.split('.').all(label);
        if good { Ok(Self(text)) } else { Err(BadDomainName::Form) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether an entry of this name covers `other`: it is the same, or a subdomain.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        other.0.strip_suffix(&self.0).is_some_and(|front| front.is_empty() || front.ends_with('.'))
    }

    /// Every name whose entry would cover this one: itself, then its parents from the nearest on, down to what
    /// somebody registered.
    #[must_use]
    pub fn coverers(&self) -> Vec<Self> {
        let mut names = vec![self.clone()];
        let mut rest = self.0.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            if psl::domain_str(parent).is_none() {
                break;
            }
            names.push(Self(parent.to_owned()));
            rest = parent;
        }
        names
    }
}

impl FromStr for DomainName {
    type Err = BadDomainName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > MAX_GIVEN {
            return Err(BadDomainName::Form);
        }
        if text.contains(['/', '\\', '@', '?', '#']) {
            return Err(BadDomainName::Url);
        }
        if text.contains('*') {
            return Err(BadDomainName::Wildcard);
        }
        if text.starts_with('[') || text.parse::<std::net::IpAddr>().is_ok() {
            return Err(BadDomainName::Address);
        }
        if text.contains(':') {
            return Err(BadDomainName::Port);
        }
        let text = text.strip_suffix('.').unwrap_or(text);
        let ascii = Uts46::new()
            .to_ascii(text.as_bytes(), AsciiDenyList::STD3, Hyphens::CheckFirstLast, DnsLength::Verify)
            .map_err(|_| BadDomainName::Form)?
            .into_owned();
        // What ends in a number is an address to whoever resolves it (WHATWG URL, section 3.5).
        let last = ascii.rsplit('.').next().unwrap_or_default();
        let hex = last.strip_prefix("0x").is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        if hex || last.bytes().all(|b| b.is_ascii_digit()) {
            return Err(BadDomainName::Address);
        }
        if psl::domain_str(&ascii).is_none() {
            return Err(BadDomainName::PublicSuffix);
        }
        Ok(Self(ascii))
    }
}

impl TryFrom<String> for DomainName {
    type Error = BadDomainName;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::stored(text)
    }
}

impl From<DomainName> for String {
    fn from(value: DomainName) -> Self {
        value.0
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[path = "domain_name/tests.rs"]
mod tests;
