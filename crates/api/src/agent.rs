//! Agents: lists, details, heartbeats and what one was configured with.
//!
//! Invariants:
//! - Durations are whole seconds unless the field's name says otherwise.
//! - An [`AgentSpec`] never shows a secret: an environment value that comes from one is shown as the reference.

use crate::{Timestamp, number::whole};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use uuid::Uuid;

/// Where an agent is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentStatus {
    /// Not wanted, not running.
    Inactive,
    /// Its container was asked for; no heartbeat of this incarnation came yet.
    Starting,
    /// The first heartbeat of this incarnation came.
    Active,
    /// Being stopped.
    Stopping,
    /// Wanted, but it can't be had for now.
    Error,
}

/// How a running agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthState {
    /// Heartbeats come and the loop goes on.
    Ok,
    /// No heartbeat for too long.
    Unreachable,
    /// Heartbeats come, but the loop does not go on.
    Stuck,
    /// It died too often in too short a time.
    CrashLoop,
    /// It should not run, or nothing is known yet.
    #[serde(other)]
    Unknown,
}

/// What the runtime says about the container or process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContainerStatus {
    /// It runs.
    Running,
    /// It ended and is still there.
    Exited,
    /// There is none.
    Missing,
    /// The runtime could not be asked.
    #[serde(other)]
    Unknown,
}

/// What is wanted of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DesiredState {
    /// It shall run.
    Running,
    /// It shall not run; a running one ends gracefully.
    Stopped,
}

/// An agent's tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Leads: ceo and dao.
    Head,
    /// The others.
    Clevel,
}

/// What an agent says that it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Between two loops.
    Idle,
    /// In a loop.
    Working,
    /// Not thinking, because it must not or cannot.
    Blocked,
}

impl Activity {
    /// The wire form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Working => "working",
            Self::Blocked => "blocked",
        }
    }
}

/// An agent in `GET /agents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentSummary {
    /// Its id, the same for all its incarnations.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// Its type: `^[a-z][a-z0-9-]{0,31}$`.
    #[serde(rename = "type")]
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$", examples("ceo"))]
    pub agent_type: String,
    /// Its name for humans.
    #[schema(examples("CEO Agent"))]
    pub name: String,
    /// Where it is in its life.
    pub status: AgentStatus,
    /// Seconds from one loop to the next.
    pub loop_interval: u64,
    /// Its last heartbeat; null when none came.
    #[schema(required)]
    pub last_heartbeat: Option<Timestamp>,
    /// What the runtime says.
    pub container_status: ContainerStatus,
}

/// `GET /agents`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentList {
    /// The agents, those of the first start in their documented order, then the others by type.
    pub agents: Vec<AgentSummary>,
    /// The cursor of the next page; null on the last.
    #[serde(default)]
    #[schema(required)]
    pub next_cursor: Option<String>,
}

/// `GET /agents/{type}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentDetail {
    /// Its id, the same for all its incarnations.
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// Its type: `^[a-z][a-z0-9-]{0,31}$`.
    #[serde(rename = "type")]
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$", examples("ceo"))]
    pub agent_type: String,
    /// Its name for humans.
    #[schema(examples("CEO Agent"))]
    pub name: String,
    /// Where it is in its life.
    pub status: AgentStatus,
    /// Its profile, a Markdown file; null when it has none.
    #[schema(required, examples("/profiles/ceo.md"))]
    pub profile_path: Option<String>,
    /// Seconds from one loop to the next.
    pub loop_interval: u64,
    /// Its last heartbeat; null when none came.
    #[schema(required)]
    pub last_heartbeat: Option<Timestamp>,
    /// Loops that it has begun, as it says.
    pub loop_count: u64,
    /// When its last loop began, as it says; null before the first.
    #[schema(required)]
    pub last_loop_at: Option<Timestamp>,
    /// What it works on, as it says; null when it said nothing.
    #[schema(required)]
    pub current_focus: Option<String>,
    /// What the runtime says.
    pub container_status: ContainerStatus,
    /// The container's name, `aito-<type>-<6 chars>`; null when there is none.
    #[schema(required, examples("aito-ceo-abc123"))]
    pub container_id: Option<String>,
    /// The incarnation that speaks for it; 0 before the first start.
    pub incarnation: u64,
    /// How it does.
    pub health: HealthState,
    /// Its tier.
    pub tier: Tier,
    /// What is wanted of it.
    pub desired: DesiredState,
    /// What it says that it does; null when it said nothing.
    #[schema(required)]
    pub activity: Option<Activity>,
    /// How often it was started again without being asked.
    pub restarts: u64,
    /// How the last incarnation that ended did so; null when none did.
    #[schema(required)]
    pub last_exit: Option<LastExit>,
    /// Whether the runtime could not be asked, so that its part of this answer may be old.
    pub stale: bool,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastExit {
    /// The exit code; null when a signal ended it or nobody knows.
    #[schema(required)]
    pub code: Option<i32>,
    /// The number of the signal that ended it; null when it exited or nobody knows.
    #[schema(required)]
    pub signal: Option<i32>,
    /// Why, in words, for example `stopped`, `crashed`, `out of memory`.
    pub reason: String,
    /// When it ended, or when that was noticed.
    pub at: Timestamp,
}

