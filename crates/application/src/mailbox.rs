//! Mailboxes: sends, hands out, waits, takes note of what was heard.
//!
//! Invariants: a message is stored before anybody is told of it, and handed out again until its agent acknowledges it;
//! who asks gets all that waits, who waits is woken when the first of it is due; a full mailbox refuses what people and
//! agents send, and never keeps a task from being created.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aito_domain::{
    agent::Agent,
    event::{BroadcastSent, MessageSent, Payload},
    id::{AgentId, AgentType, Incarnation, MailId},
    mailbox::{
        KEPT, Letter, MAX_MESSAGE, MAX_WAITING, MAX_WAITING_OF_AGENTS, MAX_WAITING_OF_ONE, Mail, MailKind,
    },
    ports::{
        agent_store::AgentStore,
        ledger::Change,
        mailbox_store::{Due, MAX_COUNTED, MAX_FIRST, MailCursor, MailboxStore},
    },
    quota::SpentKind,
    task::Priority,
    time::{Timestamp, after, between},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    by::By,
    checks::{Faults, busy},
    error::Error,
    locked::lock,
    looping::pass_every,
    once::{Once, Outcome},
    quota::{Cost, Counted, Paid, Quotas, settle_up},
    settings::SettingsService,
    writer::Writer,
};

/// The longest that a caller may wait for a message.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How often who waits looks without having been told.
const LOOK_ANYWAY: Duration = Duration::from_secs(1);
/// The shortest time between two looks of one who waits, however much happens.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a count of messages is used for heartbeats.
const COUNTED: Duration = Duration::from_secs(1);
/// How often a change is tried when somebody else was faster.
const TRIES: u32 = 12;
/// How many messages one who waits may say that it knows: with one more that is due, there is one that it does not.
pub const MAX_KNOWN: usize = MAX_FIRST - 1;
/// How often expired messages are removed.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// How many of them at once.
const FORGET_AT_ONCE: u32 = 1000;

/// A message as somebody hands it in, not yet checked.
#[derive(Debug, Clone)]
pub struct NewMessage {
    /// Must have 1 to [`MAX_MESSAGE`] characters.
    pub text: String,
    /// Must be a word of [`Priority`].
    pub priority: String,
}

/// What a broadcast came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// To whom it went, each with its message.
    pub messages: Vec<(AgentType, MailId)>,
    /// Whose mailbox is full.
    pub skipped: Vec<AgentType>,
}

/// Sends and hands out.
pub struct MailService {
    store: Arc<dyn MailboxStore>,
    agents: Arc<dyn AgentStore>,
    writer: Arc<Writer>,
    settings: Arc<SettingsService>,
    /// Changes with every event.
    news: watch::Receiver<u64>,
    counted: Mutex<HashMap<AgentId, (Duration, u64)>>,
    looks: Mutex<HashMap<AgentId, Arc<Looks>>>,
}

/// Looks into one mailbox, shared by all who wait for it.
#[derive(Default)]
struct Looks {
    /// How many were begun.
    begun: AtomicU64,
    /// What the last one found, and which it was; held by whoever looks.
    last: tokio::sync::Mutex<(u64, Due)>,
}

impl MailService {
    /// Over these ports; `news` changes whenever something was committed anywhere.
    pub fn new(
        store: Arc<dyn MailboxStore>,
        agents: Arc<dyn AgentStore>,
        writer: Arc<Writer>,
        settings: Arc<SettingsService>,
        news: watch::Receiver<u64>,
    ) -> Self {
        Self { store, agents, writer, settings, news, counted: Mutex::default(), looks: Mutex::default() }
    }

