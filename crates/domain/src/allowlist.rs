//! The list of domains that agents may reach, and what they ask to have on it.
//!
//! Invariants: of entries that stand no two have one name; a request is decided once, and approving it puts its domain
//! on the list in the same commit unless an entry covers it already; of open requests no two are from one asker for one
//! domain. The list is advice until something enforces it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{
    domain_name::DomainName,
    event::{Actor, DomainDecided, DomainListed, DomainRequested, Payload},
    id::{AgentId, DomainId, DomainRequestId, Version},
    time::Timestamp,
};

/// The longest description, in characters.
pub const MAX_DESCRIPTION: usize = 1000;
/// The longest reason and the longest task context, in characters.
pub const MAX_REASON: usize = 2000;
/// The longest URL, in characters.
pub const MAX_URL: usize = 2048;
/// The category of what was asked for without one.
pub const REQUESTED: &str = "requested";

/// Whether a text is a category: 1 to 64 of `a-z`, `0-9`, `_` and `-`.
#[must_use]
pub fn is_category(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// An entry of the list. It covers its domain and the subdomains of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainEntry {
    /// Its id.
    pub id: DomainId,
    /// The version that was read; a commit writes the next.
    pub version: Version,
    /// What it covers.
    pub domain: DomainName,
    /// What it is for; see [`is_category`].
    pub category: String,
    /// More of that, at most [`MAX_DESCRIPTION`] characters.
    pub description: Option<String>,
    /// Who put it there.
    pub actor: Actor,
    /// When it was put there.
    pub created_at: Timestamp,
    /// When it was taken off.
    pub removed_at: Option<Timestamp>,
}

/// What a new entry is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// What it covers.
    pub domain: DomainName,
    /// See [`DomainEntry::category`].
    pub category: String,
    /// See [`DomainEntry::description`].
    pub description: Option<String>,
    /// Who puts it there.
    pub actor: Actor,
}

impl DomainEntry {
    /// A new entry, with what to tell of it.
    #[must_use]
    pub fn add(id: DomainId, new: NewEntry, now: Timestamp) -> (Self, Payload) {
        let entry = Self {
            id,
            version: Version::default(),
            domain: new.domain,
            category: new.category,
            description: new.description,
            actor: new.actor,
            created_at: now,
            removed_at: None,
        };
        let told = Payload::DomainAdded(entry.told());
        (entry, told)
    }

    /// Takes it off, with what to tell of that.
    #[must_use]
    pub fn remove(mut self, now: Timestamp) -> (Self, Payload) {
        self.removed_at = Some(now);
        let told = Payload::DomainRemoved(self.told());
        (self, told)
    }

    fn told(&self) -> DomainListed {
        DomainListed { domain_id: self.id, domain: self.domain.clone(), category: self.category.clone() }
    }
}

/// Where a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestStatus {
    /// Nobody has decided.
    Pending,
    /// Its domain is on the list.
    Approved,
    /// It is not to be.
    Rejected,
}

impl RequestStatus {
    /// Every status.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Approved, Self::Rejected];

    /// The word of the wire and the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
        }
    }
}

/// A word that is no [`RequestStatus`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of pending, approved, rejected")]
pub struct BadRequestStatus;

impl FromStr for RequestStatus {
    type Err = BadRequestStatus;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(BadRequestStatus)
    }
}

/// By whom, when and why a request was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Whether it was approved.
    pub approved: bool,
    /// Who.
    pub by: Actor,
    /// When.
    pub at: Timestamp,
    /// Why, at most [`MAX_REASON`] characters.
    pub reason: Option<String>,
}

/// A wish to have a domain on the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainRequest {
    /// Its id.
    pub id: DomainRequestId,
    /// The version that was read; a commit writes the next.
    pub version: Version,
    /// What is asked for.
    pub domain: DomainName,
    /// The page that is needed, at most [`MAX_URL`] characters.
    pub url: Option<String>,
    /// The agent that asks, if one does.
    pub requested_by: Option<AgentId>,
    /// Who asks.
    pub actor: Actor,
    /// What it is for, at most [`MAX_REASON`] characters.
    pub task_context: Option<String>,
    /// Why, at most [`MAX_REASON`] characters.
    pub reason: Option<String>,
    /// Under which category it should be; see [`is_category`].
    pub category: Option<String>,
    /// How it was decided, once it was.
    pub decided: Option<Decided>,
    /// When it was asked.
    pub created_at: Timestamp,
}