/// Answer of `POST /agents/{type}/start` and `POST /agents/{type}/restart`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Started {
    /// Always `true`.
    pub success: bool,
    /// For a human.
    #[schema(examples("Agent ceo started"))]
    pub message: String,
    /// The container's name.
    #[schema(examples("aito-ceo-abc123"))]
    pub container_id: String,
}

/// Answer of `POST /agents/{type}/stop`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stopped {
    /// Always `true`.
    pub success: bool,
    /// For a human.
    #[schema(examples("Agent ceo stopped"))]
    pub message: String,
}

/// Body of `POST /agents/{type}/heartbeat`; a field that is missing or null leaves what was known.
///
/// Values are checked by the server, all at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatRequest {
    /// Loops begun so far; 0 or more.
    #[serde(default, deserialize_with = "whole", skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 9_223_372_036_854_775_807isize, examples(42))]
    pub loop_count: Option<i64>,
    /// What the agent works on, at most 500 characters without NUL; an empty text clears it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 500, pattern = r"^[^\u0000]*$", examples("quarterly report"))]
    pub current_focus: Option<String>,
    /// When the last loop began (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = "date-time", examples("2025-12-20T10:00:00.000Z"))]
    pub last_loop_at: Option<String>,
    /// `idle`, `working` or `blocked`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Activity>)]
    pub status: Option<String>,
}

/// Answer of `POST /agents/{type}/heartbeat`: the control channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatAnswer {
    /// Always `true`.
    pub success: bool,
    /// Seconds from one loop to the next, from now on; 1 or more.
    pub loop_interval: u64,
    /// Grows with every change of a setting.
    pub settings_version: u64,
    /// What is wanted of the agent.
    pub desired: DesiredState,
    /// How many messages in its mailbox wake it by now; those that may wait are not counted until they do.
    pub mailbox: u64,
}

/// How an agent does, in detail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentHealth {
    /// Its type.
    #[serde(rename = "type")]
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$", examples("ceo"))]
    pub agent_type: String,
    /// How it does.
    pub health: HealthState,
    /// Where it is in its life.
    pub status: AgentStatus,
    /// What is wanted of it.
    pub desired: DesiredState,
    /// The incarnation that speaks for it; 0 before the first start.
    pub incarnation: u64,
    /// Its last heartbeat; null when none came.
    #[schema(required)]
    pub last_heartbeat: Option<Timestamp>,
    /// What it says that it does; null when it said nothing.
    #[schema(required)]
    pub activity: Option<Activity>,
    /// What the runtime says.
    pub container_status: ContainerStatus,
    /// How often it was started again without being asked.
    pub restarts: u64,
    /// How the last incarnation that ended did so; null when none did.
    #[schema(required)]
    pub last_exit: Option<LastExit>,
    /// When the next restart is due; null when none waits.
    #[schema(required)]
    pub next_restart_at: Option<Timestamp>,
    /// Whether the runtime could not be asked.
    pub stale: bool,
}

/// Answer of `GET /agents/{type}/health`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentHealthAnswer {
    /// Always `true`.
    pub success: bool,
    /// How it does.
    pub health: AgentHealth,
}

