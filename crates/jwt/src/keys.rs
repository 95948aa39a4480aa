//! Keys: a secret, or the public keys of a JSON Web Key Set (RFC 7517).
//!
//! Invariants: pure; each key has one algorithm; a set with anything in it that could sign is refused as a whole; what
//! is used has been checked for length and form.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use crate::config::KeysFault;
use crate::json::Unique;
use crate::refused::JwtRefused;

/// Members that only a key that signs has (RFC 7518, section 6.3.2; RFC 8037, section 2).
const PRIVATE: [&str; 7] = ["d", "p", "q", "dp", "dq", "qi", "oth"];

/// Bytes of a coordinate on P-256, and of a public key of Ed25519.
const POINT: usize = 32;

/// Keys of which a token's header chooses one.
#[derive(Debug)]
pub(crate) struct KeySet {
    keys: Vec<Key>,
    /// There is one key, and a header's `kid` is of no interest.
    any_name: bool,
}

/// A key and the one algorithm that it is for.
#[derive(Debug)]
pub(crate) struct Key {
    name: Option<String>,
    pub(crate) algorithm: Algorithm,
    pub(crate) key: DecodingKey,
}

impl KeySet {
    /// A shared secret for HS256.
    pub(crate) fn secret(secret: &[u8]) -> Self {
        let key = Key { name: None, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret) };
        Self { keys: vec![key], any_name: true }
    }

    /// The keys of a set that check signatures, and what was passed over and why.
    pub(crate) fn parse(text: &str) -> Result<(Self, Vec<String>), KeysFault> {
        let no_set = |why: &str| KeysFault::NoKeySet(why.to_owned());
        let read: Unique =
            serde_json::from_str(text).map_err(|error| KeysFault::NoKeySet(error.to_string()))?;
        let members = read.into_members().ok_or_else(|| no_set("it is no object"))?;
        let Some(Value::Array(listed)) = members.get("keys") else {
            return Err(no_set("it has no list `keys`"));
        };
        let mut keys: Vec<Key> = Vec::new();
        let mut labels = Vec::new();
        let mut passed_over = Vec::new();
        for (index, listed) in listed.iter().enumerate() {
            let Value::Object(members) = listed else { return Err(no_set("a key is no object")) };
            let label = label(index, members.get("kid"));
            match (Jwk { members, label: &label }).read()? {
                Read::Passed(why) => passed_over.push(format!("{label} {why}")),
                Read::Key(key) if key.name.is_some() && keys.iter().any(|other| other.name == key.name) => {
                    return Err(KeysFault::Twice { key: label });
                }
                Read::Key(key) => {
                    keys.push(key);
                    labels.push(label);
                }
            }
        }
        if keys.is_empty() {
            return Err(KeysFault::NoKey(passed_over));
        }
        if keys.len() > 1
            && let Some(unnamed) = keys.iter().position(|key| key.name.is_none())
        {
            return Err(KeysFault::Unnamed { key: labels.swap_remove(unnamed) });
        }
        Ok((Self { keys, any_name: false }, passed_over))
    }

    /// The key that a header means. A single key needs no naming; one that is named must be there under this name.
    pub(crate) fn choose(&self, name: Option<&str>) -> Result<&Key, JwtRefused> {
        match (name, self.keys.as_slice()) {
            (None, [key]) => Ok(key),
            (Some(_), [key]) if self.any_name => Ok(key),
            (None, _) => Err(JwtRefused::KeyNotNamed),
            (Some(name), keys) => {
                keys.iter().find(|key| key.name.as_deref() == Some(name)).ok_or(JwtRefused::UnknownKey)
            }
        }
    }
}

/// How messages name a key: its place from 1, and its `kid`, shortened.
fn label(index: usize, kid: Option<&Value>) -> String {
    match kid {
        Some(Value::String(kid)) => {
            let shown: String = kid.chars().take(100).collect();
            format!("key {} ({shown:?})", index + 1)
        }
        _ => format!("key {}", index + 1),
    }
}

/// One key of a set.
struct Jwk<'a> {
    members: &'a Map<String, Value>,
    label: &'a str,
}

enum Read {
    Key(Key),
    /// It is no key for this purpose, and why.
    Passed(String),
}

