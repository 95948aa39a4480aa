//! Settings: defaults, ranges, names, and what is sealed.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use uuid::Uuid;

use super::*;
use crate::time::millis;

fn registry() -> Registry {
    Registry::new(
        [("ceo", 1800), ("cmo", 7200)].map(|(name, s)| (name.parse().unwrap(), Duration::from_secs(s))),
    )
}

fn set(category: &str, key: &str, value: Value, version: u64) -> Setting {
    Setting {
        category: category.to_owned(),
        key: key.to_owned(),
        version: Version(version),
        value: StoredValue::Plain(value),
        description: None,
        updated_by: Actor::System,
        updated_at: millis(0),
    }
}

#[test]
fn defaults_are_those_of_the_contract() {
    let values = registry().values(&[]);
    let delays = Priority::ALL.map(|priority| values.delays().of(priority).as_millis());
    assert_eq!(delays, [300_000, 120_000, 30_000, 5000, 0]);
    assert_eq!(values.loop_interval(&"ceo".parse().unwrap()), Some(Duration::from_secs(1800)));
    assert_eq!(values.loop_interval(&"cto".parse().unwrap()), None);
    let rules = ClaimRules { at_most: 2, age_step: Duration::from_secs(86_400) };
    assert_eq!((values.claim_rules(), values.version()), (rules, 0));
    for known in registry().all() {
        assert_eq!(known.check(&known.default), Ok(()), "{}.{}", known.category, known.key);
    }
}

#[test]
fn what_is_stored_takes_the_place_of_defaults_if_it_still_is_allowed() {
    let stored = [
        set("queue", "delay_low", json!(7), 3),
        set("agents", "loop_interval_ceo", json!(60), 1),
        set("tasks", "max_in_progress", json!(0), 1),
        set("tasks", "age_step", json!("x"), 1),
        set("elsewhere", "delay_low", json!(9), 5),
    ];
    let values = registry().values(&stored);
    assert_eq!(values.version(), 11);
    assert_eq!(values.delays().of(Priority::Low), Duration::from_millis(7));
    assert_eq!(values.loop_interval(&"ceo".parse().unwrap()), Some(Duration::from_secs(60)));
    assert_eq!(values.claim_rules().at_most, 2, "what is out of range counts as not set");
}

#[test]
fn values_are_typed_and_ranged() {
    let registry = registry();
    let Lookup::Known(delay) = registry.find("queue", "delay_urgent") else { panic!("it must be known") };
    for good in [json!(0), json!(5000), json!(3_600_000)] {
        assert_eq!(delay.check(&good), Ok(()), "{good}");
    }
    for bad in [json!(-1), json!(3_600_001), json!(1.5), json!("5000"), json!(null), json!(true), json!([1])]
    {
        let why = delay.check(&bad).unwrap_err();
        assert_eq!(why, "must be a whole number from 0 to 3600000 (ms)", "{bad}");
    }
    let Lookup::Known(word) = registry.find("llm", "routing_strategy") else { panic!("it must be known") };
    assert!(!word.effective && word.check(&json!("claude-only")).is_ok());
    for bad in [json!(""), json!("Claude"), json!(1), json!("x".repeat(65))] {
        assert!(word.check(&bad).is_err(), "{bad}");
    }
}

#[test]
fn a_known_category_knows_its_keys() {
    let registry = registry();
    assert!(matches!(registry.find("queue", "delay_normla"), Lookup::NoSuchKey(keys) if keys.len() == 5));
    assert!(matches!(registry.find("agents", "loop_interval_cto"), Lookup::NoSuchKey(_)));
    assert_eq!(registry.find("governance", "anything"), Lookup::NoSuchKey(Vec::new()));
    assert_eq!(registry.find("brand", "colour"), Lookup::Foreign);
    let schema = registry.schema();
    assert_eq!(schema["properties"]["queue"]["properties"]["delay_low"]["default"], 300_000);
    assert_eq!(schema["properties"]["queue"]["additionalProperties"], false);
}

#[test]
fn sealed_values_open_under_their_name_only() {
    let installation = InstallationId(Uuid::from_u128(1));
    let key = SettingsKey::new(&InstallationKey::new([7; 32]), installation);
    let value = json!({"token": "s3cret"});
    let sealed = key.seal("mail", "password", &value, [9; 24]).unwrap();
    assert!(!String::from_utf8_lossy(&sealed).contains("s3cret"));
    assert_eq!(key.open("mail", "password", &sealed), Ok(value.clone()));
    let other_key = SettingsKey::new(&InstallationKey::new([8; 32]), installation);
    let elsewhere = SettingsKey::new(&InstallationKey::new([7; 32]), InstallationId(Uuid::from_u128(2)));
    assert_eq!(other_key.open("mail", "password", &sealed), Err(CannotOpen));
    assert_eq!(elsewhere.open("mail", "password", &sealed), Err(CannotOpen));
    for (category, name) in [("mail", "passwor"), ("mai", "lpassword"), ("mailp", "assword")] {
        assert_eq!(key.open(category, name, &sealed), Err(CannotOpen), "{category} {name}");
    }
    for at in 0..sealed.len() {
        let mut damaged = sealed.clone();
        damaged[at] ^= 1;
        assert_eq!(key.open("mail", "password", &damaged), Err(CannotOpen), "byte {at}");
    }
    assert_eq!(key.open("mail", "password", &[0; 10]), Err(CannotOpen));
    assert_eq!(
        format!("{:?}", StoredValue::Sealed(sealed.clone())),
        format!("Sealed({} bytes)", sealed.len())
    );
}

#[test]
fn names_that_sound_secret_are_known() {
    for secret in [
        "api_key",
        "smtp.password",
        "GITHUB_TOKEN",
        "x-secret",
        "key",
        "apikey",
        "botToken",
        "dbPassword",
        "api_keys",
    ] {
        assert!(sounds_secret(secret), "{secret}");
    }
    for plain in ["keyboard", "tokens_per_minute", "colour", "secretary"] {
        assert!(!sounds_secret(plain), "{plain}");
    }
}
