//! Tokens and the audit between the domain and the rows.
//!
//! Invariants: those of the module above.

use aito_domain::{
    audit::{AuditEntry, Checkpoint, Head, Outcome, Seal, Sealed},
    id::{AuditId, TokenId, Version},
    ports::audit_store::Listed,
    time::{Timestamp, millis},
    token::{Retiring, SecretHash, Token},
};
use diesel::{AsChangeset, Insertable, Queryable, Selectable, sqlite::Sqlite};

use super::{Untranslatable, blob, json, natural, number, schema, uuid, value};

/// A token's row, as it is read and written.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::tokens, check_for_backend(Sqlite), treat_none_as_null = true)]
pub(in crate::sqlite) struct TokenRow {
    pub id: Vec<u8>,
    pub version: i64,
    pub name: String,
    pub grants: String,
    pub hash: Vec<u8>,
    pub retiring_hash: Option<Vec<u8>>,
    pub retiring_until: Option<i64>,
    pub created_by: String,
    pub created_at: i64,
    pub rotated_at: Option<i64>,
    pub expires_at: Option<i64>,
    pub revoked_at: Option<i64>,
}

/// An entry's row before it has a place in the chain.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable)]
#[diesel(table_name = schema::audit, check_for_backend(Sqlite))]
pub(in crate::sqlite) struct AuditRow {
    pub id: Vec<u8>,
    pub at: i64,
    pub actor: String,
    pub credential: String,
    pub operation: String,
    pub object: String,
    pub source: String,
    pub request_id: String,
    pub outcome: String,
    pub detail: String,
    pub times: i64,
}

/// The columns of an entry's place.
pub(in crate::sqlite) type PlaceColumns = (Option<i64>, Option<Vec<u8>>);

/// The checkpoint's row.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = schema::audit_checkpoint, check_for_backend(Sqlite))]
pub(in crate::sqlite) struct CheckpointRow {
    pub n: i64,
    pub seal: Vec<u8>,
    pub at: i64,
    pub signature: Vec<u8>,
}

impl TokenRow {
    /// The row that a commit of this token writes: with the version after the one that was read.
    pub(in crate::sqlite) fn next_of(token: &Token) -> Result<Self, Untranslatable> {
        let at = |time: Option<&Timestamp>| time.map(Timestamp::timestamp_millis);
        Ok(Self {
            id: blob(token.id.0),
            version: number("a version", token.version.0.saturating_add(1))?,
            name: token.name.clone(),
            grants: json("the grants", &token.grants)?,
            hash: token.hash.0.to_vec(),
            retiring_hash: token.retiring.as_ref().map(|retiring| retiring.hash.0.to_vec()),
            retiring_until: at(token.retiring.as_ref().map(|retiring| &retiring.until)),
            created_by: token.created_by.clone(),
            created_at: token.created_at.timestamp_millis(),
            rotated_at: at(token.rotated_at.as_ref()),
            expires_at: at(token.expires_at.as_ref()),
            revoked_at: at(token.revoked_at.as_ref()),
        })
    }

    pub(in crate::sqlite) fn into_domain(self) -> Result<Token, Untranslatable> {
        let hash = |bytes: &[u8]| array("hash of a secret", bytes).map(SecretHash);
        let retiring = match (self.retiring_hash, self.retiring_until) {
            (None, None) => None,
            (Some(old), Some(until)) => Some(Retiring { hash: hash(&old)?, until: millis(until) }),
            _ => {
                return Err(Untranslatable::Strange("retiring secret", "a half of it is missing".to_owned()));
            }
        };
        Ok(Token {
            id: TokenId(uuid("token id", &self.id)?),
            version: Version(natural("version", self.version)?),
            name: self.name,
            grants: value("grants", &self.grants)?,
            hash: hash(&self.hash)?,
            retiring,
            created_by: self.created_by,
            created_at: millis(self.created_at),
            rotated_at: self.rotated_at.map(millis),
            expires_at: self.expires_at.map(millis),
            revoked_at: self.revoked_at.map(millis),
        })
    }
}

