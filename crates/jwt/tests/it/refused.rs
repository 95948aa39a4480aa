//! Tokens that must not be accepted, each for one reason.

use aito_jwt::{JwtConfigError, JwtKeys, JwtRefused, MAX_TOKEN_BYTES};
use serde_json::json;

use crate::support::{
    AUDIENCE, ISSUER, KeySetFile, LEEWAY, Signer, after, claims, claims_with, claims_without, encoded,
    judged, now, verifier,
};

/// A public token of the same secret, as services hand out to everybody's browser, has no audience of ours and no role.
#[test]
fn right_signature_of_the_shared_secret_alone_is_not_enough() {
    let signer = Signer::hs256();
    let (verifier, _) = signer.verifier();
    assert!(judged(&verifier, &signer.token(&claims())).is_ok());
    let public = json!({
        "role": "anon",
        "iss": ISSUER,
        "iat": now().timestamp(),
        "exp": after(1_000_000).timestamp(),
    });
    assert_eq!(judged(&verifier, &signer.token(&public)), Err(JwtRefused::Audience));
    for (claims, reason) in [
        (json!({}), JwtRefused::Issuer),
        (claims_without("iss"), JwtRefused::Issuer),
        (claims_with("iss", "https://elsewhere.example"), JwtRefused::Issuer),
        (claims_with("iss", format!("{ISSUER}/")), JwtRefused::Issuer),
        (claims_with("iss", json!([ISSUER])), JwtRefused::Issuer),
        (claims_without("aud"), JwtRefused::Audience),
        (claims_with("aud", "authenticated"), JwtRefused::Audience),
        (claims_with("aud", json!([])), JwtRefused::Audience),
        (claims_without("exp"), JwtRefused::Expiry),
        (claims_with("exp", "1900000300"), JwtRefused::Expiry),
        (claims_without("realm_access"), JwtRefused::Roles),
        (claims_with("realm_access", json!({})), JwtRefused::Roles),
        (claims_with("realm_access", json!({ "roles": [] })), JwtRefused::Roles),
        (claims_with("realm_access", json!({ "roles": "operator,auditor" })), JwtRefused::Roles),
        (claims_without("sub"), JwtRefused::Subject),
        (claims_with("sub", ""), JwtRefused::Subject),
        (claims_with("sub", "a\u{7}"), JwtRefused::Subject),
        (claims_with("sub", "x".repeat(201)), JwtRefused::Subject),
    ] {
        assert_eq!(judged(&verifier, &signer.token(&claims)), Err(reason), "{claims}");
    }
}

#[test]
fn what_a_signature_needs_besides_holds_for_every_kind_of_key() {
    for signer in Signer::all() {
        let (verifier, _file) = signer.verifier();
        for (claims, reason) in [
            (claims_without("iss"), JwtRefused::Issuer),
            (claims_without("aud"), JwtRefused::Audience),
            (claims_without("exp"), JwtRefused::Expiry),
            (claims_without("sub"), JwtRefused::Subject),
            (claims_without("realm_access"), JwtRefused::Roles),
        ] {
            assert_eq!(judged(&verifier, &signer.token(&claims)), Err(reason), "{}", signer.algorithm());
        }
    }
}

#[test]
fn token_expires_at_its_second_plus_the_leeway() {
    let signer = Signer::eddsa();
    let (verifier, _file) = signer.verifier();
    let token = signer.token(&claims_with("exp", now().timestamp()));
    let leeway = LEEWAY.as_secs() as i64;
    assert!(verifier.verify(&token, after(leeway - 1)).is_ok());
    assert_eq!(verifier.verify(&token, after(leeway)), Err(JwtRefused::Expired));
    assert_eq!(verifier.verify(&token, after(leeway + 1)), Err(JwtRefused::Expired));
}

