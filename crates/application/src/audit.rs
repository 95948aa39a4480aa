//! Tells the audit what no commit told, seals it, exports its head, forgets what is old, verifies it.
//!
//! Invariants: an attempt that changed nothing is told within [`TELL_EVERY`], those that are alike as one entry
//! that counts them, so that a flood of refusals is a few rows; any number of servers seal one chain, since each
//! seal is a compare-and-set of its head; nothing is forgotten before a signed checkpoint covers it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aito_domain::{
    audit::{AuditKey, Checkpoint, Head, Outcome, Seal, Sealed},
    ports::audit_store::{AuditQuery, AuditStore, Listed, SealError},
    time::{Timestamp, millis},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    by::Attempt,
    error::Error,
    writer::{Applied, Writer},
};

/// How often attempts that changed nothing are stored, and how often it is looked for what is not sealed.
pub const TELL_EVERY: Duration = Duration::from_secs(1);
/// How often a head that has moved is exported.
const EXPORT_EVERY: Duration = Duration::from_secs(60);
/// How many kinds of attempts are counted between two times, of callers that are known and again of others; what comes
/// besides is counted together.
const KINDS: usize = 256;
/// The actor of an attempt without a valid credential.
pub const NOBODY: &str = "nobody";
const VARIOUS: &str = "various";
/// How many entries are sealed at once.
const AT_ONCE: u32 = 500;
/// How many entries are forgotten at once, under one checkpoint.
const FORGET_AT_ONCE: u64 = 2000;
/// How often it is looked for what may be forgotten.
const FORGET_EVERY: Duration = Duration::from_secs(600);

/// Where heads are exported to, outside of the store.
pub trait HeadSink: Send + Sync {
    /// Keeps a signed head.
    ///
    /// # Errors
    /// One line that says why it could not.
    fn export(&self, checkpoint: &Checkpoint) -> Result<(), String>;
}

/// Keeps the audit.
pub struct AuditService {
    store: Arc<dyn AuditStore>,
    writer: Arc<Writer>,
    key: AuditKey,
    sink: Arc<dyn HeadSink>,
    /// `None`: nothing is ever forgotten.
    keep: Option<Duration>,
    waiting: Mutex<HashMap<Kind, Counted>>,
}

/// Attempts that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    actor: String,
    credential: String,
    operation: &'static str,
    source: String,
    object: String,
    outcome: &'static str,
    detail: String,
}

struct Counted {
    first: Arc<Attempt>,
    outcome: Outcome,
    at: Timestamp,
    times: u64,
}

impl AuditService {
    /// Over these ports; entries older than `keep` are forgotten.
    pub fn new(
        store: Arc<dyn AuditStore>,
        writer: Arc<Writer>,
        key: AuditKey,
        sink: Arc<dyn HeadSink>,
        keep: Option<Duration>,
    ) -> Self {
        Self { store, writer, key, sink, keep, waiting: Mutex::default() }
    }

    /// Takes note of how an attempt ended, unless a commit has told that it was done.
    pub fn ended(&self, attempt: Arc<Attempt>, outcome: Outcome, detail: String) {
        if attempt.is_told() && matches!(outcome, Outcome::Done | Outcome::Unchanged) {
            return;
        }
        let at = self.writer.clock().now();
        let known = attempt.actor != NOBODY;
        let mut kind = Kind {
            actor: attempt.actor.clone(),
            credential: attempt.credential.clone(),
            // Who has no credential may ask for whatever paths there are: those are told by the first of them.
            operation: if known { attempt.operation } else { "" },
            source: attempt.source.clone(),
            object: if known { attempt.object.clone() } else { String::new() },
            outcome: outcome.as_str(),
            detail,
        };
        let mut waiting = self.lock();
        let kinds = waiting.keys().filter(|other| (other.actor != NOBODY) == known).count();
        if kinds >= KINDS && !waiting.contains_key(&kind) {
            // One for each operation and outcome, and strangers leave the room of those who are known alone.
            kind = Kind {
                actor: if known { VARIOUS } else { NOBODY }.to_owned(),
                credential: VARIOUS.to_owned(),
                source: VARIOUS.to_owned(),
                object: VARIOUS.to_owned(),
                detail: "too many kinds at once".to_owned(),
                ..kind
            };
        }
        let counted = Counted { first: attempt, outcome, at, times: 0 };
        waiting.entry(kind).or_insert(counted).times += 1;
    }

