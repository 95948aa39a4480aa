//! From domain values to wire types: explicit, pure, one function per type.

use std::collections::BTreeMap;

use aito_api as api;
use aito_application::{
    fleet::{AgentView, ContainerStatus, ContainerView, Usage},
    mailbox::Sent,
    settings::{AllSettings, SettingView},
    tasks::{Claim, TaskPage, TaskView},
    tokens::TokenView,
};
use aito_domain::{
    agent::{Desired, Exit, Health, LastExit, Lifecycle, Status},
    allowlist::{DomainEntry, DomainRequest},
    event::Event,
    history::HistoryEntry,
    id::{AgentType, MailId, Version},
    mailbox::Mail,
    ports::{
        audit_store::Listed,
        heartbeats::Activity,
        runtime::{LogChannel, LogLine},
    },
    setting::StoredValue,
    spec::{AgentSpec, Mount, Tier},
    state::StateEntry,
    task::TaskState,
};

use crate::extract::etag;

pub(crate) fn status(status: Status) -> api::AgentStatus {
    match status {
        Status::Inactive => api::AgentStatus::Inactive,
        Status::Starting => api::AgentStatus::Starting,
        Status::Active => api::AgentStatus::Active,
        Status::Stopping => api::AgentStatus::Stopping,
        Status::Error => api::AgentStatus::Error,
    }
}

pub(crate) fn health(health: Health) -> api::HealthState {
    match health {
        Health::Ok => api::HealthState::Ok,
        Health::Unreachable => api::HealthState::Unreachable,
        Health::CrashLoop => api::HealthState::CrashLoop,
        Health::Unknown => api::HealthState::Unknown,
    }
}

pub(crate) fn desired(desired: Desired) -> api::DesiredState {
    match desired {
        Desired::Running => api::DesiredState::Running,
        Desired::Stopped => api::DesiredState::Stopped,
    }
}

fn container(status: ContainerStatus) -> api::ContainerStatus {
    match status {
        ContainerStatus::Running => api::ContainerStatus::Running,
        ContainerStatus::Exited => api::ContainerStatus::Exited,
        ContainerStatus::Missing => api::ContainerStatus::Missing,
        ContainerStatus::Unknown => api::ContainerStatus::Unknown,
    }
}

fn activity(activity: Activity) -> api::Activity {
    match activity {
        Activity::Idle => api::Activity::Idle,
        Activity::Working => api::Activity::Working,
        Activity::Blocked => api::Activity::Blocked,
    }
}

fn tier(tier: Tier) -> api::Tier {
    match tier {
        Tier::Head => api::Tier::Head,
        Tier::Clevel => api::Tier::Clevel,
    }
}

fn last_exit(last: &LastExit) -> api::LastExit {
    let (code, signal) = match last.exit {
        Exit::Code(code) => (Some(code), None),
        Exit::Signal(signal) => (None, Some(signal)),
        Exit::Lost(_) => (None, None),
    };
    api::LastExit { code, signal, reason: last.exit.to_string(), at: last.at.into() }
}

fn name(view: &AgentView) -> String {
    view.spec.as_ref().map_or_else(|| view.agent.agent_type.to_string(), |spec| spec.name.clone())
}

fn loop_interval(view: &AgentView) -> u64 {
    view.loop_interval.map_or(0, |interval| interval.as_secs())
}

pub(crate) fn agent_summary(view: &AgentView) -> api::AgentSummary {
    api::AgentSummary {
        id: view.agent.id.0,
        agent_type: view.agent.agent_type.to_string(),
        name: name(view),
        status: status(view.agent.status()),
        loop_interval: loop_interval(view),
        last_heartbeat: view.heartbeat.as_ref().map(|row| row.at.into()),
        container_status: container(view.container),
    }
}

