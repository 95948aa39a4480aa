//! What goes in comes out equal, and what cannot be understood is an error.

use aito_domain::{
    agent::{Exit, LastExit, Lifecycle, Reach},
    event::{Actor, Payload},
    history::ActionType,
    id::CommitId,
    time::millis,
};
use serde_json::json;

use super::*;

fn agent() -> Agent {
    Agent {
        id: AgentId(Uuid::from_u128(1)),
        agent_type: "risk-officer".parse().unwrap(),
        version: Version(6),
        desired: Desired::Running,
        incarnation: Incarnation(8),
        lifecycle: Lifecycle::Error {
            since: millis(1_700_000_000_123),
            reason: "\"quoted\" and ünïcode".into(),
            retry_at: millis(1_700_000_001_000),
        },
        reach: Reach::Unreachable { since: millis(1) },
        focus: Some(String::new()),
        failures: u32::MAX,
        restarts: i64::MAX as u64,
        last_exit: Some(LastExit {
            incarnation: Incarnation(7),
            exit: Exit::Lost("its container is gone".into()),
            at: millis(-1),
        }),
        created_at: millis(0),
        updated_at: millis(1_700_000_000_124),
    }
}

fn heartbeat(agent: u128) -> Heartbeat {
    Heartbeat {
        agent_id: AgentId(Uuid::from_u128(agent)),
        incarnation: Incarnation(8),
        at: millis(99),
        loop_count: 3,
        last_loop_at: Some(millis(98)),
        activity: Some(Activity::Blocked),
    }
}

#[test]
fn an_agent_reads_back_with_the_next_version() {
    let read = AgentRow::next_of(&agent()).unwrap().into_domain().unwrap();
    assert_eq!(read, Agent { version: Version(7), ..agent() });
}

#[test]
fn numbers_that_do_not_fit_are_refused_not_bent() {
    let large = Agent { restarts: u64::MAX, ..agent() };
    assert_eq!(AgentRow::next_of(&large), Err(Untranslatable::TooLarge("the restarts")));
    let last = Agent { version: Version(i64::MAX as u64), ..agent() };
    assert!(AgentRow::next_of(&last).is_err());
    assert!(NewHeartbeats::of(&[Heartbeat { loop_count: u64::MAX, ..heartbeat(1) }]).is_err());
}

#[test]
fn what_a_later_version_wrote_is_an_error_not_a_guess() {
    let row = AgentRow::next_of(&agent()).unwrap();
    for strange in [
        AgentRow { desired: "paused".into(), ..row.clone() },
        AgentRow { lifecycle: json!({"state": "hibernating"}), ..row.clone() },
        AgentRow { reach: json!("nowhere"), ..row.clone() },
        AgentRow { incarnation: -1, ..row.clone() },
        AgentRow { agent_type: "CEO".into(), ..row.clone() },
        AgentRow { failures: -1, ..row },
    ] {
        assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
    }
}

#[test]
fn an_event_keeps_its_body_whatever_its_type() {
    let body = json!({"deep": [0.1, 1e300, -0.0, u64::MAX, null, {"ä": "\u{0}\n"}]});
    let event = NewEvent {
        id: EventId(Uuid::from_u128(2)),
        source_agent: Some(AgentId(Uuid::from_u128(1))),
        actor: Actor::Token("ops".into()),
        payload: Payload::Unknown { event_type: "agent_sang".into(), body: body.clone() },
        created_at: millis(5),
    };
    let mut rows = NewEvents::of(std::slice::from_ref(&event));
    let read = EventRow {
        position: 9,
        id: rows.ids.remove(0),
        event_type: rows.event_types.remove(0),
        source_agent: rows.source_agents.remove(0),
        actor: rows.actors.remove(0),
        body: rows.bodies.remove(0),
        created_at: rows.created_at.remove(0),
    }
    .into_domain(&"abcd".parse().unwrap())
    .unwrap();
    assert_eq!((read.id, read.body, read.created_at), (event.id, body, event.created_at));
    assert_eq!((read.event_type.as_str(), read.position.to_string().as_str()), ("agent_sang", "abcd-9"));
    assert_eq!((read.source_agent, read.actor), (event.source_agent, event.actor));
}

