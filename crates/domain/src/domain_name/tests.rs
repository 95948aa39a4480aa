//! Names of domains: one form, what is refused, what is covered.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use proptest::prelude::*;

use super::*;

fn name(text: &str) -> DomainName {
    text.parse().unwrap_or_else(|why| panic!("{text}: {why}"))
}

#[test]
fn names_are_kept_in_one_form() {
    for (given, kept) in [
        ("coingecko.com", "coingecko.com"),
        ("API.CoinGecko.COM.", "api.coingecko.com"),
        ("münchen.example", "xn--mnchen-3ya.example"),
        ("xn--mnchen-3ya.example", "xn--mnchen-3ya.example"),
        ("ＦＵＬＬＷＩＤＴＨ.example", "fullwidth.example"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("straße.example", "xn--strae-oqa.example"),
        ("r3---sn-abc.video.example", "r3---sn-abc.video.example"),
        ("a.b.c.d.e.example.co.uk", "a.b.c.d.e.example.co.uk"),
        ("intranet.corp", "intranet.corp"),
    ] {
        assert_eq!(name(given).as_str(), kept);
    }
}

#[test]
fn what_is_no_domain_is_refused_with_its_reason() {
    use BadDomainName as B;
    let long_label = format!("{}.com", "a".repeat(64));
    let long_name = format!("{}.com", vec!["a".repeat(60); 5].join("."));
    for (given, why) in [
        ("https://coingecko.com", B::Url),
        ("coingecko.com/api", B::Url),
        ("user@coingecko.com", B::Url),
        ("coingecko.com?x", B::Url),
        ("coingecko.com#x", B::Url),
        ("\\\\coingecko.com", B::Url),
        ("coingecko.com:443", B::Port),
        ("*.coingecko.com", B::Wildcard),
        ("127.0.0.1", B::Address),
        ("127.1", B::Address),
        ("2130706433", B::Address),
        ("0x7f.1", B::Address),
        ("0x7f000001", B::Address),
        ("１２７.0.0.1", B::Address),
        ("foo.0x7f", B::Address),
        ("1.2.3.4.", B::Address),
        ("::1", B::Address),
        ("[::1]", B::Address),
        ("2001:db8::1", B::Address),
        ("com", B::PublicSuffix),
        ("co.uk", B::PublicSuffix),
        ("CO.UK.", B::PublicSuffix),
        ("github.io", B::PublicSuffix),
        ("公司.cn", B::PublicSuffix),
        ("localhost", B::PublicSuffix),
        ("", B::Form),
        (".", B::Form),
        ("..", B::Form),
        (".example.com", B::Form),
        ("example..com", B::Form),
        ("example.com..", B::Form),
        (" example.com", B::Form),
        ("exa mple.com", B::Form),
        ("example.com\0", B::Form),
        ("exa\0mple.com", B::Form),
        ("-example.com", B::Form),
        ("example-.com", B::Form),
        ("exa_mple.com", B::Form),
        ("xn--a.com", B::Form),
        ("xn--zzzzzz999999.com", B::Form),
        ("xn--.com", B::Form),
        ("exam\u{202e}ple.com", B::Form),
        ("exam\u{200b}ple.com\u{0}", B::Form),
        (long_label.as_str(), B::Form),
        (long_name.as_str(), B::Form),
    ] {
        assert_eq!(given.parse::<DomainName>(), Err(why), "{given:?}");
    }
}

#[test]
fn what_only_looks_like_another_name_is_seen_to_be_one() {
    // Cyrillic a, Greek omicron, a dotless i: each another name than the Latin one, shown in punycode.
    for (given, looks_like) in
        [("аpple.com", "apple.com"), ("gοogle.com", "google.com"), ("wıkipedia.org", "wikipedia.org")]
    {
        let shown = name(given);
        assert!(shown.as_str().starts_with("xn--"), "{shown}");
        assert!(!name(looks_like).covers(&shown) && !shown.covers(&name(looks_like)));
    }
}

#[test]
fn an_entry_covers_itself_and_its_subdomains_and_no_more() {
    let entry = name("coingecko.com");
    for inside in ["coingecko.com", "api.coingecko.com", "a.b.coingecko.com"] {
        assert!(entry.covers(&name(inside)), "{inside}");
    }
    for outside in ["notcoingecko.com", "coingecko.com.evil.example", "coingecko.co", "gecko.com"] {
        assert!(!entry.covers(&name(outside)), "{outside}");
    }
    assert_eq!(
        name("a.b.example.co.uk").coverers(),
        ["a.b.example.co.uk", "b.example.co.uk", "example.co.uk"].map(name)
    );
    assert_eq!(name("example.com").coverers(), [name("example.com")]);
    assert_eq!(name("me.github.io").coverers(), [name("me.github.io")]);
}

#[test]
fn what_was_stored_is_read_whatever_is_a_public_suffix_by_now() {
    for kept in ["coingecko.com", "co.uk", "github.io", "xn--mnchen-3ya.example"] {
        assert_eq!(DomainName::stored(kept.to_owned()).unwrap().as_str(), kept);
    }
    for bad in ["", "com", "A.com", "a..b", "a.b.", "ä.com", "a b.com", "a.com\0"] {
        assert_eq!(DomainName::stored(bad.to_owned()), Err(BadDomainName::Form), "{bad:?}");
    }
}

fn labels() -> impl Strategy<Value = String> {
    prop::collection::vec("[a-zA-Z0-9äßéжあ中-]{1,12}", 1..5).prop_map(|labels| labels.join("."))
}

proptest! {
    #![proptest_config(crate::tests::cases(4000))]

    #[test]
    fn the_form_of_a_name_is_its_own_form(text in prop_oneof![labels(), any::<String>()]) {
        if let Ok(once) = text.parse::<DomainName>() {
            prop_assert_eq!(once.as_str().parse::<DomainName>(), Ok(once.clone()));
            prop_assert_eq!(DomainName::stored(once.to_string()), Ok(once.clone()));
            let shouted = once.as_str().to_uppercase() + ".";
            prop_assert_eq!(shouted.parse::<DomainName>(), Ok(once.clone()));
            prop_assert!(once.as_str().is_ascii() && once.as_str().len() <= 253);
            prop_assert!(!once.as_str().ends_with('.') && !once.as_str().contains([':', '/', '*', '\0', ' ']));
        }
    }

    #[test]
    fn matching_never_crosses_a_label(front in "[a-z0-9]{1,8}", a in labels(), b in labels()) {
        if let (Ok(a), Ok(b)) = (a.parse::<DomainName>(), b.parse::<DomainName>()) {
            let parts = |name: &DomainName| name.as_str().split('.').map(str::to_owned).collect::<Vec<_>>();
            prop_assert_eq!(a.covers(&b), parts(&b).ends_with(&parts(&a)));
            prop_assert_eq!(b.coverers().contains(&a), a.covers(&b));
            prop_assert!(a.covers(&a));
            if let Ok(glued) = format!("{front}{a}").parse::<DomainName>() {
                prop_assert!(!a.covers(&glued), "{} covers {}", a, glued);
            }
            if let Ok(sub) = format!("{front}.{a}").parse::<DomainName>() {
                prop_assert!(a.covers(&sub), "{} does not cover {}", a, sub);
            }
        }
    }
}
