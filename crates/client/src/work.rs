//! The calls about work and what it needs: tasks, mailboxes, domains, settings and agents' state.
//!
//! Invariant: as in [`crate::call`], a method sends exactly one request; a call that creates something may carry an
//! `Idempotency-Key`, with which it can be repeated without creating it twice.

use crate::{
    Client, Error, Page,
    access::matching,
    call::{paged, query},
};
use aito_api::{
    Broadcast, BroadcastSent, CancelTask, ClaimTask, CompleteTask, DecideDomainRequest, DomainAnswer,
    DomainCheck, DomainEntry, DomainList, DomainRequest, DomainRequestAnswer, DomainRequestList, Done,
    EditTask, FailTask, Mail, MailAnswer, MailList, NewDomain, NewDomainRequest, NewMessage, NewTask,
    PutState, Setting, SettingAnswer, SettingList, StateAnswer, StateEntry, StateList, Task, TaskAnswer,
    TaskClaimed, TaskList, WriteSetting,
};
use reqwest::{Method, Url};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use uuid::Uuid;

/// Which tasks to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskQuery {
    /// Only this status: `pending`, `in_progress`, `completed`, `failed` or `cancelled`.
    pub status: Option<String>,
    /// Only those of this agent: its type or its id.
    pub assigned_to: Option<String>,
    /// How many to skip; none when not given.
    pub offset: Option<u32>,
    /// Which page.
    pub page: Page,
}

impl Client {
    /// `GET /tasks`.
    ///
    /// # Errors
    /// See [`Error`]; so for all calls.
    pub async fn tasks(&self, wanted: &TaskQuery) -> Result<TaskList, Error> {
        let offset = wanted.offset.map(|offset| offset.to_string());
        let url = query(
            self.url(&["tasks"]),
            &[
                ("status", wanted.status.as_deref()),
                ("assignedTo", wanted.assigned_to.as_deref()),
                ("offset", offset.as_deref()),
            ],
        );
        self.get(paged(url, &wanted.page)).await
    }