pub(crate) fn agent_detail(view: &AgentView) -> api::AgentDetail {
    let beat = view.heartbeat.as_ref();
    api::AgentDetail {
        id: view.agent.id.0,
        agent_type: view.agent.agent_type.to_string(),
        name: name(view),
        status: status(view.agent.status()),
        profile_path: view.spec.as_ref().map(|spec| spec.profile.display().to_string()),
        loop_interval: loop_interval(view),
        last_heartbeat: beat.map(|row| row.at.into()),
        loop_count: beat.map_or(0, |row| row.loop_count),
        last_loop_at: beat.and_then(|row| row.last_loop_at).map(Into::into),
        current_focus: view.agent.focus.clone(),
        container_status: container(view.container),
        container_id: view.container_id.clone(),
        incarnation: view.agent.incarnation.0,
        health: health(view.health),
        tier: view.spec.as_ref().map_or(api::Tier::Clevel, |spec| tier(spec.tier)),
        desired: desired(view.agent.desired),
        activity: beat.and_then(|row| row.activity).map(activity),
        restarts: view.agent.restarts,
        last_exit: view.agent.last_exit.as_ref().map(last_exit),
        stale: view.stale,
    }
}

pub(crate) fn agent_health(view: &AgentView) -> api::AgentHealth {
    let beat = view.heartbeat.as_ref();
    let next_restart_at = match view.agent.lifecycle {
        Lifecycle::Error { retry_at, .. } if view.agent.desired == Desired::Running => Some(retry_at.into()),
        _ => None,
    };
    api::AgentHealth {
        agent_type: view.agent.agent_type.to_string(),
        health: health(view.health),
        status: status(view.agent.status()),
        desired: desired(view.agent.desired),
        incarnation: view.agent.incarnation.0,
        last_heartbeat: beat.map(|row| row.at.into()),
        activity: beat.and_then(|row| row.activity).map(activity),
        container_status: container(view.container),
        restarts: view.agent.restarts,
        last_exit: view.agent.last_exit.as_ref().map(last_exit),
        next_restart_at,
        stale: view.stale,
    }
}

pub(crate) fn agent_spec(spec: &AgentSpec) -> api::AgentSpec {
    let plain = spec.env.iter().map(|(name, value)| (name.clone(), api::EnvValue::Value(value.clone())));
    let secret = spec
        .secrets
        .iter()
        .map(|(name, secret)| (name.clone(), api::EnvValue::SecretRef(secret.to_string())));
    let millis = |length: std::time::Duration| u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    api::AgentSpec {
        agent_type: spec.agent_type.to_string(),
        name: spec.name.clone(),
        tier: tier(spec.tier),
        image: spec.image.clone(),
        command: spec.command.clone().unwrap_or_default(),
        loop_interval: spec.loop_interval.as_secs(),
        heartbeat_interval: spec.heartbeat_interval.as_secs(),
        grace_seconds: spec.grace.as_secs(),
        profile_path: Some(spec.profile.display().to_string()),
        env: plain.chain(secret).collect(),
        mounts: spec.mounts.iter().map(mount).collect(),
        limits: api::Limits {
            memory_bytes: spec.limits.memory_bytes,
            cpus: spec.limits.cpu_millis.map(|millis| f64::from(millis) / 1000.0),
            processes: spec.limits.pids.map(u64::from),
        },
        restart: api::RestartPolicy {
            initial_delay_ms: millis(spec.restart.initial),
            max_delay_ms: millis(spec.restart.max),
            reset_after_ms: millis(spec.restart.reset_after),
            crash_loop_after: spec.restart.crash_loop_after,
        },
    }
}

fn mount(mount: &Mount) -> api::Mount {
    api::Mount {
        source: mount.source.display().to_string(),
        target: mount.target.display().to_string(),
        read_only: mount.read_only,
    }
}

pub(crate) fn container_view(view: ContainerView) -> api::Container {
    api::Container {
        container_id: view.name,
        agent_type: view.agent_type,
        incarnation: view.incarnation.map(|incarnation| incarnation.0),
        container_status: container(view.status),
        present: view.present,
        foreign: view.foreign.is_some(),
        whose: view.foreign,
    }
}

