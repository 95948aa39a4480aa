//! Domains, settings, notes and what was used up between the domain and the rows.
//!
//! Invariants: those of the module above; a request's word for where it is is never guessed at from its decision alone:
//! both must say the same.

use aito_domain::{
    allowlist::{Decided, DomainEntry, DomainRequest, RequestStatus},
    domain_name::DomainName,
    id::{AgentId, DomainId, DomainRequestId, Version},
    quota::Spent,
    setting::{Setting, StoredValue},
    state::StateEntry,
    time::{Timestamp, millis},
};
use diesel::{AsChangeset, Insertable, Queryable, Selectable, sqlite::Sqlite};
use serde_json::Value;

use super::{Untranslatable, blob, natural, number, schema, uuid, value, work::actor};

/// The row of an entry of the list, as it is read and written.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::domains, check_for_backend(Sqlite), treat_none_as_null = true)]
pub(in crate::sqlite) struct DomainRow {
    pub id: Vec<u8>,
    pub version: i64,
    pub domain: String,
    pub category: String,
    pub description: Option<String>,
    pub actor: String,
    pub created_at: i64,
    pub removed_at: Option<i64>,
}

/// The row of a request for a domain, as it is read and written.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::domain_requests, check_for_backend(Sqlite), treat_none_as_null = true)]
pub(in crate::sqlite) struct DomainRequestRow {
    pub id: Vec<u8>,
    pub version: i64,
    pub domain: String,
    pub url: Option<String>,
    pub requested_by: Option<Vec<u8>>,
    pub actor: String,
    pub task_context: Option<String>,
    pub reason: Option<String>,
    pub category: Option<String>,
    pub status: String,
    pub decided_by: Option<String>,
    pub decided_at: Option<i64>,
    pub decision_reason: Option<String>,
    pub created_at: i64,
}

/// A setting's row, as it is read and written.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::settings, check_for_backend(Sqlite), treat_none_as_null = true)]
#[diesel(primary_key(category, key))]
pub(in crate::sqlite) struct SettingRow {
    pub category: String,
    pub key: String,
    pub version: i64,
    pub value: Option<String>,
    pub sealed: Option<Vec<u8>>,
    pub description: Option<String>,
    pub updated_by: String,
    pub updated_at: i64,
}

/// A note's row, as it is read and written.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::agent_state, check_for_backend(Sqlite), treat_none_as_null = true)]
#[diesel(primary_key(agent_id, key))]
pub(in crate::sqlite) struct StateRow {
    pub agent_id: Vec<u8>,
    pub key: String,
    pub version: i64,
    pub value: Option<String>,
    pub updated_at: i64,
}

/// What is added to the row of an agent, a kind and a day.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::sqlite) struct SpentRow {
    pub agent_id: Vec<u8>,
    pub kind: &'static str,
    pub day: i64,
    pub rows: i64,
    pub bytes: i64,
}

impl DomainRow {
    /// The row that a commit of this entry writes: with the version after the one that was read.
    pub(in crate::sqlite) fn next_of(entry: &DomainEntry) -> Result<Self, Untranslatable> {
        Ok(Self {
            id: blob(entry.id.0),
            version: number("a version", entry.version.0.saturating_add(1))?,
            domain: entry.domain.as_str().to_owned(),
            category: entry.category.clone(),
            description: entry.description.clone(),
            actor: entry.actor.to_string(),
            created_at: entry.created_at.timestamp_millis(),
            removed_at: entry.removed_at.as_ref().map(Timestamp::timestamp_millis),
        })
    }

    pub(in crate::sqlite) fn into_domain(self) -> Result<DomainEntry, Untranslatable> {
        Ok(DomainEntry {
            id: DomainId(uuid("domain id", &self.id)?),
            version: Version(natural("version", self.version)?),
            domain: name(&self.domain)?,
            category: self.category,
            description: self.description,
            actor: actor(&self.actor),
            created_at: millis(self.created_at),
            removed_at: self.removed_at.map(millis),
        })
    }
}

impl DomainRequestRow {
    /// The row that a commit of this request writes: with the version after the one that was read.
    pub(in crate::sqlite) fn next_of(request: &DomainRequest) -> Result<Self, Untranslatable> {
        let decided = request.decided.as_ref();
        Ok(Self {
            id: blob(request.id.0),
            version: number("a version", request.version.0.saturating_add(1))?,
            domain: request.domain.as_str().to_owned(),
            url: request.url.clone(),
            requested_by: request.requested_by.map(|agent| blob(agent.0)),
            actor: request.actor.to_string(),
            task_context: request.task_context.clone(),
            reason: request.reason.clone(),
            category: request.category.clone(),
            status: request.status().as_str().to_owned(),
            decided_by: decided.map(|decided| decided.by.to_string()),
            decided_at: decided.map(|decided| decided.at.timestamp_millis()),
            decision_reason: decided.and_then(|decided| decided.reason.clone()),
            created_at: request.created_at.timestamp_millis(),
        })
    }

