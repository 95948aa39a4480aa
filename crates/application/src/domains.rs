//! The list of domains that agents may reach: entries, requests for more, and whether a name is covered.
//!
//! Invariants: names are compared in their one normal form; approving a request and putting its domain on the list are
//! one commit; the same asker's second request for a domain is the first one.

use std::sync::Arc;

use aito_domain::{
    agent::Agent,
    allowlist::{
        Decided, DomainEntry, DomainRequest, MAX_DESCRIPTION, MAX_REASON, MAX_URL, NewEntry, NewRequest,
        REQUESTED, RequestStatus, is_category,
    },
    domain_name::DomainName,
    event::Actor,
    id::{DomainId, DomainRequestId},
    mailbox::{Letter, MailKind},
    ports::{
        domain_store::{DomainStore, RequestCursor},
        ledger::Change,
    },
    quota::SpentKind,
    task::Priority,
    time::Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    by::By,
    checks::{Faults, Seen, busy, expect},
    error::Error,
    mailbox::MailService,
    once::{Once, Outcome},
    quota::{Cost, Counted, Paid, Quotas, settle_up},
    writer::Writer,
};

/// How often a change is tried when somebody else was faster.
const TRIES: u32 = 12;

/// How many other requests for a domain are approved together with one; who asks again for the domain of what is left is
/// told that it is on the list.
const SETTLED_AT_ONCE: u32 = 100;

/// An entry as somebody hands it in, not yet checked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewDomain {
    /// Must be a [`DomainName`].
    pub domain: String,
    /// Must be a category; see [`is_category`].
    pub category: String,
    /// At most [`MAX_DESCRIPTION`] characters.
    pub description: Option<String>,
}

/// A request as somebody hands it in, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct NewWish {
    /// Must be a [`DomainName`].
    pub domain: String,
    /// Must be an http or https URL of that domain.
    pub url: Option<String>,
    /// At most [`MAX_REASON`] characters.
    pub task_context: Option<String>,
    /// At most [`MAX_REASON`] characters.
    pub reason: Option<String>,
    /// Must be a category.
    pub category: Option<String>,
}

/// How a request is to be decided, not yet checked.
#[derive(Debug, Clone, Default)]
pub struct Decision {
    /// Whether it is approved.
    pub approve: bool,
    /// At most [`MAX_REASON`] characters.
    pub reason: Option<String>,
    /// Must be a category; that of the request when it is left out.
    pub category: Option<String>,
}

/// Whether a name is covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// The name in its normal form.
    pub domain: DomainName,
    /// The nearest entry that covers it.
    pub matched_by: Option<DomainName>,
}

/// Keeps the list.
pub struct DomainService {
    store: Arc<dyn DomainStore>,
    writer: Arc<Writer>,
    mail: Arc<MailService>,
}

impl DomainService {
    /// Over these ports.
    pub fn new(store: Arc<dyn DomainStore>, writer: Arc<Writer>, mail: Arc<MailService>) -> Self {
        Self { store, writer, mail }
    }

    /// Puts the first entries on a list that never had one; how many that were.
    ///
    /// # Errors
    /// [`Error::Invalid`] when one of them is no entry; [`Error::Unavailable`].
    pub async fn install(&self, entries: &[NewDomain]) -> Result<usize, Error> {
        let entries = entries.iter().map(checked_entry).collect::<Result<Vec<_>, _>>()?;
        if entries.is_empty() {
            return Ok(0);
        }
        for attempt in 0..TRIES {
            if !self.store.is_untouched().await? {
                return Ok(0);
            }
            let now = self.writer.clock().now();
            let mut commit = self.writer.begin();
            for (domain, category, description) in &entries {
                let new = NewEntry {
                    domain: domain.clone(),
                    category: category.clone(),
                    description: description.clone(),
                    actor: Actor::System,
                };
                let (entry, told) = DomainEntry::add(DomainId(self.writer.ids().uuid()), new, now);
                commit.changes.push(Change::Domain(Box::new(entry)));
                self.writer.tell(&mut commit, None, &Actor::System, vec![told], now);
            }
            match self.writer.apply_once(&mut commit, None, &[], &()).await? {
                Outcome::Now | Outcome::Before(()) => return Ok(entries.len()),
                // Another server does the same.
                Outcome::Conflict => self.writer.pause(attempt).await,
            }
        }
        Err(busy("the list of domains"))
    }