#[test]
fn tokens_from_the_future_are_refused_beyond_the_leeway() {
    let signer = Signer::eddsa();
    let (verifier, _file) = signer.verifier();
    let leeway = LEEWAY.as_secs() as i64;
    for (name, reason) in [("nbf", JwtRefused::NotYet), ("iat", JwtRefused::IssuedLater)] {
        let token = signer.token(&claims_with(name, after(leeway).timestamp()));
        assert!(judged(&verifier, &token).is_ok(), "{name}");
        let token = signer.token(&claims_with(name, after(leeway + 1).timestamp()));
        assert_eq!(judged(&verifier, &token), Err(reason));
        assert!(verifier.verify(&token, after(1)).is_ok(), "{name}");
        assert_eq!(judged(&verifier, &signer.token(&claims_with(name, "soon"))), Err(JwtRefused::Times));
    }
}

#[test]
fn token_without_a_signature_is_refused_whatever_it_calls_its_algorithm() {
    for signer in Signer::all() {
        let (verifier, _file) = signer.verifier();
        for name in ["none", "None", "NONE", "nOnE", ""] {
            let unsigned =
                format!("{}.{}", encoded(json!({ "alg": name }).to_string()), encoded(claims().to_string()));
            assert_eq!(judged(&verifier, &format!("{unsigned}.")), Err(JwtRefused::Malformed));
            assert_eq!(judged(&verifier, &unsigned), Err(JwtRefused::Malformed));
            assert_eq!(judged(&verifier, &format!("{unsigned}.AAAA")), Err(JwtRefused::Algorithm), "{name}");
            let signed = signer.token_of(&json!({ "alg": name }), &claims());
            assert_eq!(judged(&verifier, &signed), Err(JwtRefused::Algorithm), "{name}");
        }
        let emptied = signer.token(&claims());
        let emptied = &emptied[..=emptied.rfind('.').unwrap()];
        assert_eq!(judged(&verifier, emptied), Err(JwtRefused::Malformed));
    }
}

/// The oldest forgery: the public key, which everybody has, used as an HMAC secret.
#[test]
fn public_key_used_as_a_shared_secret_is_refused() {
    for owner in [Signer::rs256(), Signer::es256(), Signer::eddsa()] {
        let jwk = owner.jwk("one");
        let file = KeySetFile::of(std::slice::from_ref(&jwk));
        let verifier = verifier(file.keys()).unwrap();
        let raw = jwk.get("n").or(jwk.get("x")).unwrap().as_str().unwrap();
        let secrets = [
            raw.as_bytes().to_vec(),
            base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, raw).unwrap(),
            jwk.to_string().into_bytes(),
            std::fs::read(file.path()).unwrap(),
            Vec::new(),
        ];
        for secret in secrets {
            let forger = Signer::Hs256(secret);
            for kid in [None, Some("one")] {
                let mut header = json!({ "alg": "HS256" });
                if let Some(kid) = kid {
                    header["kid"] = kid.into();
                }
                let honest = forger.token_of(&header, &claims());
                assert_eq!(judged(&verifier, &honest), Err(JwtRefused::Algorithm));
                header["alg"] = owner.algorithm().into();
                let lying = forger.token_of(&header, &claims());
                assert_eq!(judged(&verifier, &lying), Err(JwtRefused::Signature));
            }
        }
    }
}

#[test]
fn algorithm_is_the_key_s_and_never_the_token_s() {
    let all = Signer::all();
    for owner in &all {
        let (verifier, _file) = owner.verifier();
        for other in all.iter().filter(|other| other.algorithm() != owner.algorithm()) {
            assert_eq!(judged(&verifier, &other.token(&claims())), Err(JwtRefused::Algorithm));
            let lying = other.token_of(&json!({ "alg": owner.algorithm() }), &claims());
            assert_eq!(judged(&verifier, &lying), Err(JwtRefused::Signature));
        }
        for name in [
            "HS384", "HS512", "RS384", "RS512", "PS384", "PS512", "ES384", "ES512", "Ed25519", "novel",
            "hs256",
        ] {
            let token = owner.token_of(&json!({ "alg": name }), &claims());
            assert_eq!(judged(&verifier, &token), Err(JwtRefused::Algorithm), "{name}");
        }
    }
}