/// What a new request is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRequest {
    /// What is asked for.
    pub domain: DomainName,
    /// See [`DomainRequest::url`].
    pub url: Option<String>,
    /// The agent that asks, if one does.
    pub requested_by: Option<AgentId>,
    /// Who asks.
    pub actor: Actor,
    /// See [`DomainRequest::task_context`].
    pub task_context: Option<String>,
    /// See [`DomainRequest::reason`].
    pub reason: Option<String>,
    /// See [`DomainRequest::category`].
    pub category: Option<String>,
}

/// It was decided already, and otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the request was {} before", .0.as_str())]
pub struct AlreadyDecided(pub RequestStatus);

impl DomainRequest {
    /// A new request, with what to tell of it.
    #[must_use]
    pub fn ask(id: DomainRequestId, new: NewRequest, now: Timestamp) -> (Self, Payload) {
        let told = Payload::DomainRequested(DomainRequested { request_id: id, domain: new.domain.clone() });
        let request = Self {
            id,
            version: Version::default(),
            domain: new.domain,
            url: new.url,
            requested_by: new.requested_by,
            actor: new.actor,
            task_context: new.task_context,
            reason: new.reason,
            category: new.category,
            decided: None,
            created_at: now,
        };
        (request, told)
    }

    /// Where it is.
    #[must_use]
    pub fn status(&self) -> RequestStatus {
        match &self.decided {
            None => RequestStatus::Pending,
            Some(decided) if decided.approved => RequestStatus::Approved,
            Some(_) => RequestStatus::Rejected,
        }
    }

    /// Decides it, with what to tell of that. The same decision again changes nothing.
    ///
    /// # Errors
    /// [`AlreadyDecided`] the other way round.
    pub fn decide(mut self, decided: Decided) -> Result<(Self, Option<Payload>), AlreadyDecided> {
        if let Some(before) = &self.decided {
            let same = before.approved == decided.approved;
            return if same { Ok((self, None)) } else { Err(AlreadyDecided(self.status())) };
        }
        let told = DomainDecided { request_id: self.id, domain: self.domain.clone() };
        let told =
            if decided.approved { Payload::DomainApproved(told) } else { Payload::DomainRejected(told) };
        self.decided = Some(decided);
        Ok((self, Some(told)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::time::millis;

    #[test]
    fn a_request_is_decided_once() {
        let new = NewRequest {
            domain: "dexscreener.com".parse().unwrap(),
            url: None,
            requested_by: None,
            actor: Actor::System,
            task_context: None,
            reason: None,
            category: None,
        };
        let (request, _) = DomainRequest::ask(DomainRequestId(Uuid::from_u128(1)), new, millis(0));
        let how = |approved, reason: &str| Decided {
            approved,
            by: Actor::System,
            at: millis(1),
            reason: Some(reason.to_owned()),
        };
        let (approved, told) = request.decide(how(true, "first")).unwrap();
        assert_eq!(approved.status(), RequestStatus::Approved);
        assert_eq!(told.unwrap().event_type(), "domain_approved");
        let (again, told) = approved.clone().decide(how(true, "second")).unwrap();
        assert_eq!((&again, told), (&approved, None), "the first reason stands");
        assert_eq!(approved.decide(how(false, "no")), Err(AlreadyDecided(RequestStatus::Approved)));
    }

    #[test]
    fn categories_are_plain_words() {
        for good in ["crypto_data", "a", "ci-2"] {
            assert!(is_category(good), "{good}");
        }
        for bad in ["", "A", "a b", "ä", "a\0", &"a".repeat(65)] {
            assert!(!is_category(bad), "{bad}");
        }
    }
}