pub(crate) fn agent_stats(usage: Usage) -> api::AgentStats {
    api::AgentStats {
        container_id: usage.container_id,
        cpu_percent: usage.cpu_percent,
        cpu_seconds: usage.stats.cpu.as_secs_f64(),
        memory_bytes: usage.stats.memory_bytes,
        processes: u64::from(usage.stats.processes),
        read_at: usage.stats.at.into(),
    }
}

pub(crate) fn event(event: Event) -> api::Event {
    api::Event {
        id: event.id.0,
        event_type: event.event_type,
        source_agent: event.source_agent.map(|id| id.0),
        actor: event.actor.to_string(),
        payload: event.body,
        created_at: event.created_at.into(),
        position: event.position.to_string(),
    }
}

pub(crate) fn history(entry: HistoryEntry) -> api::HistoryEntry {
    api::HistoryEntry {
        id: entry.id.0,
        action_type: entry.action_type.to_string(),
        summary: entry.summary,
        created_at: entry.created_at.into(),
        details: entry.details,
    }
}

pub(crate) fn log_line(line: LogLine) -> api::LogLine {
    let stream = match line.channel {
        LogChannel::Stdout => api::LogStream::Stdout,
        LogChannel::Stderr => api::LogStream::Stderr,
    };
    api::LogLine { at: line.at.into(), stream, message: line.text }
}

/// A token without its secret.
pub(crate) fn token(view: TokenView) -> api::Token {
    let TokenView { token, last_used_at } = view;
    api::Token {
        id: token.id.0,
        etag: etag(token.version),
        name: token.name,
        roles: token.grants.roles.iter().map(ToString::to_string).collect(),
        scopes: token.grants.seat.iter().map(|seat| format!("seat:{seat}")).collect(),
        created_by: token.created_by,
        created_at: token.created_at.into(),
        rotated_at: token.rotated_at.map(Into::into),
        expires_at: token.expires_at.map(Into::into),
        revoked_at: token.revoked_at.map(Into::into),
        last_used_at: last_used_at.map(Into::into),
    }
}

/// An entry of the audit.
pub(crate) fn audit_entry(listed: Listed) -> api::AuditEntry {
    let Listed { entry, place } = listed;
    api::AuditEntry {
        id: entry.id.0,
        n: place.map(|head| head.n),
        seal: place.map(|head| head.seal.to_string()),
        at: entry.at.into(),
        actor: entry.actor,
        credential: entry.credential,
        operation: entry.operation,
        object: entry.object,
        source: entry.source,
        request_id: entry.request_id,
        outcome: entry.outcome.as_str().to_owned(),
        detail: entry.detail,
        times: entry.times,
    }
}

pub(crate) fn task(view: TaskView) -> api::Task {
    let TaskView { task, assignee } = view;
    let (status, lease) = (task.status().as_str().to_owned(), task.lease());
    let (mut result, mut error, mut ended_at) = (None, None, None);
    match task.state {
        TaskState::Pending | TaskState::InProgress(_) => {}
        TaskState::Completed { result: came, at } => (result, ended_at) = (came, Some(at)),
        TaskState::Failed { error: why, at } => (error, ended_at) = (Some(why), Some(at)),
        TaskState::Cancelled { reason, at } => (error, ended_at) = (reason, Some(at)),
    }
    api::Task {
        id: task.id.0,
        title: task.title,
        description: task.description,
        status,
        priority: task.priority.as_str().to_owned(),
        assigned_to: assignee.to_string(),
        created_by: task.created_by.map(|id| id.0),
        actor: task.actor.to_string(),
        due_date: task.due_at.map(Into::into),
        result,
        error,
        overdue: task.overdue,
        claims: u32::try_from(task.claims).unwrap_or(u32::MAX),
        lease: lease
            .map(|lease| api::TaskLease { incarnation: lease.incarnation.0, since: lease.since.into() }),
        ended_at: ended_at.map(Into::into),
        etag: etag(task.version),
        created_at: task.created_at.into(),
        updated_at: task.updated_at.into(),
    }
}