/// What an agent is configured to be; it comes from the configuration only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentSpec {
    /// Its type.
    #[serde(rename = "type")]
    #[schema(pattern = "^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$", examples("ceo"))]
    pub agent_type: String,
    /// Its name for humans.
    pub name: String,
    /// Its tier.
    pub tier: Tier,
    /// The image; null where the runtime uses none.
    #[schema(required)]
    pub image: Option<String>,
    /// The command and its arguments; empty means the runtime's default.
    pub command: Vec<String>,
    /// Seconds from one loop to the next.
    pub loop_interval: u64,
    /// Seconds from one heartbeat to the next.
    pub heartbeat_interval: u64,
    /// Seconds that it has to end before it is killed.
    pub grace_seconds: u64,
    /// Its profile, a Markdown file; null when it has none.
    #[schema(required)]
    pub profile_path: Option<String>,
    /// Its environment, without what the server itself adds.
    pub env: BTreeMap<String, EnvValue>,
    /// What of the host its container sees.
    pub mounts: Vec<Mount>,
    /// What it may use.
    pub limits: Limits,
    /// When it is started again.
    pub restart: RestartPolicy,
}

/// A directory or file of the host in a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mount {
    /// Where it lies on the host.
    pub source: String,
    /// Where the agent sees it.
    pub target: String,
    /// Whether the agent may only read it.
    pub read_only: bool,
}

/// The value of an environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum EnvValue {
    /// A plain value: `{"value": "…"}`.
    Value(String),
    /// Where the secret is taken from, never the secret: `{"secretRef": "…"}`.
    SecretRef(String),
}

/// Upper bounds; null means none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Bytes of memory.
    #[schema(required)]
    pub memory_bytes: Option<u64>,
    /// Processors, in parts: 0.5 is half of one.
    #[schema(required)]
    pub cpus: Option<f64>,
    /// Processes and threads.
    #[schema(required)]
    pub processes: Option<u64>,
}

/// When an agent that died is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestartPolicy {
    /// Milliseconds before the first restart; the wait doubles with each further one.
    pub initial_delay_ms: u64,
    /// The longest wait, in milliseconds.
    pub max_delay_ms: u64,
    /// Milliseconds of running after which the count starts anew.
    pub reset_after_ms: u64,
    /// Deaths in a row from which on the health is `crash_loop`.
    pub crash_loop_after: u32,
}

/// Answer of `GET /agents/{type}/spec`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentSpecAnswer {
    /// Always `true`.
    pub success: bool,
    /// What it is configured to be.
    pub spec: AgentSpec,
}

/// What an agent uses, read from the runtime just now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentStats {
    /// The container's name.
    pub container_id: String,
    /// Percent of one processor; more than 100 with several. Null until two readings can be compared.
    #[schema(required)]
    pub cpu_percent: Option<f64>,
    /// Processor time used so far, in seconds.
    pub cpu_seconds: f64,
    /// Bytes of memory in use.
    pub memory_bytes: u64,
    /// Processes.
    pub processes: u64,
    /// When it was read.
    pub read_at: Timestamp,
}

