//! The contracts of the ports that a store implements: `Ledger`, `EventLog`, `AgentStore`, `HistoryStore`,
//! `Heartbeats`, `InstallationStore`, `TokenStore`, `AuditStore`, `TaskStore`, `MailboxStore`, `DomainStore`,
//! `SettingsStore`, `StateStore`, `QuotaStore`.
//!
//! Invariants: a rule is one function named after its number, generic over the fixture, and knows nothing of
//! the adapter; a rule that an adapter cannot be put through fails, it is never skipped from within.

mod audit;
mod domains;
mod event_log;
mod injected;
mod kinds;
mod ledger;
mod ledger_work;
mod mailbox;
mod reads;
mod settings;
mod tasks;
mod tokens;

use std::{future::Future, sync::Arc, time::Duration};

use aito_domain::{
    access::{Grants, Role},
    agent::Agent,
    allowlist::{DomainEntry, DomainRequest, RequestStatus},
    audit::{AuditEntry, Checkpoint, Head, Outcome},
    event::{Actor, Event, NewEvent, Payload},
    history::{ActionType, HistoryEntry},
    id::{AgentId, AuditId, CommitId, EventId, HistoryId, Incarnation, TokenId},
    installation::Epoch,
    mailbox::Mail,
    ports::{
        agent_store::AgentStore,
        audit_store::{AuditQuery, AuditStore, Listed},
        clock::{Clock as _, IdSource as _},
        domain_store::DomainStore,
        event_log::EventLog,
        heartbeats::Heartbeats,
        history_store::{HistoryStore, Written},
        installation_store::InstallationStore,
        ledger::{Change, Commit, Ledger},
        mailbox_store::MailboxStore,
        quota_store::QuotaStore,
        settings_store::SettingsStore,
        state_store::StateStore,
        task_store::{TaskQuery, TaskStore},
        token_store::TokenStore,
    },
    quota::SpentKind,
    setting::Setting,
    state::StateEntry,
    task::Task,
    token::{Token, TokenText},
};
use async_trait::async_trait;
use serde_json::{Value, json};

pub use audit::*;
pub use domains::*;
pub use event_log::*;
pub use injected::Injected;
pub use ledger::*;
pub use ledger_work::*;
pub use mailbox::*;
pub use reads::*;
pub use settings::*;
pub use tasks::*;
pub use tokens::*;

use crate::{
    clock::{ManualClock, SeqIds},
    faults::retrying,
};

/// Within which anything here happens that does happen; far above what any store needs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The epoch of every log under test.
#[must_use]
pub fn epoch() -> Epoch {
    "test01".parse().unwrap()
}

/// Everything that a store is asked through.
#[derive(Clone)]
pub struct Handles {
    /// Writes.
    pub ledger: Arc<dyn Ledger>,
    /// Reads the log, whose epoch is [`epoch`].
    pub log: Arc<dyn EventLog>,
    /// Reads agents.
    pub agents: Arc<dyn AgentStore>,
    /// Reads histories.
    pub history: Arc<dyn HistoryStore>,
    /// Keeps heartbeats.
    pub heartbeats: Arc<dyn Heartbeats>,
    /// Keeps the installation's record.
    pub installation: Arc<dyn InstallationStore>,
    /// Reads tokens.
    pub tokens: Arc<dyn TokenStore>,
    /// Reads the audit and seals it.
    pub audit: Arc<dyn AuditStore>,
    /// Reads tasks.
    pub tasks: Arc<dyn TaskStore>,
    /// Reads mailboxes.
    pub mailbox: Arc<dyn MailboxStore>,
    /// Reads the list of domains and the requests for more.
    pub domains: Arc<dyn DomainStore>,
    /// Reads settings.
    pub settings: Arc<dyn SettingsStore>,
    /// Reads agents' notes.
    pub state: Arc<dyn StateStore>,
    /// Reads what agents have used up.
    pub quotas: Arc<dyn QuotaStore>,
}

/// What the store suite runs on.
#[async_trait]
pub trait StoreFixture: Send + Sync + Sized + 'static {
    /// A new, empty store of its own.
    async fn fresh() -> Self;
    /// The store as its server sees it.
    fn handles(&self) -> Handles;
    /// The same store as another server sees it: other connections, nothing shared in memory.
    async fn second_handle(&self) -> Handles;
    /// Loses everything that is not durable, as a crash of the process does, and opens the store again.
    async fn reopen(&mut self);
    /// A writer from outside that has written `event` in an open transaction.
    async fn open_writer(&self, event: NewEvent) -> Box<dyn OpenWriter>;
    /// From now on no commit can succeed: the server is gone, or somebody keeps the lock.
    async fn break_store(&self);
    /// Undoes [`break_store`](Self::break_store); the store must recover by itself.
    async fn heal(&self);
}

