//! Settings: what can be changed while everything runs, which values are allowed, and who heeds them.
//!
//! Invariants: a known setting has a type, a range, a default and one consumer; a category that is known here knows its
//! keys, so that a misspelt one is refused; what is secret is stored sealed under a key of the installation's, bound to
//! its name, and is never shown.

use std::{collections::BTreeMap, fmt, time::Duration};

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload as Sealing},
};
use serde_json::{Value, json};

use crate::{
    event::{Actor, Payload, SettingsUpdated},
    id::{AgentType, InstallationId, Version},
    installation::InstallationKey,
    mailbox::Delays,
    task::{ClaimRules, Priority},
    time::Timestamp,
};

/// The most that a value may take as JSON text, in bytes.
pub const MAX_VALUE: usize = 65_536;
/// The longest description, in characters.
pub const MAX_DESCRIPTION: usize = 1000;
/// How many settings of categories that are not known may be stored.
pub const MAX_STORED: usize = 1000;
/// What is shown of a secret.
pub const MASK: &str = "***";
/// The category that only a human changes.
pub const GOVERNANCE: &str = "governance";

/// Whether a text is a category: 1 to 64 of `a-z`, `0-9`, `_` and `-`.
#[must_use]
pub fn is_category(text: &str) -> bool {
    crate::allowlist::is_category(text)
}

/// Whether a text is a key: 1 to 128 of `A-Z`, `a-z`, `0-9`, `.`, `_` and `-`, and not `.` or `..`, which no
/// path can end with.
#[must_use]
pub fn is_key(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && !matches!(text, "." | "..")
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Whether a key's name says that its value is a secret: it ends with `token`, `secret`, `password`, `passphrase`,
/// `credential` or `key`, one or several, however the word before it is set apart. What is no secret and is called so can
/// be said to be none.
#[must_use]
pub fn sounds_secret(key: &str) -> bool {
    const WORDS: [&str; 6] = ["token", "secret", "password", "passphrase", "credential", "key"];
    let lower = key.to_ascii_lowercase();
    let one = lower.strip_suffix('s').unwrap_or(&lower);
    WORDS.iter().any(|word| one.ends_with(word) || lower.ends_with(word))
}

/// A value as it is stored.
#[derive(Clone, PartialEq)]
pub enum StoredValue {
    /// For everybody who may read settings.
    Plain(Value),
    /// For the server alone; see [`SettingsKey`].
    Sealed(Vec<u8>),
}

impl fmt::Debug for StoredValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plain(value) => write!(f, "Plain({value})"),
            Self::Sealed(bytes) => write!(f, "Sealed({} bytes)", bytes.len()),
        }
    }
}

/// A setting that somebody has set.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// What it belongs to; see [`is_category`].
    pub category: String,
    /// Its name there; see [`is_key`].
    pub key: String,
    /// The version that was read; a commit writes the next.
    pub version: Version,
    /// Its value.
    pub value: StoredValue,
    /// What people say of it, at most [`MAX_DESCRIPTION`] characters.
    pub description: Option<String>,
    /// Who set it last.
    pub updated_by: Actor,
    /// When.
    pub updated_at: Timestamp,
}

impl Setting {
    /// What to tell when it was set; never the value.
    #[must_use]
    pub fn told(&self) -> Payload {
        Payload::SettingsUpdated(SettingsUpdated { category: self.category.clone(), key: self.key.clone() })
    }

    /// The value as it may be shown.
    #[must_use]
    pub fn shown(&self) -> Value {
        match &self.value {
            StoredValue::Plain(value) => value.clone(),
            StoredValue::Sealed(_) => json!(MASK),
        }
    }
}

/// Seals secrets: XChaCha20-Poly1305 under a key of its own from the installation's (HKDF-SHA256), with a random nonce of
/// 24 bytes before the ciphertext, bound to installation, category and key, so that no value can be put in place of
/// another.
#[derive(Clone)]
pub struct SettingsKey {
    cipher: XChaCha20Poly1305,
    installation: InstallationId,
}

/// A sealed value that cannot be opened: of another installation, of another name, or damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stored secret cannot be opened with this installation's key")]
pub struct CannotOpen;

impl SettingsKey {
    /// The key of an installation.
    #[must_use]
    pub fn new(key: &InstallationKey, installation: InstallationId) -> Self {
        Self { cipher: XChaCha20Poly1305::new(&key.subkey("aito settings v1").into()), installation }
    }