impl Jwk<'_> {
    fn read(&self) -> Result<Read, KeysFault> {
        let key = || self.label.to_owned();
        let kind = self.text("kty")?.ok_or_else(|| self.malformed("it has no `kty`"))?;
        if kind == "oct" || self.members.contains_key("k") {
            return Err(KeysFault::Symmetric { key: key() });
        }
        if let Some(member) = PRIVATE.into_iter().find(|member| self.members.contains_key(*member)) {
            return Err(KeysFault::Private { key: key(), member });
        }
        if let Some(passed) = self.other_purpose()? {
            return Ok(Read::Passed(passed));
        }
        let (curve, algorithm) = (self.text("crv")?, self.text("alg")?);
        let (algorithm, key) = match (kind, curve, algorithm) {
            ("RSA", _, None | Some("RS256")) => (Algorithm::RS256, self.rsa()?),
            ("RSA", _, Some("PS256")) => (Algorithm::PS256, self.rsa()?),
            ("EC", Some("P-256"), None | Some("ES256")) => (Algorithm::ES256, self.p256()?),
            ("OKP", Some("Ed25519"), None | Some("EdDSA")) => (Algorithm::EdDSA, self.ed25519()?),
            _ => {
                let all = [Some(kind), curve, algorithm].into_iter().flatten();
                let all: Vec<String> = all.map(|text| text.chars().take(20).collect()).collect();
                return Ok(Read::Passed(format!("is of no kind that is used here, {all:?}")));
            }
        };
        Ok(Read::Key(Key { name: self.text("kid")?.map(str::to_owned), algorithm, key }))
    }

    /// What else it is for, if it is not for checking signatures.
    fn other_purpose(&self) -> Result<Option<String>, KeysFault> {
        let passed = || Ok(Some("is not for signatures".to_owned()));
        if self.text("use")?.is_some_and(|purpose| purpose != "sig") {
            return passed();
        }
        match self.members.get("key_ops") {
            None => Ok(None),
            Some(Value::Array(operations)) if operations.iter().any(|operation| operation == "verify") => {
                Ok(None)
            }
            Some(Value::Array(_)) => passed(),
            Some(_) => Err(self.malformed("`key_ops` is no list")),
        }
    }

    fn rsa(&self) -> Result<DecodingKey, KeysFault> {
        let modulus = without_zeros(self.bytes("n", "`n` is missing or no base64url")?);
        let exponent = without_zeros(self.bytes("e", "`e` is missing or no base64url")?);
        let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
        if !(2048..=8192).contains(&bits) {
            return Err(KeysFault::Size { key: self.label.to_owned(), bits });
        }
        let sound = match exponent.as_slice() {
            [] => false,
            [small] => small % 2 == 1 && *small >= 3,
            [.., last] => exponent.len() <= 4 && last % 2 == 1,
        };
        if !sound {
            return Err(self.malformed("`e` is no odd number from 3 to 32 bits"));
        }
        Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
    }

    fn p256(&self) -> Result<DecodingKey, KeysFault> {
        let mut point = vec![4];
        for (name, what) in [
            ("x", "`x` is missing or no base64url of 32 bytes"),
            ("y", "`y` is missing or no base64url of 32 bytes"),
        ] {
            let coordinate = self.bytes(name, what)?;
            if coordinate.len() != POINT {
                return Err(self.malformed(what));
            }
            point.extend(coordinate);
        }
        Ok(DecodingKey::from_ec_der(&point))
    }

    fn ed25519(&self) -> Result<DecodingKey, KeysFault> {
        let what = "`x` is missing or no base64url of 32 bytes";
        let point = self.bytes("x", what)?;
        if point.len() == POINT { Ok(DecodingKey::from_ed_der(&point)) } else { Err(self.malformed(what)) }
    }

    fn bytes(&self, name: &str, what: &'static str) -> Result<Vec<u8>, KeysFault> {
        let text = self.text(name)?.ok_or_else(|| self.malformed(what))?;
        URL_SAFE_NO_PAD.decode(text).map_err(|_| self.malformed(what))
    }

    fn text(&self, name: &str) -> Result<Option<&str>, KeysFault> {
        match self.members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.malformed("a member that must be a text is none")),
        }
    }

    fn malformed(&self, what: &'static str) -> KeysFault {
        KeysFault::Malformed { key: self.label.to_owned(), what }
    }
}