/// An open transaction.
#[async_trait]
pub trait OpenWriter: Send {
    /// Ends it; what it wrote counts.
    async fn commit(self: Box<Self>);
    /// Ends it; what it wrote does not count.
    async fn roll_back(self: Box<Self>);
}

/// Makes what tests write: deterministic, no id twice.
pub(crate) struct Maker {
    clock: Arc<ManualClock>,
    ids: SeqIds,
}

impl Maker {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::new());
        let ids = SeqIds::new(clock.clone(), 1);
        Self { clock, ids }
    }

    pub(crate) fn commit(&self) -> Commit {
        Commit::new(CommitId(self.ids.uuid()))
    }

    /// A commit that tells one event.
    pub(crate) fn telling(&self, what: &str) -> Commit {
        Commit { events: vec![self.event(what)], ..self.commit() }
    }

    /// A commit that changes one agent.
    pub(crate) fn changing(&self, agent: &Agent) -> Commit {
        Commit { changes: vec![change(agent)], ..self.commit() }
    }

    /// A commit that changes one token.
    pub(crate) fn changing_token(&self, token: &Token) -> Commit {
        Commit { changes: vec![change_token(token)], ..self.commit() }
    }

    /// A commit that writes one entry of the audit.
    pub(crate) fn auditing(&self, entry: &AuditEntry) -> Commit {
        Commit { audit: vec![entry.clone()], ..self.commit() }
    }

    /// An agent that is not stored yet.
    pub(crate) fn agent(&self, agent_type: &str) -> Agent {
        let id = AgentId(self.ids.uuid());
        Agent::register(id, agent_type.parse().unwrap(), format!("{agent_type} Agent"), self.clock.now())
            .agent
    }

    pub(crate) fn event(&self, what: &str) -> NewEvent {
        self.event_of("test_happened", None, json!({ "what": what }))
    }

    pub(crate) fn event_of(&self, event_type: &str, source_agent: Option<AgentId>, body: Value) -> NewEvent {
        NewEvent {
            id: EventId(self.ids.uuid()),
            source_agent,
            actor: Actor::System,
            payload: Payload::Unknown { event_type: event_type.to_owned(), body },
            created_at: self.clock.now(),
        }
    }

    pub(crate) fn entry(&self, agent_id: AgentId, summary: &str) -> HistoryEntry {
        HistoryEntry {
            id: HistoryId(self.ids.uuid()),
            agent_id,
            incarnation: Incarnation(1),
            action_type: ActionType::Task,
            summary: summary.to_owned(),
            details: None,
            created_at: self.clock.now(),
        }
    }

    /// A token that is not stored yet.
    pub(crate) fn token(&self, name: &str) -> Token {
        let id = self.ids.uuid();
        let mut secret = [0; 32];
        secret[..16].copy_from_slice(id.as_bytes());
        let (text, grants) = (TokenText::new(TokenId(id), secret), Grants::of([Role::Viewer]));
        Token::issue(&text, name.to_owned(), grants, "system".to_owned(), None, self.clock.now()).token
    }

    /// An entry of the audit.
    pub(crate) fn audit(&self, detail: &str) -> AuditEntry {
        AuditEntry {
            id: AuditId(self.ids.uuid()),
            at: self.clock.now(),
            actor: "token:ops".to_owned(),
            credential: "token/1".to_owned(),
            operation: "agents.start".to_owned(),
            object: "/agents/ceo/start".to_owned(),
            source: "127.0.0.1".to_owned(),
            request_id: "request".to_owned(),
            outcome: Outcome::Done,
            detail: detail.to_owned(),
            times: 1,
        }
    }

    /// Stores a new agent and gives it as it is stored.
    pub(crate) async fn stored_agent(&self, handles: &Handles, agent_type: &str) -> Agent {
        let agent = self.agent(agent_type);
        must(&handles.ledger, &self.changing(&agent)).await;
        handles.agents.by_id(agent.id).await.unwrap().unwrap()
    }

    /// Stores a new token and gives it as it is stored.
    pub(crate) async fn stored_token(&self, handles: &Handles, name: &str) -> Token {
        let token = self.token(name);
        must(&handles.ledger, &self.changing_token(&token)).await;
        handles.tokens.by_id(token.id).await.unwrap().unwrap()
    }

    pub(crate) fn clock(&self) -> &ManualClock {
        &self.clock
    }

    pub(crate) fn uuid(&self) -> uuid::Uuid {
        self.ids.uuid()
    }
}