#[test]
fn signature_of_another_key_is_refused() {
    for (owner, other) in [
        (Signer::es256(), Signer::es256()),
        (Signer::eddsa(), Signer::eddsa()),
        (Signer::hs256(), Signer::Hs256(vec![1; 32])),
    ] {
        let (verifier, _file) = owner.verifier();
        assert_eq!(judged(&verifier, &other.token(&claims())), Err(JwtRefused::Signature));
    }
}

#[test]
fn key_that_is_unknown_or_not_named_is_refused() {
    let (a, b) = (Signer::eddsa(), Signer::eddsa());
    let both = KeySetFile::of(&[a.jwk("a"), b.jwk("b")]);
    let both = verifier(both.keys()).unwrap();
    assert_eq!(judged(&both, &a.token(&claims())), Err(JwtRefused::KeyNotNamed));
    assert_eq!(judged(&both, &a.token_named("c", &claims())), Err(JwtRefused::UnknownKey));
    assert_eq!(judged(&both, &a.token_named("", &claims())), Err(JwtRefused::UnknownKey));
    assert_eq!(judged(&both, &a.token_named("b", &claims())), Err(JwtRefused::Signature));
    let (one, _file) = a.verifier();
    assert_eq!(judged(&one, &a.token_named("two", &claims())), Err(JwtRefused::UnknownKey));
}

#[test]
fn key_that_a_token_brings_along_or_points_at_is_not_used() {
    let (owner, forger) = (Signer::eddsa(), Signer::eddsa());
    let (verifier, _file) = owner.verifier();
    for (name, value) in [
        ("jwk", forger.jwk("one")),
        ("jku", json!("https://forger.example/jwks.json")),
        ("x5u", json!("https://forger.example/chain.pem")),
        ("x5c", json!(["AAAA"])),
    ] {
        let mut header = json!({ "alg": "EdDSA" });
        header[name] = value;
        assert_eq!(
            judged(&verifier, &forger.token_of(&header, &claims())),
            Err(JwtRefused::Signature),
            "{name}"
        );
    }
}

#[test]
fn header_that_demands_something_is_refused() {
    let signer = Signer::eddsa();
    let (verifier, _file) = signer.verifier();
    for crit in [json!(["b64"]), json!(["exp"]), json!([]), json!(null), json!("exp")] {
        let token = signer.token_of(&json!({ "alg": "EdDSA", "crit": crit, "b64": true }), &claims());
        assert_eq!(judged(&verifier, &token), Err(JwtRefused::Critical), "{crit}");
    }
}

#[test]
fn token_for_another_use_is_refused_by_its_type() {
    let signer = Signer::eddsa();
    let (verifier, _file) = signer.verifier();
    for typ in ["logout+jwt", "dpop+jwt", "JWE", ""] {
        let token = signer.token_of(&json!({ "alg": "EdDSA", "typ": typ }), &claims());
        assert_eq!(judged(&verifier, &token), Err(JwtRefused::Type), "{typ}");
    }
}

#[test]
fn token_over_8_kib_is_refused_and_one_of_8_kib_is_not() {
    let signer = Signer::eddsa();
    let (verifier, _file) = signer.verifier();
    let sized = |padding: usize| signer.token(&claims_with("padding", "x".repeat(padding)));
    let fits = (0..MAX_TOKEN_BYTES).rev().find(|padding| sized(*padding).len() <= MAX_TOKEN_BYTES).unwrap();
    assert!(sized(fits).len() > MAX_TOKEN_BYTES - 2);
    assert!(judged(&verifier, &sized(fits)).is_ok());
    assert_eq!(judged(&verifier, &sized(fits + 1)), Err(JwtRefused::TooLong));
    assert_eq!(judged(&verifier, &"x".repeat(1 << 20)), Err(JwtRefused::TooLong));
}

