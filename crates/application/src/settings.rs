//! Settings: read by everything that heeds them, written by people, in effect on every server within a second.
//!
//! Invariants: what a server believes is never older than [`BELIEVED`] while the store answers; when it does not, what
//! was read last goes on to count; a secret leaves this module only sealed or as a mask.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aito_domain::{
    id::Version,
    ports::{ReadError, ledger::Change, settings_store::SettingsStore},
    setting::{
        Lookup, MASK, MAX_DESCRIPTION, MAX_STORED, MAX_VALUE, Registry, Setting, SettingsKey, StoredValue,
        Values, is_category, is_key, sounds_secret,
    },
};
use serde_json::{Value, json};
use tracing::warn;

use crate::{
    by::By,
    checks::{Faults, Seen, busy, expect},
    error::Error,
    once::Outcome,
    tokens::Randomness,
    writer::Writer,
};

/// How long what was read is used: half of the second within which a setting takes effect everywhere.
pub const BELIEVED: Duration = Duration::from_millis(500);
/// How often a change is tried when somebody else was faster.
const TRIES: u32 = 12;

/// What somebody sets, not yet checked.
#[derive(Debug, Clone)]
pub struct NewValue {
    /// `None`: it was not given.
    pub value: Option<Value>,
    /// What people say of it; `None` leaves what is said.
    pub description: Option<String>,
    /// Whether it is a secret; `None`: as it was, or as its name sounds.
    pub secret: Option<bool>,
}

/// A setting as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct SettingView {
    /// What is stored.
    pub setting: Setting,
    /// Whether anything heeds it.
    pub effective: bool,
}

/// Everything that is set, with defaults, for showing.
#[derive(Debug, Clone, PartialEq)]
pub struct AllSettings {
    /// By category and key; secrets masked.
    pub values: BTreeMap<String, BTreeMap<String, Value>>,
    /// The version of each of them; 0 of one that was never set.
    pub versions: BTreeMap<String, BTreeMap<String, Version>>,
    /// See [`Values::version`].
    pub version: u64,
}

/// Reads and writes settings.
pub struct SettingsService {
    store: Arc<dyn SettingsStore>,
    writer: Arc<Writer>,
    registry: Registry,
    key: SettingsKey,
    randomness: Arc<dyn Randomness>,
    believed: RwLock<Option<Believed>>,
    /// Held by whoever reads, so that the others use what it finds.
    reading: tokio::sync::Mutex<()>,
}

#[derive(Clone)]
struct Believed {
    values: Arc<Values>,
    /// By the clock that never goes back, when it was asked; `None`: it counts no more.
    at: Option<Duration>,
}

impl SettingsService {
    /// Over these ports, for the settings of a registry.
    pub fn new(
        store: Arc<dyn SettingsStore>,
        writer: Arc<Writer>,
        registry: Registry,
        key: SettingsKey,
        randomness: Arc<dyn Randomness>,
    ) -> Self {
        Self {
            store,
            writer,
            registry,
            key,
            randomness,
            believed: RwLock::default(),
            reading: tokio::sync::Mutex::default(),
        }
    }

    /// The values that count, at most [`BELIEVED`] old while the store answers.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when they cannot be read and never were.
    pub async fn current(&self) -> Result<Arc<Values>, Error> {
        if let Some(fresh) = self.fresh() {
            return Ok(fresh);
        }
        let asked = self.writer.clock().monotonic();
        let _reading = self.reading.lock().await;
        // What somebody began to read while this one waited is new enough, however long that took.
        if let Some(since) = self.since(asked) {
            return Ok(since);
        }
        let at = Some(self.writer.clock().monotonic());
        match self.read(self.last()).await {
            Ok(values) => {
                self.believe(Some(Believed { values: values.clone(), at }));
                Ok(values)
            }
            Err(why) => match self.last() {
                Some(last) => {
                    warn!(%why, "settings cannot be read; those that were read last count");
                    // Not asked again for a moment, so that nobody waits for the store each time.
                    let at = Some(self.writer.clock().monotonic());
                    self.believe(Some(Believed { values: last.clone(), at }));
                    Ok(last)
                }
                None => Err(why.into()),
            },
        }
    }