    /// Up to `limit` entries, by domain, above `after`.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn list(&self, after: Option<&DomainName>, limit: u32) -> Result<Vec<DomainEntry>, Error> {
        Ok(self.store.page(after, limit).await?)
    }

    /// Puts a domain on the list.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault; [`Error::Conflict`] when it is there, or the key was used for another;
    /// [`Error::Unavailable`].
    pub async fn add(&self, new: &NewDomain, by: &By, once: Option<&Once>) -> Result<DomainEntry, Error> {
        let (domain, category, description) = checked_entry(new)?;
        let content = [domain.to_string(), category.clone(), description.clone().unwrap_or_default()];
        let content: Vec<&[u8]> = content.iter().map(String::as_bytes).collect();
        let now = self.writer.clock().now();
        let new = NewEntry { domain: domain.clone(), category, description, actor: by.actor().clone() };
        for attempt in 0..TRIES {
            let there = !self.store.standing(std::slice::from_ref(&domain)).await?.is_empty();
            let taken = || Error::Conflict(format!("{domain} is on the list already"));
            if there && once.is_none() {
                return Err(taken());
            }
            let (entry, told) = DomainEntry::add(DomainId(self.writer.ids().uuid()), new.clone(), now);
            let mut commit = self.writer.begin();
            commit.changes.push(Change::Domain(Box::new(entry.clone())));
            self.writer.tell(&mut commit, None, by.actor(), vec![told], now);
            self.writer.account(&mut commit, by, now, domain.as_str());
            let first = FirstEntry { id: entry.id, created_at: now };
            let version = entry.version.next();
            match self.writer.apply_once(&mut commit, once, &content, &first).await? {
                Outcome::Now => {
                    by.told();
                    return Ok(DomainEntry { version, ..entry });
                }
                Outcome::Before(FirstEntry { id, created_at }) => {
                    return Ok(DomainEntry { id, created_at, version, ..entry });
                }
                Outcome::Conflict if there => return Err(taken()),
                Outcome::Conflict => self.writer.pause(attempt).await,
            }
        }
        Err(busy("the list of domains"))
    }

    /// Takes a domain off the list.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Precondition`] when the entry is not in the states that `seen` names;
    /// [`Error::Unavailable`].
    pub async fn remove(&self, domain: &str, seen: Option<&Seen>, by: &By) -> Result<(), Error> {
        let none = || Error::NotFound("there is no such domain on the list".to_owned());
        // What was put there before it became a public suffix can be taken off all the same.
        let domain: DomainName = domain
            .parse()
            .or_else(|_| DomainName::stored(domain.to_ascii_lowercase()))
            .map_err(|_| none())?;
        for attempt in 0..TRIES {
            let found = self.store.standing(std::slice::from_ref(&domain)).await?.pop();
            let entry = found.ok_or_else(none)?;
            expect("the entry", seen, entry.version)?;
            let now = self.writer.clock().now();
            let (entry, told) = entry.remove(now);
            let mut commit = self.writer.begin();
            commit.changes.push(Change::Domain(Box::new(entry)));
            self.writer.tell(&mut commit, None, by.actor(), vec![told], now);
            self.writer.account(&mut commit, by, now, "");
            match self.writer.apply_once(&mut commit, None, &[], &()).await? {
                Outcome::Now | Outcome::Before(()) => {
                    by.told();
                    return Ok(());
                }
                Outcome::Conflict => self.writer.pause(attempt).await,
            }
        }
        Err(busy("the entry"))
    }

    /// Whether an entry covers a name, and which is the nearest that does.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Unavailable`].
    pub async fn check(&self, domain: &str) -> Result<Checked, Error> {
        let mut faults = Faults::default();
        let name = faults.read("?domain", domain, str::parse::<DomainName>);
        faults.done()?;
        let name = name.ok_or_else(|| Error::Internal("a domain that was not read".into()))?;
        let matched_by = self.covering(&name).await?;
        Ok(Checked { domain: name, matched_by })
    }

    async fn covering(&self, name: &DomainName) -> Result<Option<DomainName>, Error> {
        let standing = self.store.standing(&name.coverers()).await?;
        Ok(standing.into_iter().map(|entry| entry.domain).max_by_key(|domain| domain.as_str().len()))
    }

    /// Up to `limit` requests of a status, newest first.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn requests(
        &self,
        status: RequestStatus,
        before: Option<RequestCursor>,
        limit: u32,
    ) -> Result<Vec<DomainRequest>, Error> {
        Ok(self.store.requests(status, before, limit).await?)
    }

    /// Asks for a domain; true: the request is new. `asker` is the agent that does, if one does.
    ///
    /// # Errors
    /// [`Error::Invalid`] with every fault; [`Error::Conflict`] when it is covered already; [`Error::TooMany`];
    /// [`Error::PastIncarnation`]; [`Error::Unavailable`].
    pub async fn ask(
        &self,
        new: &NewWish,
        asker: Option<&Agent>,
        by: &By,
        once: Option<&Once>,
        quotas: &Quotas,
    ) -> Result<(DomainRequest, bool), Error> {
        let domain = checked_wish(new)?;
        let given = [&new.url, &new.task_context, &new.reason, &new.category];
        let given = given.map(|text| serde_json::to_vec(text).unwrap_or_default());
        let mut content = vec![domain.as_str().as_bytes()];
        content.extend(given.iter().map(Vec::as_slice));
        let who = asker.map(|asker| asker.id);
        for attempt in 0..TRIES {
            let covered = self.covering(&domain).await?;
            let open = self.store.open_request(&domain, by.actor()).await?;
            // Both may have come of the first call with this key.
            if (covered.is_some() || open.is_some())
                && let Some(once) = once
                && let Some(first) = self.writer.was_done(once, &content, who).await?
            {
                return self.first_request(first).await;
            }
            if let Some(entry) = covered {
                return Err(Error::Conflict(format!(
                    "{domain} may be reached already: {entry} is on the list"
                )));
            }
            if let Some(open) = open {
                let first = FirstRequest { id: open.id, is_new: false };
                if once.is_some() {
                    // Nothing is made, and the key is used all the same.
                    let mut commit = self.writer.begin();
                    commit.speaker = by.speaker();
                    self.writer.apply_once(&mut commit, once, &content, &first).await?;
                }
                return Ok((open, false));
            }
            let texts = [&new.url, &new.task_context, &new.reason];
            let bytes: usize = texts.iter().map(|text| text.as_deref().unwrap_or_default().len()).sum();
            let what = Counted::Spent(SpentKind::DomainRequests);
            let cost = asker.map(|agent| Cost { quotas, what, agent, bytes: bytes as u64 });
            let taken = match self.writer.pay(cost, once, &content).await? {
                Paid::Now(taken) => taken,
                Paid::Before(first) => return self.first_request(first).await,
            };
            let now = self.writer.clock().now();
            let wish = NewRequest {
                domain: domain.clone(),
                url: new.url.clone(),
                requested_by: asker.map(|agent| agent.id),
                actor: by.actor().clone(),
                task_context: new.task_context.clone(),
                reason: new.reason.clone(),
                category: new.category.clone(),
            };
            let (request, told) = DomainRequest::ask(DomainRequestId(self.writer.ids().uuid()), wish, now);
            let mut commit = self.writer.begin();
            commit.changes.push(Change::DomainRequest(Box::new(request.clone())));
            commit.spent.extend(taken.as_ref().and_then(|taken| taken.spent()));
            self.writer.tell(&mut commit, asker.map(|agent| agent.id), by.actor(), vec![told], now);
            self.writer.account(&mut commit, by, now, domain.as_str());
            let first = FirstRequest { id: request.id, is_new: true };
            let done = self.writer.apply_once(&mut commit, once, &content, &first).await;
            settle_up(taken, &done);
            match done? {
                Outcome::Now => {
                    by.told();
                    let version = request.version.next();
                    return Ok((DomainRequest { version, ..request }, true));
                }
                Outcome::Before(first) => return self.first_request(first).await,
                Outcome::Conflict => {
                    self.writer.still_speaks(by).await?;
                    self.writer.pause(attempt).await;
                }
            }
        }
        Err(busy("the list of requests"))
    }

    /// The request that the first call with a key made, as it is now.
    async fn first_request(&self, first: FirstRequest) -> Result<(DomainRequest, bool), Error> {
        let found = self.store.request(first.id).await?;
        found
            .map(|request| (request, first.is_new))
            .ok_or_else(|| Error::Internal("a request is gone".into()))
    }

    /// Approves or rejects a request; an approved one's domain is on the list with the same commit, and whoever else asked
    /// for it has it approved too. The same decision again changes nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::NotFound`]; [`Error::Conflict`] when it was decided otherwise; [`Error::Unavailable`].
    pub async fn decide(
        &self,
        id: DomainRequestId,
        decision: &Decision,
        by: &By,
    ) -> Result<DomainRequest, Error> {
        let mut faults = Faults::default();
        faults.optional("/reason", decision.reason.as_deref(), MAX_REASON);
        category_fault(&mut faults, decision.category.as_deref());
        faults.done()?;
        for attempt in 0..TRIES {
            let found = self.store.request(id).await?;
            let request = found.ok_or_else(|| Error::NotFound(format!("there is no request {id}")))?;
            let now = self.writer.clock().now();
            let decided = Decided {
                approved: decision.approve,
                by: by.actor().clone(),
                at: now,
                reason: decision.reason.clone(),
            };
            let (request, told) = request.decide(decided).map_err(|why| Error::Conflict(why.to_string()))?;
            let Some(told) = told else { return Ok(request) };
            let mut commit = self.writer.begin();
            let mut events = vec![told];
            let mut others = Vec::new();
            // Also where a wider entry covers it: that one may be removed some day.
            let domain = std::slice::from_ref(&request.domain);
            if decision.approve && self.store.standing(domain).await?.is_empty() {
                let category = decision.category.clone().or_else(|| request.category.clone());
                let new = NewEntry {
                    domain: request.domain.clone(),
                    category: category.unwrap_or_else(|| REQUESTED.to_owned()),
                    description: request
                        .reason
                        .as_deref()
                        .map(|text| text.chars().take(MAX_DESCRIPTION).collect()),
                    actor: by.actor().clone(),
                };
                let (entry, told) = DomainEntry::add(DomainId(self.writer.ids().uuid()), new, now);
                commit.changes.push(Change::Domain(Box::new(entry)));
                events.push(told);
            }
            if decision.approve {
                let open = self.store.open_requests(&request.domain, SETTLED_AT_ONCE).await?;
                for other in open.into_iter().filter(|other| other.id != request.id) {
                    let decided = Decided {
                        approved: true,
                        by: by.actor().clone(),
                        at: now,
                        reason: decision.reason.clone(),
                    };
                    let Ok((other, Some(told))) = other.decide(decided) else { continue };
                    others.push((other.requested_by, told));
                    commit.changes.extend(self.notice(&other, by).await?);
                    commit.changes.push(Change::DomainRequest(Box::new(other)));
                }
            }
            commit.changes.extend(self.notice(&request, by).await?);
            commit.changes.push(Change::DomainRequest(Box::new(request.clone())));
            self.writer.tell(&mut commit, request.requested_by, by.actor(), events, now);
            for (asker, told) in others {
                self.writer.tell(&mut commit, asker, by.actor(), vec![told], now);
            }
            self.writer.account(&mut commit, by, now, request.domain.as_str());
            match self.writer.apply_once(&mut commit, None, &[], &()).await? {
                Outcome::Now | Outcome::Before(()) => {
                    by.told();
                    let version = request.version.next();
                    return Ok(DomainRequest { version, ..request });
                }
                Outcome::Conflict => self.writer.pause(attempt).await,
            }
        }
        Err(busy("the request"))
    }

    /// What tells the agent that asked.
    async fn notice(&self, request: &DomainRequest, by: &By) -> Result<Option<Change>, Error> {
        let Some(agent) = request.requested_by else { return Ok(None) };
        let decided = request.decided.as_ref();
        let body = json!({
            "notice": if decided.is_some_and(|it| it.approved) { "domain_approved" } else { "domain_rejected" },
            "domain": request.domain,
            "requestId": request.id,
            "reason": decided.and_then(|it| it.reason.as_deref()),
        });
        let letter = Letter {
            agent_id: agent,
            kind: MailKind::Notice,
            sender: by.actor().clone(),
            from_agent: None,
            priority: Priority::Normal,
            body,
        };
        self.mail.wake(letter).await
    }
}

