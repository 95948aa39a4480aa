//! The wire types: what travels over HTTP and WebSocket, shared by server, client and agent.
//!
//! Invariants:
//! - Every documented field is always present; one without a value is `null`, never left out. Only fields
//!   marked "left out when …" may be missing.
//! - JSON is camelCase, times are [`Timestamp`], ids are UUIDs in their hyphenated lower-case form.
//! - Unknown fields are ignored on reading. What a caller sends is read tolerantly (a value that needs checking
//!   is kept as the plain JSON type), so that the server can report all value faults at once.
//! - Nothing here decides anything: no domain entity, no I/O, no clock.

mod agent;
mod audit;
mod container;
mod domain;
mod event;
mod frame;
mod given;
mod health;
mod history;
mod log;
mod mailbox;
mod number;
pub mod problem;
mod setting;
mod state;
mod task;
pub mod timestamp;
mod token;

pub use agent::{
    Activity, AgentDetail, AgentHealth, AgentHealthAnswer, AgentList, AgentSpec, AgentSpecAnswer, AgentStats,
    AgentStatsAnswer, AgentStatus, AgentSummary, ContainerStatus, DesiredState, EnvValue, HealthState,
    HeartbeatAnswer, HeartbeatRequest, LastExit, Limits, Mount, RestartPolicy, Started, Stopped, Tier,
};
pub use audit::{AuditEntry, AuditList, OutcomeName};
pub use container::{Container, ContainerList};
pub use domain::{
    DecideDomainRequest, DomainAnswer, DomainCheck, DomainEntry, DomainList, DomainRequest,
    DomainRequestAnswer, DomainRequestList, DomainRequestStatusName, NewDomain, NewDomainRequest,
};
pub use event::{Event, EventList};
pub use frame::{AgentStatusPayload, Frame, ResetPayload, StreamMessage, frame_type};
pub use health::{
    AgentComponent, Check, Component, ComponentStatus, Components, Health, HealthFull, Ready, ReadyChecks,
    SystemStatus,
};
pub use history::{ActionName, HistoryCreated, HistoryEntry, HistoryList, NewHistory};
pub use log::{LogEvent, LogLine, LogList, LogStream};
pub use mailbox::{
    Broadcast, BroadcastMail, BroadcastSent, Mail, MailAnswer, MailKindName, MailList, NewBroadcast,
    NewMessage,
};
pub use problem::{FieldFault, Problem, ProblemKind, slug};
pub use setting::{Setting, SettingAnswer, SettingList, WriteSetting};
pub use state::{PutState, StateAnswer, StateEntry, StateList};
pub use task::{
    CancelTask, ClaimTask, CompleteTask, EditTask, FailTask, NewTask, NoClaimName, PriorityName, Task,
    TaskAnswer, TaskClaimed, TaskLease, TaskList, TaskStatusName,
};
pub use timestamp::Timestamp;
pub use token::{
    Done, NewToken, RoleName, RotateToken, SeatScope, Ticket, TicketCreated, Token, TokenList, TokenSecret,
};

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use utoipa::PartialSchema;

    fn schema<T: PartialSchema>() -> Value {
        serde_json::to_value(T::schema()).unwrap()
    }

    fn required<T: PartialSchema>() -> Vec<String> {
        serde_json::from_value(schema::<T>()["required"].clone()).unwrap()
    }

    #[test]
    fn the_schema_says_what_is_always_present() {
        assert!(required::<AgentSummary>().contains(&"lastHeartbeat".to_owned()));
        assert!(required::<AgentDetail>().contains(&"lastExit".to_owned()));
        assert!(required::<Event>().contains(&"sourceAgent".to_owned()));
        assert!(required::<HistoryList>().contains(&"nextCursor".to_owned()));
        assert!(!required::<HistoryEntry>().contains(&"details".to_owned()));
        assert!(!required::<Frame>().contains(&"position".to_owned()));
        assert_eq!(required::<NewHistory>(), ["actionType", "summary"]);
        assert_eq!(schema::<HeartbeatRequest>().get("required"), None);
    }

    #[test]
    fn the_schema_says_the_formats() {
        assert_eq!(schema::<Timestamp>()["format"], "date-time");
        assert_eq!(schema::<AgentSummary>()["properties"]["id"]["format"], "uuid");
        assert_eq!(schema::<NewHistory>()["properties"]["summary"]["type"], "string");
        assert_eq!(
            schema::<ActionName>()["enum"],
            json!(["decision", "task", "communication", "error", "idea"])
        );
        assert_eq!(
            schema::<HealthState>()["enum"],
            json!(["ok", "unreachable", "stuck", "crash_loop", "unknown"])
        );
    }
}