pub(crate) fn task_list(
    page: TaskPage,
    limit: u32,
    offset: u32,
    next_cursor: Option<String>,
) -> api::TaskList {
    // Of large tasks a page has fewer; who pages by offset goes on after those.
    let limit = if page.goes_on { page.tasks.len() as u32 } else { limit };
    api::TaskList {
        tasks: page.tasks.into_iter().map(task).collect(),
        total: page.total.count,
        total_exact: page.total.exact,
        limit,
        offset,
        next_cursor,
    }
}

pub(crate) fn claim(claim: Claim) -> api::TaskClaimed {
    let (task, reason) = match claim {
        Claim::Task(view) => (Some(task(*view)), None),
        Claim::NothingWaits => (None, Some("nothing_waits")),
        Claim::AtLimit => (None, Some("at_limit")),
    };
    api::TaskClaimed { success: true, task, reason: reason.map(str::to_owned) }
}

pub(crate) fn mail(mail: Mail) -> api::Mail {
    api::Mail {
        id: mail.id.0,
        kind: mail.kind.as_str().to_owned(),
        from: mail.sender.to_string(),
        from_agent: mail.from_agent.map(|id| id.0),
        priority: mail.priority.as_str().to_owned(),
        payload: mail.body,
        created_at: mail.created_at.into(),
        due_at: mail.wake_at.into(),
        expires_at: mail.expires_at.into(),
        acknowledged_at: mail.acknowledged.map(|it| it.at.into()),
    }
}

pub(crate) fn broadcast(sent: Sent) -> api::Broadcast {
    let one = |(agent_type, id): (AgentType, MailId)| api::BroadcastMail {
        agent_type: agent_type.to_string(),
        id: id.0,
    };
    api::Broadcast {
        messages: sent.messages.into_iter().map(one).collect(),
        skipped: sent.skipped.into_iter().map(|agent_type| agent_type.to_string()).collect(),
    }
}

pub(crate) fn domain(entry: DomainEntry) -> api::DomainEntry {
    api::DomainEntry {
        id: entry.id.0,
        domain: entry.domain.to_string(),
        category: entry.category,
        description: entry.description,
        is_active: entry.removed_at.is_none(),
        created_at: entry.created_at.into(),
        etag: etag(entry.version),
    }
}

pub(crate) fn domain_request(request: DomainRequest) -> api::DomainRequest {
    let (status, decided) = (request.status().as_str().to_owned(), request.decided);
    api::DomainRequest {
        id: request.id.0,
        domain: request.domain.to_string(),
        url: request.url,
        requested_by: request.requested_by.map(|id| id.0),
        actor: request.actor.to_string(),
        task_context: request.task_context,
        reason: request.reason,
        category: request.category,
        status,
        created_at: request.created_at.into(),
        decided_by: decided.as_ref().map(|it| it.by.to_string()),
        decided_at: decided.as_ref().map(|it| it.at.into()),
        decision_reason: decided.and_then(|it| it.reason),
    }
}

pub(crate) fn settings(all: AllSettings) -> api::SettingList {
    let tagged = |keys: BTreeMap<String, Version>| {
        keys.into_iter().map(|(key, version)| (key, etag(version))).collect()
    };
    let etags = all.versions.into_iter().map(|(category, keys)| (category, tagged(keys))).collect();
    api::SettingList { settings: all.values, etags, version: all.version }
}

pub(crate) fn setting(view: SettingView) -> api::Setting {
    let SettingView { setting, effective } = view;
    api::Setting {
        value: setting.shown(),
        secret: matches!(setting.value, StoredValue::Sealed(_)),
        category: setting.category,
        key: setting.key,
        description: setting.description,
        updated_at: Some(setting.updated_at.into()),
        updated_by: Some(setting.updated_by.to_string()),
        effective,
        etag: etag(setting.version),
    }
}

pub(crate) fn state_entry(entry: StateEntry) -> api::StateEntry {
    api::StateEntry {
        key: entry.key,
        value: entry.value.unwrap_or_default(),
        updated_at: entry.updated_at.into(),
        etag: etag(entry.version),
    }
}
