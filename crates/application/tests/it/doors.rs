//! What guards a server, over the house's store: reads that can be cut off, held and counted, a scripted ledger, and
//! the services between them that one process keeps in memory.
//!
//! Invariant: a door changes nothing of what passes it; what is read while it is held was read before it was held.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use aito_application::{
    Attempt, By,
    audit::{AuditService, HeadSink},
    login::{LoginService, Vouched, Vouches},
    tokens::{NewToken, Randomness, TokenService},
    writer::Writer,
};
use aito_domain::{
    agent::Agent,
    audit::{AuditEntry, AuditKey, Checkpoint, Head, Sealed},
    credential::AgentCredentials,
    event::Actor,
    history::HistoryEntry,
    id::{AgentId, AgentType, TokenId},
    installation::InstallationKey,
    ports::{
        ReadError,
        agent_store::AgentStore,
        audit_store::{AuditQuery, AuditStore, Listed, SealError},
        clock::Clock as _,
        history_store::{HistoryCursor, HistoryStore, Written},
        ledger::Ledger,
        token_store::TokenStore,
    },
    ticket::Tickets,
    time::{Timestamp, millis},
    token::Token,
};
use aito_embedded::sqlite::SqliteStore;
use async_trait::async_trait;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use super::support::{Gate, Held, House, Scripted, epoch, gate, installation, lock, pass};

/// The installation's key in these tests.
pub fn key() -> InstallationKey {
    InstallationKey::new([1; 32])
}

/// What its signatures are checked with.
pub fn public() -> String {
    AuditKey::new(&key()).public()
}

/// Every read of a server goes through it.
pub struct Door {
    inner: Arc<SqliteStore>,
    is_shut: AtomicBool,
    is_damaged: AtomicBool,
    reads: AtomicUsize,
    gates: Mutex<VecDeque<Gate>>,
}

impl Door {
    pub fn new(inner: Arc<SqliteStore>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            is_shut: false.into(),
            is_damaged: false.into(),
            reads: AtomicUsize::new(0),
            gates: Mutex::default(),
        })
    }

    /// The store does not answer, until it is opened.
    pub fn shut(&self) {
        self.is_shut.store(true, Ordering::SeqCst);
    }

    pub fn open(&self) {
        self.is_shut.store(false, Ordering::SeqCst);
    }

    /// What is read cannot be understood from now on.
    pub fn damage(&self) {
        self.is_damaged.store(true, Ordering::SeqCst);
    }

    /// How often the store was asked.
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// The next read that is not held yet is taken and then held back.
    pub fn hold_next(&self) -> Held {
        let (gate, held) = gate();
        lock(&self.gates).push_back(gate);
        held
    }

    async fn read<T>(&self, read: impl Future<Output = Result<T, ReadError>>) -> Result<T, ReadError> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        if self.is_shut.load(Ordering::SeqCst) {
            return Err(ReadError::Unavailable("the door is shut".into()));
        }
        if self.is_damaged.load(Ordering::SeqCst) {
            return Err(ReadError::Corrupt("the door is damaged".into()));
        }
        let gate = lock(&self.gates).pop_front();
        let answer = read.await;
        pass(gate).await;
        answer
    }
}

#[async_trait]
impl TokenStore for Door {
    async fn by_id(&self, id: TokenId) -> Result<Option<Token>, ReadError> {
        self.read(TokenStore::by_id(&*self.inner, id)).await
    }

    async fn list(&self) -> Result<Vec<Token>, ReadError> {
        self.read(TokenStore::list(&*self.inner)).await
    }

    async fn used(&self, uses: &[(TokenId, Timestamp)]) -> Result<(), ReadError> {
        self.read(self.inner.used(uses)).await
    }

    async fn last_uses(&self) -> Result<Vec<(TokenId, Timestamp)>, ReadError> {
        self.read(self.inner.last_uses()).await
    }
}

#[async_trait]
impl AgentStore for Door {
    async fn list(&self) -> Result<Vec<Agent>, ReadError> {
        self.read(AgentStore::list(&*self.inner)).await
    }

    async fn by_type(&self, agent_type: &AgentType) -> Result<Option<Agent>, ReadError> {
        self.read(self.inner.by_type(agent_type)).await
    }

    async fn by_id(&self, id: AgentId) -> Result<Option<Agent>, ReadError> {
        self.read(AgentStore::by_id(&*self.inner, id)).await
    }
}

#[async_trait]
impl HistoryStore for Door {
    async fn page(
        &self,
        agent: AgentId,
        before: Option<HistoryCursor>,
        limit: u32,
    ) -> Result<Vec<HistoryEntry>, ReadError> {
        self.read(HistoryStore::page(&*self.inner, agent, before, limit)).await
    }

    async fn written(&self, agent: AgentId, from: Timestamp) -> Result<Written, ReadError> {
        self.read(self.inner.written(agent, from)).await
    }
}

#[async_trait]
impl AuditStore for Door {
    async fn unsealed(&self, limit: u32) -> Result<Vec<AuditEntry>, ReadError> {
        self.read(self.inner.unsealed(limit)).await
    }

    async fn head(&self) -> Result<Head, ReadError> {
        self.read(self.inner.head()).await
    }

    async fn seal(&self, head: Head, entries: &[Sealed]) -> Result<(), SealError> {
        self.inner.seal(head, entries).await
    }

    async fn sealed(&self, n: u64, limit: u32) -> Result<Vec<Sealed>, ReadError> {
        self.read(self.inner.sealed(n, limit)).await
    }

    async fn page(&self, query: &AuditQuery, limit: u32) -> Result<Vec<Listed>, ReadError> {
        self.read(AuditStore::page(&*self.inner, query, limit)).await
    }

