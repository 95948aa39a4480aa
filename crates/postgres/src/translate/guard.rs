//! Tokens and the audit between the domain and the rows.

use aito_domain::{
    access::Grants,
    audit::{AuditEntry, Checkpoint, Head, Outcome, Seal, Sealed},
    id::{AuditId, TokenId, Version},
    ports::audit_store::Listed,
    time::Timestamp,
    token::{Retiring, SecretHash, Token},
};
use diesel::{AsChangeset, Insertable, Queryable, Selectable, pg::Pg};
use serde_json::Value;
use uuid::Uuid;

use super::{Untranslatable, json, natural, number, value};
use crate::schema;

/// A token's row, as it is read and written, with NULL as in an agent's.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::tokens, check_for_backend(Pg))]
#[diesel(treat_none_as_null = true, treat_none_as_default_value = false)]
pub(crate) struct TokenRow {
    pub id: Uuid,
    pub version: i64,
    pub name: String,
    pub grants: Value,
    pub hash: Vec<u8>,
    pub retiring_hash: Option<Vec<u8>>,
    pub retiring_until: Option<Timestamp>,
    pub created_by: String,
    pub created_at: Timestamp,
    pub rotated_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
}

/// When tokens were used, column by column, ordered by token: two servers that store the same tokens' uses then lock
/// them in the same order.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct NewUses {
    pub ids: Vec<Uuid>,
    pub at: Vec<Timestamp>,
}

/// New entries of the audit, column by column.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct NewAudit {
    pub ids: Vec<Uuid>,
    pub at: Vec<Timestamp>,
    pub actors: Vec<String>,
    pub credentials: Vec<String>,
    pub operations: Vec<String>,
    pub objects: Vec<String>,
    pub sources: Vec<String>,
    pub request_ids: Vec<String>,
    pub outcomes: Vec<String>,
    pub details: Vec<String>,
    pub times: Vec<i64>,
}

/// An entry's row, with its place if it has one.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable)]
#[diesel(table_name = schema::audit, check_for_backend(Pg))]
pub(crate) struct AuditRow {
    pub id: Uuid,
    pub at: Timestamp,
    pub actor: String,
    pub credential: String,
    pub operation: String,
    pub object: String,
    pub source: String,
    pub request_id: String,
    pub outcome: String,
    pub detail: String,
    pub times: i64,
    pub n: Option<i64>,
    pub seal: Option<Vec<u8>>,
}

/// The end of the chain.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, AsChangeset)]
#[diesel(table_name = schema::audit_head, check_for_backend(Pg))]
pub(crate) struct HeadRow {
    pub n: i64,
    pub seal: Vec<u8>,
}

/// Places to be given, column by column, and how that moves the head.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct NewPlaces {
    pub from: HeadRow,
    pub to: HeadRow,
    pub ids: Vec<Uuid>,
    pub numbers: Vec<i64>,
    pub seals: Vec<Vec<u8>>,
}

/// The checkpoint's row.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable)]
#[diesel(table_name = schema::audit_checkpoint, check_for_backend(Pg))]
pub(crate) struct CheckpointRow {
    pub n: i64,
    pub seal: Vec<u8>,
    pub at: Timestamp,
    pub signature: Vec<u8>,
}

impl TokenRow {
    /// The row that a commit of this token writes: with the version after the one that was read.
    pub(crate) fn next_of(token: &Token) -> Result<Self, Untranslatable> {
        Ok(Self {
            id: token.id.0,
            version: number("a version", token.version.0.saturating_add(1))?,
            name: token.name.clone(),
            grants: json("the grants", &token.grants)?,
            hash: token.hash.0.to_vec(),
            retiring_hash: token.retiring.as_ref().map(|old| old.hash.0.to_vec()),
            retiring_until: token.retiring.as_ref().map(|old| old.until),
            created_by: token.created_by.clone(),
            created_at: token.created_at,
            rotated_at: token.rotated_at,
            expires_at: token.expires_at,
            revoked_at: token.revoked_at,
        })
    }

    pub(crate) fn into_domain(self) -> Result<Token, Untranslatable> {
        let retiring = match (self.retiring_hash, self.retiring_until) {
            (None, None) => None,
            (Some(hash), Some(until)) => {
                Some(Retiring { hash: SecretHash(bytes("hash of a secret before", hash)?), until })
            }
            _ => return Err(Untranslatable::Strange("secret before", "a half of it".to_owned())),
        };
        Ok(Token {
            id: TokenId(self.id),
            version: Version(natural("version", self.version)?),
            name: self.name,
            grants: value::<Grants>("grants", self.grants)?,
            hash: SecretHash(bytes("hash of a secret", self.hash)?),
            retiring,
            created_by: self.created_by,
            created_at: self.created_at,
            rotated_at: self.rotated_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
        })
    }
}

