//! On whose account a change is made: the author, and the attempt that goes to the audit with it.
//!
//! Invariants: a change that a caller asked for carries its audit entry in the same commit; an attempt knows
//! whether one of its commits has told so, and everything else of it is told by [`crate::audit::AuditService`].

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aito_domain::{
    audit::{AuditEntry, Outcome},
    event::Actor,
    id::AuditId,
    ports::ledger::Speaker,
    time::Timestamp,
};
use uuid::Uuid;

/// What somebody tries to do; made where the call comes in.
#[derive(Debug)]
pub struct Attempt {
    /// Who: an actor's text, or `nobody`.
    pub actor: String,
    /// By which credential; see [`AuditEntry::credential`].
    pub credential: String,
    /// What, from [`aito_domain::access::Operation::as_str`] or the name of a command.
    pub operation: &'static str,
    /// On what.
    pub object: String,
    /// From where.
    pub source: String,
    /// The request's id.
    pub request_id: String,
    told: AtomicBool,
}

impl Attempt {
    /// An attempt of which nothing was told yet.
    pub fn new(
        actor: String,
        credential: String,
        operation: &'static str,
        object: String,
        source: String,
        request_id: String,
    ) -> Self {
        Self { actor, credential, operation, object, source, request_id, told: AtomicBool::new(false) }
    }

    /// An attempt by a command on the machine itself.
    pub fn local(operation: &'static str, object: String) -> Self {
        Self::new("system".into(), "none".into(), operation, object, "local".into(), String::new())
    }

    /// Whether a commit has told of it.
    pub fn is_told(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// Its entry.
    pub fn entry(&self, id: Uuid, at: Timestamp, outcome: Outcome, detail: String, times: u64) -> AuditEntry {
        let entry = AuditEntry {
            id: AuditId(id),
            at,
            actor: self.actor.clone(),
            credential: self.credential.clone(),
            operation: self.operation.to_owned(),
            object: self.object.clone(),
            source: self.source.clone(),
            request_id: self.request_id.clone(),
            outcome,
            detail,
            times,
        };
        entry.bounded()
    }
}

/// An author, with the attempt that it is about.
#[derive(Debug, Clone)]
pub struct By {
    actor: Actor,
    attempt: Option<Arc<Attempt>>,
    speaker: Option<Speaker>,
}

impl By {
    /// The control plane itself, of which events tell and no audit.
    pub fn system() -> Self {
        Self { actor: Actor::System, attempt: None, speaker: None }
    }

    /// An author whose change is in the event log and not in the audit ([`aito_domain::access::Operation::is_audited`]).
    pub fn author(actor: Actor) -> Self {
        Self { actor, attempt: None, speaker: None }
    }

    /// An author who answers for what is done.
    pub fn attempt(actor: Actor, attempt: Arc<Attempt>) -> Self {
        Self { actor, attempt: Some(attempt), speaker: None }
    }

    /// The same, spoken by an incarnation: what it changes counts only while that is its agent's present one.
    #[must_use]
    pub fn speaking(self, speaker: Speaker) -> Self {
        Self { speaker: Some(speaker), ..self }
    }

    /// The incarnation that speaks, if one does.
    pub fn speaker(&self) -> Option<Speaker> {
        self.speaker
    }

    /// As events name it.
    pub fn actor(&self) -> &Actor {
        &self.actor
    }

    /// The entry that goes into the commit, if one does.
    pub(crate) fn entry(&self, id: impl FnOnce() -> Uuid, at: Timestamp, detail: &str) -> Option<AuditEntry> {
        let attempt = self.attempt.as_ref()?;
        Some(attempt.entry(id(), at, Outcome::Done, detail.to_owned(), 1))
    }

    /// A commit with the entry was applied.
    pub(crate) fn told(&self) {
        if let Some(attempt) = &self.attempt {
            attempt.told.store(true, Ordering::Release);
        }
    }
}