    /// Seals a value under a nonce that was never used before: 24 random bytes.
    ///
    /// # Errors
    /// [`CannotOpen`] if the value is too large for the cipher (256 GiB).
    pub fn seal(
        &self,
        category: &str,
        key: &str,
        value: &Value,
        nonce: [u8; 24],
    ) -> Result<Vec<u8>, CannotOpen> {
        let (plain, bound) = (value.to_string(), self.bound(category, key));
        let sealing = Sealing { msg: plain.as_bytes(), aad: &bound };
        let sealed = self.cipher.encrypt(&XNonce::from(nonce), sealing).map_err(|_| CannotOpen)?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// Opens what [`Self::seal`] made for the same name.
    ///
    /// # Errors
    /// [`CannotOpen`].
    pub fn open(&self, category: &str, key: &str, sealed: &[u8]) -> Result<Value, CannotOpen> {
        let (nonce, sealed) = sealed.split_at_checked(24).ok_or(CannotOpen)?;
        let bound = self.bound(category, key);
        let sealing = Sealing { msg: sealed, aad: &bound };
        let plain = self.cipher.decrypt(XNonce::from_slice(nonce), sealing).map_err(|_| CannotOpen)?;
        serde_json::from_slice(&plain).map_err(|_| CannotOpen)
    }

    /// What a sealed value belongs to, each part with its length.
    fn bound(&self, category: &str, key: &str) -> Vec<u8> {
        let mut bound = self.installation.0.as_bytes().to_vec();
        for part in [category, key] {
            bound.extend((part.len() as u64).to_be_bytes());
            bound.extend(part.as_bytes());
        }
        bound
    }
}

impl fmt::Debug for SettingsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SettingsKey(…)")
    }
}

/// Which values a known setting takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number within a range.
    Whole {
        /// The least.
        min: i64,
        /// The most.
        max: i64,
        /// In which unit, such as `ms`.
        unit: &'static str,
    },
    /// A word: 1 to 64 of `a-z`, `0-9` and `-`.
    Word,
}

/// A setting that this version knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// What it belongs to.
    pub category: &'static str,
    /// Its name there.
    pub key: String,
    /// Which values it takes.
    pub kind: Kind,
    /// Its value when nobody has set it.
    pub default: Value,
    /// What it means.
    pub meaning: String,
    /// What heeds it.
    pub consumer: &'static str,
    /// Whether anything heeds it already.
    pub effective: bool,
}

impl Known {
    /// Checks a value.
    ///
    /// # Errors
    /// What is allowed.
    pub fn check(&self, value: &Value) -> Result<(), String> {
        match self.kind {
            Kind::Whole { min, max, unit } => match value.as_i64() {
                Some(number) if (min..=max).contains(&number) => Ok(()),
                _ => Err(format!("must be a whole number from {min} to {max} ({unit})")),
            },
            Kind::Word => {
                let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
                match value.as_str() {
                    Some(word) if (1..=64).contains(&word.len()) && word.bytes().all(plain) => Ok(()),
                    _ => Err("must be a word of 1 to 64 of a-z, 0-9 and -".to_owned()),
                }
            }
        }
    }

    /// Its JSON Schema (2020-12).
    #[must_use]
    pub fn schema(&self) -> Value {
        let mut schema = match self.kind {
            Kind::Whole { min, max, unit } => {
                json!({ "type": "integer", "minimum": min, "maximum": max, "x-unit": unit })
            }
            Kind::Word => json!({ "type": "string", "pattern": "^[a-z0-9-]{1,64}$" }),
        };
        schema["default"] = self.default.clone();
        schema["description"] = json!(self.meaning);
        schema["x-consumer"] = json!(self.consumer);
        schema["x-effective"] = json!(self.effective);
        schema
    }
}