#[test]
fn history_heartbeats_and_the_installation_read_back() {
    let entry = HistoryEntry {
        id: HistoryId(Uuid::from_u128(3)),
        agent_id: AgentId(Uuid::from_u128(1)),
        incarnation: Incarnation(8),
        action_type: ActionType::Idea,
        summary: "a thought".into(),
        details: Some(json!(null)),
        created_at: millis(77),
    };
    let mut rows = NewHistory::of(std::slice::from_ref(&entry)).unwrap();
    let row = HistoryRow {
        id: rows.ids.remove(0),
        agent_id: rows.agent_ids.remove(0),
        incarnation: rows.incarnations.remove(0),
        action_type: rows.action_types.remove(0),
        summary: rows.summaries.remove(0),
        details: rows.details.remove(0),
        created_at: rows.created_at.remove(0),
    };
    assert_eq!(row.into_domain().unwrap(), entry);

    let mut rows = NewHeartbeats::of(&[heartbeat(1)]).unwrap();
    let row = HeartbeatRow {
        agent_id: rows.agent_ids.remove(0),
        incarnation: rows.incarnations.remove(0),
        at: rows.at.remove(0),
        loop_count: rows.loop_counts.remove(0),
        last_loop_at: rows.last_loops_at.remove(0),
        activity: rows.activities.remove(0),
    };
    assert_eq!(row.into_domain().unwrap(), heartbeat(1));

    let record = InstallationRecord {
        id: InstallationId(Uuid::from_u128(4)),
        epoch: "abcd".parse().unwrap(),
        key_fingerprint: "0123456789abcdef".into(),
        runtime: RuntimeKind::Docker,
        engine_id: "engine".into(),
    };
    assert_eq!(InstallationRow::of(&record).into_domain().unwrap(), record);
}

#[test]
fn rows_that_are_locked_come_in_one_order() {
    let changes =
        [3, 1, 2].map(|id| Change::Agent(Box::new(Agent { id: AgentId(Uuid::from_u128(id)), ..agent() })));
    let commit = Commit { changes: changes.into(), ..Commit::new(CommitId(Uuid::from_u128(9))) };
    let ids: Vec<u128> =
        CommitRows::of(&commit).unwrap().agents.iter().map(|(_, row)| row.id.as_u128()).collect();
    assert_eq!(ids, [1, 2, 3]);
    let beats = NewHeartbeats::of(&[heartbeat(2), heartbeat(3), heartbeat(1)]).unwrap();
    assert_eq!(beats.agent_ids, [1, 2, 3].map(Uuid::from_u128));
}

#[test]
fn errors_have_their_meaning_and_a_failed_commit_is_certain_or_not() {
    let error = |kind, text: &str| DieselError::DatabaseError(kind, Box::new(text.to_owned()));
    let unknown = |text| error(DatabaseErrorKind::Unknown, text);
    for (error, expected, certain) in [
        (error(DatabaseErrorKind::UniqueViolation, ""), Meaning::Clash, true),
        (error(DatabaseErrorKind::ForeignKeyViolation, ""), Meaning::Clash, true),
        (error(DatabaseErrorKind::SerializationFailure, ""), Meaning::Clash, true),
        (unknown("deadlock detected"), Meaning::Clash, true),
        (error(DatabaseErrorKind::ReadOnlyTransaction, ""), Meaning::ReadOnly, true),
        (error(DatabaseErrorKind::UnableToSendCommand, "connection closed"), Meaning::Lost, false),
        (unknown("terminating connection due to administrator command"), Meaning::Other, false),
        (unknown("canceling statement due to statement timeout"), Meaning::Other, false),
        (unknown("sorry, too many clients already"), Meaning::Other, false),
        (DieselError::BrokenTransactionManager, Meaning::Other, false),
    ] {
        assert_eq!(meaning(&error), expected, "{error:?}");
        assert_eq!(commit_certainly_failed(&error), certain, "{error:?}");
    }
}

#[test]
fn what_cannot_be_read_is_told_from_who_does_not_answer() {
    let strange = DieselError::DeserializationError("not JSON".into());
    assert!(matches!(read_error(strange), ReadError::Corrupt(_)));
    let lost = DieselError::DatabaseError(DatabaseErrorKind::UnableToSendCommand, Box::new(String::new()));
    assert!(matches!(read_error(lost), ReadError::Unavailable(_)));
}