    /// `GET /tasks/{id}`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn task(&self, id: Uuid) -> Result<Task, Error> {
        let answer: TaskAnswer = self.get(self.task_url(id, &[])).await?;
        Ok(answer.task)
    }

    /// `POST /tasks`.
    ///
    /// # Errors
    /// See [`Error`]; when unavailable and sent, the task may have been made, once at most for one `key`.
    pub async fn create_task(&self, task: &NewTask, key: Option<&str>) -> Result<Task, Error> {
        let answer: TaskAnswer = self.create(self.url(&["tasks"]), task, key).await?;
        Ok(answer.task)
    }

    /// `PATCH /tasks/{id}`; `if_match` is the `etag` that the task must still have.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::is_outdated`] when the task changed meanwhile.
    pub async fn edit_task(&self, id: Uuid, edit: &EditTask, if_match: Option<&str>) -> Result<Task, Error> {
        let request = self.request(Method::PATCH, self.task_url(id, &[]));
        let answer: TaskAnswer = self.json(matching(request, if_match).json(edit)).await?;
        Ok(answer.task)
    }

    /// `POST /tasks/claim`: the most urgent task that waits for the agent, from now on in progress.
    ///
    /// # Errors
    /// See [`Error`]; when unavailable and sent, a task may be in progress that nobody knows of.
    pub async fn claim_task(&self, agent_type: &str) -> Result<TaskClaimed, Error> {
        let claim = ClaimTask { agent: Some(agent_type.to_owned()) };
        self.post(self.url(&["tasks", "claim"]), &claim).await
    }

    /// `POST /tasks/{id}/complete`.
    ///
    /// # Errors
    /// See [`Error`]; a conflict when it is not in progress or another incarnation works on it.
    pub async fn complete_task(&self, id: Uuid, outcome: &CompleteTask) -> Result<Task, Error> {
        let answer: TaskAnswer = self.post(self.task_url(id, &["complete"]), outcome).await?;
        Ok(answer.task)
    }

    /// `POST /tasks/{id}/fail`.
    ///
    /// # Errors
    /// See [`Error`]; a conflict when it is not in progress or another incarnation works on it.
    pub async fn fail_task(&self, id: Uuid, outcome: &FailTask) -> Result<Task, Error> {
        let answer: TaskAnswer = self.post(self.task_url(id, &["fail"]), outcome).await?;
        Ok(answer.task)
    }

    /// `POST /tasks/{id}/cancel`.
    ///
    /// # Errors
    /// See [`Error`]; a conflict when it has ended otherwise.
    pub async fn cancel_task(&self, id: Uuid, cancellation: &CancelTask) -> Result<Task, Error> {
        let answer: TaskAnswer = self.post(self.task_url(id, &["cancel"]), cancellation).await?;
        Ok(answer.task)
    }

    /// `GET /agents/{type}/mailbox`, the most urgent first. With an empty mailbox the server waits up to `wait` seconds
    /// (0 to 60) for a mail; the call may take that much longer than others.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn mailbox(&self, agent_type: &str, page: &Page, wait: u32) -> Result<MailList, Error> {
        self.mailbox_beyond(agent_type, page, wait, &[]).await
    }

    /// As [`Self::mailbox`], but the wait goes on until a message is due that is none of the `known` ones, at most 64: those
    /// that were read and not acknowledged yet. The answer has all that wait, or none when the time is over.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn mailbox_beyond(
        &self,
        agent_type: &str,
        page: &Page,
        wait: u32,
        known: &[Uuid],
    ) -> Result<MailList, Error> {
        let seconds = (wait > 0).then(|| wait.to_string());
        let known: Vec<String> = known.iter().map(Uuid::to_string).collect();
        let known = (!known.is_empty()).then(|| known.join(","));
        let url = paged(self.url(&["agents", agent_type, "mailbox"]), page);
        let url = query(url, &[("wait", seconds.as_deref()), ("known", known.as_deref())]);
        let limit = self.options().timeout.saturating_add(Duration::from_secs(wait.into()));
        self.json(self.request(Method::GET, url).timeout(limit)).await
    }

    /// `POST /agents/{type}/mailbox/{id}/ack`: it is not delivered again.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn acknowledge(&self, agent_type: &str, id: Uuid) -> Result<Mail, Error> {
        let url = self.url(&["agents", agent_type, "mailbox", &id.to_string(), "ack"]);
        let answer: MailAnswer = self.json(self.request(Method::POST, url)).await?;
        Ok(answer.message)
    }

    /// `POST /agents/{type}/message`.
    ///
    /// # Errors
    /// See [`Error`]; when unavailable and sent, it may have been sent, once at most for one `key`.
    pub async fn send_message(
        &self,
        agent_type: &str,
        message: &NewMessage,
        key: Option<&str>,
    ) -> Result<Mail, Error> {
        let url = self.url(&["agents", agent_type, "message"]);
        let answer: MailAnswer = self.create(url, message, key).await?;
        Ok(answer.message)
    }

    /// `POST /broadcast`: the same to every agent; without a priority it is a normal one.
    ///
    /// # Errors
    /// See [`Error`]; when unavailable and sent, it may have been sent, once at most for one `key`.
    pub async fn broadcast(&self, message: &NewMessage, key: Option<&str>) -> Result<Broadcast, Error> {
        let answer: BroadcastSent = self.create(self.url(&["broadcast"]), message, key).await?;
        Ok(answer.broadcast)
    }

    /// `GET /domains/whitelist`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn domains(&self, page: &Page) -> Result<DomainList, Error> {
        self.get(paged(self.url(&["domains", "whitelist"]), page)).await
    }

    /// `POST /domains/whitelist`.
    ///
    /// # Errors
    /// See [`Error`]; when unavailable and sent, the entry may have been made, once at most for one `key`.
    pub async fn add_domain(&self, domain: &NewDomain, key: Option<&str>) -> Result<DomainEntry, Error> {
        let answer: DomainAnswer = self.create(self.url(&["domains", "whitelist"]), domain, key).await?;
        Ok(answer.domain)
    }

    /// `DELETE /domains/{domain}`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove_domain(&self, domain: &str) -> Result<Done, Error> {
        self.json(self.request(Method::DELETE, self.url(&["domains", domain]))).await
    }

    /// `GET /domains/check`: whether agents may visit a domain.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn check_domain(&self, domain: &str) -> Result<DomainCheck, Error> {
        self.get(query(self.url(&["domains", "check"]), &[("domain", Some(domain))])).await
    }

    /// `GET /domains/approval-requests`: those of one status (`pending`, `approved` or `rejected`), the pending ones
    /// when none is given.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn domain_requests(
        &self,
        status: Option<&str>,
        page: &Page,
    ) -> Result<DomainRequestList, Error> {
        let url = query(self.domain_request_url(&[]), &[("status", status)]);
        self.get(paged(url, page)).await
    }

    /// `POST /domains/approval-requests`; a wish that stands already is answered as it is.
    ///
    /// # Errors
    /// See [`Error`]; when unavailable and sent, the request may have been made, once at most for one `key`.
    pub async fn request_domain(
        &self,
        wish: &NewDomainRequest,
        key: Option<&str>,
    ) -> Result<DomainRequest, Error> {
        let answer: DomainRequestAnswer = self.create(self.domain_request_url(&[]), wish, key).await?;
        Ok(answer.request)
    }

    /// `POST /domains/approval-requests/{id}/approve`; it puts the domain on the list.
    ///
    /// # Errors
    /// See [`Error`]; a conflict when it was rejected.
    pub async fn approve_domain(
        &self,
        id: Uuid,
        decision: &DecideDomainRequest,
    ) -> Result<DomainRequest, Error> {
        let url = self.domain_request_url(&[&id.to_string(), "approve"]);
        let answer: DomainRequestAnswer = self.post(url, decision).await?;
        Ok(answer.request)
    }

    /// `POST /domains/approval-requests/{id}/reject`.
    ///
    /// # Errors
    /// See [`Error`]; a conflict when it was approved.
    pub async fn reject_domain(
        &self,
        id: Uuid,
        decision: &DecideDomainRequest,
    ) -> Result<DomainRequest, Error> {
        let url = self.domain_request_url(&[&id.to_string(), "reject"]);
        let answer: DomainRequestAnswer = self.post(url, decision).await?;
        Ok(answer.request)
    }

    /// `GET /settings`; secrets are `"***"`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn settings(&self) -> Result<SettingList, Error> {
        self.get(self.url(&["settings"])).await
    }

    /// `GET /settings/schema`: the known settings with their defaults, ranges and meaning, as a JSON Schema (2020-12).
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn settings_schema(&self) -> Result<serde_json::Value, Error> {
        self.get(self.url(&["settings", "schema"])).await
    }

    /// `POST /settings/{category}/{key}`.
    ///
    /// # Errors
    /// See [`Error`]; when unavailable and sent, the setting may have been written.
    pub async fn write_setting(
        &self,
        category: &str,
        key: &str,
        setting: &WriteSetting,
    ) -> Result<Setting, Error> {
        let answer: SettingAnswer = self.post(self.url(&["settings", category, key]), setting).await?;
        Ok(answer.setting)
    }

    /// `GET /agents/{type}/state`, ordered by key.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn state(&self, agent_type: &str, page: &Page) -> Result<StateList, Error> {
        self.get(paged(self.url(&["agents", agent_type, "state"]), page)).await
    }

    /// `PUT /agents/{type}/state/{key}`; the value null removes the key. `if_match` is the `etag` that the key must
    /// still have.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::is_outdated`] when the key changed meanwhile.
    pub async fn put_state(
        &self,
        agent_type: &str,
        key: &str,
        value: &PutState,
        if_match: Option<&str>,
    ) -> Result<StateEntry, Error> {
        let request = self.request(Method::PUT, self.url(&["agents", agent_type, "state", key]));
        let answer: StateAnswer = self.json(matching(request, if_match).json(value)).await?;
        Ok(answer.state)
    }

    /// A POST that creates something, with an `Idempotency-Key` if there is one.
    async fn create<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        url: Url,
        body: &B,
        key: Option<&str>,
    ) -> Result<T, Error> {
        match key {
            Some(key) => self.post_once(url, body, key).await,
            None => self.post(url, body).await,
        }
    }

    fn task_url(&self, id: Uuid, rest: &[&str]) -> Url {
        let id = id.to_string();
        self.url(&[&["tasks", id.as_str()], rest].concat())
    }

    fn domain_request_url(&self, rest: &[&str]) -> Url {
        self.url(&[&["domains", "approval-requests"], rest].concat())
    }
}