/// What is known of a name.
#[derive(Debug, PartialEq)]
pub enum Lookup<'a> {
    /// This setting.
    Known(&'a Known),
    /// The category is known, and has no such key; these it has.
    NoSuchKey(Vec<&'a str>),
    /// The category is nobody's here: what is set in it is stored, and heeded by nothing.
    Foreign,
}

/// Every setting that this version knows.
#[derive(Debug, Clone)]
pub struct Registry {
    known: Vec<Known>,
}

const QUEUE: &str = "queue";
const AGENTS: &str = "agents";
const TASKS: &str = "tasks";
const LLM: &str = "llm";
const LOOP_INTERVAL: &str = "loop_interval_";

impl Registry {
    /// For these agents, each with its configured loop interval.
    pub fn new(agents: impl IntoIterator<Item = (AgentType, Duration)>) -> Self {
        let mut known: Vec<Known> = [
            (Priority::Critical, 0_i64, 60_000_i64),
            (Priority::Urgent, 5000, 3_600_000),
            (Priority::High, 30_000, 86_400_000),
            (Priority::Normal, 120_000, 86_400_000),
            (Priority::Low, 300_000, 86_400_000),
        ]
        .map(|(priority, default, max)| Known {
            category: QUEUE,
            key: delay_key(priority),
            kind: Kind::Whole { min: 0, max, unit: "ms" },
            default: json!(default),
            meaning: format!(
                "How long what is {priority} may wait before it wakes its agent, so that several wake it once"
            ),
            consumer: "mailbox: when a message is due",
            effective: true,
        })
        .into();
        let mut agents: Vec<_> = agents.into_iter().collect();
        agents.sort();
        known.extend(agents.into_iter().map(|(agent_type, interval)| Known {
            category: AGENTS,
            key: format!("{LOOP_INTERVAL}{agent_type}"),
            kind: Kind::Whole { min: 1, max: 604_800, unit: "s" },
            default: json!(interval.as_secs()),
            meaning: format!("Time between two loops of {agent_type}"),
            consumer: "heartbeat: the loop interval in its answer",
            effective: true,
        }));
        known.push(Known {
            category: TASKS,
            key: "max_in_progress".to_owned(),
            kind: Kind::Whole { min: 1, max: 50, unit: "tasks" },
            default: json!(2),
            meaning: "How many tasks of one agent may be in progress at a time".to_owned(),
            consumer: "tasks: claims",
            effective: true,
        });
        known.push(Known {
            category: TASKS,
            key: "age_step".to_owned(),
            kind: Kind::Whole { min: 0, max: 31_536_000, unit: "s" },
            default: json!(86_400),
            meaning: "After which time of waiting a task counts one priority more, up to high; 0: never"
                .to_owned(),
            consumer: "tasks: the order of claims",
            effective: true,
        });
        known.push(Known {
            category: LLM,
            key: "routing_strategy".to_owned(),
            kind: Kind::Word,
            default: json!("claude-only"),
            meaning: "How a model is chosen for a thought; nothing heeds it in this version".to_owned(),
            consumer: "model providers, which this version does not have",
            effective: false,
        });
        Self { known }
    }

    /// All of them, by category.
    #[must_use]
    pub fn all(&self) -> &[Known] {
        &self.known
    }

    /// What is known of a name.
    #[must_use]
    pub fn find(&self, category: &str, key: &str) -> Lookup<'_> {
        let of_category: Vec<&Known> = self.known.iter().filter(|one| one.category == category).collect();
        if let Some(known) = of_category.iter().find(|one| one.key == key) {
            return Lookup::Known(known);
        }
        // Known, and without a key in this version.
        if of_category.is_empty() && category != GOVERNANCE {
            return Lookup::Foreign;
        }
        Lookup::NoSuchKey(of_category.iter().map(|one| one.key.as_str()).collect())
    }

    /// The JSON Schema (2020-12) of everything that may be set.
    #[must_use]
    pub fn schema(&self) -> Value {
        let mut categories: BTreeMap<&str, serde_json::Map<String, Value>> = BTreeMap::new();
        categories.entry(GOVERNANCE).or_default();
        for known in &self.known {
            categories.entry(known.category).or_default().insert(known.key.clone(), known.schema());
        }
        let properties: serde_json::Map<String, Value> = categories
            .into_iter()
            .map(|(category, keys)| {
                let object = json!({ "type": "object", "properties": keys, "additionalProperties": false });
                (category.to_owned(), object)
            })
            .collect();
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Settings by category and key",
            "type": "object",
            "properties": properties,
            "additionalProperties": {
                "type": "object",
                "description": "Categories that this version does not know are stored and heeded by nothing",
            },
        })
    }

    /// The values that count, with `stored` in place of defaults.
    #[must_use]
    pub fn values(&self, stored: &[Setting]) -> Values {
        let mut values = Values { version: 0, whole: BTreeMap::new() };
        for known in &self.known {
            if let Some(number) = known.default.as_i64() {
                values.whole.insert((known.category, known.key.clone()), number);
            }
        }
        for setting in stored {
            values.version += setting.version.0;
            if let (Lookup::Known(known), StoredValue::Plain(value)) =
                (self.find(&setting.category, &setting.key), &setting.value)
                && known.check(value).is_ok()
                && let Some(number) = value.as_i64()
            {
                values.whole.insert((known.category, known.key.clone()), number);
            }
        }
        values
    }
}

fn delay_key(priority: Priority) -> String {
    format!("delay_{priority}")
}

/// The values of the known settings at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Values {
    version: u64,
    whole: BTreeMap<(&'static str, String), i64>,
}

impl Values {
    /// Grows with every change of any setting; 0 before the first.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How long what waits for an agent may do so before it wakes it.
    #[must_use]
    pub fn delays(&self) -> Delays {
        Delays::new(|priority| Duration::from_millis(self.number(QUEUE, &delay_key(priority))))
    }

    /// Time between two loops of an agent; `None` for one that is not configured.
    #[must_use]
    pub fn loop_interval(&self, agent: &AgentType) -> Option<Duration> {
        let key = format!("{LOOP_INTERVAL}{agent}");
        let seconds = self.whole.get(&(AGENTS, key))?;
        Some(Duration::from_secs(seconds.unsigned_abs()))
    }

    /// By which tasks are handed out.
    #[must_use]
    pub fn claim_rules(&self) -> ClaimRules {
        ClaimRules {
            at_most: u32::try_from(self.number(TASKS, "max_in_progress")).unwrap_or(u32::MAX),
            age_step: Duration::from_secs(self.number(TASKS, "age_step")),
        }
    }

    fn number(&self, category: &'static str, key: &str) -> u64 {
        self.whole.get(&(category, key.to_owned())).copied().unwrap_or_default().unsigned_abs()
    }
}

#[cfg(test)]
#[path = "setting/tests.rs"]
mod tests;
