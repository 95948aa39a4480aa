//! Examples for the description: what each operation is sent, and what it answers when it succeeds.
//!
//! Invariant: an example is made of the wire types themselves, so it cannot have another shape than an answer.

use aito_api::{self as api, Timestamp};
use chrono::DateTime;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

/// What an operation is sent; `None`: it takes no body.
pub(super) fn body(operation: &str) -> Option<Value> {
    let example = match operation {
        "sendHeartbeat" => value(api::HeartbeatRequest {
            loop_count: Some(42),
            current_focus: Some("quarterly report".to_owned()),
            last_loop_at: Some(api::timestamp::to_string(&at(0))),
            status: Some("working".to_owned()),
        }),
        "addHistory" => value(api::NewHistory::new("decision", "Approved marketing campaign")),
        "createToken" => value(api::NewToken {
            name: Some("dashboard".to_owned()),
            roles: vec!["viewer".to_owned()],
            scopes: Vec::new(),
            expires_at: None,
        }),
        "rotateToken" => value(api::RotateToken { overlap: Some(300) }),
        _ => return None,
    };
    Some(example)
}

/// What an operation answers when it succeeds; `None`: nothing that has an example.
pub(super) fn answer(operation: &str) -> Option<Value> {
    let example = match operation {
        "getHealth" => value(api::Health::ok(at(0))),
        "getReady" => value(ready()),
        "getHealthFull" => value(health_full()),
        "getMetrics" => json!("# TYPE aito_uptime_seconds gauge\naito_uptime_seconds 86400.0\n# EOF\n"),
        "getDescription" => {
            json!({"openapi": "3.1.0", "info": {"title": "aito", "version": "0.1.0"}, "paths": {}})
        }
        "listAgents" => value(api::AgentList { agents: vec![agent_summary()], next_cursor: None }),
        "getAgent" => value(agent_detail()),
        "getAgentHealth" => value(api::AgentHealthAnswer { success: true, health: agent_health() }),
        "getAgentSpec" => value(api::AgentSpecAnswer { success: true, spec: agent_spec() }),
        "startAgent" => value(started("Agent ceo started")),
        "restartAgent" => value(started("Agent ceo restarted")),
        "stopAgent" => value(api::Stopped { success: true, message: "Agent ceo stopped".to_owned() }),
        "sendHeartbeat" => value(api::HeartbeatAnswer {
            success: true,
            loop_interval: 1800,
            settings_version: 0,
            desired: api::DesiredState::Running,
            mailbox: 0,
        }),
        "listHistory" => value(api::HistoryList { history: vec![history()], next_cursor: None }),
        "addHistory" => value(api::HistoryCreated { success: true, history: history() }),
        "getAgentLogs" => value(api::LogList { logs: vec![log_line()] }),
        "getAgentStats" => value(api::AgentStatsAnswer { success: true, stats: agent_stats() }),
        "listContainers" => value(api::ContainerList { containers: vec![container()], next_cursor: None }),
        "listEvents" | "listAgentEvents" => {
            value(api::EventList { events: vec![event()], next_cursor: Some("k3v9x2ab-41".to_owned()) })
        }
        "listTokens" => value(api::TokenList { tokens: vec![token()], next_cursor: None }),
        "createToken" | "rotateToken" => value(api::TokenSecret {
            success: true,
            token: token(),
            secret: "aito_019ab1c27d3e7f408a5162c3d4e5f607_<43 characters>".to_owned(),
        }),
        "revokeToken" => value(api::Done { success: true }),
        "createTicket" => value(api::TicketCreated {
            success: true,
            ticket: api::Ticket { ticket: "aito-ticket.<content>.<code>".to_owned(), expires_at: at(30) },
        }),
        "listAudit" => value(api::AuditList { audit: vec![audit_entry()], next_cursor: None }),
        _ => return None,
    };
    Some(example)
}

/// One event of a stream of server-sent events.
pub(super) fn streamed() -> Value {
    value(api::LogEvent { data: value(log_line()).to_string() })
}

fn value(example: impl Serialize) -> Value {
    // Wire types are always JSON; what were not would be missed by the test that wants an example.
    serde_json::to_value(example).unwrap_or_default()
}

/// So many seconds after the moment of all examples, 2025-12-20T10:00:00Z.
fn at(seconds: i64) -> Timestamp {
    Timestamp::new(DateTime::from_timestamp(1_766_224_800 + seconds, 0).unwrap_or_default())
}

fn id(last: u8) -> Uuid {
    Uuid::from_u128(0x019a_b1c2_7d3e_7f40_8a51_62c3_d4e5_f600 + u128::from(last))
}

fn ready() -> api::Ready {
    api::Ready::new(api::ReadyChecks { database: api::Check::Ok, redis: Some(api::Check::Ok) })
}

fn health_full() -> api::HealthFull {
    let healthy = |latency| api::Component { status: api::ComponentStatus::Healthy, latency };
    let ceo = api::AgentComponent {
        status: api::AgentStatus::Active,
        last_heartbeat: Some(at(0)),
        health: api::HealthState::Ok,
    };
    api::HealthFull {
        status: api::SystemStatus::Healthy,
        uptime: 86_400,
        components: api::Components {
            database: healthy(1),
            redis: healthy(1),
            runtime: healthy(4),
            agents: [("ceo".to_owned(), ceo)].into(),
        },
    }
}