pub(crate) fn change(agent: &Agent) -> Change {
    Change::Agent(Box::new(agent.clone()))
}

pub(crate) fn change_token(token: &Token) -> Change {
    Change::Token(Box::new(token.clone()))
}

/// Commits what cannot be refused.
pub(crate) async fn must(ledger: &Arc<dyn Ledger>, commit: &Commit) -> Option<Value> {
    within(retrying(ledger, commit)).await.unwrap()
}

/// Waits, but not for ever.
pub(crate) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("an answer in time")
}

/// The whole log, read in pages.
pub(crate) async fn whole_log(log: &Arc<dyn EventLog>) -> Vec<Event> {
    let mut all: Vec<Event> = Vec::new();
    loop {
        let seen = all.last().map_or(0, |event| event.position.n);
        let page = log.after(seen, 500).await.unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page);
    }
}

/// The log's ids, in order.
pub(crate) async fn logged_ids(log: &Arc<dyn EventLog>) -> Vec<EventId> {
    whole_log(log).await.into_iter().map(|event| event.id).collect()
}

/// Everything that a store holds, to see that something left no trace.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    agents: Vec<Agent>,
    events: Vec<Event>,
    history: Vec<Vec<HistoryEntry>>,
    tokens: Vec<Token>,
    audit: Vec<Listed>,
    head: Head,
    checkpoint: Option<Checkpoint>,
    tasks: Vec<Task>,
    mail: Vec<Vec<Mail>>,
    domains: Vec<DomainEntry>,
    requests: Vec<Vec<DomainRequest>>,
    settings: Vec<Setting>,
    notes: Vec<Vec<StateEntry>>,
    /// Of every agent and kind, on the day on which everything here happens.
    spent: Vec<Written>,
}

impl Snapshot {
    pub(crate) async fn of(handles: &Handles) -> Self {
        let agents = handles.agents.list().await.unwrap();
        let day = Maker::new().day();
        let (mut history, mut mail, mut notes) = (Vec::new(), Vec::new(), Vec::new());
        let mut spent = Vec::new();
        for agent in &agents {
            history.push(handles.history.page(agent.id, None, 1000).await.unwrap());
            mail.push(handles.mailbox.waiting(agent.id, None, 1000).await.unwrap());
            notes.push(handles.state.page(agent.id, None, 1000).await.unwrap());
            for kind in SpentKind::ALL {
                spent.push(handles.quotas.spent(agent.id, kind, day).await.unwrap());
            }
        }
        let mut requests = Vec::new();
        for status in RequestStatus::ALL {
            requests.push(handles.domains.requests(status, None, 1000).await.unwrap());
        }
        Self {
            agents,
            events: whole_log(&handles.log).await,
            history,
            tokens: handles.tokens.list().await.unwrap(),
            audit: handles.audit.page(&AuditQuery::default(), 1000).await.unwrap(),
            head: handles.audit.head().await.unwrap(),
            checkpoint: handles.audit.checkpoint().await.unwrap(),
            tasks: handles.tasks.page(&TaskQuery::default(), None, 0, 1000).await.unwrap(),
            mail,
            domains: handles.domains.page(None, 1000).await.unwrap(),
            requests,
            settings: handles.settings.all().await.unwrap(),
            notes,
            spent,
        }
    }
}