    pub(in crate::sqlite) fn into_domain(self) -> Result<DomainRequest, Untranslatable> {
        let status: RequestStatus = self
            .status
            .parse()
            .map_err(|_| Untranslatable::Strange("status of a request", self.status.clone()))?;
        let decided = match (status, self.decided_by, self.decided_at) {
            (RequestStatus::Pending, None, None) => None,
            (RequestStatus::Approved | RequestStatus::Rejected, Some(by), Some(at)) => Some(Decided {
                approved: status == RequestStatus::Approved,
                by: actor(&by),
                at: millis(at),
                reason: self.decision_reason,
            }),
            _ => {
                return Err(Untranslatable::Strange("decision", "it is not what its status says".to_owned()));
            }
        };
        Ok(DomainRequest {
            id: DomainRequestId(uuid("request id", &self.id)?),
            version: Version(natural("version", self.version)?),
            domain: name(&self.domain)?,
            url: self.url,
            requested_by: self.requested_by.map(|id| uuid("agent id", &id).map(AgentId)).transpose()?,
            actor: actor(&self.actor),
            task_context: self.task_context,
            reason: self.reason,
            category: self.category,
            decided,
            created_at: millis(self.created_at),
        })
    }
}

impl SettingRow {
    /// The row that a commit of this setting writes: with the version after the one that was read.
    pub(in crate::sqlite) fn next_of(setting: &Setting) -> Result<Self, Untranslatable> {
        let (value, sealed) = match &setting.value {
            StoredValue::Plain(value) => (Some(Value::to_string(value)), None),
            StoredValue::Sealed(bytes) => (None, Some(bytes.clone())),
        };
        Ok(Self {
            category: setting.category.clone(),
            key: setting.key.clone(),
            version: number("a version", setting.version.0.saturating_add(1))?,
            value,
            sealed,
            description: setting.description.clone(),
            updated_by: setting.updated_by.to_string(),
            updated_at: setting.updated_at.timestamp_millis(),
        })
    }

    pub(in crate::sqlite) fn into_domain(self) -> Result<Setting, Untranslatable> {
        let stored = match (self.value, self.sealed) {
            (Some(text), None) => StoredValue::Plain(value("value of a setting", &text)?),
            (None, Some(bytes)) => StoredValue::Sealed(bytes),
            _ => {
                let what = "it is neither plain nor sealed".to_owned();
                return Err(Untranslatable::Strange("value of a setting", what));
            }
        };
        Ok(Setting {
            category: self.category,
            key: self.key,
            version: Version(natural("version", self.version)?),
            value: stored,
            description: self.description,
            updated_by: actor(&self.updated_by),
            updated_at: millis(self.updated_at),
        })
    }
}

impl StateRow {
    /// The row that a commit of this note writes: with the version after the one that was read.
    pub(in crate::sqlite) fn next_of(entry: &StateEntry) -> Result<Self, Untranslatable> {
        Ok(Self {
            agent_id: blob(entry.agent_id.0),
            key: entry.key.clone(),
            version: number("a version", entry.version.0.saturating_add(1))?,
            value: entry.value.as_ref().map(Value::to_string),
            updated_at: entry.updated_at.timestamp_millis(),
        })
    }

    pub(in crate::sqlite) fn into_domain(self) -> Result<StateEntry, Untranslatable> {
        Ok(StateEntry {
            agent_id: AgentId(uuid("agent id", &self.agent_id)?),
            key: self.key,
            version: Version(natural("version", self.version)?),
            value: self.value.map(|text| value("note", &text)).transpose()?,
            updated_at: millis(self.updated_at),
        })
    }
}

impl SpentRow {
    pub(in crate::sqlite) fn of(spent: &Spent) -> Result<Self, Untranslatable> {
        Ok(Self {
            agent_id: blob(spent.agent.0),
            kind: spent.kind.as_str(),
            day: spent.day.timestamp_millis(),
            rows: number("a count of rows", spent.rows)?,
            bytes: number("a count of bytes", spent.bytes)?,
        })
    }
}

fn name(text: &str) -> Result<DomainName, Untranslatable> {
    DomainName::stored(text.to_owned()).map_err(|_| Untranslatable::Strange("domain", text.to_owned()))
}

#[cfg(test)]
mod tests {
    use aito_domain::{event::Actor, quota::SpentKind};
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    fn entry() -> DomainEntry {
        DomainEntry {
            id: DomainId(Uuid::from_u128(1)),
            version: Version(2),
            domain: "dexscreener.com".parse().unwrap(),
            category: "crypto_data".into(),
            description: Some("prices – \"ä\"".into()),
            actor: Actor::Token("ops".into()),
            created_at: millis(0),
            removed_at: Some(millis(5)),
        }
    }