impl NewUses {
    pub(crate) fn of(uses: &[(TokenId, Timestamp)]) -> Self {
        let mut ordered = uses.to_vec();
        ordered.sort_by_key(|(id, _)| *id);
        let (ids, at) = ordered.into_iter().map(|(id, at)| (id.0, at)).unzip();
        Self { ids, at }
    }
}

impl NewAudit {
    pub(super) fn of(entries: &[AuditEntry]) -> Result<Self, Untranslatable> {
        let mut rows = Self::default();
        for entry in entries {
            rows.ids.push(entry.id.0);
            rows.at.push(entry.at);
            rows.actors.push(entry.actor.clone());
            rows.credentials.push(entry.credential.clone());
            rows.operations.push(entry.operation.clone());
            rows.objects.push(entry.object.clone());
            rows.sources.push(entry.source.clone());
            rows.request_ids.push(entry.request_id.clone());
            rows.outcomes.push(entry.outcome.as_str().to_owned());
            rows.details.push(entry.detail.clone());
            rows.times.push(number("a count of attempts", entry.times)?);
        }
        Ok(rows)
    }
}

impl AuditRow {
    pub(crate) fn listed(self) -> Result<Listed, Untranslatable> {
        let place = match (self.n, self.seal) {
            (None, None) => None,
            (Some(n), Some(seal)) => Some(HeadRow { n, seal }.into_domain()?),
            _ => return Err(Untranslatable::Strange("place in the audit", "a half of it".to_owned())),
        };
        let outcome = Outcome::parse(&self.outcome)
            .ok_or_else(|| Untranslatable::Strange("outcome", self.outcome.clone()))?;
        let entry = AuditEntry {
            id: AuditId(self.id),
            at: self.at,
            actor: self.actor,
            credential: self.credential,
            operation: self.operation,
            object: self.object,
            source: self.source,
            request_id: self.request_id,
            outcome,
            detail: self.detail,
            times: natural("count of attempts", self.times)?,
        };
        Ok(Listed { entry, place })
    }

    pub(crate) fn sealed(self) -> Result<Sealed, Untranslatable> {
        let Listed { entry, place } = self.listed()?;
        let Some(Head { n, seal }) = place else {
            return Err(Untranslatable::Strange("place in the audit", "none".to_owned()));
        };
        Ok(Sealed { n, seal, entry })
    }
}

impl HeadRow {
    fn of(head: Head) -> Result<Self, Untranslatable> {
        Ok(Self { n: number("a number in the audit", head.n)?, seal: head.seal.0.to_vec() })
    }

    pub(crate) fn into_domain(self) -> Result<Head, Untranslatable> {
        Ok(Head { n: natural("number in the audit", self.n)?, seal: Seal(bytes("seal", self.seal)?) })
    }
}

impl NewPlaces {
    /// The places after `head`, in the entries' order.
    pub(crate) fn of(head: Head, entries: &[Sealed]) -> Result<Self, Untranslatable> {
        let from = HeadRow::of(head)?;
        let mut places = Self { to: from.clone(), from, ids: vec![], numbers: vec![], seals: vec![] };
        for (n, entry) in (head.n.saturating_add(1)..).zip(entries) {
            places.to = HeadRow::of(Head { n, seal: entry.seal })?;
            places.ids.push(entry.entry.id.0);
            places.numbers.push(places.to.n);
            places.seals.push(places.to.seal.clone());
        }
        Ok(places)
    }
}

impl CheckpointRow {
    pub(crate) fn of(checkpoint: &Checkpoint) -> Result<Self, Untranslatable> {
        let HeadRow { n, seal } = HeadRow::of(checkpoint.head)?;
        Ok(Self { n, seal, at: checkpoint.at, signature: checkpoint.signature.to_vec() })
    }

    pub(crate) fn into_domain(self) -> Result<Checkpoint, Untranslatable> {
        Ok(Checkpoint {
            head: HeadRow { n: self.n, seal: self.seal }.into_domain()?,
            at: self.at,
            signature: bytes("signature", self.signature)?,
        })
    }
}

/// Bytes of a fixed number.
fn bytes<const N: usize>(what: &'static str, stored: Vec<u8>) -> Result<[u8; N], Untranslatable> {
    let count = stored.len();
    stored.try_into().map_err(|_| Untranslatable::Strange(what, format!("{count} bytes instead of {N}")))
}

#[cfg(test)]
mod tests {
    use aito_domain::{access::Role, time::millis};
    use serde_json::json;

    use super::*;

    fn token() -> Token {
        Token {
            id: TokenId(Uuid::from_u128(1)),
            version: Version(6),
            name: "ops laptop".into(),
            grants: Grants { seat: Some("ceo".parse().unwrap()), ..Grants::of([Role::Human, Role::Admin]) },
            hash: SecretHash([0xff; 32]),
            retiring: Some(Retiring { hash: SecretHash([0; 32]), until: millis(3) }),
            created_by: "token:root".into(),
            created_at: millis(1),
            rotated_at: Some(millis(2)),
            expires_at: Some(millis(1_700_000_000_123)),
            revoked_at: Some(millis(4)),
        }
    }

