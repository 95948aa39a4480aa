//! Every move of an agent from every state, and random lives that keep the invariants.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

use std::time::Duration;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::time::millis;

const START: i64 = 1_766_224_800_000;

fn at(seconds: i64) -> Timestamp {
    millis(START + seconds * 1000)
}

fn policy() -> RestartPolicy {
    RestartPolicy {
        initial: Duration::from_secs(1),
        max: Duration::from_secs(60),
        reset_after: Duration::from_secs(100),
        crash_loop_after: 3,
    }
}

fn newborn() -> Agent {
    let id = AgentId(Uuid::from_u128(7));
    Agent::register(id, "ceo".parse().unwrap(), "CEO".to_owned(), at(0)).agent
}

/// One agent in every place of its life, all of them in incarnation 1 where there is one. Since second 10.
struct Places {
    inactive: Agent,
    starting: Agent,
    starting_silent: Agent,
    active: Agent,
    active_silent: Agent,
    stopping: Agent,
    error: Agent,
}

fn places() -> Places {
    let starting = newborn().want_running(at(10)).agent;
    let active = starting.clone().heard(Incarnation(1), None, at(10)).unwrap().agent;
    Places {
        inactive: newborn(),
        starting_silent: starting.clone().silent(at(10)).unwrap().agent,
        active_silent: active.clone().silent(at(10)).unwrap().agent,
        stopping: active.clone().want_stopped(at(10)).agent,
        error: active.clone().ended(Incarnation(1), Exit::Code(1), &policy(), at(10)).unwrap().agent,
        starting,
        active,
    }
}