impl AuditRow {
    pub(in crate::sqlite) fn of(entry: &AuditEntry) -> Result<Self, Untranslatable> {
        Ok(Self {
            id: blob(entry.id.0),
            at: entry.at.timestamp_millis(),
            actor: entry.actor.clone(),
            credential: entry.credential.clone(),
            operation: entry.operation.clone(),
            object: entry.object.clone(),
            source: entry.source.clone(),
            request_id: entry.request_id.clone(),
            outcome: entry.outcome.as_str().to_owned(),
            detail: entry.detail.clone(),
            times: number("the times of an entry", entry.times)?,
        })
    }

    pub(in crate::sqlite) fn into_domain(self) -> Result<AuditEntry, Untranslatable> {
        Ok(AuditEntry {
            id: AuditId(uuid("audit id", &self.id)?),
            at: millis(self.at),
            actor: self.actor,
            credential: self.credential,
            operation: self.operation,
            object: self.object,
            source: self.source,
            request_id: self.request_id,
            outcome: Outcome::parse(&self.outcome)
                .ok_or_else(|| Untranslatable::Strange("outcome", self.outcome.clone()))?,
            detail: self.detail,
            times: natural("times of an entry", self.times)?,
        })
    }

    /// With the place that is stored beside it, if there is one.
    pub(in crate::sqlite) fn into_listed(self, place: PlaceColumns) -> Result<Listed, Untranslatable> {
        let place = match place {
            (None, None) => None,
            (Some(n), Some(seal)) => Some(head(n, &seal)?),
            _ => {
                return Err(Untranslatable::Strange(
                    "place of an entry",
                    "a half of it is missing".to_owned(),
                ));
            }
        };
        Ok(Listed { entry: self.into_domain()?, place })
    }

    /// With the place that it has.
    pub(in crate::sqlite) fn into_sealed(self, place: PlaceColumns) -> Result<Sealed, Untranslatable> {
        let Listed { entry, place } = self.into_listed(place)?;
        let Head { n, seal } =
            place.ok_or_else(|| Untranslatable::Strange("place of an entry", "it is missing".to_owned()))?;
        Ok(Sealed { n, seal, entry })
    }
}

impl CheckpointRow {
    pub(in crate::sqlite) fn of(checkpoint: &Checkpoint) -> Result<Self, Untranslatable> {
        Ok(Self {
            n: number("the number of a checkpoint", checkpoint.head.n)?,
            seal: checkpoint.head.seal.0.to_vec(),
            at: checkpoint.at.timestamp_millis(),
            signature: checkpoint.signature.to_vec(),
        })
    }

    pub(in crate::sqlite) fn into_domain(self) -> Result<Checkpoint, Untranslatable> {
        Ok(Checkpoint {
            head: head(self.n, &self.seal)?,
            at: millis(self.at),
            signature: array("signature", &self.signature)?,
        })
    }
}

/// A place in the chain.
pub(in crate::sqlite) fn head(n: i64, seal: &[u8]) -> Result<Head, Untranslatable> {
    Ok(Head { n: natural("number of an entry", n)?, seal: Seal(array("seal", seal)?) })
}

fn array<const N: usize>(what: &'static str, bytes: &[u8]) -> Result<[u8; N], Untranslatable> {
    bytes.try_into().map_err(|_| Untranslatable::Strange(what, format!("{} bytes", bytes.len())))
}

#[cfg(test)]
mod tests {
    use aito_domain::access::{Grants, Role};
    use uuid::Uuid;

    use super::*;