    /// Up to `limit` entries, newest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn list(&self, query: &AuditQuery, limit: u32) -> Result<Vec<Listed>, Error> {
        Ok(self.store.page(query, limit).await?)
    }

    /// Tells, seals, exports and forgets, until `stop`; then tells, seals and exports a last time.
    pub async fn run(&self, stop: CancellationToken) {
        let clock = self.writer.clock();
        let (mut exported, mut exported_at, mut forgotten_at) = (0, None, None::<Duration>);
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                () = clock.sleep(TELL_EVERY) => false,
            };
            self.tell().await;
            let head = self.seal().await;
            let now = clock.monotonic();
            let due =
                stopping || exported_at.is_none_or(|at: Duration| now.saturating_sub(at) >= EXPORT_EVERY);
            if let Some(head) = head.filter(|head| due && head.n > exported)
                && self.export(head)
            {
                (exported, exported_at) = (head.n, Some(now));
            }
            if stopping {
                return;
            }
            if forgotten_at.is_none_or(|at| now.saturating_sub(at) >= FORGET_EVERY) {
                self.forget().await;
                forgotten_at = Some(now);
            }
        }
    }

    /// Stores what was counted; what cannot be stored is kept and stays bounded.
    pub async fn tell(&self) {
        let waiting = std::mem::take(&mut *self.lock());
        if waiting.is_empty() {
            return;
        }
        let mut commit = self.writer.begin();
        for (kind, counted) in &waiting {
            let id = self.writer.ids().uuid();
            let mut entry =
                counted.first.entry(id, counted.at, counted.outcome, kind.detail.clone(), counted.times);
            if kind.credential == VARIOUS {
                (entry.actor, entry.credential) = (kind.actor.clone(), kind.credential.clone());
                (entry.source, entry.object) = (kind.source.clone(), kind.object.clone());
            }
            commit.audit.push(entry);
        }
        match self.writer.apply(&commit).await {
            Ok(Applied::Yes | Applied::Before(_)) => {}
            Ok(Applied::Conflict) | Err(_) => {
                warn!(kinds = waiting.len(), "refused attempts cannot be stored; it will be tried again");
                let mut newer = self.lock();
                for (kind, counted) in waiting {
                    let room = newer.len() < 2 * KINDS;
                    match newer.get_mut(&kind) {
                        Some(known) => known.times += counted.times,
                        None if room => _ = newer.insert(kind, counted),
                        None => {}
                    }
                }
            }
        }
    }

    /// Seals everything that is not sealed; gives the head as it is known then.
    pub async fn seal(&self) -> Option<Head> {
        loop {
            let step = self.seal_some().await;
            match step {
                Ok((_, sealed)) if sealed == AT_ONCE as usize => {}
                Ok((head, _)) => return Some(head),
                // Another server seals.
                Err(SealError::Conflict) => return None,
                Err(SealError::Unavailable(cause)) => {
                    debug!(%cause, "the audit cannot be sealed at the moment");
                    return None;
                }
            }
        }
    }

    async fn seal_some(&self) -> Result<(Head, usize), SealError> {
        let entries = self.store.unsealed(AT_ONCE).await.map_err(|why| SealError::Unavailable(why.into()))?;
        // Read after the entries: of what was sealed meanwhile by others the head tells, and the seal fails.
        let head = self.store.head().await.map_err(|why| SealError::Unavailable(why.into()))?;
        if entries.is_empty() {
            return Ok((head, 0));
        }
        let mut last = head;
        let sealed: Vec<Sealed> = entries
            .into_iter()
            .map(|entry| {
                last = last.then(&entry);
                Sealed { n: last.n, seal: last.seal, entry }
            })
            .collect();
        self.store.seal(head, &sealed).await?;
        Ok((last, sealed.len()))
    }

    /// Gives whether it is exported.
    fn export(&self, head: Head) -> bool {
        let checkpoint = self.key.sign(head, self.writer.clock().now());
        info!(n = head.n, seal = %head.seal, "the audit's head");
        let exported = self.sink.export(&checkpoint);
        if let Err(why) = &exported {
            warn!(why, "the audit's head cannot be exported; it will be tried again");
        }
        exported.is_ok()
    }

    /// Forgets sealed entries that are older than they are kept.
    async fn forget(&self) {
        let Some(keep) = self.keep else { return };
        let before = self.writer.clock().now().timestamp_millis();
        let before = millis(before.saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX)));
        loop {
            match self.forget_some(before).await {
                Ok(true) => {}
                Ok(false) | Err(SealError::Conflict) => return,
                Err(SealError::Unavailable(cause)) => {
                    debug!(%cause, "the audit cannot be shortened at the moment");
                    return;
                }
            }
        }
    }

    /// Gives whether there may be more.
    async fn forget_some(&self, before: Timestamp) -> Result<bool, SealError> {
        let unavailable = |why: aito_domain::ports::ReadError| SealError::Unavailable(why.into());
        let start = self.store.checkpoint().await.map_err(unavailable)?.map_or(0, |kept| kept.head.n);
        let limit = u32::try_from(FORGET_AT_ONCE).unwrap_or(u32::MAX);
        let oldest = self.store.sealed(start, limit).await.map_err(unavailable)?;
        let old = oldest.iter().take_while(|sealed| sealed.entry.at < before).count();
        let Some(last) = oldest[..old].last() else { return Ok(false) };
        let head = Head { n: last.n, seal: last.seal };
        let now = self.writer.clock().now();
        let exported = self.sink.export(&self.key.sign(head, now));
        exported.map_err(|why| SealError::Unavailable(why.into()))?;
        let gone = self.store.prune(&self.key.sign_start(head, now)).await?;
        info!(gone, up_to = head.n, "old entries of the audit were forgotten");
        Ok(old == oldest.len())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Kind, Counted>> {
        // Every state of it is a good one.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Sealed entries that were checked.
    pub entries: u64,
    /// The number that the chain begins after; above 0 when older entries were forgotten under a signed checkpoint.
    pub after: u64,
    /// The end of the chain.
    pub head: Head,
    /// Exported heads that lie in the chain and agree with it.
    pub exported: usize,
    /// Entries that are not sealed yet, of which nothing is proven.
    pub unsealed: usize,
}

/// Why the audit is not what it was.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It cannot be read.
    #[error("the audit cannot be read: {0}")]
    Unreadable(#[from] aito_domain::ports::ReadError),
    /// An entry is missing or was put in.
    #[error("entry {expected} is missing: {found} follows")]
    Missing {
        /// The number that should come.
        expected: u64,
        /// The one that does.
        found: u64,
    },
    /// An entry does not fit its seal.
    #[error("entry {0} was changed, or one before it")]
    Changed(u64),
    /// The chain ends elsewhere than its head says.
    #[error("the chain ends at {found}, and its head says {head}")]
    Cut {
        /// The last entry's number.
        found: u64,
        /// The head's.
        head: u64,
    },
    /// A checkpoint or exported head is not the installation's.
    #[error("the signature of the head {0} is not this installation's")]
    Forged(u64),
    /// An exported head says something else than the chain.
    #[error("the head {0} that was exported is not the chain's: the chain was made anew")]
    Contradicted(u64),
}

/// Checks the whole chain, and heads that were exported, against the key whose public part is `public`.
///
/// # Errors
/// [`Broken`]: the first thing that is not right.
pub async fn verify(
    store: &dyn AuditStore,
    public: &str,
    exported: &[Checkpoint],
) -> Result<Verified, Broken> {
    loop {
        let start = store.checkpoint().await?;
        match verify_from(store, public, exported, start).await {
            // A server may have forgotten what was about to be read: then the chain begins elsewhere.
            Err(Broken::Missing { .. }) if store.checkpoint().await? != start => {}
            verified => return verified,
        }
    }
}

async fn verify_from(
    store: &dyn AuditStore,
    public: &str,
    exported: &[Checkpoint],
    start: Option<Checkpoint>,
) -> Result<Verified, Broken> {
    let forged = |checkpoint: &Checkpoint| Broken::Forged(checkpoint.head.n);
    if let Some(start) = start.filter(|start| !start.is_start_signed_by(public)) {
        return Err(forged(&start));
    }
    if let Some(other) = exported.iter().find(|checkpoint| !checkpoint.is_signed_by(public)) {
        return Err(forged(other));
    }
    let mut heads: HashMap<u64, Vec<Seal>> = HashMap::new();
    for checkpoint in exported {
        heads.entry(checkpoint.head.n).or_default().push(checkpoint.head.seal);
    }
    // Before the entries: what is sealed meanwhile lies above it and is checked as well.
    let promised = store.head().await?;
    let begin = start.map_or(Head::NONE, |checkpoint| checkpoint.head);
    let (mut head, mut entries, mut agreed) = (begin, 0, 0);
    let contradicted =
        |n: u64, seal: Seal| heads.get(&n).is_some_and(|seals| seals.iter().any(|said| *said != seal));
    if contradicted(head.n, head.seal) {
        return Err(Broken::Contradicted(head.n));
    }
    loop {
        let page = store.sealed(head.n, AT_ONCE).await?;
        let Some(last) = page.last().map(|sealed| sealed.n) else { break };
        for sealed in &page {
            let next = head.then(&sealed.entry);
            if sealed.n != next.n {
                return Err(Broken::Missing { expected: next.n, found: sealed.n });
            }
            if sealed.seal != next.seal {
                return Err(Broken::Changed(sealed.n));
            }
            if next.n == promised.n && next.seal != promised.seal {
                return Err(Broken::Changed(next.n));
            }
            if contradicted(next.n, next.seal) {
                return Err(Broken::Contradicted(next.n));
            }
            agreed += heads.get(&next.n).map_or(0, Vec::len);
            (head, entries) = (next, entries + 1);
        }
        debug_assert_eq!(head.n, last);
    }
    if head.n < promised.n {
        return Err(Broken::Cut { found: head.n, head: promised.n });
    }
    if head.n == promised.n && head.seal != promised.seal {
        return Err(Broken::Changed(head.n));
    }
    // Whatever was sealed meanwhile has moved the head with it.
    let reached = store.head().await?;
    if reached.n < head.n {
        return Err(Broken::Cut { found: head.n, head: reached.n });
    }
    // Heads above the end were once its end: entries are gone.
    if let Some(above) = exported.iter().find(|checkpoint| checkpoint.head.n > head.n) {
        return Err(Broken::Cut { found: head.n, head: above.head.n });
    }
    let unsealed = store.unsealed(u32::MAX).await?.len();
    Ok(Verified { entries, after: begin.n, head, exported: agreed, unsealed })
}
