//! Sorts addresses into public ones and those that stand for a place that callers have no business with.
//!
//! Sources: the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and its successors), RFC 5771 and
//! RFC 4291 section 2.7 for multicast, RFC 3879 for site-local addresses.
//!
//! Invariants: an address that carries an IPv4 address is never kinder judged than that one. Of IPv6, what is not
//! known to be public is not: everything outside of 2000::/3 is refused, with the translation prefix as the one exception.
//! A network's own translation prefix (RFC 6052) cannot be told from a public one; keeping it away from private
//! addresses is its operator's work.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A range that is not public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Special {
    /// What it is, for messages: reads after "the address is".
    pub(crate) name: &'static str,
    /// Whether a policy may allow it. What may not is no host, or hides another address.
    pub(crate) allowable: bool,
}

/// What is special about an address; `None` for a public one.
pub(crate) fn special(address: IpAddr) -> Option<Special> {
    match address.to_canonical() {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

/// Whether the first `prefix` bits of both are the same. Addresses of two families never match.
pub(crate) fn shares_prefix(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let same = |difference: u128, width: u32| {
        let rest = width.saturating_sub(u32::from(prefix));
        difference.checked_shr(rest).unwrap_or(0) == 0
    };
    match (one, other) {
        (IpAddr::V4(one), IpAddr::V4(other)) => same(u128::from(one.to_bits() ^ other.to_bits()), 32),
        (IpAddr::V6(one), IpAddr::V6(other)) => same(one.to_bits() ^ other.to_bits(), 128),
        _ => false,
    }
}

const fn host(name: &'static str) -> Special {
    Special { name, allowable: true }
}

const fn never(name: &'static str) -> Special {
    Special { name, allowable: false }
}

/// The first row that fits counts.
const V4: &[([u8; 4], u8, Special)] = &[
    ([0, 0, 0, 0], 8, never("of this network")),
    ([10, 0, 0, 0], 8, host("private")),
    ([100, 64, 0, 0], 10, host("shared by a provider's customers")),
    ([127, 0, 0, 0], 8, host("loopback")),
    // The virtual machine agents of Azure; a public address to the registry, and yet only seen from within.
    ([168, 63, 129, 16], 32, host("a cloud's own")),
    ([169, 254, 0, 0], 16, host("link-local")),
    ([172, 16, 0, 0], 12, host("private")),
    ([192, 0, 0, 0], 24, host("for protocols")),
    ([192, 0, 2, 0], 24, host("for documentation")),
    ([192, 88, 99, 0], 24, never("a 6to4 relay")),
    ([192, 168, 0, 0], 16, host("private")),
    ([198, 18, 0, 0], 15, host("for benchmarks")),
    ([198, 51, 100, 0], 24, host("for documentation")),
    ([203, 0, 113, 0], 24, host("for documentation")),
    ([224, 0, 0, 0], 4, never("multicast")),
    ([255, 255, 255, 255], 32, never("broadcast")),
    ([240, 0, 0, 0], 4, host("reserved")),
];

/// The first row that fits counts.
const V6: &[([u16; 8], u8, Special)] = &[
    ([0; 8], 128, never("unspecified")),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, host("loopback")),
    ([0; 8], 96, never("IPv4 in IPv6")),
    ([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, never("IPv4 in IPv6")),
    ([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, never("translated to IPv4")),
    ([0x100, 0, 0, 0, 0, 0, 0, 0], 64, never("discarded")),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, never("a Teredo tunnel")),
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, host("for protocols")),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, host("for documentation")),
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, never("a 6to4 tunnel")),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, host("for documentation")),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, host("private")),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, host("link-local")),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, host("site-local")),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, never("multicast")),
];

/// Global unicast: the only part of IPv6 from which public addresses are given.
const UNICAST: Ipv6Addr = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0);

/// Well-known translation (RFC 6052): its last 32 bits are an IPv4 address, which must be a public one.
const TRANSLATION: Ipv6Addr = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0);

fn special_v4(address: Ipv4Addr) -> Option<Special> {
    let fits = |base: [u8; 4], prefix| shares_prefix(address.into(), Ipv4Addr::from(base).into(), prefix);
    V4.iter().find(|(base, prefix, _)| fits(*base, *prefix)).map(|(.., special)| *special)
}