impl Places {
    fn all(self) -> [(&'static str, Agent); 7] {
        [
            ("inactive", self.inactive),
            ("starting", self.starting),
            ("starting, silent", self.starting_silent),
            ("active", self.active),
            ("active, silent", self.active_silent),
            ("stopping", self.stopping),
            ("error", self.error),
        ]
    }
}

fn names(transition: &Transition) -> Vec<&str> {
    transition.events.iter().map(Payload::event_type).collect()
}

/// The status that an event tells, if it tells one.
fn told(payload: &Payload) -> Option<Status> {
    match payload {
        Payload::AgentStarting(it) => Some(it.status),
        Payload::AgentStarted(it) | Payload::AgentUnreachable(it) | Payload::AgentRecovered(it) => {
            Some(it.status)
        }
        Payload::AgentStopping(it) => Some(it.status),
        Payload::AgentStopped(it) => Some(it.status),
        Payload::AgentError(it) => Some(it.status),
        // No other event is one of an agent's life.
        _ => None,
    }
}

/// Which incarnation an event is about, if it says so.
fn about(payload: &Payload) -> Option<Incarnation> {
    match payload {
        Payload::AgentStarting(it) => Some(it.incarnation),
        Payload::AgentStarted(it) | Payload::AgentUnreachable(it) | Payload::AgentRecovered(it) => {
            Some(it.incarnation)
        }
        Payload::AgentStopping(it) => Some(it.incarnation),
        Payload::AgentStopped(it) => Some(it.incarnation),
        Payload::AgentError(it) => Some(it.incarnation),
        Payload::AgentFocusChanged(it) => Some(it.incarnation),
        _ => None,
    }
}

#[test]
fn a_new_agent_is_inactive_and_tells_its_name() {
    let made = Agent::register(AgentId(Uuid::from_u128(7)), "ceo".parse().unwrap(), "CEO".to_owned(), at(0));
    assert_eq!(names(&made), ["agent_registered"]);
    let agent = made.agent;
    assert_eq!(
        (agent.desired, agent.status(), agent.incarnation),
        (Desired::Stopped, Status::Inactive, Incarnation(0))
    );
    assert_eq!((agent.version, agent.created_at, agent.updated_at), (Version(0), at(0), at(0)));
    assert_eq!(agent.health(&policy(), at(9999)), Health::Unknown);
}

#[test]
fn wanting_it_to_run_begins_an_incarnation_unless_one_is_under_way() {
    for (place, agent) in places().all() {
        let before = agent.clone();
        let moved = agent.want_running(at(20));
        if ["starting", "starting, silent", "active", "active, silent"].contains(&place) {
            assert_eq!(moved, Transition { agent: before, events: vec![] }, "{place}");
            continue;
        }
        assert_eq!(names(&moved), ["agent_starting"], "{place}");
        let Payload::AgentStarting(starting) = &moved.events[0] else { unreachable!() };
        assert_eq!(starting.reason, StartReason::Requested, "{place}");
        let agent = moved.agent;
        assert_eq!(agent.incarnation, before.incarnation.next(), "{place}");
        assert_eq!(agent.lifecycle, Lifecycle::Starting { since: at(20) }, "{place}");
        assert_eq!(
            (agent.desired, agent.reach, agent.failures),
            (Desired::Running, Reach::Unknown, 0),
            "{place}"
        );
        assert_eq!(agent.updated_at, at(20), "{place}");
    }
}

#[test]
fn wanting_a_restart_always_begins_an_incarnation_and_says_what_it_ends() {
    for (place, agent) in places().all() {
        let before = agent.incarnation;
        let moved = agent.want_restart(at(20));
        let lived = place.starts_with("starting") || place.starts_with("active");
        let expected: &[&str] =
            if lived { &["agent_stopping", "agent_starting"] } else { &["agent_starting"] };
        assert_eq!(names(&moved), expected, "{place}");
        if let Payload::AgentStopping(stopping) = &moved.events[0] {
            assert_eq!((stopping.incarnation, stopping.reason), (before, StopReason::Restart), "{place}");
        }
        let Some(Payload::AgentStarting(starting)) = moved.events.last() else { unreachable!() };
        assert_eq!((starting.incarnation, starting.reason), (before.next(), StartReason::Restart), "{place}");
        assert_eq!((moved.agent.status(), moved.agent.failures), (Status::Starting, 0), "{place}");
        assert_eq!(
            (moved.agent.restarts, moved.agent.reach),
            (0, Reach::Unknown),
            "not an automatic one: {place}"
        );
    }
}

#[test]
fn wanting_it_to_stop_stops_unless_it_has_or_does() {
    for (place, agent) in places().all() {
        let before = agent.clone();
        let moved = agent.want_stopped(at(20));
        if ["inactive", "stopping"].contains(&place) {
            assert_eq!(moved, Transition { agent: before, events: vec![] }, "{place}");
            continue;
        }
        assert_eq!(names(&moved), ["agent_stopping"], "{place}");
        assert_eq!(moved.agent.lifecycle, Lifecycle::Stopping { since: at(20) }, "{place}");
        assert_eq!(
            (moved.agent.desired, moved.agent.incarnation),
            (Desired::Stopped, before.incarnation),
            "{place}"
        );
    }
}

#[test]
fn only_a_failed_agent_whose_time_has_come_is_retried() {
    for (place, agent) in places().all() {
        if place != "error" {
            assert_eq!(agent.retry(at(9999)), Err(Refused::State), "{place}");
        }
    }
    let failed = places().error;
    assert_eq!(failed.clone().retry(millis(START + 10_999)), Err(Refused::State), "a millisecond early");
    let moved = failed.clone().retry(at(11)).unwrap();
    assert_eq!(names(&moved), ["agent_starting"]);
    // The clock was set back: to the failure, and behind it.
    let Lifecycle::Error { since, .. } = failed.lifecycle else { unreachable!() };
    assert_eq!(failed.clone().retry(since), Err(Refused::State));
    assert!(failed.clone().retry(since - Duration::from_secs(7200)).is_ok());
    let Payload::AgentStarting(starting) = &moved.events[0] else { unreachable!() };
    assert_eq!((starting.reason, starting.incarnation), (StartReason::Recovery, Incarnation(2)));
    assert_eq!((moved.agent.restarts, moved.agent.failures), (1, 1));
    assert_eq!(failed.want_stopped(at(11)).agent.retry(at(9999)), Err(Refused::State));
}

#[test]
fn renumbering_goes_on_above_what_was_seen() {
    for (place, agent) in places().all() {
        let present = agent.incarnation;
        let stopped = agent.desired == Desired::Stopped;
        if present > Incarnation(0) {
            let below = Incarnation(present.0 - 1);
            assert_eq!(agent.clone().renumber(below, at(20)), Err(Refused::State), "{place}");
        }
        let same = agent.clone().renumber(present, at(20));
        if stopped {
            assert_eq!(same, Err(Refused::State), "nothing to do: {place}");
        } else {
            assert_eq!(same.unwrap().agent.incarnation, present.next(), "{place}");
        }
        let moved = agent.renumber(Incarnation(9), at(20)).unwrap();
        if stopped {
            assert_eq!(names(&moved), ["agent_stopping"], "{place}");
            assert_eq!(
                (moved.agent.incarnation, moved.agent.status()),
                (Incarnation(9), Status::Stopping),
                "{place}"
            );
            assert_eq!(
                moved.agent.renumber(Incarnation(9), at(21)),
                Err(Refused::State),
                "told once: {place}"
            );
        } else {
            assert_eq!(names(&moved), ["agent_starting"], "{place}");
            assert_eq!(
                (moved.agent.incarnation, moved.agent.status()),
                (Incarnation(10), Status::Starting),
                "{place}"
            );
            assert_eq!(
                moved.agent.renumber(Incarnation(9), at(21)),
                Err(Refused::State),
                "told once: {place}"
            );
        }
    }
}

#[test]
fn a_heartbeat_activates_recovers_or_changes_nothing() {
    let present = Incarnation(1);
    for (place, agent) in places().all() {
        if place == "inactive" {
            let past = Refused::Past { said: Incarnation(0), present: Incarnation(0) };
            assert_eq!(agent.heard(Incarnation(0), None, at(20)), Err(past), "nobody is incarnation 0");
            continue;
        }
        let before = agent.clone();
        let moved = agent.heard(present, None, at(20)).unwrap();
        let expected: &[&str] = match place {
            "starting" => &["agent_started"],
            "starting, silent" => &["agent_started", "agent_recovered"],
            "active, silent" => &["agent_recovered"],
            _ => &[],
        };
        assert_eq!(names(&moved), expected, "{place}");
        if expected.is_empty() {
            assert_eq!(moved.agent, before, "{place}");
        } else {
            assert_eq!((moved.agent.status(), moved.agent.reach), (Status::Active, Reach::Ok), "{place}");
            assert_eq!(moved.agent.updated_at, at(20), "{place}");
        }
    }
}

#[test]
fn the_first_heartbeat_after_a_failure_is_a_recovery() {
    let second = places().error.retry(at(11)).unwrap().agent;
    let moved = second.heard(Incarnation(2), None, at(12)).unwrap();
    assert_eq!(names(&moved), ["agent_started", "agent_recovered"]);
    assert!(!moved.agent.heard(Incarnation(2), None, at(13)).unwrap().is_change(), "told once");
}

#[test]
fn a_focus_is_told_when_it_changes() {
    let focus = |text: &str| Some(Some(text.to_owned()));
    let present = Incarnation(1);
    let moved = places().active.heard(present, focus("plan"), at(20)).unwrap();
    assert_eq!(names(&moved), ["agent_focus_changed"]);
    let agent = moved.agent;
    assert_eq!(agent.focus.as_deref(), Some("plan"));
    assert!(!agent.clone().heard(present, focus("plan"), at(21)).unwrap().is_change(), "the same");
    assert!(!agent.clone().heard(present, None, at(21)).unwrap().is_change(), "not said");
    let moved = agent.heard(present, Some(None), at(21)).unwrap();
    assert_eq!(names(&moved), ["agent_focus_changed"]);
    assert_eq!(moved.agent.focus, None);
}

#[test]
fn silence_is_known_once_and_only_of_agents_that_should_live() {
    for (place, agent) in places().all() {
        let silent = agent.silent(at(20));
        if ["starting", "active"].contains(&place) {
            let moved = silent.unwrap();
            assert_eq!(names(&moved), ["agent_unreachable"], "{place}");
            assert_eq!(moved.agent.reach, Reach::Unreachable { since: at(20) }, "{place}");
            assert_eq!(moved.agent.health(&policy(), at(20)), Health::Unreachable, "{place}");
        } else {
            assert_eq!(silent, Err(Refused::State), "{place}");
        }
    }
}

#[test]
fn an_end_is_a_failure_or_what_was_asked_for() {
    let exit = Exit::Signal(9);
    for (place, agent) in places().all() {
        let failures = agent.failures;
        let ended = agent.clone().ended(Incarnation(1), exit.clone(), &policy(), at(20));
        match place {
            "inactive" => {
                let past = Refused::Past { said: Incarnation(1), present: Incarnation(0) };
                assert_eq!(ended, Err(past));
            }
            "error" => assert_eq!(ended, Err(Refused::State), "recorded already"),
            "stopping" => {
                let moved = ended.unwrap();
                assert_eq!(names(&moved), ["agent_stopped"]);
                assert_eq!((moved.agent.status(), moved.agent.failures), (Status::Inactive, 0));
                let Payload::AgentStopped(told) = &moved.events[0] else { unreachable!() };
                assert_eq!(told.exit, Some(exit.clone()));
                assert_eq!(moved.agent.last_exit.unwrap().exit, exit);
            }
            _ => {
                let moved = ended.unwrap();
                assert_eq!(names(&moved), ["agent_error"], "{place}");
                let Payload::AgentError(told) = &moved.events[0] else { unreachable!() };
                assert_eq!((told.failures, told.retry_at), (failures + 1, at(21)), "{place}");
                assert_eq!(
                    (told.reason.as_str(), &told.exit),
                    ("was killed by signal 9", &Some(exit.clone()))
                );
                assert_eq!(moved.agent.health(&policy(), at(20)), Health::Unreachable, "{place}");
                let last = LastExit { incarnation: Incarnation(1), exit: exit.clone(), at: at(20) };
                assert_eq!(moved.agent.last_exit, Some(last), "{place}");
            }
        }
    }
}

#[test]
fn an_agent_that_was_stopped_and_not_seen_ending_is_gone() {
    for (place, agent) in places().all() {
        if place == "stopping" {
            let moved = agent.gone(at(20)).unwrap();
            assert_eq!((names(&moved), moved.agent.status()), (vec!["agent_stopped"], Status::Inactive));
            assert_eq!(moved.agent.last_exit, None);
        } else {
            assert_eq!(agent.gone(at(20)), Err(Refused::State), "{place}");
        }
    }
}

#[test]
fn a_failed_start_is_a_failure_of_a_starting_agent_only() {
    for (place, agent) in places().all() {
        let failed =
            agent.clone().start_failed(agent.incarnation, "no such program".to_owned(), &policy(), at(20));
        if place.starts_with("starting") {
            let moved = failed.unwrap();
            assert_eq!(names(&moved), ["agent_error"], "{place}");
            let Payload::AgentError(told) = &moved.events[0] else { unreachable!() };
            assert_eq!(
                (told.reason.as_str(), &told.exit, told.failures),
                ("no such program", &None, 1),
                "{place}"
            );
            assert_eq!((moved.agent.last_exit, moved.agent.reach), (None, Reach::Unknown), "{place}");
        } else if place == "inactive" {
            assert!(matches!(failed, Err(Refused::Past { .. })));
        } else {
            assert_eq!(failed, Err(Refused::State), "{place}");
        }
    }
}

#[test]
fn what_is_said_of_another_incarnation_moves_nothing() {
    for (place, agent) in places().all() {
        let present = agent.incarnation;
        for said in [Incarnation(0), Incarnation(2), Incarnation(u64::MAX)] {
            let past = Err(Refused::Past { said, present });
            assert_eq!(agent.clone().heard(said, Some(None), at(20)), past, "{place}");
            assert_eq!(agent.clone().ended(said, Exit::Code(0), &policy(), at(20)), past, "{place}");
            assert_eq!(agent.clone().start_failed(said, String::new(), &policy(), at(20)), past, "{place}");
        }
    }
}

#[test]
fn pauses_double_while_it_fails_and_a_long_life_or_a_wish_resets_them() {
    let mut agent = newborn().want_running(at(0)).agent;
    let mut now = at(0);
    for failures in 1..=4 {
        let moved = agent.ended(Incarnation(failures), Exit::Code(1), &policy(), now).unwrap();
        agent = moved.agent;
        let pause = Duration::from_secs(1 << (failures - 1));
        let Lifecycle::Error { retry_at, .. } = agent.lifecycle else { panic!("it failed") };
        assert_eq!((retry_at, u64::from(agent.failures)), (after(now, pause), failures));
        let expected = if failures >= 3 { Health::CrashLoop } else { Health::Unreachable };
        assert_eq!(agent.health(&policy(), now), expected, "after {failures}");
        now = retry_at;
        agent = agent.retry(now).unwrap().agent;
    }
    agent = agent.heard(Incarnation(5), None, now).unwrap().agent;
    assert_eq!(agent.health(&policy(), now), Health::CrashLoop, "heard, but for how long");
    let lasted = after(now, policy().reset_after);
    assert_eq!(agent.health(&policy(), millis(lasted.timestamp_millis() - 1)), Health::CrashLoop);
    assert_eq!(agent.health(&policy(), lasted), Health::Ok, "it has lasted");

    let died =
        |when| agent.clone().ended(Incarnation(5), Exit::Code(1), &policy(), when).unwrap().agent.failures;
    assert_eq!((died(millis(lasted.timestamp_millis() - 1)), died(lasted)), (5, 1));
    assert_eq!(agent.clone().want_restart(now).agent.failures, 0);
    assert_eq!(agent.want_stopped(now).agent.gone(now).unwrap().agent.failures, 0);
}

#[test]
fn words_read_back() {
    for status in Status::ALL {
        assert_eq!(status.as_str().parse(), Ok(status));
        assert_eq!(serde_json::to_value(status).unwrap(), status.as_str(), "wire and store agree");
    }
    assert_eq!("Active".parse::<Status>(), Err(BadStatus));
    for desired in [Desired::Running, Desired::Stopped] {
        assert_eq!(serde_json::to_value(desired).unwrap(), desired.as_str());
    }
}

/// Everything that can happen to an agent. Incarnations are given as a distance to the present one.
#[derive(Debug, Clone)]
enum Move {
    WantRunning,
    WantRestart,
    WantStopped,
    Retry,
    Renumber(i64),
    Heard(i64, Option<Option<String>>),
    Silent,
    Ended(i64, Exit),
    Gone,
    StartFailed(i64),
}

fn incarnations() -> impl Strategy<Value = i64> {
    prop_oneof![6 => Just(0_i64), 1 => Just(-1), 1 => Just(1), 1 => -3..5_i64]
}

fn moves() -> impl Strategy<Value = Move> {
    let focus = proptest::option::of(proptest::option::of("[ab]"));
    let exit = prop_oneof![
        (0..3_i32).prop_map(Exit::Code),
        Just(Exit::Signal(9)),
        Just(Exit::Lost("its container is gone".to_owned())),
    ];
    prop_oneof![
        2 => Just(Move::WantRunning),
        1 => Just(Move::WantRestart),
        1 => Just(Move::WantStopped),
        2 => Just(Move::Retry),
        1 => incarnations().prop_map(Move::Renumber),
        4 => (incarnations(), focus).prop_map(|(by, focus)| Move::Heard(by, focus)),
        1 => Just(Move::Silent),
        2 => (incarnations(), exit).prop_map(|(by, exit)| Move::Ended(by, exit)),
        1 => Just(Move::Gone),
        1 => incarnations().prop_map(Move::StartFailed),
    ]
}

fn apply(agent: Agent, step: &Move, now: Timestamp) -> Result<Transition, Refused> {
    let near = |by: i64| Incarnation(agent.incarnation.0.saturating_add_signed(by));
    match step.clone() {
        Move::WantRunning => Ok(agent.want_running(now)),
        Move::WantRestart => Ok(agent.want_restart(now)),
        Move::WantStopped => Ok(agent.want_stopped(now)),
        Move::Retry => agent.retry(now),
        Move::Renumber(by) => {
            let seen = near(by);
            agent.renumber(seen, now)
        }
        Move::Heard(by, focus) => {
            let said = near(by);
            agent.heard(said, focus, now)
        }
        Move::Silent => agent.silent(now),
        Move::Ended(by, exit) => {
            let said = near(by);
            agent.ended(said, exit, &policy(), now)
        }
        Move::Gone => agent.gone(now),
        Move::StartFailed(by) => {
            let said = near(by);
            agent.start_failed(said, "refused".to_owned(), &policy(), now)
        }
    }
}

/// The incarnation that a move is about, if it names one.
fn said(agent: &Agent, step: &Move) -> Option<Incarnation> {
    match step {
        Move::Heard(by, _) | Move::Ended(by, _) | Move::StartFailed(by) => {
            Some(Incarnation(agent.incarnation.0.saturating_add_signed(*by)))
        }
        _ => None,
    }
}

/// What holds of every state, however it was reached.
fn is_sound(agent: &Agent) -> Result<(), TestCaseError> {
    let status = agent.status();
    match agent.desired {
        Desired::Stopped => prop_assert!(matches!(status, Status::Inactive | Status::Stopping), "{agent:?}"),
        Desired::Running => {
            prop_assert!(matches!(status, Status::Starting | Status::Active | Status::Error), "{agent:?}")
        }
    }
    match status {
        Status::Active => prop_assert_ne!(agent.reach, Reach::Unknown),
        Status::Starting => prop_assert_ne!(agent.reach, Reach::Ok),
        Status::Inactive | Status::Error => prop_assert_eq!(agent.reach, Reach::Unknown),
        Status::Stopping => {}
    }
    if status == Status::Error {
        prop_assert!(agent.failures > 0);
    }
    if status != Status::Inactive {
        prop_assert!(agent.incarnation > Incarnation(0));
    }
    prop_assert!(agent.last_exit.as_ref().is_none_or(|exit| exit.incarnation <= agent.incarnation));
    Ok(())
}

proptest! {
    #![proptest_config(crate::tests::cases(512))]

    #[test]
    fn every_life_keeps_the_invariants(
        life in proptest::collection::vec((moves(), -2_000_i64..200_000), 1..60),
    ) {
        let mut agent = newborn();
        let mut now = at(0);
        // What a listener knows who hears the events alone.
        let mut known = Status::Inactive;
        for (step, passed) in life {
            // The wall clock may be set back a little.
            now = millis(now.timestamp_millis() + passed);
            let before = agent.clone();
            let named = said(&before, &step);
            match apply(agent.clone(), &step, now) {
                Err(refused) => {
                    if let Refused::Past { said, present } = refused {
                        prop_assert_eq!((Some(said), present), (named, before.incarnation));
                    }
                }
                Ok(moved) => {
                    prop_assert!(named.is_none_or(|said| said == before.incarnation && said.0 > 0), "{step:?}");
                    prop_assert_eq!(moved.is_change(), moved.agent != before, "{:?}", step);
                    let changed = moved.is_change();
                    agent = moved.agent;
                    prop_assert!(agent.incarnation >= before.incarnation);
                    prop_assert!(agent.restarts >= before.restarts);
                    prop_assert_eq!((agent.id, agent.version, agent.created_at), (before.id, before.version, before.created_at));
                    for event in &moved.events {
                        known = told(event).unwrap_or(known);
                        let about = about(event);
                        prop_assert!(about.is_none_or(|it| before.incarnation <= it && it <= agent.incarnation));
                        let body = event.body();
                        prop_assert_eq!(&Payload::parse(event.event_type(), body), event, "it is stored as it is");
                    }
                    if changed {
                        prop_assert_eq!(agent.updated_at, now);
                    }
                    if before.desired == Desired::Stopped && agent.desired == Desired::Running {
                        prop_assert!(matches!(step, Move::WantRunning | Move::WantRestart), "{step:?} revived it");
                    }
                    if before.desired == Desired::Running && agent.desired == Desired::Stopped {
                        prop_assert!(matches!(step, Move::WantStopped), "{step:?} stopped it");
                    }
                    if agent.failures < before.failures {
                        let failed_again = agent.status() == Status::Error && agent.failures == 1;
                        let asked = matches!(step, Move::WantRunning | Move::WantRestart);
                        prop_assert!(asked || failed_again || agent.status() == Status::Inactive, "{step:?}");
                    }
                    if agent.failures > before.failures {
                        prop_assert_eq!((agent.status(), agent.failures), (Status::Error, before.failures + 1));
                    }
                }
            }
            prop_assert_eq!(known, agent.status(), "events and state tell the same after {:?}", step);
            is_sound(&agent)?;
        }
    }
}