    fn entry(id: u128) -> AuditEntry {
        AuditEntry {
            id: AuditId(Uuid::from_u128(id)),
            at: millis(77),
            actor: "token:ops".into(),
            credential: "token/1".into(),
            operation: "agents.start".into(),
            object: "/agents/ceo/start".into(),
            source: "127.0.0.1".into(),
            request_id: "r".into(),
            outcome: Outcome::Unchanged,
            detail: "\"quoted\" and ünïcode".into(),
            times: i64::MAX as u64,
        }
    }

    fn row(entry: &AuditEntry) -> AuditRow {
        let mut rows = NewAudit::of(std::slice::from_ref(entry)).unwrap();
        AuditRow {
            id: rows.ids.remove(0),
            at: rows.at.remove(0),
            actor: rows.actors.remove(0),
            credential: rows.credentials.remove(0),
            operation: rows.operations.remove(0),
            object: rows.objects.remove(0),
            source: rows.sources.remove(0),
            request_id: rows.request_ids.remove(0),
            outcome: rows.outcomes.remove(0),
            detail: rows.details.remove(0),
            times: rows.times.remove(0),
            n: None,
            seal: None,
        }
    }

    #[test]
    fn a_token_reads_back_with_the_next_version() {
        let bare = Token { grants: Grants::default(), retiring: None, revoked_at: None, ..token() };
        for token in [token(), bare] {
            let read = TokenRow::next_of(&token).unwrap().into_domain().unwrap();
            assert_eq!(read, Token { version: Version(7), ..token });
        }
    }

    #[test]
    fn entries_places_and_checkpoints_read_back() {
        let read = row(&entry(5)).listed().unwrap();
        assert_eq!(read, Listed { entry: entry(5), place: None });
        let place = Head { n: 9, seal: Seal([9; 32]) };
        let placed = AuditRow { n: Some(9), seal: Some(vec![9; 32]), ..row(&entry(5)) };
        assert_eq!(placed.clone().listed().unwrap(), Listed { entry: entry(5), place: Some(place) });
        assert_eq!(placed.sealed().unwrap(), Sealed { n: 9, seal: place.seal, entry: entry(5) });
        let checkpoint = Checkpoint { head: place, at: millis(8), signature: [7; 64] };
        assert_eq!(CheckpointRow::of(&checkpoint).unwrap().into_domain().unwrap(), checkpoint);
    }

    #[test]
    fn places_follow_the_head_in_the_order_of_the_entries() {
        let head = Head { n: 4, seal: Seal([4; 32]) };
        let sealed =
            [(2, 5), (1, 6)].map(|(id, n)| Sealed { n, seal: Seal([id; 32]), entry: entry(id.into()) });
        let places = NewPlaces::of(head, &sealed).unwrap();
        assert_eq!((places.from.n, places.from.seal), (4, vec![4; 32]));
        assert_eq!((places.to.n, places.to.seal), (6, vec![1; 32]));
        assert_eq!(places.ids, [2, 1].map(Uuid::from_u128));
        assert_eq!(places.numbers, [5, 6]);
        assert_eq!(places.seals, [vec![2; 32], vec![1; 32]]);
        let none = NewPlaces::of(head, &[]).unwrap();
        assert_eq!(none.from, none.to);
    }

    #[test]
    fn uses_are_locked_in_one_order() {
        let uses = [3, 1, 2].map(|n: u8| (TokenId(Uuid::from_u128(n.into())), millis(n.into())));
        let rows = NewUses::of(&uses);
        assert_eq!(rows.ids, [1, 2, 3].map(Uuid::from_u128));
        assert_eq!(rows.at, [1, 2, 3].map(millis));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_what_is_strange_is_an_error() {
        assert!(NewAudit::of(&[AuditEntry { times: u64::MAX, ..entry(1) }]).is_err());
        let last = Head { n: i64::MAX as u64, seal: Seal::NONE };
        let sealed = Sealed { n: 1, seal: Seal::NONE, entry: entry(1) };
        assert!(NewPlaces::of(last, &[sealed]).is_err());
        for strange in [
            TokenRow {
                grants: json!({"roles": ["king"], "seat": null}),
                ..TokenRow::next_of(&token()).unwrap()
            },
            TokenRow { hash: vec![0; 31], ..TokenRow::next_of(&token()).unwrap() },
            TokenRow { retiring_until: None, ..TokenRow::next_of(&token()).unwrap() },
        ] {
            assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
        }
        for strange in [
            AuditRow { outcome: "perhaps".into(), ..row(&entry(1)) },
            AuditRow { n: Some(1), ..row(&entry(1)) },
            AuditRow { n: Some(1), seal: Some(vec![0; 33]), ..row(&entry(1)) },
            AuditRow { times: -1, ..row(&entry(1)) },
        ] {
            assert!(strange.clone().listed().is_err(), "{strange:?}");
        }
        assert!(row(&entry(1)).sealed().is_err(), "it has no place");
    }
}