    /// The values that are stored; those that were read last if nothing was set since.
    async fn read(&self, last: Option<Arc<Values>>) -> Result<Arc<Values>, ReadError> {
        if let Some(last) = last
            && self.store.version().await? == last.version()
        {
            return Ok(last);
        }
        Ok(Arc::new(self.registry.values(&self.store.all().await?)))
    }

    /// The values that were read last, without asking; the defaults before anything was read.
    pub fn last_known(&self) -> Arc<Values> {
        self.last().unwrap_or_else(|| Arc::new(self.registry.values(&[])))
    }

    /// The JSON Schema of everything that may be set.
    pub fn schema(&self) -> Value {
        self.registry.schema()
    }

    /// Everything that is set.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn all(&self) -> Result<AllSettings, Error> {
        let stored = self.store.all().await?;
        let mut values: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
        let mut versions: BTreeMap<String, BTreeMap<String, Version>> = BTreeMap::new();
        let mut show = |category: &str, key: &str, value: Value, version: Version| {
            values.entry(category.to_owned()).or_default().insert(key.to_owned(), value);
            versions.entry(category.to_owned()).or_default().insert(key.to_owned(), version);
        };
        for known in self.registry.all() {
            show(known.category, &known.key, known.default.clone(), Version::default());
        }
        for setting in &stored {
            // What is stored under a known category and no known key is of another version, or of an agent that is not
            // configured any more.
            if !matches!(self.registry.find(&setting.category, &setting.key), Lookup::NoSuchKey(_)) {
                show(&setting.category, &setting.key, setting.shown(), setting.version);
            }
        }
        Ok(AllSettings { values, versions, version: self.registry.values(&stored).version() })
    }

    /// Sets a value.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault; [`Error::Precondition`] when it is not in the states that `seen` names (one
    /// that was never set has version 0); [`Error::Conflict`] when there are too many; [`Error::Unavailable`].
    pub async fn write(
        &self,
        category: &str,
        key: &str,
        new: NewValue,
        seen: Option<&Seen>,
        by: &By,
    ) -> Result<SettingView, Error> {
        let value = self.checked(category, key, &new)?;
        let effective = match self.registry.find(category, key) {
            Lookup::Known(known) => known.effective,
            Lookup::NoSuchKey(_) | Lookup::Foreign => false,
        };
        for attempt in 0..TRIES {
            let stored = self.store.all().await?;
            let before = stored.iter().find(|one| one.category == category && one.key == key);
            let version = before.map(|one| one.version).unwrap_or_default();
            expect("the setting", seen, version)?;
            // What is known has room whatever else was set.
            let is_foreign =
                |category: &str, key: &str| matches!(self.registry.find(category, key), Lookup::Foreign);
            let foreign = stored.iter().filter(|one| is_foreign(&one.category, &one.key));
            if before.is_none() && is_foreign(category, key) && foreign.count() >= MAX_STORED {
                return Err(Error::Conflict(format!(
                    "there are {MAX_STORED} settings of unknown categories already, the most that are kept"
                )));
            }
            let was_secret = before.map(|one| matches!(one.value, StoredValue::Sealed(_)));
            let secret = match self.registry.find(category, key) {
                Lookup::Known(_) => false,
                _ => new.secret.or(was_secret).unwrap_or_else(|| sounds_secret(key)),
            };
            let now = self.writer.clock().now();
            let setting = Setting {
                category: category.to_owned(),
                key: key.to_owned(),
                version,
                value: if secret {
                    self.sealed(category, key, &value)?
                } else {
                    StoredValue::Plain(value.clone())
                },
                description: new
                    .description
                    .clone()
                    .or_else(|| before.and_then(|one| one.description.clone())),
                updated_by: by.actor().clone(),
                updated_at: now,
            };
            let mut commit = self.writer.begin();
            self.writer.tell(&mut commit, None, by.actor(), vec![setting.told()], now);
            self.writer.account(&mut commit, by, now, &format!("{category}.{key}"));
            commit.changes.push(Change::Setting(Box::new(setting.clone())));
            match self.writer.apply_once(&mut commit, None, &[], &()).await? {
                Outcome::Now | Outcome::Before(()) => {
                    by.told();
                    self.believe(None);
                    let setting = Setting { version: version.next(), ..setting };
                    return Ok(SettingView { setting, effective });
                }
                Outcome::Conflict => self.writer.pause(attempt).await,
            }
        }
        Err(busy("the setting"))
    }

    fn checked(&self, category: &str, key: &str, new: &NewValue) -> Result<Value, Error> {
        let mut faults = Faults::default();
        if !is_category(category) {
            faults.add("?category", "must be 1 to 64 of a-z, 0-9, _ and -");
        }
        if !is_key(key) {
            faults.add("?key", "must be 1 to 128 of A-Z, a-z, 0-9, ., _ and -");
        }
        let known = self.registry.find(category, key);
        if let Lookup::NoSuchKey(keys) = &known {
            let allowed = match keys.is_empty() {
                true => "nothing, in this version".to_owned(),
                false => keys.join(", "),
            };
            faults.add("?key", format!("{category} has no such setting; it has {allowed}"));
        }
        match (&new.value, &known) {
            (None | Some(Value::Null), Lookup::NoSuchKey(_)) => {}
            (None | Some(Value::Null), _) => faults.add("/value", "must be given, and not null"),
            (Some(value), Lookup::Known(known)) => {
                if let Err(allowed) = known.check(value) {
                    faults.add("/value", allowed);
                }
            }
            (value, _) => {
                faults.json("/value", value.as_ref(), MAX_VALUE);
                // What is shown in place of a secret is not one: whoever sends it back means no change.
                if value.as_ref() == Some(&json!(MASK)) {
                    faults.add("/value", "must be the value itself, not what is shown in place of a secret");
                }
            }
        }
        if new.secret == Some(true) && matches!(known, Lookup::Known(_)) {
            faults.add("/secret", "must be false: this setting is no secret");
        }
        faults.optional("/description", new.description.as_deref(), MAX_DESCRIPTION);
        faults.done()?;
        new.value.clone().ok_or_else(|| Error::Internal("a setting without a value".into()))
    }

    fn sealed(&self, category: &str, key: &str, value: &Value) -> Result<StoredValue, Error> {
        let random = self.randomness.secret().map_err(|why| Error::Internal(why.into()))?;
        let mut nonce = [0; 24];
        nonce.copy_from_slice(&random[..24]);
        let sealed = self.key.seal(category, key, value, nonce);
        Ok(StoredValue::Sealed(sealed.map_err(|why| Error::Internal(why.into()))?))
    }

    fn fresh(&self) -> Option<Arc<Values>> {
        let now = self.writer.clock().monotonic();
        let believed = self.believed.read().unwrap_or_else(PoisonError::into_inner);
        let fresh = believed.as_ref().filter(|it| it.at.is_some_and(|at| now.saturating_sub(at) < BELIEVED));
        fresh.map(|it| it.values.clone())
    }

    fn since(&self, asked: Duration) -> Option<Arc<Values>> {
        let believed = self.believed.read().unwrap_or_else(PoisonError::into_inner);
        let since = believed.as_ref().filter(|it| it.at.is_some_and(|at| at >= asked));
        since.map(|it| it.values.clone())
    }

    fn last(&self) -> Option<Arc<Values>> {
        self.believed.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|it| it.values.clone())
    }

    /// `None`: what was read counts no more, and is kept for the case that the store does not answer.
    fn believe(&self, news: Option<Believed>) {
        let mut believed = self.believed.write().unwrap_or_else(PoisonError::into_inner);
        match (news, believed.as_mut()) {
            (Some(news), _) => *believed = Some(news),
            (None, Some(old)) => old.at = None,
            (None, None) => {}
        }
    }
}