fn without_zeros(bytes: Vec<u8>) -> Vec<u8> {
    bytes.into_iter().skip_while(|byte| *byte == 0).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ed(name: Option<&str>) -> Value {
        let mut key = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode([9; 32]) });
        if let Some(name) = name {
            key["kid"] = name.into();
        }
        key
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Value {
        json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(modulus), "e": URL_SAFE_NO_PAD.encode(exponent) })
    }

    fn with(mut key: Value, name: &str, value: impl Into<Value>) -> Value {
        key[name] = value.into();
        key
    }

    fn parsed(keys: &[Value]) -> Result<(KeySet, Vec<String>), KeysFault> {
        KeySet::parse(&json!({ "keys": keys }).to_string())
    }

    fn told(keys: &[Value]) -> String {
        parsed(keys).unwrap_err().to_string()
    }

    #[test]
    fn each_key_has_the_algorithm_of_its_kind() {
        let rsa = rsa(&[0xc1; 256], &[1, 0, 1]);
        let point = URL_SAFE_NO_PAD.encode([5; 32]);
        let ec = json!({ "kty": "EC", "crv": "P-256", "x": point, "y": point });
        for (key, algorithm) in [
            (rsa.clone(), Algorithm::RS256),
            (with(rsa.clone(), "alg", "RS256"), Algorithm::RS256),
            (with(rsa, "alg", "PS256"), Algorithm::PS256),
            (ec.clone(), Algorithm::ES256),
            (with(ec, "alg", "ES256"), Algorithm::ES256),
            (ed(None), Algorithm::EdDSA),
            (with(with(ed(None), "alg", "EdDSA"), "use", "sig"), Algorithm::EdDSA),
            (with(ed(None), "key_ops", json!(["verify"])), Algorithm::EdDSA),
        ] {
            let (set, passed_over) = parsed(std::slice::from_ref(&key)).unwrap();
            assert_eq!(set.keys[0].algorithm, algorithm, "{key}");
            assert!(passed_over.is_empty());
        }
    }

    #[test]
    fn symmetric_keys_are_refused_by_name_whatever_they_are_for() {
        let oct = json!({ "kty": "oct", "k": "c2VjcmV0", "kid": "shared", "use": "enc" });
        let told = told(&[ed(Some("a")), oct]);
        assert_eq!(told, "key 2 (\"shared\") is symmetric: a key set holds public keys only");
        assert!(!told.contains("c2VjcmV0"));
        for key in [with(ed(None), "k", "x"), json!({ "kty": "oct" })] {
            assert!(matches!(parsed(std::slice::from_ref(&key)), Err(KeysFault::Symmetric { .. })), "{key}");
        }
    }

    #[test]
    fn private_parts_are_refused_by_name_and_not_shown() {
        for member in PRIVATE {
            let told = told(&[with(with(ed(Some("mine")), member, "cHJpdmF0ZQ"), "use", "enc")]);
            assert!(told.starts_with(&format!("key 1 (\"mine\") has the private part `{member}`")), "{told}");
            assert!(!told.contains("cHJpdmF0ZQ"), "{told}");
        }
    }

    #[test]
    fn rsa_keys_have_2048_to_8192_bits_and_a_sound_exponent() {
        for (modulus, fine) in [
            ([vec![0x7f], vec![0xff; 255]].concat(), false),
            (vec![0xff; 128], false),
            (vec![0x80; 256], true),
            ([vec![0], vec![0x80; 256]].concat(), true),
            ([vec![0], vec![0xff; 255]].concat(), false),
            (vec![0xff; 1024], true),
            (vec![0xff; 1025], false),
            (vec![], false),
        ] {
            let parsed = parsed(&[rsa(&modulus, &[1, 0, 1])]);
            assert_eq!(parsed.is_ok(), fine, "{} bytes", modulus.len());
            assert!(fine || matches!(parsed, Err(KeysFault::Size { .. })));
        }
        assert_eq!(told(&[rsa(&[0xff; 128], &[3])]), "key 1 has 1024 bits: RSA keys need 2048 to 8192");
        for (exponent, fine) in
            [(&[][..], false), (&[0], false), (&[1], false), (&[2], false), (&[3], true), (&[0, 1], false)]
        {
            assert_eq!(parsed(&[rsa(&[0xff; 256], exponent)]).is_ok(), fine, "{exponent:?}");
        }
        assert!(parsed(&[rsa(&[0xff; 256], &[1, 0, 0])]).is_err());
        assert!(parsed(&[rsa(&[0xff; 256], &[1, 0, 0, 0, 1])]).is_err());
    }

    #[test]
    fn malformed_keys_are_refused_by_name() {
        let point = URL_SAFE_NO_PAD.encode([5; 32]);
        let short = URL_SAFE_NO_PAD.encode([5; 31]);
        for key in [
            json!({ "kid": "bad" }),
            json!({ "kid": "bad", "kty": 1 }),
            json!({ "kid": "bad", "kty": "RSA", "e": "AQAB" }),
            json!({ "kid": "bad", "kty": "RSA", "n": "a+b", "e": "AQAB" }),
            json!({ "kid": "bad", "kty": "EC", "crv": "P-256", "x": point }),
            json!({ "kid": "bad", "kty": "EC", "crv": "P-256", "x": point, "y": short }),
            json!({ "kid": "bad", "kty": "OKP", "crv": "Ed25519", "x": short }),
            with(ed(Some("bad")), "use", 1),
            with(ed(Some("bad")), "key_ops", "verify"),
        ] {
            assert!(told(std::slice::from_ref(&key)).starts_with("key 1 (\"bad\") is malformed: "), "{key}");
        }
        assert!(told(&[with(ed(None), "kid", 7)]).starts_with("key 1 is malformed: "));
    }

    #[test]
    fn keys_for_something_else_are_passed_over_and_told() {
        let others = [
            with(ed(None), "use", "enc"),
            with(ed(None), "key_ops", json!(["deriveBits"])),
            with(ed(None), "crv", "X25519"),
            with(rsa(&[0xff; 256], &[3]), "alg", "RS512"),
            with(rsa(&[0xff; 256], &[3]), "alg", "HS256"),
            json!({ "kty": "EC", "crv": "P-384", "x": "AA", "y": "AA" }),
            json!({ "kty": "novel" }),
        ];
        let (set, passed_over) = parsed(&[&others[..], &[ed(None)]].concat()).unwrap();
        assert_eq!((set.keys.len(), passed_over.len()), (1, others.len()));
        let told = told(&others[..1]);
        assert_eq!(told, "it holds no key that can be used; passed over: key 1 is not for signatures");
        assert_eq!(
            KeySet::parse("{\"keys\":[]}").unwrap_err().to_string(),
            "it holds no key that can be used"
        );
    }

    #[test]
    fn several_keys_have_names_of_their_own() {
        assert_eq!(told(&[ed(Some("a")), ed(None)]), "key 2 has no `kid`, which each of several keys needs");
        assert_eq!(told(&[ed(Some("a")), ed(Some("a"))]), "key 2 (\"a\") has the `kid` of another one");
        let (set, _) = parsed(&[ed(Some("a")), ed(Some("b"))]).unwrap();
        assert_eq!(set.choose(Some("b")).unwrap().name.as_deref(), Some("b"));
        assert_eq!(set.choose(Some("c")).unwrap_err(), JwtRefused::UnknownKey);
        assert_eq!(set.choose(None).unwrap_err(), JwtRefused::KeyNotNamed);
    }

    #[test]
    fn single_key_needs_no_naming_but_is_no_other() {
        let (named, _) = parsed(&[ed(Some("a"))]).unwrap();
        assert!(named.choose(None).is_ok() && named.choose(Some("a")).is_ok());
        assert_eq!(named.choose(Some("b")).unwrap_err(), JwtRefused::UnknownKey);
        let (unnamed, _) = parsed(&[ed(None)]).unwrap();
        assert!(unnamed.choose(None).is_ok());
        assert_eq!(unnamed.choose(Some("a")).unwrap_err(), JwtRefused::UnknownKey);
        assert!(KeySet::secret(&[7; 32]).choose(Some("whatever")).is_ok());
    }

    #[test]
    fn what_is_no_key_set_is_told_so() {
        for text in [
            "",
            "[]",
            "{}",
            "{\"keys\":{}}",
            "{\"keys\":[1]}",
            "{\"keys\":[],\"keys\":[]}",
            "{\"kty\":\"OKP\"}",
        ] {
            assert!(matches!(KeySet::parse(text), Err(KeysFault::NoKeySet(_))), "{text}");
        }
    }
}
