//! What every handler can reach: the use cases, and who is let in.

use std::sync::Arc;

use aito_application::{
    events::EventService, feed::Feed, fleet::FleetService, health::HealthService,
    heartbeat::HeartbeatService, history::HistoryService, metrics::Metrics,
};
use aito_domain::{
    credential::AgentCredentials,
    ports::clock::{Clock, IdSource},
};
use tokio_util::sync::CancellationToken;

use crate::{answers::Answers, frames::Frames};

/// Who is let in on the listeners for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Callers without a credential may do everything: loopback listeners only.
    Open,
}

/// The use cases and what else handlers share.
pub struct AppState {
    /// Agents.
    pub fleet: Arc<FleetService>,
    /// Their heartbeats.
    pub heartbeats: Arc<HeartbeatService>,
    /// Their histories.
    pub history: Arc<HistoryService>,
    /// The event log.
    pub events: Arc<EventService>,
    /// Live events.
    pub feed: Arc<Feed<Frames>>,
    /// Whether everything answers.
    pub health: Arc<HealthService>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Checks agents' credentials.
    pub credentials: AgentCredentials,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Request ids.
    pub ids: Arc<dyn IdSource>,
    /// Who is let in.
    pub access: Access,
    /// Answers that several callers share.
    pub answers: Answers,
    /// Ends open streams when the server stops.
    pub stop: CancellationToken,
}
