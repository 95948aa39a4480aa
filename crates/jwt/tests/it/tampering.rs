//! Whatever is changed in a valid token, it is refused.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

use crate::support::{Signer, claims, judged};

/// Every bit of every byte, so that nothing is left to chance.
#[test]
fn token_with_any_bit_flipped_is_refused() {
    for signer in Signer::all() {
        let (verifier, _file) = signer.verifier();
        let token = signer.token_named("one", &claims());
        assert!(judged(&verifier, &token).is_ok());
        for at in 0..token.len() {
            // The eighth bit would leave the text no text.
            for bit in 0..7 {
                let mut bytes = token.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let text = String::from_utf8(bytes).unwrap();
                assert!(judged(&verifier, &text).is_err(), "{}: bit {bit} of {at}", signer.algorithm());
            }
        }
    }
}

#[test]
fn token_with_a_byte_left_out_or_doubled_or_cut_off_is_refused() {
    for signer in Signer::all() {
        let (verifier, _file) = signer.verifier();
        let token = signer.token_named("one", &claims());
        for at in 0..token.len() {
            let (before, after) = token.split_at(at);
            for text in
                [format!("{before}{}", &after[1..]), format!("{before}{}{after}", &after[..1]), before.into()]
            {
                // Leaving out one of two equal neighbours is done twice, never nothing.
                assert_ne!(text, token);
                assert!(judged(&verifier, &text).is_err(), "{}: {at}", signer.algorithm());
            }
        }
    }
}

#[test]
fn parts_of_two_valid_tokens_do_not_go_together() {
    for signer in Signer::all() {
        let (verifier, _file) = signer.verifier();
        let mut other = claims();
        other["sub"] = "somebody else".into();
        let (one, two) = (signer.token(&claims()), signer.token(&other));
        let (one, two): (Vec<&str>, Vec<&str>) = (one.split('.').collect(), two.split('.').collect());
        for mixed in [[one[0], two[1], one[2]], [one[0], one[1], two[2]]] {
            assert!(judged(&verifier, &mixed.join(".")).is_err(), "{}", signer.algorithm());
        }
    }
}

fn cases() -> Config {
    Config {
        cases: 512,
        rng_seed: RngSeed::Fixed(20_261_126),
        failure_persistence: None,
        ..Config::default()
    }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn any_text_is_refused_without_a_panic(text in "\\PC{0,200}", parts in prop::array::uniform3("[A-Za-z0-9_-]{0,80}")) {
        let (verifier, _) = Signer::hs256().verifier();
        prop_assert!(judged(&verifier, &text).is_err());
        prop_assert!(judged(&verifier, &parts.join(".")).is_err());
    }

    #[test]
    fn any_signed_content_ends_as_claims_or_as_a_refusal(header in ".{0,60}", content in ".{0,120}", exp in any::<f64>()) {
        let signer = Signer::hs256();
        let (verifier, _) = signer.verifier();
        prop_assert!(judged(&verifier, &signer.token_of_texts(&header, &content)).is_err());
        let mut claims = claims();
        claims["exp"] = exp.into();
        let _ = judged(&verifier, &signer.token(&claims));
    }
}
