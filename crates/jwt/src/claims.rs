//! What a token says, and whether that is enough.
//!
//! Invariants: pure; issuer, audience, expiry, subject and role are each required, whatever the signature; texts are
//! compared byte for byte.

use std::fmt::Write as _;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use ring::digest::{Context, SHA256};
use serde_json::{Map, Value};

use crate::refused::JwtRefused;

/// The longest subject and the longest name of a role, in characters.
const LONGEST_NAME: usize = 200;

/// What an accepted token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Whom the token speaks for (`sub`), as the issuer names them: 1 to 200 characters without control characters.
    pub subject: String,
    /// The roles as the issuer wrote them, in its order: at least one, each 1 to 200 characters without control
    /// characters. What they mean is the caller's to decide.
    pub roles: Vec<String>,
    /// When the token's time is over (`exp`), without the leeway.
    pub expires_at: DateTime<Utc>,
    /// A stable key for issuer and subject together, as for rate limits: 64 hexadecimal digits, SHA-256.
    pub id: String,
}

/// What a token must say.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) role_claim: String,
    pub(crate) leeway: Duration,
}

impl Expected {
    /// The claims of a token whose signature was right.
    pub(crate) fn claims(&self, said: &Map<String, Value>, now: DateTime<Utc>) -> Result<Claims, JwtRefused> {
        if said.get("iss").and_then(Value::as_str) != Some(&self.issuer) {
            return Err(JwtRefused::Issuer);
        }
        if !self.is_for_us(said.get("aud")) {
            return Err(JwtRefused::Audience);
        }
        let expires_at = self.times(said, now)?;
        let subject = match said.get("sub") {
            Some(Value::String(subject)) if is_name(subject) => subject.clone(),
            _ => return Err(JwtRefused::Subject),
        };
        let roles = self.roles(said).ok_or(JwtRefused::Roles)?;
        let id = id(&self.issuer, &subject);
        Ok(Claims { subject, roles, expires_at, id })
    }

    /// `aud` is a text or a list of texts (RFC 7519, section 4.1.3).
    fn is_for_us(&self, audience: Option<&Value>) -> bool {
        match audience {
            Some(Value::String(one)) => *one == self.audience,
            Some(Value::Array(list)) => {
                list.iter().all(Value::is_string) && list.iter().any(|one| *one == self.audience)
            }
            _ => false,
        }
    }

    /// The expiry, if it is `now` a time of the token.
    fn times(&self, said: &Map<String, Value>, now: DateTime<Utc>) -> Result<DateTime<Utc>, JwtRefused> {
        let leeway = TimeDelta::from_std(self.leeway).map_err(|_| JwtRefused::Times)?;
        let later_than_now = |at: DateTime<Utc>| at - now > leeway;
        let expires_at = said.get("exp").and_then(time).ok_or(JwtRefused::Expiry)?;
        if now - expires_at >= leeway {
            return Err(JwtRefused::Expired);
        }
        for (name, refused) in [("nbf", JwtRefused::NotYet), ("iat", JwtRefused::IssuedLater)] {
            if let Some(value) = said.get(name)
                && later_than_now(time(value).ok_or(JwtRefused::Times)?)
            {
                return Err(refused);
            }
        }
        Ok(expires_at)
    }

    /// One role as a text, or a list of roles. A text with commas or white space is a list in a form of its own, which
    /// is not guessed at.
    fn roles(&self, said: &Map<String, Value>) -> Option<Vec<String>> {
        let roles: Vec<String> = match self.role_value(said)? {
            Value::String(one) if !one.contains(|c: char| c == ',' || c.is_whitespace()) => vec![one.clone()],
            Value::Array(list) => {
                list.iter().map(|role| role.as_str().map(str::to_owned)).collect::<Option<_>>()?
            }
            _ => return None,
        };
        (!roles.is_empty() && roles.iter().all(|role| is_name(role))).then_some(roles)
    }

    /// The claim of this very name, or else what the path leads to.
    fn role_value<'a>(&self, said: &'a Map<String, Value>) -> Option<&'a Value> {
        if let Some(value) = said.get(&self.role_claim) {
            return Some(value);
        }
        let (first, rest) = self.role_claim.split_once('.')?;
        rest.split('.').try_fold(said.get(first)?, |value, name| value.as_object()?.get(name))
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().count() <= LONGEST_NAME && !text.chars().any(char::is_control)
}

/// Seconds since 1970-01-01T00:00:00Z, possibly with a fraction (RFC 7519, section 2); milliseconds are kept.
fn time(value: &Value) -> Option<DateTime<Utc>> {
    let number = value.as_number()?;
    let millis = match number.as_i64() {
        Some(seconds) => seconds.checked_mul(1000)?,
        None => {
            let millis = number.as_f64()? * 1000.0;
            // Beyond this a double no longer tells milliseconds apart, and the calendar has ended.
            if millis.abs() > 9e15 {
                return None;
            }
            millis.floor() as i64
        }
    };
    DateTime::from_timestamp_millis(millis)
}