/// Answer of `GET /agents/{type}/stats`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatsAnswer {
    /// Always `true`.
    pub success: bool,
    /// What it uses.
    pub stats: AgentStats,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const ID: &str = "01936f1e-5f3a-7c3c-9a51-0d2d5f9a1b2c";

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn shape_of_a_list() {
        let agent = AgentSummary {
            id: ID.parse().unwrap(),
            agent_type: "ceo".to_owned(),
            name: "CEO Agent".to_owned(),
            status: AgentStatus::Active,
            loop_interval: 1800,
            last_heartbeat: Some(at("2025-12-20T10:00:00Z")),
            container_status: ContainerStatus::Running,
        };
        assert_eq!(
            serde_json::to_value(AgentList { agents: vec![agent], next_cursor: None }).unwrap(),
            json!({
                "agents": [{
                    "id": ID,
                    "type": "ceo",
                    "name": "CEO Agent",
                    "status": "active",
                    "loopInterval": 1800,
                    "lastHeartbeat": "2025-12-20T10:00:00.000Z",
                    "containerStatus": "running",
                }],
                "nextCursor": null,
            })
        );
    }

    #[test]
    fn shape_of_a_detail() {
        let detail = AgentDetail {
            id: ID.parse().unwrap(),
            agent_type: "ceo".to_owned(),
            name: "CEO Agent".to_owned(),
            status: AgentStatus::Starting,
            profile_path: Some("/profiles/ceo.md".to_owned()),
            loop_interval: 1800,
            last_heartbeat: None,
            loop_count: 42,
            last_loop_at: Some(at("2025-12-20T09:30:00Z")),
            current_focus: Some("strategic planning".to_owned()),
            container_status: ContainerStatus::Missing,
            container_id: None,
            incarnation: 8,
            health: HealthState::CrashLoop,
            tier: Tier::Head,
            desired: DesiredState::Running,
            activity: Some(Activity::Working),
            restarts: 3,
            last_exit: Some(LastExit {
                code: None,
                signal: Some(9),
                reason: "killed".to_owned(),
                at: at("2025-12-20T09:59:59.5Z"),
            }),
            stale: true,
        };
        let value = serde_json::to_value(&detail).unwrap();
        assert_eq!(
            value,
            json!({
                "id": ID,
                "type": "ceo",
                "name": "CEO Agent",
                "status": "starting",
                "profilePath": "/profiles/ceo.md",
                "loopInterval": 1800,
                "lastHeartbeat": null,
                "loopCount": 42,
                "lastLoopAt": "2025-12-20T09:30:00.000Z",
                "currentFocus": "strategic planning",
                "containerStatus": "missing",
                "containerId": null,
                "incarnation": 8,
                "health": "crash_loop",
                "tier": "head",
                "desired": "running",
                "activity": "working",
                "restarts": 3,
                "lastExit": {"code": null, "signal": 9, "reason": "killed", "at": "2025-12-20T09:59:59.500Z"},
                "stale": true,
            })
        );
        assert_eq!(serde_json::from_value::<AgentDetail>(value).unwrap(), detail);
    }

    #[test]
    fn shape_of_start_and_stop() {
        let started = Started {
            success: true,
            message: "Agent ceo started".to_owned(),
            container_id: "aito-ceo-abc123".to_owned(),
        };
        assert_eq!(
            serde_json::to_value(started).unwrap(),
            json!({"success": true, "message": "Agent ceo started", "containerId": "aito-ceo-abc123"})
        );
        let stopped = Stopped { success: true, message: "Agent ceo stopped".to_owned() };
        assert_eq!(
            serde_json::to_value(stopped).unwrap(),
            json!({"success": true, "message": "Agent ceo stopped"})
        );
    }

    #[test]
    fn a_heartbeat_is_read_tolerantly() {
        let read = |value: Value| serde_json::from_value::<HeartbeatRequest>(value);
        assert_eq!(read(json!({})).unwrap(), HeartbeatRequest::default());
        let odd =
            read(json!({"loopCount": -1, "status": "dancing", "lastLoopAt": "noon", "more": true})).unwrap();
        assert_eq!(odd.loop_count, Some(-1));
        assert_eq!(odd.status.as_deref(), Some("dancing"));
        assert_eq!(odd.last_loop_at.as_deref(), Some("noon"));
        for wrong in
            [json!({"loopCount": "1"}), json!({"loopCount": 1.5}), json!({"status": 1}), json!([1, 2])]
        {
            assert!(read(wrong.clone()).is_err(), "{wrong}");
        }
        let sent =
            HeartbeatRequest { loop_count: Some(3), status: Some("idle".to_owned()), ..Default::default() };
        assert_eq!(serde_json::to_value(sent).unwrap(), json!({"loopCount": 3, "status": "idle"}));
    }

    #[test]
    fn shape_of_a_heartbeat_answer() {
        let answer = HeartbeatAnswer {
            success: true,
            loop_interval: 60,
            settings_version: 4,
            desired: DesiredState::Stopped,
            mailbox: 2,
        };
        assert_eq!(
            serde_json::to_value(answer).unwrap(),
            json!({"success": true, "loopInterval": 60, "settingsVersion": 4, "desired": "stopped", "mailbox": 2})
        );
    }

    #[test]
    fn shape_of_agent_health() {
        let health = AgentHealth {
            agent_type: "cmo".to_owned(),
            health: HealthState::Unreachable,
            status: AgentStatus::Error,
            desired: DesiredState::Running,
            incarnation: 2,
            last_heartbeat: None,
            activity: None,
            container_status: ContainerStatus::Unknown,
            restarts: 1,
            last_exit: None,
            next_restart_at: Some(at("2025-12-20T10:00:02Z")),
            stale: false,
        };
        assert_eq!(
            serde_json::to_value(AgentHealthAnswer { success: true, health }).unwrap(),
            json!({
                "success": true,
                "health": {
                    "type": "cmo",
                    "health": "unreachable",
                    "status": "error",
                    "desired": "running",
                    "incarnation": 2,
                    "lastHeartbeat": null,
                    "activity": null,
                    "containerStatus": "unknown",
                    "restarts": 1,
                    "lastExit": null,
                    "nextRestartAt": "2025-12-20T10:00:02.000Z",
                    "stale": false,
                }
            })
        );
    }

    #[test]
    fn shape_of_a_spec() {
        let spec = AgentSpec {
            agent_type: "ceo".to_owned(),
            name: "CEO Agent".to_owned(),
            tier: Tier::Clevel,
            image: None,
            command: vec!["aito".to_owned(), "agent".to_owned()],
            loop_interval: 1800,
            heartbeat_interval: 10,
            grace_seconds: 10,
            profile_path: None,
            env: BTreeMap::from([
                ("MODEL".to_owned(), EnvValue::Value("small".to_owned())),
                ("TOKEN".to_owned(), EnvValue::SecretRef("file:token".to_owned())),
            ]),
            mounts: vec![Mount {
                source: "/srv/data".to_owned(),
                target: "/data".to_owned(),
                read_only: true,
            }],
            limits: Limits { memory_bytes: Some(512), cpus: Some(0.5), processes: None },
            restart: RestartPolicy {
                initial_delay_ms: 1000,
                max_delay_ms: 300_000,
                reset_after_ms: 600_000,
                crash_loop_after: 5,
            },
        };
        assert_eq!(
            serde_json::to_value(AgentSpecAnswer { success: true, spec }).unwrap(),
            json!({
                "success": true,
                "spec": {
                    "type": "ceo",
                    "name": "CEO Agent",
                    "tier": "clevel",
                    "image": null,
                    "command": ["aito", "agent"],
                    "loopInterval": 1800,
                    "heartbeatInterval": 10,
                    "graceSeconds": 10,
                    "profilePath": null,
                    "env": {"MODEL": {"value": "small"}, "TOKEN": {"secretRef": "file:token"}},
                    "mounts": [{"source": "/srv/data", "target": "/data", "readOnly": true}],
                    "limits": {"memoryBytes": 512, "cpus": 0.5, "processes": null},
                    "restart": {
                        "initialDelayMs": 1000,
                        "maxDelayMs": 300000,
                        "resetAfterMs": 600000,
                        "crashLoopAfter": 5,
                    },
                }
            })
        );
    }

    #[test]
    fn shape_of_stats() {
        let stats = AgentStats {
            container_id: "aito-ceo-abc123".to_owned(),
            cpu_percent: None,
            cpu_seconds: 1.5,
            memory_bytes: 4096,
            processes: 2,
            read_at: at("2025-12-20T10:00:00Z"),
        };
        assert_eq!(
            serde_json::to_value(AgentStatsAnswer { success: true, stats }).unwrap(),
            json!({
                "success": true,
                "stats": {
                    "containerId": "aito-ceo-abc123",
                    "cpuPercent": null,
                    "cpuSeconds": 1.5,
                    "memoryBytes": 4096,
                    "processes": 2,
                    "readAt": "2025-12-20T10:00:00.000Z",
                }
            })
        );
    }

    #[test]
    fn states_of_a_newer_server_do_not_break_a_reader() {
        assert_eq!(serde_json::from_value::<HealthState>(json!("drowsy")).unwrap(), HealthState::Unknown);
        assert_eq!(
            serde_json::from_value::<ContainerStatus>(json!("paused")).unwrap(),
            ContainerStatus::Unknown
        );
        assert!(serde_json::from_value::<AgentStatus>(json!("paused")).is_err());
        for activity in [Activity::Idle, Activity::Working, Activity::Blocked] {
            assert_eq!(serde_json::to_value(activity).unwrap(), json!(activity.as_str()));
        }
    }
}
