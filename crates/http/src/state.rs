//! What every handler can reach: the use cases, and who is let in.

use std::sync::Arc;

use aito_application::{
    audit::AuditService, domains::DomainService, events::EventService, feed::Feed, fleet::FleetService,
    health::HealthService, heartbeat::HeartbeatService, history::HistoryService, login::LoginService,
    mailbox::MailService, metrics::Metrics, quota::Quotas, settings::SettingsService, state::StateService,
    tasks::TaskService, tokens::TokenService,
};
use aito_domain::ports::clock::{Clock, IdSource};
use tokio_util::sync::CancellationToken;

use crate::{
    answers::Answers,
    frames::Frames,
    limits::{Rates, Streams},
};

/// Who is let in, and from where.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Callers on loopback without a credential may do everything.
    pub open: bool,
    /// Names by which this server is known besides those of loopback and its own addresses.
    pub hosts: Vec<String>,
    /// Origins whose pages may call, such as `https://board.example`.
    pub origins: Vec<String>,
    /// Proxies that are believed whom they speak for (`X-Forwarded-For`).
    pub proxies: Vec<ipnet::IpNet>,
}

/// The use cases and what else handlers share.
pub struct AppState {
    /// Agents.
    pub fleet: Arc<FleetService>,
    /// Their heartbeats.
    pub heartbeats: Arc<HeartbeatService>,
    /// Their histories.
    pub history: Arc<HistoryService>,
    /// Their notes.
    pub notes: Arc<StateService>,
    /// Their mailboxes.
    pub mail: Arc<MailService>,
    /// Tasks.
    pub tasks: Arc<TaskService>,
    /// The list of domains.
    pub domains: Arc<DomainService>,
    /// Settings.
    pub settings: Arc<SettingsService>,
    /// The event log.
    pub events: Arc<EventService>,
    /// Live events.
    pub feed: Arc<Feed<Frames>>,
    /// Whether everything answers.
    pub health: Arc<HealthService>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Checks credentials.
    pub login: Arc<LoginService>,
    /// Operators' tokens.
    pub tokens: Arc<TokenService>,
    /// The audit.
    pub audit: Arc<AuditService>,
    /// What agents may store.
    pub quotas: Arc<Quotas>,
    /// Counts requests.
    pub rates: Rates,
    /// Counts streams.
    pub streams: Streams,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Request ids.
    pub ids: Arc<dyn IdSource>,
    /// Who is let in, and from where.
    pub access: Access,
    /// Answers that several callers share.
    pub answers: Answers,
    /// Ends open streams when the server stops.
    pub stop: CancellationToken,
}