#[test]
fn parts_that_are_missing_doubled_or_garbage_are_refused() {
    let signer = Signer::eddsa();
    let (verifier, _file) = signer.verifier();
    let token = signer.token(&claims());
    let parts: Vec<&str> = token.split('.').collect();
    let (header, content, signature) = (parts[0], parts[1], parts[2]);
    for text in [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        header.into(),
        format!("{header}.{content}"),
        format!("{token}.{signature}"),
        format!("{header}.{token}"),
        format!("{token}."),
        format!(".{token}"),
        format!("{header}..{signature}"),
        format!(".{content}.{signature}"),
        format!(" {token}"),
        format!("{token}\n"),
        format!("Bearer {token}"),
        format!("{header}=.{content}.{signature}"),
        format!("{header}.{content}.{signature}=="),
        format!("{header}.{content}.{signature}\u{e9}"),
        format!("{header}.{content}.+/{signature}"),
        format!("{}.{content}.{signature}", encoded("[]")),
        format!("{}.{content}.{signature}", encoded("{}")),
        format!("{}.{content}.{signature}", encoded("{\"alg\":1}")),
        format!("{}.{content}.{signature}", encoded("{\"alg\":\"EdDSA\",\"kid\":1}")),
        format!("{}.{content}.{signature}", encoded("{\"alg\":\"EdDSA\"} x")),
        format!("{}.{content}.{signature}", encoded([0xff, 0xfe])),
        format!("A.{content}.{signature}"),
    ] {
        assert_eq!(judged(&verifier, &text), Err(JwtRefused::Malformed), "{text}");
    }
}

#[test]
fn members_named_twice_are_refused_though_signed() {
    let signer = Signer::eddsa();
    let (verifier, _file) = signer.verifier();
    let good = claims().to_string();
    let header = "{\"alg\":\"EdDSA\"}";
    assert!(judged(&verifier, &signer.token_of_texts(header, &good)).is_ok());
    for header in
        ["{\"alg\":\"none\",\"alg\":\"EdDSA\"}", "{\"alg\":\"EdDSA\",\"kid\":\"one\",\"kid\":\"one\"}"]
    {
        assert_eq!(judged(&verifier, &signer.token_of_texts(header, &good)), Err(JwtRefused::Malformed));
    }
    for content in [
        good.replacen('{', &format!("{{\"aud\":\"{AUDIENCE}\","), 1),
        good.replacen('{', "{\"exp\":1,", 1),
        good.replace("{\"roles\"", "{\"roles\":[\"root\"],\"roles\""),
    ] {
        assert_ne!(content, good);
        assert_eq!(
            judged(&verifier, &signer.token_of_texts(header, &content)),
            Err(JwtRefused::Claims),
            "{content}"
        );
    }
}

#[test]
fn signed_content_that_is_no_object_is_refused() {
    let signer = Signer::eddsa();
    let (verifier, _file) = signer.verifier();
    for content in ["[]", "1", "null", "\"admin\"", "{", "{} {}", "not JSON"] {
        let token = signer.token_of_texts("{\"alg\":\"EdDSA\"}", content);
        assert_eq!(judged(&verifier, &token), Err(JwtRefused::Claims), "{content}");
    }
}

#[test]
fn short_secret_is_refused_before_any_token() {
    let refused = verifier(JwtKeys::Secret(vec![7; 31])).unwrap_err();
    assert!(matches!(refused, JwtConfigError::SecretTooShort { bytes: 31 }));
    assert!(verifier(JwtKeys::Secret(vec![7; 32])).is_ok());
}

#[test]
fn refusals_show_nothing_of_the_token() {
    let signer = Signer::eddsa();
    let (verifier, _file) = signer.verifier();
    let forged = judged(&verifier, &Signer::eddsa().token(&claims())).unwrap_err();
    let expired = judged(&verifier, &signer.token(&claims_with("exp", 1))).unwrap_err();
    assert_eq!(forged.to_string(), expired.to_string());
    assert_ne!(forged.reason(), expired.reason());
}