    fn token() -> Token {
        Token {
            id: TokenId(Uuid::from_u128(1)),
            version: Version(6),
            name: "ops laptop".into(),
            grants: Grants { roles: Role::ALL.into(), seat: Some("ceo".parse().unwrap()) },
            hash: SecretHash([7; 32]),
            retiring: Some(Retiring { hash: SecretHash([8; 32]), until: millis(1_700_000_000_123) }),
            created_by: "token:root".into(),
            created_at: millis(-1),
            rotated_at: Some(millis(0)),
            expires_at: Some(millis(2)),
            revoked_at: Some(millis(3)),
        }
    }

    fn entry() -> AuditEntry {
        AuditEntry {
            id: AuditId(Uuid::from_u128(5)),
            at: millis(77),
            actor: "token:ops".into(),
            credential: "token/1".into(),
            operation: "agents.start".into(),
            object: "/agents/ceo/start".into(),
            source: "127.0.0.1".into(),
            request_id: String::new(),
            outcome: Outcome::Refused,
            detail: "403: \"ü\"".into(),
            times: i64::MAX as u64,
        }
    }

    #[test]
    fn a_token_reads_back_with_the_next_version() {
        let bare = Token {
            grants: Grants::default(),
            retiring: None,
            rotated_at: None,
            expires_at: None,
            revoked_at: None,
            ..token()
        };
        for token in [token(), bare] {
            let read = TokenRow::next_of(&token).unwrap().into_domain().unwrap();
            assert_eq!(read, Token { version: Version(7), ..token });
        }
        assert!(TokenRow::next_of(&Token { version: Version(i64::MAX as u64), ..token() }).is_err());
    }

    #[test]
    fn an_entry_reads_back_with_and_without_its_place() {
        let row = AuditRow::of(&entry()).unwrap();
        let waiting = row.clone().into_listed((None, None)).unwrap();
        assert_eq!(waiting, Listed { entry: entry(), place: None });
        let place = (Some(9), Some(vec![3; 32]));
        let sealed = row.clone().into_sealed(place).unwrap();
        assert_eq!(sealed, Sealed { n: 9, seal: Seal([3; 32]), entry: entry() });
        assert!(row.into_sealed((None, None)).is_err());
        let large = AuditEntry { times: u64::MAX, ..entry() };
        assert_eq!(AuditRow::of(&large), Err(Untranslatable::TooLarge("the times of an entry")));
    }

    #[test]
    fn a_checkpoint_reads_back() {
        let checkpoint =
            Checkpoint { head: Head { n: 4, seal: Seal([1; 32]) }, at: millis(5), signature: [9; 64] };
        assert_eq!(CheckpointRow::of(&checkpoint).unwrap().into_domain().unwrap(), checkpoint);
        let beyond = Checkpoint { head: Head { n: u64::MAX, ..checkpoint.head }, ..checkpoint };
        assert!(CheckpointRow::of(&beyond).is_err());
    }

    #[test]
    fn what_a_later_version_wrote_is_an_error_not_a_guess() {
        let row = TokenRow::next_of(&token()).unwrap();
        for strange in [
            TokenRow { grants: r#"{"roles":["emperor"],"seat":null}"#.into(), ..row.clone() },
            TokenRow { grants: r#"{"roles":[],"seat":"CEO"}"#.into(), ..row.clone() },
            TokenRow { hash: vec![1; 31], ..row.clone() },
            TokenRow { retiring_hash: Some(vec![1; 33]), ..row.clone() },
            TokenRow { retiring_until: None, ..row.clone() },
            TokenRow { version: -1, ..row.clone() },
            TokenRow { id: vec![1], ..row },
        ] {
            assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
        }
        let row = AuditRow::of(&entry()).unwrap();
        for strange in [
            AuditRow { outcome: "postponed".into(), ..row.clone() },
            AuditRow { times: -1, ..row.clone() },
            AuditRow { id: Vec::new(), ..row.clone() },
        ] {
            assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
        }
        for place in [(Some(1), None), (None, Some(vec![0; 32])), (Some(-1), Some(vec![0; 32]))] {
            assert!(row.clone().into_listed(place.clone()).is_err(), "{place:?}");
        }
    }
}
