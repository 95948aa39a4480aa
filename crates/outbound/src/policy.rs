//! What a caller may reach and how much of it: data with safe defaults.
//!
//! Invariants: an address that is not public is refused unless a network of the policy holds it; some are refused
//! whatever the policy says. A network that could have no effect, or more than its author can have meant, is no
//! policy.

use std::{fmt, net::IpAddr, str::FromStr, time::Duration};

use crate::{address, error::Refusal};

/// What may be reached, and the limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Networks that may be reached although they are not public; over plain HTTP too. None by default.
    ///
    /// A network that holds link-local addresses opens the place where a cloud keeps its machines' credentials.
    pub allowed_private: Vec<Network>,
    /// Whether public addresses may be reached over plain HTTP; they may not by default.
    pub plain_http: bool,
    /// How long one connection may take: the look-up of the name, TCP and TLS. Not zero; 5 s by default.
    pub connect_timeout: Duration,
    /// How long a call may take, with redirects, up to the last byte of the body. Not zero; 30 s by default.
    pub timeout: Duration,
    /// The longest body that is read, in bytes as they come over the wire; 4 MiB by default.
    pub max_body: usize,
    /// How many redirects are followed, within one origin; 3 by default.
    pub max_redirects: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            allowed_private: Vec::new(),
            plain_http: false,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            max_body: 4 << 20,
            max_redirects: 3,
        }
    }
}

/// Why something is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A time-out of zero lets nothing through.
    #[error("{0} must not be zero")]
    Zero(&'static str),
    /// The network is public, so that allowing it means nothing.
    #[error("{0} is public and needs no permission")]
    Public(Network),
    /// The network begins with addresses that are never allowed.
    #[error("{network} cannot be allowed: it is {what}")]
    Never {
        /// The network.
        network: Network,
        /// What it is.
        what: &'static str,
    },
}

impl Policy {
    /// Whether the policy makes sense.
    pub(crate) fn check(&self) -> Result<(), PolicyError> {
        for (name, time) in [("connect_timeout", self.connect_timeout), ("timeout", self.timeout)] {
            if time.is_zero() {
                return Err(PolicyError::Zero(name));
            }
        }
        for network in &self.allowed_private {
            match address::special(network.base) {
                None => return Err(PolicyError::Public(*network)),
                Some(special) if !special.allowable => {
                    return Err(PolicyError::Never { network: *network, what: special.name });
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Whether no address at all could be reached by plain HTTP.
    pub(crate) fn never_plain(&self) -> bool {
        !self.plain_http && self.allowed_private.is_empty()
    }

    /// Whether this address may be connected to.
    pub(crate) fn judge(&self, address: IpAddr, plain: bool) -> Result<(), Refusal> {
        match address::special(address) {
            None if plain && !self.plain_http => Err(Refusal::PlainHttp),
            None => Ok(()),
            Some(special) if special.allowable && self.allows(address) => Ok(()),
            Some(special) => Err(Refusal::Address(special.name)),
        }
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.allowed_private.iter().any(|network| network.contains(address))
    }
}

/// Addresses that share their first bits, as `10.0.0.0/8` or `fd12:3456::/32`; one address alone is written as such.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

/// A text or pair that is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Not `address/bits`.
    #[error(
        "not a network: it must be an address, or an address with the number of its leading bits, as 10.0.0.0/8"
    )]
    Form,
    /// More leading bits than the address has.
    #[error("the number of leading bits is past the address's end: it is at most {0}")]
    Prefix(u8),
    /// The address has bits after those that are to be shared, so it is not clear what was meant.
    #[error("the address has bits after the leading ones")]
    Bits,
    /// IPv4 written as IPv6.
    #[error("the network is an IPv4 one and must be written so")]
    Mapped,
}

impl Network {
    /// The addresses that share the first `prefix` bits of `base`, 0 to 32 or 128.
    ///
    /// # Errors
    /// More bits than there are, bits of `base` after them, or IPv4 in the form of IPv6.
    pub fn new(base: IpAddr, prefix: u8) -> Result<Self, NetworkError> {
        let width = if base.is_ipv4() { 32 } else { 128 };
        if prefix > width {
            return Err(NetworkError::Prefix(width));
        }
        if base.to_canonical() != base {
            return Err(NetworkError::Mapped);
        }
        let rest = match base {
            IpAddr::V4(base) => u128::from(base.to_bits()).checked_shl(96 + u32::from(prefix)),
            IpAddr::V6(base) => base.to_bits().checked_shl(u32::from(prefix)),
        };
        if rest.unwrap_or(0) == 0 { Ok(Self { base, prefix }) } else { Err(NetworkError::Bits) }
    }

