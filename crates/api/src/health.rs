//! Answers of `GET /health`, `GET /ready` and `GET /health/full`.
//!
//! Invariant: an agent appears in [`Components::agents`] under its type, one entry per configured agent.

use crate::{AgentStatus, HealthState, Timestamp};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// `GET /health`: the process answers. Touches no dependency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Health {
    /// Always `ok`.
    #[schema(examples("ok"))]
    pub status: String,
    /// Now, by the server's clock.
    pub timestamp: Timestamp,
}

impl Health {
    /// The answer at `now`.
    pub fn ok(now: Timestamp) -> Self {
        Self { status: "ok".to_owned(), timestamp: now }
    }
}

/// `GET /ready`: 200 when all checked dependencies answer, else 503 with the same body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ready {
    /// Whether every check is `ok`.
    pub ready: bool,
    /// The checks one by one.
    pub checks: ReadyChecks,
}

impl Ready {
    /// Ready exactly when no check failed.
    pub fn new(checks: ReadyChecks) -> Self {
        let ready = checks.database == Check::Ok && checks.redis != Some(Check::Error);
        Self { ready, checks }
    }
}

/// The checks of `Ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadyChecks {
    /// The store, whichever database it is.
    pub database: Check,
    /// The event bus, under the name that existing clients know; left out for `?scope=core`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<Check>,
}

/// The outcome of one check, which waits at most 2 s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// It answered.
    Ok,
    /// It failed or did not answer in time.
    Error,
}

/// `GET /health/full`: 503 when `status` is unhealthy, else 200.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthFull {
    /// The worst of the components, weighed as `SystemStatus` says.
    pub status: SystemStatus,
    /// Whole seconds since the server started.
    pub uptime: u64,
    /// The parts.
    pub components: Components,
}

/// The state of the whole installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SystemStatus {
    /// All components are fine.
    Healthy,
    /// An agent that should run is not reachable, or the runtime is not.
    Degraded,
    /// The store or the bus is down.
    Unhealthy,
}

/// The parts of `HealthFull`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Components {
    /// The store.
    pub database: Component,
    /// The event bus.
    pub redis: Component,
    /// The container runtime.
    pub runtime: Component,
    /// The agents by type.
    pub agents: BTreeMap<String, AgentComponent>,
}

/// A dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Component {
    /// Whether it answered within 2 s.
    pub status: ComponentStatus,
    /// Milliseconds until the answer, or until the check gave up.
    pub latency: u64,
}

/// The state of a dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ComponentStatus {
    /// It answered.
    Healthy,
    /// It failed or did not answer in time.
    Unhealthy,
}

/// An agent as a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentComponent {
    /// Its lifecycle.
    pub status: AgentStatus,
    /// Its last heartbeat; null when none came.
    #[schema(required)]
    pub last_heartbeat: Option<Timestamp>,
    /// Its health.
    pub health: HealthState,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn shape_of_health() {
        let value = serde_json::to_value(Health::ok(at("2025-12-20T10:00:00Z"))).unwrap();
        assert_eq!(value, json!({"status": "ok", "timestamp": "2025-12-20T10:00:00.000Z"}));
    }

    #[test]
    fn shape_of_ready() {
        let ok = Ready::new(ReadyChecks { database: Check::Ok, redis: Some(Check::Ok) });
        assert_eq!(
            serde_json::to_value(ok).unwrap(),
            json!({"ready": true, "checks": {"database": "ok", "redis": "ok"}})
        );
        let core = Ready::new(ReadyChecks { database: Check::Ok, redis: None });
        assert_eq!(serde_json::to_value(core).unwrap(), json!({"ready": true, "checks": {"database": "ok"}}));
        let down = Ready::new(ReadyChecks { database: Check::Ok, redis: Some(Check::Error) });
        assert_eq!(
            serde_json::to_value(down).unwrap(),
            json!({"ready": false, "checks": {"database": "ok", "redis": "error"}})
        );
        assert!(!Ready::new(ReadyChecks { database: Check::Error, redis: None }).ready);
    }

    #[test]
    fn shape_of_full_health() {
        let component = Component { status: ComponentStatus::Healthy, latency: 5 };
        let agent = AgentComponent {
            status: AgentStatus::Active,
            last_heartbeat: Some(at("2025-12-20T10:00:00Z")),
            health: HealthState::Ok,
        };
        let full = HealthFull {
            status: SystemStatus::Healthy,
            uptime: 86400,
            components: Components {
                database: component,
                redis: Component { latency: 2, ..component },
                runtime: Component { status: ComponentStatus::Unhealthy, latency: 2000 },
                agents: BTreeMap::from([("ceo".to_owned(), agent)]),
            },
        };
        assert_eq!(
            serde_json::to_value(full).unwrap(),
            json!({
                "status": "healthy",
                "uptime": 86400,
                "components": {
                    "database": {"status": "healthy", "latency": 5},
                    "redis": {"status": "healthy", "latency": 2},
                    "runtime": {"status": "unhealthy", "latency": 2000},
                    "agents": {
                        "ceo": {"status": "active", "lastHeartbeat": "2025-12-20T10:00:00.000Z", "health": "ok"}
                    }
                }
            })
        );
    }
}
