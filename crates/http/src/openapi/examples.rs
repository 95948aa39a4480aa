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
        "putState" => value(api::PutState::new(json!({"lastSeen": "2025-12-20"}))),
        "sendMessage" => value(api::NewMessage::new("The campaign starts on Monday", "high")),
        "broadcast" => json!({"message": "The campaign starts on Monday", "priority": "normal"}),
        "createTask" => value(api::NewTask {
            description: Some("Post about new partnership".to_owned()),
            ..api::NewTask::new("Create Twitter Post", "cmo", "high")
        }),
        "editTask" => json!({"priority": "urgent", "dueDate": "2025-12-24T12:00:00.000Z"}),
        "claimTask" => json!({"agent": "cmo"}),
        "completeTask" => json!({"result": {"url": "https://example.com/post"}}),
        "failTask" => json!({"error": "the account is locked"}),
        "cancelTask" => json!({"reason": "the partnership is off"}),
        "addDomain" => value(api::NewDomain {
            description: Some("DEX analytics".to_owned()),
            ..api::NewDomain::new("dexscreener.com", "crypto_data")
        }),
        "requestDomain" => value(api::NewDomainRequest {
            url: Some("https://api.dexscreener.com/latest".to_owned()),
            reason: Some("prices of the new pair".to_owned()),
            ..api::NewDomainRequest::new("dexscreener.com")
        }),
        "approveDomainRequest" => json!({"reason": "needed for the report", "category": "crypto_data"}),
        "rejectDomainRequest" => json!({"reason": "there is another source"}),
        "writeSetting" => json!({"value": 1800, "description": "CEO loops every 30 minutes"}),
        "writeGovernanceSetting" => json!({"value": 3}),
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
        "listState" => value(api::StateList { state: vec![note()], next_cursor: None }),
        "putState" => value(api::StateAnswer { success: true, state: note() }),
        "readMailbox" => value(api::MailList { messages: vec![mail(None)], next_cursor: None }),
        "acknowledgeMessage" => value(api::MailAnswer { success: true, message: mail(Some(at(60))) }),
        "sendMessage" => value(api::MailAnswer { success: true, message: mail(None) }),
        "broadcast" => value(api::BroadcastSent {
            success: true,
            broadcast: api::Broadcast {
                messages: vec![api::BroadcastMail { agent_type: "cmo".to_owned(), id: id(12) }],
                skipped: Vec::new(),
            },
        }),
        "listTasks" => value(api::TaskList {
            tasks: vec![task()],
            total: 1,
            total_exact: true,
            limit: 50,
            offset: 0,
            next_cursor: None,
        }),
        "claimTask" => value(api::TaskClaimed { success: true, task: Some(claimed()), reason: None }),
        "getTask" | "createTask" | "editTask" => value(api::TaskAnswer { success: true, task: task() }),
        "completeTask" => value(api::TaskAnswer {
            success: true,
            task: ended("completed", Some(json!({"url": "https://example.com/post"})), None),
        }),
        "failTask" => value(api::TaskAnswer {
            success: true,
            task: ended("failed", None, Some("the account is locked")),
        }),
        "cancelTask" => value(api::TaskAnswer {
            success: true,
            task: ended("cancelled", None, Some("the partnership is off")),
        }),
        "listDomains" => {
            value(api::DomainList { domains: vec![domain()], next_cursor: None, advisory: true })
        }
        "addDomain" => value(api::DomainAnswer { success: true, domain: domain() }),
        "removeDomain" => value(api::Done { success: true }),
        "checkDomain" => value(api::DomainCheck {
            domain: "api.coingecko.com".to_owned(),
            allowed: true,
            matched_by: Some("coingecko.com".to_owned()),
            advisory: true,
        }),
        "listDomainRequests" => {
            value(api::DomainRequestList { requests: vec![domain_request("pending")], next_cursor: None })
        }
        "requestDomain" => {
            value(api::DomainRequestAnswer { success: true, request: domain_request("pending") })
        }
        "approveDomainRequest" => {
            value(api::DomainRequestAnswer { success: true, request: domain_request("approved") })
        }
        "rejectDomainRequest" => {
            value(api::DomainRequestAnswer { success: true, request: domain_request("rejected") })
        }
        "listSettings" => json!({
            "settings": {"queue": {"delay_critical": 0, "delay_urgent": 5000}, "agents": {"loop_interval_ceo": 1800}},
            "etags": {"queue": {"delay_critical": "\"0\"", "delay_urgent": "\"0\""}, "agents": {"loop_interval_ceo": "\"1\""}},
            "version": 1,
        }),
        "getSettingsSchema" => {
            json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"})
        }
        "writeSetting" => {
            value(api::SettingAnswer { success: true, setting: setting("agents", "loop_interval_ceo") })
        }
        "writeGovernanceSetting" => {
            value(api::SettingAnswer { success: true, setting: setting("governance", "tiers") })
        }
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
pub(super) fn streamed(operation: &str) -> Value {
    if operation != "streamEvents" {
        return value(api::LogEvent { data: value(log_line()).to_string() });
    }
    let event = event();
    let frame = api::Frame {
        frame_type: api::frame_type::EVENT.to_owned(),
        payload: value(&event),
        id: Some(event.id),
        position: Some(event.position.clone()),
        timestamp: event.created_at,
        last: true,
    };
    let data = value(frame).to_string();
    value(api::StreamMessage { id: Some(event.position), event: api::frame_type::EVENT.to_owned(), data })
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

fn note() -> api::StateEntry {
    api::StateEntry {
        key: "last_seen".to_owned(),
        value: json!({"lastSeen": "2025-12-20"}),
        updated_at: at(0),
        etag: "\"1\"".to_owned(),
    }
}

fn mail(acknowledged_at: Option<Timestamp>) -> api::Mail {
    api::Mail {
        id: id(12),
        kind: "message".to_owned(),
        from: "token:dashboard".to_owned(),
        from_agent: None,
        priority: "high".to_owned(),
        payload: json!({"message": "The campaign starts on Monday"}),
        created_at: at(0),
        due_at: at(30),
        expires_at: at(604_800),
        acknowledged_at,
    }
}

fn task() -> api::Task {
    api::Task {
        id: id(13),
        title: "Create Twitter Post".to_owned(),
        description: Some("Post about new partnership".to_owned()),
        status: "pending".to_owned(),
        priority: "high".to_owned(),
        assigned_to: "cmo".to_owned(),
        created_by: None,
        actor: "token:dashboard".to_owned(),
        due_date: None,
        result: None,
        error: None,
        overdue: false,
        claims: 0,
        lease: None,
        ended_at: None,
        etag: "\"1\"".to_owned(),
        created_at: at(0),
        updated_at: at(0),
    }
}

fn claimed() -> api::Task {
    api::Task {
        status: "in_progress".to_owned(),
        claims: 1,
        lease: Some(api::TaskLease { incarnation: 3, since: at(60) }),
        etag: "\"2\"".to_owned(),
        updated_at: at(60),
        ..task()
    }
}

fn ended(status: &str, result: Option<Value>, error: Option<&str>) -> api::Task {
    api::Task {
        status: status.to_owned(),
        result,
        error: error.map(str::to_owned),
        lease: None,
        ended_at: Some(at(120)),
        etag: "\"3\"".to_owned(),
        updated_at: at(120),
        ..claimed()
    }
}

fn domain() -> api::DomainEntry {
    api::DomainEntry {
        id: id(14),
        domain: "coingecko.com".to_owned(),
        category: "crypto_data".to_owned(),
        description: Some("CoinGecko API".to_owned()),
        is_active: true,
        created_at: at(0),
        etag: "\"1\"".to_owned(),
    }
}

fn domain_request(status: &str) -> api::DomainRequest {
    let decided = status != "pending";
    api::DomainRequest {
        id: id(15),
        domain: "dexscreener.com".to_owned(),
        url: Some("https://api.dexscreener.com/latest".to_owned()),
        requested_by: Some(id(1)),
        actor: "agent:ceo".to_owned(),
        task_context: None,
        reason: Some("prices of the new pair".to_owned()),
        category: None,
        status: status.to_owned(),
        created_at: at(0),
        decided_by: decided.then(|| "token:dashboard".to_owned()),
        decided_at: decided.then(|| at(60)),
        decision_reason: decided.then(|| "there is another source".to_owned()),
    }
}

fn setting(category: &str, key: &str) -> api::Setting {
    api::Setting {
        category: category.to_owned(),
        key: key.to_owned(),
        value: json!(1800),
        description: Some("CEO loops every 30 minutes".to_owned()),
        updated_at: Some(at(0)),
        updated_by: Some("token:dashboard".to_owned()),
        secret: false,
        effective: category != "governance",
        etag: "\"1\"".to_owned(),
    }
}