/// What a repetition is answered: the request that was made, or that was there.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct FirstRequest {
    id: DomainRequestId,
    is_new: bool,
}

/// What a repetition is answered: the entry as it was first stored.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct FirstEntry {
    id: DomainId,
    created_at: Timestamp,
}

fn checked_entry(new: &NewDomain) -> Result<(DomainName, String, Option<String>), Error> {
    let mut faults = Faults::default();
    let domain = faults.read("/domain", &new.domain, str::parse::<DomainName>);
    category_fault(&mut faults, Some(&new.category));
    faults.optional("/description", new.description.as_deref(), MAX_DESCRIPTION);
    faults.done()?;
    let domain = domain.ok_or_else(|| Error::Internal("an entry without a domain".into()))?;
    Ok((domain, new.category.clone(), new.description.clone()))
}

fn checked_wish(new: &NewWish) -> Result<DomainName, Error> {
    let mut faults = Faults::default();
    let domain = faults.read("/domain", &new.domain, str::parse::<DomainName>);
    faults.optional("/taskContext", new.task_context.as_deref(), MAX_REASON);
    faults.optional("/reason", new.reason.as_deref(), MAX_REASON);
    category_fault(&mut faults, new.category.as_deref());
    if let Some(url) = &new.url {
        let covered =
            host_of(url).is_some_and(|host| domain.as_ref().is_none_or(|domain| domain.covers(&host)));
        if !covered {
            let allowed = format!(
                "must be an http or https URL of that domain without a credential, at most {MAX_URL} characters"
            );
            faults.add("/url", allowed);
        }
    }
    faults.done()?;
    domain.ok_or_else(|| Error::Internal("a request without a domain".into()))
}

fn category_fault(faults: &mut Faults, category: Option<&str>) {
    if category.is_some_and(|category| !is_category(category)) {
        faults.add("/category", "must be 1 to 64 of a-z, 0-9, _ and -");
    }
}

/// The host of an http or https URL that is written as such.
fn host_of(text: &str) -> Option<DomainName> {
    let plain = |c: char| !c.is_whitespace() && !c.is_control();
    if text.chars().count() > MAX_URL || !text.chars().all(plain) {
        return None;
    }
    let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    if !lower.starts_with("http://") && !lower.starts_with("https://") {
        return None;
    }
    let url = url::Url::parse(text).ok()?;
    // A credential is nothing that is shown to whoever may read requests.
    let has_credential = !url.username().is_empty() || url.password().is_some();
    if has_credential { None } else { url.host_str()?.parse().ok() }
}