    /// Up to `limit` messages that wait for an agent, the most urgent first; asking changes nothing.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn list(
        &self,
        agent: AgentId,
        after: Option<MailCursor>,
        limit: u32,
    ) -> Result<Vec<Mail>, Error> {
        Ok(self.store.waiting(agent, after, limit).await?)
    }

    /// Returns when a message for the agent is due that is none of the `known` ones (at most [`MAX_KNOWN`]), or after
    /// `limit`; true: one is.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn wait(&self, agent: AgentId, known: &[MailId], limit: Duration) -> Result<bool, Error> {
        let clock = self.writer.clock();
        let until = clock.monotonic() + limit;
        let mut news = self.news.clone();
        loop {
            news.mark_unchanged();
            let due = self.look(agent).await?;
            if due.first.iter().any(|id| !known.contains(id)) {
                return Ok(true);
            }
            let left = until.saturating_sub(clock.monotonic());
            if left.is_zero() {
                return Ok(false);
            }
            let next = due.next.map_or(LOOK_ANYWAY, |next| between(clock.now(), next).max(PAUSE));
            clock.sleep(PAUSE.min(left)).await;
            let nap = next.min(LOOK_ANYWAY).min(left).saturating_sub(PAUSE);
            tokio::select! {
                () = clock.sleep(nap) => {}
                // Without anybody who tells news, time alone does.
                Ok(()) = news.changed() => {}
            }
        }
    }

    /// What a look finds that is begun after this was called: by this caller, or by another one that waits too.
    async fn look(&self, agent: AgentId) -> Result<Due, Error> {
        let looks = lock(&self.looks).entry(agent).or_default().clone();
        let before = looks.begun.load(Ordering::Acquire);
        let mut last = looks.last.lock().await;
        if last.0 <= before {
            let this = looks.begun.fetch_add(1, Ordering::AcqRel) + 1;
            *last = (this, self.store.due(agent).await?);
        }
        Ok(last.1.clone())
    }

    /// Removes what has expired, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        // A pass may be long.
        let pass = || async {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                forgotten = self.forget() => forgotten,
            }
        };
        let what = "expired messages cannot be removed; trying again";
        pass_every(FORGET_EVERY, self.writer.clock(), &stop, what, pass).await;
    }

    /// One pass of [`Self::run`].
    ///
    /// # Errors
    /// [`Error::Unavailable`]; what was removed until then is.
    pub async fn forget(&self) -> Result<(), Error> {
        while self.store.forget(FORGET_AT_ONCE).await? >= u64::from(FORGET_AT_ONCE) {
            // Others write too.
            self.writer.clock().sleep(PAUSE).await;
        }
        Ok(())
    }

    /// How many messages are due for an agent, at most a second old.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn due(&self, agent: AgentId) -> Result<u64, Error> {
        let now = self.writer.clock().monotonic();
        let known = lock(&self.counted).get(&agent).copied();
        if let Some((at, count)) = known
            && now.saturating_sub(at) < COUNTED
        {
            return Ok(count);
        }
        let count = self.store.due(agent).await?.due;
        lock(&self.counted).insert(agent, (now, count));
        Ok(count)
    }

    /// Puts a message into an agent's mailbox. With `quotas`, it is taken from what its sender may send today.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault; [`Error::Conflict`] when the mailbox is full, or the key was used for another
    /// message; [`Error::TooMany`]; [`Error::PastIncarnation`]; [`Error::Unavailable`].
    pub async fn send(
        &self,
        to: &Agent,
        new: NewMessage,
        from: Option<&Agent>,
        by: &By,
        once: Option<&Once>,
        quotas: Option<&Quotas>,
    ) -> Result<Mail, Error> {
        let priority = checked(&new)?;
        let content = [to.id.0.as_bytes().as_slice(), new.text.as_bytes(), priority.as_str().as_bytes()];
        let letter = Letter {
            agent_id: to.id,
            kind: MailKind::Message,
            sender: by.actor().clone(),
            from_agent: from.map(|agent| agent.id),
            priority,
            body: json!({ "message": new.text }),
        };
        let mail = self.sent(letter).await?;
        let sent = |first: First| first.of(mail.clone());
        let what = Counted::Spent(SpentKind::Messages);
        let cost = quotas.zip(from);
        let cost = cost.map(|(quotas, agent)| Cost { quotas, what, agent, bytes: new.text.len() as u64 });
        let taken = match self.writer.pay(cost, once, &content).await? {
            Paid::Now(taken) => taken,
            Paid::Before(first) => return Ok(sent(first)),
        };
        // Room is kept free from agents, so that none of them can shut out people, or the others.
        let room = self.store.room(to.id, from.map(|agent| agent.id)).await?;
        let full = match from {
            None if room.by_all >= MAX_WAITING => Some(MAX_WAITING),
            Some(_) if room.by_one >= MAX_WAITING_OF_ONE => Some(MAX_WAITING_OF_ONE),
            Some(_) if room.by_all >= MAX_WAITING_OF_AGENTS => Some(MAX_WAITING_OF_AGENTS),
            _ => None,
        };
        if let Some(most) = full {
            if let Some(taken) = taken {
                taken.give_back();
            }
            let whose = if most == MAX_WAITING_OF_ONE { " of yours" } else { "" };
            let full = format!("the mailbox of {} is full: {most} messages{whose} wait in it", to.agent_type);
            let before = match once {
                Some(once) => self.writer.was_done(once, &content, from.map(|agent| agent.id)).await?,
                None => None,
            };
            return before.map(sent).ok_or(Error::Conflict(full));
        }
        let told = Payload::MessageSent(MessageSent {
            message_id: mail.id,
            to: to.agent_type.clone(),
            kind: mail.kind,
            priority,
        });
        let mut commit = self.writer.begin();
        commit.changes.push(Change::Mail(Box::new(mail.clone())));
        commit.spent.extend(taken.as_ref().and_then(|taken| taken.spent()));
        self.writer.tell(&mut commit, Some(to.id), by.actor(), vec![told], mail.created_at);
        self.writer.account(&mut commit, by, mail.created_at, "");
        let first = First { id: mail.id, created_at: mail.created_at, wake_at: mail.wake_at };
        let done = self.writer.create_once(&mut commit, by, once, &content, &first).await;
        settle_up(taken, &done);
        match done? {
            Outcome::Now => {
                by.told();
                Ok(sent(first))
            }
            Outcome::Before(first) => Ok(sent(first)),
            Outcome::Conflict => Err(busy("the mailbox")),
        }
    }

    /// Puts a message into the mailbox of every agent that has room for it.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault; [`Error::Conflict`] when no mailbox has room, or the key was used for another
    /// message; [`Error::Unavailable`].
    pub async fn broadcast(&self, new: NewMessage, by: &By, once: Option<&Once>) -> Result<Sent, Error> {
        let priority = checked(&new)?;
        let agents = self.agents.list().await?;
        let mut commit = self.writer.begin();
        let mut sent = Sent { messages: Vec::new(), skipped: Vec::new() };
        for agent in &agents {
            if self.store.room(agent.id, None).await?.by_all >= MAX_WAITING {
                sent.skipped.push(agent.agent_type.clone());
                continue;
            }
            let letter = Letter {
                agent_id: agent.id,
                kind: MailKind::Broadcast,
                sender: by.actor().clone(),
                from_agent: None,
                priority,
                body: json!({ "message": new.text }),
            };
            let mail = self.sent(letter).await?;
            sent.messages.push((agent.agent_type.clone(), mail.id));
            commit.changes.push(Change::Mail(Box::new(mail)));
        }
        let content = [new.text.as_bytes(), priority.as_str().as_bytes()];
        if commit.changes.is_empty() {
            let before = match once {
                Some(once) => self.writer.was_done(once, &content, None).await?,
                None => None,
            };
            return before.ok_or_else(|| Error::Conflict("no agent has room in its mailbox".into()));
        }
        let now = self.writer.clock().now();
        let to = sent.messages.iter().map(|(agent_type, _)| agent_type.clone()).collect();
        let told = Payload::Broadcast(BroadcastSent { to, priority });
        self.writer.tell(&mut commit, None, by.actor(), vec![told], now);
        self.writer.account(&mut commit, by, now, "");
        match self.writer.create_once(&mut commit, by, once, &content, &sent).await? {
            Outcome::Now => {
                by.told();
                Ok(sent)
            }
            Outcome::Before(sent) => Ok(sent),
            Outcome::Conflict => Err(busy("a mailbox")),
        }
    }

    /// Takes note that an agent's incarnation has heard a message; heard already is a success.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a message that is not this agent's; [`Error::PastIncarnation`]; [`Error::Unavailable`].
    pub async fn acknowledge(
        &self,
        agent: &Agent,
        incarnation: Incarnation,
        id: MailId,
        by: &By,
    ) -> Result<Mail, Error> {
        for attempt in 0..TRIES {
            let found = self.store.by_id(id).await?.filter(|mail| mail.agent_id == agent.id);
            let mail = found.ok_or_else(|| {
                Error::NotFound(format!("there is no message {id} for {}", agent.agent_type))
            })?;
            let now = self.writer.clock().now();
            let (mail, told) = mail.acknowledge(&agent.agent_type, incarnation, now);
            let Some(told) = told else { return Ok(mail) };
            let mut commit = self.writer.begin();
            commit.changes.push(Change::Mail(Box::new(mail.clone())));
            self.writer.tell(&mut commit, Some(agent.id), by.actor(), vec![told], now);
            self.writer.account(&mut commit, by, now, "");
            match self.writer.apply_once(&mut commit, None, &[], &()).await? {
                Outcome::Now | Outcome::Before(()) => {
                    by.told();
                    lock(&self.counted).remove(&agent.id);
                    return Ok(Mail { version: mail.version.next(), ..mail });
                }
                Outcome::Conflict => {
                    self.writer.still_speaks(by).await?;
                    self.writer.pause(attempt).await;
                }
            }
        }
        Err(busy("the message"))
    }

    /// What tells an agent that something waits for it, if its mailbox has room: to be put into the commit that makes it
    /// wait.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub(crate) async fn wake(&self, letter: Letter) -> Result<Option<Change>, Error> {
        // A full mailbox keeps room for what its agent must know; past this there is more than anybody reads.
        if self.store.due(letter.agent_id).await?.waiting >= MAX_COUNTED {
            return Ok(None);
        }
        Ok(Some(Change::Mail(Box::new(self.sent(letter).await?))))
    }

    /// A message that is not stored yet, due when the settings say.
    async fn sent(&self, letter: Letter) -> Result<Mail, Error> {
        let delays = self.settings.current().await?.delays();
        Ok(letter.sent(MailId(self.writer.ids().uuid()), &delays, self.writer.clock().now()))
    }
}

/// What a repetition is answered: the message as it was first stored.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct First {
    id: MailId,
    created_at: Timestamp,
    wake_at: Timestamp,
}

impl First {
    /// The message that was stored, of the same content.
    fn of(self, mail: Mail) -> Mail {
        let Self { id, created_at, wake_at } = self;
        let version = mail.version.next();
        Mail { id, created_at, wake_at, expires_at: after(created_at, KEPT), version, ..mail }
    }
}

fn checked(new: &NewMessage) -> Result<Priority, Error> {
    let mut faults = Faults::default();
    faults.text("/message", &new.text, MAX_MESSAGE);
    let priority = faults.read("/priority", &new.priority, str::parse::<Priority>);
    faults.done()?;
    priority.ok_or_else(|| Error::Internal("a message without a priority".into()))
}
