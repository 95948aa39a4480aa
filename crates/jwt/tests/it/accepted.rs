//! Good tokens of every kind, and the published examples of the standards.

use aito_jwt::JwtRefused;
use serde_json::json;

use crate::support::{KeySetFile, Signer, after, claims, claims_with, claims_without, judged, verifier};

#[test]
fn good_token_of_every_kind_is_accepted() {
    for signer in Signer::all() {
        let (verifier, _file) = signer.verifier();
        let claims = judged(&verifier, &signer.token(&claims())).unwrap();
        assert_eq!(claims.subject, "8b0e1c9a");
        assert_eq!(claims.roles, ["operator", "auditor"]);
        assert_eq!(claims.expires_at, after(300));
    }
}

#[test]
fn token_chooses_its_key_by_name_among_several() {
    let signers = [Signer::rs256(), Signer::es256(), Signer::eddsa(), Signer::eddsa()];
    let names = ["a", "b", "c", "d"];
    let keys: Vec<_> = signers.iter().zip(names).map(|(signer, name)| signer.jwk(name)).collect();
    let file = KeySetFile::of(&keys);
    let verifier = verifier(file.keys()).unwrap();
    for (signer, name) in signers.iter().zip(names) {
        assert!(judged(&verifier, &signer.token_named(name, &claims())).is_ok(), "{name}");
    }
}

#[test]
fn one_audience_and_one_role_may_be_plain_texts_and_times_may_be_left_out() {
    let signer = Signer::eddsa();
    let (verifier, _file) = signer.verifier();
    for claims in [
        claims_with("aud", "aito"),
        claims_with("realm_access", json!({ "roles": "operator" })),
        claims_without("iat"),
        claims_without("nbf"),
    ] {
        assert!(judged(&verifier, &signer.token(&claims)).is_ok(), "{claims}");
    }
}

#[test]
fn types_of_tokens_for_access_are_accepted() {
    let signer = Signer::eddsa();
    let (verifier, _file) = signer.verifier();
    for typ in ["JWT", "jwt", "at+jwt", "application/at+jwt"] {
        let token = signer.token_of(&json!({ "alg": "EdDSA", "typ": typ }), &claims());
        assert!(judged(&verifier, &token).is_ok(), "{typ}");
    }
}

#[test]
fn id_is_the_same_for_one_subject_and_another_for_another() {
    let signer = Signer::eddsa();
    let (verifier, _file) = signer.verifier();
    let id = |claims| judged(&verifier, &signer.token(&claims)).unwrap().id;
    assert_eq!(id(claims()), id(claims_with("exp", after(900).timestamp())));
    assert_ne!(id(claims()), id(claims_with("sub", "other")));
}

/// RFC 7515 appendices A.1 and A.3 and RFC 8037 appendix A.4: signatures that others made. The first two name another
/// issuer and the third signs no claims, so that each is refused, but for what is looked at after its signature.
#[test]
fn signatures_of_the_published_examples_are_right() {
    use aito_jwt::JwtKeys;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let secret = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let hs256 = verifier(JwtKeys::Secret(URL_SAFE_NO_PAD.decode(secret).unwrap())).unwrap();
    let es256 = KeySetFile::of(&[json!({
        "kty": "EC",
        "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
    })]);
    let es256 = verifier(es256.keys()).unwrap();
    let eddsa = KeySetFile::of(&[
        json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" }),
    ]);
    let eddsa = verifier(eddsa.keys()).unwrap();
    let joe =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    for (verifier, header, content, signature, reason) in [
        (
            &hs256,
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            joe,
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            JwtRefused::Issuer,
        ),
        (
            &es256,
            "eyJhbGciOiJFUzI1NiJ9",
            joe,
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
            JwtRefused::Issuer,
        ),
        (
            &eddsa,
            "eyJhbGciOiJFZERTQSJ9",
            "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
            JwtRefused::Claims,
        ),
    ] {
        assert_eq!(judged(verifier, &format!("{header}.{content}.{signature}")), Err(reason), "{header}");
        let other = format!("{header}.{content}.{}{}", &signature[1..], &signature[..1]);
        assert_ne!(judged(verifier, &other), Err(reason), "{header}");
    }
}