    /// Whether the address is one of these; an IPv4 address in the form of IPv6 counts as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address::shares_prefix(self.base, address.to_canonical(), self.prefix)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) if prefix.bytes().all(|byte| byte.is_ascii_digit()) => (base, Some(prefix)),
            Some(_) => return Err(NetworkError::Form),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| NetworkError::Form)?;
        let width = if base.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some("") => return Err(NetworkError::Form),
            Some(prefix) => prefix.parse().map_err(|_| NetworkError::Prefix(width))?,
            None => width,
        };
        Self::new(base, prefix)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn allowing(text: &str) -> Policy {
        Policy { allowed_private: vec![network(text)], ..Policy::default() }
    }

    #[test]
    fn networks_are_read_and_written() {
        for (text, written) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("127.0.0.1", "127.0.0.1/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("fd12::/16", "fd12::/16"),
            ("::1", "::1/128"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(text).to_string(), written);
        }
        for (text, error) in [
            ("", NetworkError::Form),
            ("ten", NetworkError::Form),
            ("10.0.0.0/", NetworkError::Form),
            ("10.0.0.0/+8", NetworkError::Form),
            ("10.0.0.0/8/8", NetworkError::Form),
            ("10.0.0.0/255.0.0.0", NetworkError::Form),
            ("fe80::1%lo/10", NetworkError::Form),
            ("10.0.0.0/33", NetworkError::Prefix(32)),
            ("10.0.0.0/999", NetworkError::Prefix(32)),
            ("fd12::/129", NetworkError::Prefix(128)),
            ("10.0.0.1/8", NetworkError::Bits),
            ("fd12::1/64", NetworkError::Bits),
            ("::ffff:10.0.0.0/104", NetworkError::Mapped),
        ] {
            assert_eq!(text.parse::<Network>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        let holds = |text: &str, address: &str| network(text).contains(address.parse().unwrap());
        assert!(holds("10.0.0.0/8", "10.255.255.255") && holds("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!holds("10.0.0.0/8", "11.0.0.0") && !holds("10.0.0.0/8", "::10.0.0.1"));
        assert!(holds("127.0.0.1", "127.0.0.1") && !holds("127.0.0.1", "127.0.0.2"));
        assert!(holds("0.0.0.0/0", "255.255.255.255") && !holds("0.0.0.0/0", "::"));
        assert!(holds("fd12::/16", "fd12:ffff::1") && !holds("fd12::/16", "fd13::"));
        assert!(holds("::/0", "ffff::1") && !holds("::/0", "1.2.3.4"));
    }

    #[test]
    fn a_policy_that_lets_nothing_through_or_too_much_is_refused() {
        let zero = Policy { timeout: Duration::ZERO, ..Policy::default() };
        assert_eq!(zero.check(), Err(PolicyError::Zero("timeout")));
        let zero = Policy { connect_timeout: Duration::ZERO, ..Policy::default() };
        assert_eq!(zero.check(), Err(PolicyError::Zero("connect_timeout")));
        assert_eq!(allowing("8.8.8.0/24").check(), Err(PolicyError::Public(network("8.8.8.0/24"))));
        for never in ["0.0.0.0/0", "::/0", "224.0.0.0/4", "255.255.255.255", "2002::/16", "64:ff9b:1::/48"] {
            assert!(matches!(allowing(never).check(), Err(PolicyError::Never { .. })), "{never}");
        }
        for fine in ["10.0.0.0/8", "127.0.0.0/8", "::1", "fd00::/8", "169.254.0.0/16"] {
            assert_eq!(allowing(fine).check(), Ok(()), "{fine}");
        }
        assert_eq!(Policy::default().check(), Ok(()));
    }

    #[test]
    fn what_is_allowed_may_be_plain_and_the_public_may_if_the_policy_says_so() {
        let judge = |policy: &Policy, address: &str, plain| policy.judge(address.parse().unwrap(), plain);
        let private = allowing("10.0.0.0/8");
        assert_eq!(judge(&private, "10.1.2.3", true), Ok(()));
        assert_eq!(judge(&private, "::ffff:10.1.2.3", true), Ok(()));
        assert_eq!(judge(&private, "10.1.2.3", false), Ok(()));
        assert_eq!(judge(&private, "1.1.1.1", false), Ok(()));
        assert_eq!(judge(&private, "1.1.1.1", true), Err(Refusal::PlainHttp));
        assert_eq!(judge(&private, "192.168.0.1", false), Err(Refusal::Address("private")));
        let plain = Policy { plain_http: true, ..Policy::default() };
        assert_eq!(judge(&plain, "1.1.1.1", true), Ok(()));
        assert_eq!(judge(&plain, "10.0.0.1", true), Err(Refusal::Address("private")));
    }

    #[test]
    fn a_network_that_reaches_over_what_is_never_allowed_does_not_open_it() {
        let wide = allowing("192.0.0.0/2");
        assert_eq!(wide.check(), Ok(()), "it begins with addresses that may be allowed");
        assert_eq!(wide.judge("192.168.0.1".parse().unwrap(), false), Ok(()));
        for never in ["224.0.0.1", "255.255.255.255", "192.88.99.1"] {
            assert!(wide.judge(never.parse().unwrap(), false).is_err(), "{never}");
        }
    }

    proptest! {
        #[test]
        fn without_a_network_no_special_address_is_reached(bits in any::<u32>(), plain in any::<bool>()) {
            let address = IpAddr::V4(bits.into());
            let policy = Policy { plain_http: true, ..Policy::default() };
            prop_assert_eq!(policy.judge(address, plain).is_ok(), address::special(address).is_none());
        }

        #[test]
        fn a_written_network_reads_back(bits in any::<u128>(), prefix in 0_u8..=128) {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            let base = IpAddr::V6((bits & mask).into());
            if let Ok(network) = Network::new(base, prefix) {
                prop_assert_eq!(network.to_string().parse::<Network>(), Ok(network));
                prop_assert!(network.contains(base));
            }
        }
    }
}