fn special_v6(address: Ipv6Addr) -> Option<Special> {
    let within = |base: Ipv6Addr, prefix| shares_prefix(address.into(), base.into(), prefix);
    if within(TRANSLATION, 96) {
        let [.., a, b, c, d] = address.octets();
        return special_v4(Ipv4Addr::new(a, b, c, d)).map(|_| never("translated to IPv4"));
    }
    let known = V6.iter().find(|(base, prefix, _)| within(Ipv6Addr::from(*base), *prefix));
    match known {
        Some((.., special)) => Some(*special),
        None if within(UNICAST, 3) => None,
        None => Some(host("reserved")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(address: &str) -> Option<&'static str> {
        special(address.parse().unwrap()).map(|special| special.name)
    }

    fn allowable(address: IpAddr) -> bool {
        special(address).is_none_or(|special| special.allowable)
    }

    #[test]
    fn each_range_is_known_from_its_first_to_its_last_address() {
        for (first, last, what) in [
            ("0.0.0.0", "0.255.255.255", "of this network"),
            ("10.0.0.0", "10.255.255.255", "private"),
            ("100.64.0.0", "100.127.255.255", "shared by a provider's customers"),
            ("127.0.0.0", "127.255.255.255", "loopback"),
            ("168.63.129.16", "168.63.129.16", "a cloud's own"),
            ("169.254.0.0", "169.254.255.255", "link-local"),
            ("172.16.0.0", "172.31.255.255", "private"),
            ("192.0.0.0", "192.0.0.255", "for protocols"),
            ("192.0.2.0", "192.0.2.255", "for documentation"),
            ("192.88.99.0", "192.88.99.255", "a 6to4 relay"),
            ("192.168.0.0", "192.168.255.255", "private"),
            ("198.18.0.0", "198.19.255.255", "for benchmarks"),
            ("198.51.100.0", "198.51.100.255", "for documentation"),
            ("203.0.113.0", "203.0.113.255", "for documentation"),
            ("224.0.0.0", "239.255.255.255", "multicast"),
            ("240.0.0.0", "255.255.255.254", "reserved"),
            ("255.255.255.255", "255.255.255.255", "broadcast"),
            ("::", "::", "unspecified"),
            ("::1", "::1", "loopback"),
            ("::2", "::ffff:ffff", "IPv4 in IPv6"),
            ("::ffff:0:0:0", "::ffff:0:ffff:ffff", "IPv4 in IPv6"),
            ("64:ff9b:1::", "64:ff9b:1:ffff:ffff:ffff:ffff:ffff", "translated to IPv4"),
            ("100::", "100::ffff:ffff:ffff:ffff", "discarded"),
            ("100:0:0:1::", "1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"),
            ("2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "a Teredo tunnel"),
            ("2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", "for protocols"),
            ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "for documentation"),
            ("2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "a 6to4 tunnel"),
            ("3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "for documentation"),
            ("4000::", "fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"),
            ("5f00::", "5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "reserved"),
            ("fc00::", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "private"),
            ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "link-local"),
            ("fec0::", "feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "site-local"),
            ("ff00::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "multicast"),
        ] {
            assert_eq!((name(first), name(last)), (Some(what), Some(what)), "{first} to {last}");
        }
    }

    #[test]
    fn neighbours_of_the_ranges_are_public() {
        for address in [
            "1.0.0.0",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "2000::",
            "2001:200::",
            "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db9::",
            "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2003::",
            "3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff:1000::",
            "2606:4700::1111",
        ] {
            assert_eq!(name(address), None, "{address}");
        }
    }

    #[test]
    fn places_where_clouds_keep_credentials_are_refused() {
        for address in ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "192.0.0.192", "168.63.129.16"]
        {
            assert!(name(address).is_some(), "{address}");
        }
    }

    #[test]
    fn a_private_address_in_whatever_wrapping_is_never_to_be_had() {
        for address in [
            "::10.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::10.0.0.1",
            "2002:a00:1::",
            "2002:7f00:1::1",
            "2001:0:4136:e378:8000:63bf:f5ff:fffe",
        ] {
            assert!(!allowable(address.parse().unwrap()), "{address}");
        }
        assert_eq!(name("64:ff9b::8.8.8.8"), None, "a public address through the network's translator");
        assert_eq!(name("::ffff:10.0.0.1"), Some("private"));
    }

    fn any_v4() -> impl Strategy<Value = Ipv4Addr> {
        // Half of them from the table, where the edges are.
        prop_oneof![
            any::<u32>().prop_map(Ipv4Addr::from),
            (0..V4.len(), any::<u32>()).prop_map(|(row, bits)| {
                let (base, prefix, _) = V4[row];
                let free = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
                Ipv4Addr::from_bits(Ipv4Addr::from(base).to_bits() | (bits & free))
            }),
        ]
    }

    proptest! {
        #[test]
        fn mapped_equals_plain(plain in any_v4()) {
            prop_assert_eq!(special(plain.into()), special(plain.to_ipv6_mapped().into()));
        }

        #[test]
        fn no_wrapping_is_kinder_than_what_it_wraps(plain in any_v4()) {
            let [a, b, c, d] = plain.octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            for wrapped in [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 1, 2, 0, 0, !high, !low),
            ] {
                prop_assume!(wrapped != Ipv6Addr::LOCALHOST);
                if special(plain.into()).is_some() {
                    prop_assert!(!allowable(wrapped.into()), "{plain} in {wrapped}");
                }
            }
        }

        #[test]
        fn what_the_standard_library_knows_to_be_special_is(plain in any_v4(), bits in any::<u128>()) {
            let known = plain.is_unspecified() || plain.is_loopback() || plain.is_private() || plain.is_link_local()
                || plain.is_multicast() || plain.is_broadcast() || plain.is_documentation();
            prop_assert!(!known || special(plain.into()).is_some(), "{plain}");
            let six = Ipv6Addr::from_bits(bits);
            let known = six.is_multicast() || six.is_unique_local() || six.is_unicast_link_local();
            prop_assert!(!known || special(six.into()).is_some(), "{six}");
        }
    }
}