    fn request() -> DomainRequest {
        DomainRequest {
            id: DomainRequestId(Uuid::from_u128(1)),
            version: Version(2),
            domain: "münchen.de".parse().unwrap(),
            url: Some("https://münchen.de/?q='".into()),
            requested_by: Some(AgentId(Uuid::from_u128(2))),
            actor: Actor::Agent("cmo".parse().unwrap()),
            task_context: Some("context".into()),
            reason: Some("reason".into()),
            category: Some("requested".into()),
            decided: Some(Decided {
                approved: true,
                by: Actor::Unauthenticated,
                at: millis(9),
                reason: Some("fine".into()),
            }),
            created_at: millis(-1),
        }
    }

    fn setting() -> Setting {
        Setting {
            category: "queue".into(),
            key: "delay_low".into(),
            version: Version(2),
            value: StoredValue::Plain(json!({"n": [0.1, null]})),
            description: Some("how long".into()),
            updated_by: Actor::System,
            updated_at: millis(4),
        }
    }

    #[test]
    fn entries_and_requests_read_back_equal_with_the_next_version() {
        for entry in [entry(), DomainEntry { description: None, removed_at: None, ..entry() }] {
            let read = DomainRow::next_of(&entry).unwrap().into_domain().unwrap();
            assert_eq!(read, DomainEntry { version: Version(3), ..entry });
        }
        let rejected = Decided { approved: false, by: Actor::System, at: millis(7), reason: None };
        let bare = DomainRequest {
            url: None,
            requested_by: None,
            task_context: None,
            reason: None,
            category: None,
            decided: None,
            ..request()
        };
        for request in [request(), DomainRequest { decided: Some(rejected), ..request() }, bare] {
            let row = DomainRequestRow::next_of(&request).unwrap();
            assert_eq!(row.status, request.status().as_str());
            assert_eq!(row.into_domain().unwrap(), DomainRequest { version: Version(3), ..request });
        }
    }

    #[test]
    fn settings_and_notes_read_back_equal_with_the_next_version() {
        let values = [
            StoredValue::Plain(Value::Null),
            StoredValue::Plain(json!("text")),
            StoredValue::Sealed(Vec::new()),
            StoredValue::Sealed(vec![0, 255, 7]),
        ];
        let others = values.map(|value| Setting { value, description: None, ..setting() });
        for setting in [setting()].into_iter().chain(others) {
            let read = SettingRow::next_of(&setting).unwrap().into_domain().unwrap();
            assert_eq!(read, Setting { version: Version(3), ..setting });
        }
        for value in [None, Some(Value::Null), Some(json!({"a": [1, 0.1, "ä"]}))] {
            let note = StateEntry {
                agent_id: AgentId(Uuid::from_u128(2)),
                key: "last.seen:2025-12".into(),
                version: Version(2),
                value,
                updated_at: millis(1),
            };
            let read = StateRow::next_of(&note).unwrap().into_domain().unwrap();
            assert_eq!(read, StateEntry { version: Version(3), ..note });
        }
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        let last = Version(i64::MAX as u64);
        assert!(DomainRow::next_of(&DomainEntry { version: last, ..entry() }).is_err());
        assert!(DomainRequestRow::next_of(&DomainRequest { version: last, ..request() }).is_err());
        assert!(SettingRow::next_of(&Setting { version: last, ..setting() }).is_err());
        let spent = Spent {
            agent: AgentId(Uuid::from_u128(2)),
            kind: SpentKind::Tasks,
            day: millis(0),
            rows: u64::MAX,
            bytes: 0,
        };
        assert_eq!(SpentRow::of(&spent), Err(Untranslatable::TooLarge("a count of rows")));
        assert!(SpentRow::of(&Spent { rows: 0, bytes: u64::MAX, ..spent }).is_err());
        assert_eq!(SpentRow::of(&Spent { rows: 1, ..spent }).unwrap().kind, "tasks");
    }

    #[test]
    fn what_a_later_version_wrote_is_an_error_not_a_guess() {
        let row = DomainRow::next_of(&entry()).unwrap();
        for strange in [
            DomainRow { domain: "com".into(), ..row.clone() },
            DomainRow { id: vec![1], ..row.clone() },
            DomainRow { version: -1, ..row },
        ] {
            assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
        }
        let row = DomainRequestRow::next_of(&request()).unwrap();
        for strange in [
            DomainRequestRow { status: "postponed".into(), ..row.clone() },
            DomainRequestRow { status: "pending".into(), ..row.clone() },
            DomainRequestRow { decided_by: None, ..row.clone() },
            DomainRequestRow { decided_at: None, ..row.clone() },
            DomainRequestRow { requested_by: Some(vec![1]), ..row },
        ] {
            assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
        }
        let row = SettingRow::next_of(&setting()).unwrap();
        for strange in [
            SettingRow { value: Some("not json".into()), ..row.clone() },
            SettingRow { value: None, ..row.clone() },
            SettingRow { sealed: Some(vec![1]), ..row.clone() },
            SettingRow { version: -1, ..row },
        ] {
            assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
        }
    }
}
