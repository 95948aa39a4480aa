//! The file of keys: what is refused at construction, and what happens when it changes.

use std::fs;

use aito_jwt::{JwtKeys, JwtRefused};
use serde_json::json;

use crate::support::{KeySetFile, Signer, after, claims, judged, now, set_of, verifier};

fn told(file: &KeySetFile) -> String {
    let told = verifier(file.keys()).unwrap_err().to_string();
    assert!(told.starts_with(&format!("the key set {} cannot be used: ", file.path().display())), "{told}");
    told
}

#[test]
fn keys_are_rotated_by_replacing_the_file() {
    let (old, new) = (Signer::eddsa(), Signer::es256());
    let file = KeySetFile::of(&[old.jwk("2030")]);
    let verifier = verifier(file.keys()).unwrap();
    let (by_old, by_new) = (old.token_named("2030", &claims()), new.token_named("2031", &claims()));
    assert!(verifier.verify(&by_old, now()).is_ok());
    file.replace(&set_of(&[old.jwk("2030"), new.jwk("2031")]));
    assert_eq!(verifier.verify(&by_new, after(4)), Err(JwtRefused::UnknownKey), "it is looked at every 5 s");
    assert!(verifier.verify(&by_new, after(5)).is_ok());
    assert!(verifier.verify(&by_old, after(5)).is_ok());
    file.replace(&set_of(&[new.jwk("2031")]));
    assert_eq!(verifier.verify(&by_old, after(10)), Err(JwtRefused::UnknownKey));
    assert!(verifier.verify(&by_new, after(10)).is_ok());
}

#[test]
fn key_of_the_same_name_and_length_is_noticed() {
    let (old, new) = (Signer::eddsa(), Signer::eddsa());
    let file = KeySetFile::of(&[old.jwk("one")]);
    let verifier = verifier(file.keys()).unwrap();
    assert!(judged(&verifier, &old.token(&claims())).is_ok());
    file.replace(&set_of(&[new.jwk("one")]));
    assert_eq!(verifier.verify(&old.token(&claims()), after(5)), Err(JwtRefused::Signature));
    assert!(verifier.verify(&new.token(&claims()), after(5)).is_ok());
}

#[test]
fn file_is_looked_at_again_after_the_clock_was_set_back() {
    let (old, new) = (Signer::eddsa(), Signer::eddsa());
    let file = KeySetFile::of(&[old.jwk("one")]);
    let verifier = verifier(file.keys()).unwrap();
    assert!(verifier.verify(&old.token(&claims()), after(20)).is_ok());
    file.replace(&set_of(&[new.jwk("one")]));
    assert!(verifier.verify(&new.token(&claims()), now()).is_ok());
}

#[test]
fn file_that_became_unusable_leaves_the_keys_as_they_were() {
    let (old, new) = (Signer::eddsa(), Signer::eddsa());
    let file = KeySetFile::of(&[old.jwk("one")]);
    let verifier = verifier(file.keys()).unwrap();
    let (by_old, by_new) = (old.token(&claims()), new.token(&claims()));
    let mut seconds = 0;
    let mut kept = || {
        seconds += 5;
        assert!(verifier.verify(&by_old, after(seconds)).is_ok());
        assert_eq!(verifier.verify(&by_new, after(seconds)), Err(JwtRefused::Signature));
    };
    kept();
    fs::remove_file(file.path()).unwrap();
    kept();
    fs::create_dir(file.path()).unwrap();
    kept();
    fs::remove_dir(file.path()).unwrap();
    let whole = set_of(&[new.jwk("one")]);
    file.replace(&whole[..whole.len() - 1]);
    kept();
    let mut with_private = new.jwk("one");
    with_private["d"] = "AAAA".into();
    file.replace(&set_of(&[with_private]));
    kept();
    file.replace(&set_of(&[]));
    kept();
    file.replace(&whole);
    assert!(verifier.verify(&by_new, after(40)).is_ok());
    assert_eq!(verifier.verify(&by_old, after(40)), Err(JwtRefused::Signature));
}

#[test]
fn file_without_keys_that_only_verify_refuses_the_start_with_file_and_key() {
    let good = Signer::eddsa().jwk("good");
    let with = |name: &str, value: &str| {
        let mut key = Signer::es256().jwk("bad");
        key[name] = value.into();
        KeySetFile::of(&[good.clone(), key])
    };
    let shown = told(&with("d", "cHJpdmF0ZQ"));
    assert!(
        shown.contains("key 2 (\"bad\") has the private part `d`") && !shown.contains("cHJpdmF0ZQ"),
        "{shown}"
    );
    assert!(told(&with("k", "c2VjcmV0")).contains("key 2 (\"bad\") is symmetric"));
    let secret = KeySetFile::of(&[json!({ "kty": "oct", "k": "c2VjcmV0", "alg": "HS256" })]);
    assert!(told(&secret).contains("key 1 is symmetric"));
}

#[test]
fn weak_rsa_key_refuses_the_start() {
    // 1024 bits; no such key exists, its length alone is looked at.
    let weak = json!({ "kty": "RSA", "kid": "weak", "n": "w".repeat(171), "e": "AQAB" });
    assert!(told(&KeySetFile::of(&[weak])).contains("key 1 (\"weak\") has 1024 bits"));
}

#[test]
fn file_that_cannot_be_read_refuses_the_start() {
    let file = KeySetFile::of(&[Signer::eddsa().jwk("one")]);
    fs::write(file.path(), [0xff, 0xfe]).unwrap();
    assert!(told(&file).contains("UTF-8"));
    fs::write(file.path(), " ".repeat(1024 * 1024 + 1)).unwrap();
    assert!(told(&file).contains("longer than 1048576 bytes"));
    fs::remove_file(file.path()).unwrap();
    assert!(told(&file).contains("cannot be read"));
    let pipe = std::process::Command::new("mkfifo").arg(file.path()).status().unwrap();
    assert!(pipe.success());
    assert!(told(&file).contains("no regular file"));
    assert!(verifier(JwtKeys::Jwks("/".into())).unwrap_err().to_string().contains("no regular file"));
}

#[test]
fn many_callers_at_once_are_answered_while_keys_change() {
    let (old, new) = (Signer::eddsa(), Signer::eddsa());
    let file = KeySetFile::of(&[old.jwk("old"), new.jwk("new")]);
    let verifier = verifier(file.keys()).unwrap();
    let token = new.token_named("new", &claims());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (verifier, token) = (&verifier, &token);
            scope.spawn(move || {
                for step in 0..50 {
                    assert!(verifier.verify(token, after(5 * step + thread)).is_ok());
                }
            });
        }
        for _ in 0..20 {
            file.replace(&set_of(&[new.jwk("new")]));
            file.replace(&set_of(&[old.jwk("old"), new.jwk("new")]));
        }
    });
}