/// The contracts of a store's ports as tests of a fixture ([`StoreFixture`]).
#[macro_export]
macro_rules! store_suite {
    ($fixture:ty) => {
        $crate::contract_tests! { store, $fixture,
            ledger_01_all_or_nothing,
            ledger_02_of_changes_from_one_version_one_succeeds,
            ledger_03_what_is_stored_carries_the_next_version,
            ledger_04_a_commit_id_counts_once,
            ledger_05_what_returned_is_durable_and_seen_by_all,
            ledger_06_unavailable_means_not_applied,
            ledger_07_settle_tells_what_became_of_the_unknown,
            ledger_08_what_settle_found_not_applied_is_barred,
            ledger_09_settle_gives_the_answer_of_what_was_applied,
            ledger_10_events_keep_the_order_of_their_commit,
            ledger_11_tokens_that_stand_have_names_of_their_own,
            ledger_12_entries_and_open_requests_have_domains_of_their_own,
            ledger_13_only_the_present_incarnation_speaks,
            ledger_14_picks_of_one_agent_are_decided_one_after_another,
            ledger_15_what_is_spent_adds_up,
            ledger_16_commit_gives_the_answer_that_is_kept,
            event_log_01_one_total_order,
            event_log_02_readers_get_every_event_once_whatever_writers_do,
            event_log_03_positions_have_no_holes,
            event_log_04_an_open_writer_neither_stalls_nor_hides,
            event_log_05_after_gives_up_to_limit_in_order,
            event_log_06_latest_gives_the_newest_first_filtered,
            event_log_07_bounds_name_oldest_and_newest,
            event_log_08_a_body_is_read_as_it_was_written,
            event_log_09_what_returned_is_read_by_every_handle,
            event_log_10_hints_say_when_to_look,
            event_log_11_tail_follows_without_holes,
            agent_store_01_what_returned_is_seen_by_every_handle,
            agent_store_02_what_is_read_is_what_was_committed,
            agent_store_03_list_is_ordered_and_absence_is_none,
            history_store_01_newest_first_by_time_then_id,
            history_store_02_before_goes_on_exactly_after_its_row,
            history_store_03_only_the_agents_rows_up_to_limit,
            history_store_04_written_counts_rows_and_bytes_from_a_time_on,
            heartbeats_01_a_flush_is_all_or_none,
            heartbeats_02_older_never_replaces_newer,
            heartbeats_03_all_gives_the_last_row_of_everyone,
            heartbeats_04_the_same_row_again_changes_nothing,
            installation_store_01_nothing_before_the_first_create,
            installation_store_02_the_first_create_wins,
            installation_store_03_set_engine_compares_and_sets,
            token_store_01_what_returned_is_seen_by_every_handle,
            token_store_02_what_is_read_is_what_was_committed,
            token_store_03_list_is_ordered_with_the_revoked_and_absence_is_none,
            token_store_04_used_keeps_the_latest_time,
            token_store_05_last_uses_gives_everyone_that_was_used,
            audit_store_01_unsealed_gives_what_has_no_place_yet_by_id,
            audit_store_02_head_is_what_the_last_seal_made_it,
            audit_store_03_sealing_is_all_or_none_and_from_the_head_only,
            audit_store_04_sealed_gives_the_chain_in_order_as_it_was_sealed,
            audit_store_05_page_gives_the_newest_first_filtered,
            audit_store_06_prune_removes_what_the_checkpoint_covers,
            audit_store_07_checkpoint_is_what_the_last_prune_kept,
            task_store_01_what_is_read_is_what_was_committed_by_whoever,
            task_store_02_pages_go_from_the_newest_on,
            task_store_03_all_conditions_hold_at_once,
            task_store_04_total_is_exact_up_to_its_bound,
            task_store_05_claimable_gives_what_is_held_and_the_oldest_of_each_priority,
            task_store_06_leases_gives_who_works_on_tasks,
            task_store_07_overdue_gives_what_is_newly_so,
            mailbox_store_01_what_is_read_is_what_was_committed_by_whoever,
            mailbox_store_02_waiting_gives_the_most_urgent_first,
            mailbox_store_03_due_counts_what_waits_and_what_wakes,
            mailbox_store_04_room_counts_what_was_sent,
            mailbox_store_05_forget_removes_what_has_expired,
            domain_store_01_what_is_read_is_what_was_committed_by_whoever,
            domain_store_02_page_gives_entries_that_stand_by_domain,
            domain_store_03_standing_gives_those_that_were_asked_for,
            domain_store_04_untouched_until_the_first_entry,
            domain_store_05_requests_of_a_status_from_the_newest_on,
            domain_store_06_open_request_is_of_one_asker_and_open_requests_of_all,
            settings_store_01_what_is_read_is_what_was_committed_by_whoever,
            settings_store_02_all_are_ordered_by_category_and_key,
            settings_store_03_version_grows_with_every_change,
            state_store_01_what_is_read_is_what_was_committed_by_whoever,
            state_store_02_page_gives_an_agents_notes_by_key,
            state_store_03_a_removed_note_keeps_its_version,
            state_store_04_count_leaves_out_what_was_removed,
            quota_store_01_spent_gives_what_was_added,
        }
    };
}