    async fn prune(&self, checkpoint: &Checkpoint) -> Result<u64, SealError> {
        self.inner.prune(checkpoint).await
    }

    async fn checkpoint(&self) -> Result<Option<Checkpoint>, ReadError> {
        self.read(self.inner.checkpoint()).await
    }
}

/// Secrets by seed, until there are none.
pub struct Secrets {
    random: Mutex<StdRng>,
    are_out: AtomicBool,
}

impl Secrets {
    pub fn run_out(&self) {
        self.are_out.store(true, Ordering::SeqCst);
    }
}

impl Randomness for Secrets {
    fn secret(&self) -> Result<[u8; 32], String> {
        if self.are_out.load(Ordering::SeqCst) {
            return Err("there is no randomness".to_owned());
        }
        Ok(lock(&self.random).random())
    }
}

/// An identity provider whose tokens are `idp/<subject>/<roles, with commas>/<until, in milliseconds>`.
pub struct Provider;

impl Vouches for Provider {
    fn verify(&self, token: &str, now: Timestamp) -> Option<Vouched> {
        let [subject, roles, until] =
            token.strip_prefix("idp/")?.split('/').collect::<Vec<_>>().try_into().ok()?;
        let roles = roles.split(',').map(str::to_owned).collect();
        let until = millis(until.parse().ok()?);
        (now < until).then(|| Vouched { subject: subject.to_owned(), roles, until })
    }
}

/// Where heads go; on demand nothing can be written there.
#[derive(Default)]
pub struct Sink {
    heads: Mutex<Vec<Checkpoint>>,
    is_full: AtomicBool,
}

impl Sink {
    pub fn heads(&self) -> Vec<Checkpoint> {
        lock(&self.heads).clone()
    }

    pub fn fill(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::SeqCst);
    }
}

impl HeadSink for Sink {
    fn export(&self, checkpoint: &Checkpoint) -> Result<(), String> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err("no room".to_owned());
        }
        lock(&self.heads).push(*checkpoint);
        Ok(())
    }
}

/// What one process keeps in memory to tell who may what, and who did what.
pub struct Guard {
    pub door: Arc<Door>,
    pub ledger: Arc<Scripted>,
    pub writer: Arc<Writer>,
    pub secrets: Arc<Secrets>,
    pub tokens: Arc<TokenService>,
    pub login: LoginService,
    pub sink: Arc<Sink>,
    pub audit: Arc<AuditService>,
}

impl Guard {
    /// Over the house's store.
    pub fn of(house: &House) -> Self {
        Self::behind(house, house.store.clone(), None)
    }

    /// Forgets what is older.
    pub fn keeping(house: &House, keep: Duration) -> Self {
        Self::behind(house, house.store.clone(), Some(keep))
    }

    /// Behind another ledger.
    pub fn behind(house: &House, ledger: Arc<dyn Ledger>, keep: Option<Duration>) -> Self {
        let door = Door::new(house.store.clone());
        let ledger = Scripted::new(ledger, []);
        let writer = Arc::new(house.writer(ledger.clone()));
        let random = Mutex::new(StdRng::seed_from_u64(writer.ids().bits()));
        let secrets = Arc::new(Secrets { random, are_out: false.into() });
        let tokens = Arc::new(TokenService::new(door.clone(), door.clone(), writer.clone(), secrets.clone()));
        let login = LoginService::new(
            door.clone(),
            tokens.clone(),
            AgentCredentials::new(&key(), installation(), &epoch()),
            Tickets::new(&key(), installation(), &epoch()),
            Some(Arc::new(Provider)),
            writer.clone(),
        );
        let sink = Arc::new(Sink::default());
        let audit =
            AuditService::new(door.clone(), writer.clone(), AuditKey::new(&key()), sink.clone(), keep);
        Self { door, ledger, writer, secrets, tokens, login, sink, audit: Arc::new(audit) }
    }
}

/// A token for reading, as somebody asks for it.
pub fn wish(name: &str) -> NewToken {
    NewToken { name: name.to_owned(), roles: vec!["viewer".to_owned()], ..NewToken::default() }
}

/// The attempt of somebody at something, from nowhere special.
pub fn attempt(actor: &str, operation: &'static str, object: &str) -> Arc<Attempt> {
    let (source, request) = ("192.0.2.7".to_owned(), "request-1".to_owned());
    Arc::new(Attempt::new(
        actor.to_owned(),
        "token/7".to_owned(),
        operation,
        object.to_owned(),
        source,
        request,
    ))
}

/// Somebody who answers for what is done, and the attempt.
pub fn accountable(operation: &'static str, object: &str) -> (By, Arc<Attempt>) {
    let attempt = attempt("token:root", operation, object);
    (By::attempt(Actor::Token("root".to_owned()), attempt.clone()), attempt)
}

/// The whole audit, newest first.
pub async fn audited(house: &House) -> Vec<AuditEntry> {
    let listed = AuditStore::page(&*house.store, &AuditQuery::default(), 100_000).await.unwrap();
    listed.into_iter().map(|listed| listed.entry).collect()
}

impl House {
    /// Lets the clock, which nobody sleeps by, pass.
    pub fn pass(&self, by: Duration) {
        self.clock.advance_at_once(by);
    }

    pub async fn tokens(&self) -> Vec<Token> {
        TokenStore::list(&*self.store).await.unwrap()
    }

    /// Sets the wall clock, and only it, so much back.
    pub fn set_back(&self, by: Duration) {
        self.clock.set(self.clock.now() - by);
    }
}