fn agent_summary() -> api::AgentSummary {
    api::AgentSummary {
        id: id(1),
        agent_type: "ceo".to_owned(),
        name: "CEO Agent".to_owned(),
        status: api::AgentStatus::Active,
        loop_interval: 1800,
        last_heartbeat: Some(at(0)),
        container_status: api::ContainerStatus::Running,
    }
}

fn agent_detail() -> api::AgentDetail {
    api::AgentDetail {
        id: id(1),
        agent_type: "ceo".to_owned(),
        name: "CEO Agent".to_owned(),
        status: api::AgentStatus::Active,
        profile_path: Some("/profiles/ceo.md".to_owned()),
        loop_interval: 1800,
        last_heartbeat: Some(at(0)),
        loop_count: 42,
        last_loop_at: Some(at(-600)),
        current_focus: Some("quarterly report".to_owned()),
        container_status: api::ContainerStatus::Running,
        container_id: Some("aito-ceo-abc123".to_owned()),
        incarnation: 3,
        health: api::HealthState::Ok,
        tier: api::Tier::Head,
        desired: api::DesiredState::Running,
        activity: Some(api::Activity::Working),
        restarts: 1,
        last_exit: Some(last_exit()),
        stale: false,
    }
}

fn agent_health() -> api::AgentHealth {
    api::AgentHealth {
        agent_type: "ceo".to_owned(),
        health: api::HealthState::Ok,
        status: api::AgentStatus::Active,
        desired: api::DesiredState::Running,
        incarnation: 3,
        last_heartbeat: Some(at(0)),
        activity: Some(api::Activity::Working),
        container_status: api::ContainerStatus::Running,
        restarts: 1,
        last_exit: Some(last_exit()),
        next_restart_at: None,
        stale: false,
    }
}

fn last_exit() -> api::LastExit {
    api::LastExit { code: Some(1), signal: None, reason: "crashed".to_owned(), at: at(-86_400) }
}

fn agent_spec() -> api::AgentSpec {
    api::AgentSpec {
        agent_type: "ceo".to_owned(),
        name: "CEO Agent".to_owned(),
        tier: api::Tier::Head,
        image: Some("aito-agent:latest".to_owned()),
        command: Vec::new(),
        loop_interval: 1800,
        heartbeat_interval: 10,
        grace_seconds: 30,
        profile_path: Some("/profiles/ceo.md".to_owned()),
        env: [
            ("LANG".to_owned(), api::EnvValue::Value("C.UTF-8".to_owned())),
            ("MODEL_KEY".to_owned(), api::EnvValue::SecretRef("env:MODEL_KEY".to_owned())),
        ]
        .into(),
        mounts: vec![api::Mount {
            source: "/srv/company".to_owned(),
            target: "/company".to_owned(),
            read_only: true,
        }],
        limits: api::Limits { memory_bytes: Some(1 << 30), cpus: Some(0.5), processes: None },
        restart: api::RestartPolicy {
            initial_delay_ms: 1000,
            max_delay_ms: 300_000,
            reset_after_ms: 600_000,
            crash_loop_after: 5,
        },
    }
}

fn agent_stats() -> api::AgentStats {
    api::AgentStats {
        container_id: "aito-ceo-abc123".to_owned(),
        cpu_percent: Some(12.5),
        cpu_seconds: 93.4,
        memory_bytes: 73_400_320,
        processes: 3,
        read_at: at(0),
    }
}

fn started(message: &str) -> api::Started {
    api::Started { success: true, message: message.to_owned(), container_id: "aito-ceo-abc123".to_owned() }
}

fn history() -> api::HistoryEntry {
    api::HistoryEntry {
        id: id(2),
        action_type: "decision".to_owned(),
        summary: "Approved marketing campaign".to_owned(),
        created_at: at(0),
        details: None,
    }
}

fn log_line() -> api::LogLine {
    api::LogLine { at: at(0), stream: api::LogStream::Stdout, message: "loop 42 begins".to_owned() }
}

fn container() -> api::Container {
    api::Container {
        container_id: "aito-ceo-abc123".to_owned(),
        agent_type: Some("ceo".to_owned()),
        incarnation: Some(3),
        container_status: api::ContainerStatus::Running,
        present: true,
        foreign: false,
        whose: None,
    }
}

fn event() -> api::Event {
    api::Event {
        id: id(3),
        event_type: "agent_started".to_owned(),
        source_agent: Some(id(1)),
        actor: "agent:ceo".to_owned(),
        payload: json!({"agentType": "ceo"}),
        created_at: at(0),
        position: "k3v9x2ab-42".to_owned(),
    }
}

fn token() -> api::Token {
    api::Token {
        id: id(7),
        name: "dashboard".to_owned(),
        roles: vec!["viewer".to_owned()],
        scopes: Vec::new(),
        created_by: "token:first".to_owned(),
        created_at: at(0),
        rotated_at: None,
        expires_at: None,
        revoked_at: None,
        last_used_at: None,
        etag: "\"1\"".to_owned(),
    }
}

fn audit_entry() -> api::AuditEntry {
    api::AuditEntry {
        id: id(4),
        n: Some(17),
        seal: Some("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".to_owned()),
        at: at(0),
        actor: "token:dashboard".to_owned(),
        credential: format!("token/{}", id(7)),
        operation: "agents.start".to_owned(),
        object: "/agents/ceo/start".to_owned(),
        source: "127.0.0.1".to_owned(),
        request_id: id(5).to_string(),
        outcome: "done".to_owned(),
        detail: String::new(),
        times: 1,
    }
}