fn id(issuer: &str, subject: &str) -> String {
    let mut hash = Context::new(&SHA256);
    for part in [issuer, subject] {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finish().as_ref().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing into a text cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_900_000_000;

    fn expected(role_claim: &str) -> Expected {
        Expected {
            issuer: "https://issuer.example".into(),
            audience: "aito".into(),
            role_claim: role_claim.into(),
            leeway: Duration::from_secs(30),
        }
    }

    fn good() -> Value {
        json!({ "iss": "https://issuer.example", "aud": "aito", "exp": NOW + 60, "sub": "kim", "role": "admin" })
    }

    fn judged_by(expected: &Expected, said: &Value) -> Result<Claims, JwtRefused> {
        expected.claims(said.as_object().unwrap(), DateTime::from_timestamp(NOW, 0).unwrap())
    }

    fn with(name: &str, value: impl Into<Value>) -> Result<Claims, JwtRefused> {
        let mut said = good();
        said[name] = value.into();
        judged_by(&expected("role"), &said)
    }

    fn roles_at(path: &str, said: Value) -> Option<Vec<String>> {
        expected(path).roles(said.as_object().unwrap())
    }

    #[test]
    fn good_claims_are_handed_on() {
        let claims = judged_by(&expected("role"), &good()).unwrap();
        assert_eq!((claims.subject.as_str(), claims.roles.as_slice()), ("kim", &["admin".to_owned()][..]));
        assert_eq!(claims.expires_at.timestamp(), NOW + 60);
        assert_eq!(claims.id.len(), 64);
    }

    #[test]
    fn expiry_is_over_at_its_second_plus_leeway() {
        assert!(with("exp", NOW - 29).is_ok());
        assert_eq!(with("exp", NOW - 30), Err(JwtRefused::Expired));
        assert_eq!(with("exp", NOW - 31), Err(JwtRefused::Expired));
        assert!(with("exp", NOW as f64 - 29.5).is_ok());
        assert_eq!(with("exp", NOW as f64 - 30.5), Err(JwtRefused::Expired));
        assert_eq!(with("exp", 0), Err(JwtRefused::Expired));
        assert_eq!(with("exp", -1), Err(JwtRefused::Expired));
    }

    #[test]
    fn what_is_no_time_is_no_expiry() {
        let others = [
            json!(null),
            json!("1900000060"),
            json!([NOW]),
            json!(true),
            json!(i64::MAX),
            json!(u64::MAX),
            json!(1e300),
        ];
        for value in others {
            assert_eq!(with("exp", value.clone()), Err(JwtRefused::Expiry), "{value}");
        }
    }

    #[test]
    fn tokens_from_the_future_are_refused() {
        assert!(with("nbf", NOW + 30).is_ok());
        assert_eq!(with("nbf", NOW + 31), Err(JwtRefused::NotYet));
        assert_eq!(with("nbf", "0"), Err(JwtRefused::Times));
        assert!(with("iat", NOW + 30).is_ok());
        assert_eq!(with("iat", NOW + 31), Err(JwtRefused::IssuedLater));
        assert_eq!(with("iat", json!(null)), Err(JwtRefused::Times));
    }

    #[test]
    fn issuer_is_the_very_same_text() {
        let others = [
            json!("https://issuer.example/"),
            json!("HTTPS://issuer.example"),
            json!(["https://issuer.example"]),
            json!(null),
        ];
        for issuer in others {
            assert_eq!(with("iss", issuer.clone()), Err(JwtRefused::Issuer), "{issuer}");
        }
    }

    #[test]
    fn audience_is_a_text_or_a_list_with_this_installation() {
        assert!(with("aud", json!(["other", "aito"])).is_ok());
        for audience in [
            json!("aito "),
            json!("other"),
            json!([]),
            json!(["other"]),
            json!(["aito", 1]),
            json!({ "aito": 1 }),
            json!(null),
        ] {
            assert_eq!(with("aud", audience.clone()), Err(JwtRefused::Audience), "{audience}");
        }
    }

    #[test]
    fn subject_has_1_to_200_characters_without_control_characters() {
        assert!(with("sub", "ü".repeat(200)).is_ok());
        for subject in
            [json!("ü".repeat(201)), json!(""), json!("a\nb"), json!("a\u{85}b"), json!(7), json!(null)]
        {
            assert_eq!(with("sub", subject.clone()), Err(JwtRefused::Subject), "{subject}");
        }
    }

    #[test]
    fn roles_are_one_text_or_a_list() {
        assert_eq!(with("role", json!(["a", "b c"])).unwrap().roles, ["a", "b c"]);
        let others = [
            json!("a b"),
            json!("a,b"),
            json!(""),
            json!([]),
            json!([""]),
            json!(["a", 1]),
            json!([["a"]]),
            json!({ "a": 1 }),
            json!(1),
            json!(true),
            json!(null),
            json!(["a\u{0}"]),
            json!(["x".repeat(201)]),
        ];
        for role in others {
            assert_eq!(with("role", role.clone()), Err(JwtRefused::Roles), "{role}");
        }
    }

    #[test]
    fn roles_are_found_by_name_and_by_path() {
        let one = Some(vec!["admin".to_owned()]);
        assert_eq!(roles_at("realm_access.roles", json!({ "realm_access": { "roles": ["admin"] } })), one);
        assert_eq!(roles_at("a.b.c", json!({ "a": { "b": { "c": "admin" } } })), one);
        assert_eq!(
            roles_at("https://example.org/roles", json!({ "https://example.org/roles": "admin" })),
            one
        );
        for said in [
            json!({ "realm_access": "admin" }),
            json!({ "realm_access": { "role": "admin" } }),
            json!({ "realm_access": [{ "roles": "admin" }] }),
            json!({ "roles": "admin" }),
            json!({}),
        ] {
            assert_eq!(roles_at("realm_access.roles", said.clone()), None, "{said}");
        }
    }

    #[test]
    fn ids_tell_issuers_and_subjects_apart() {
        assert_eq!(id("a", "b"), id("a", "b"));
        assert_ne!(id("ab", "c"), id("a", "bc"));
        assert_ne!(id("a", "b"), id("b", "a"));
        assert!(id("a", "b").bytes().all(|b| b.is_ascii_hexdigit()));
    }
}
