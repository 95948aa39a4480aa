//! Hearing agents: what is taken, refused, kept, and told.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aito_application::{
    Error,
    heartbeat::{Beat, Control, FLUSH_EVERY},
};
use aito_contracts::wait;
use aito_domain::{
    agent::{Desired, MAX_FOCUS, Reach, Status},
    id::Incarnation,
    ports::{
        ReadError,
        heartbeats::{Activity, FlushError, Heartbeat, Heartbeats},
    },
    time::millis,
};
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::support::{House, Next, SOON, Scripted, operator, spec_of, ty};

fn full(loops: i64) -> Beat {
    Beat {
        loop_count: Some(loops),
        focus: Some(Some("the plan".to_owned())),
        last_loop_at: Some("2025-12-20T11:00:00.123456+01:00".to_owned()),
        activity: Some("working".to_owned()),
    }
}

/// Heartbeat rows in front of the real ones, that can be switched off.
struct Switched {
    inner: Arc<dyn Heartbeats>,
    off: AtomicBool,
}

#[async_trait]
impl Heartbeats for Switched {
    async fn flush(&self, rows: &[Heartbeat]) -> Result<(), FlushError> {
        if self.off.load(Ordering::SeqCst) {
            return Err(FlushError("switched off".into()));
        }
        self.inner.flush(rows).await
    }

    async fn all(&self) -> Result<Vec<Heartbeat>, ReadError> {
        self.inner.all().await
    }
}

#[tokio::test]
async fn a_first_heartbeat_activates_and_is_answered_with_the_controls() {
    let house = House::automatic();
    let server = house.server(&["ceo"]).await;
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    let ceo = house.agent("ceo").await;
    let control = server.heartbeats.heard(ceo.clone(), Incarnation(1), full(7)).await.unwrap();
    let interval = spec_of("ceo").loop_interval;
    let expected =
        Control { loop_interval: interval, desired: Desired::Running, settings_version: 0, mailbox: 0 };
    assert_eq!(control, expected);
    assert_eq!(house.told("ceo").await, ["agent_starting", "agent_started", "agent_focus_changed"]);
    let row = server.heartbeats.last(ceo.id).unwrap();
    let loop_at = millis(1_766_224_800_123);
    assert_eq!((row.loop_count, row.activity, row.last_loop_at), (7, Some(Activity::Working), Some(loop_at)));

    // What is not said again is kept; what changes nothing writes nothing.
    let version = house.agent("ceo").await.version;
    let stale = server.heartbeats.heard(ceo.clone(), Incarnation(1), Beat::default()).await.unwrap();
    assert_eq!(stale, expected, "also when it was decided on a state that has passed");
    let again = house.agent("ceo").await;
    server.heartbeats.heard(again.clone(), Incarnation(1), Beat::default()).await.unwrap();
    assert_eq!(again.version, version);
    assert_eq!(server.heartbeats.last(ceo.id).unwrap(), row);

    // An agent that should end learns it.
    server.writer.agent(ceo.id, &operator(), |agent, now| Ok(agent.want_stopped(now))).await.unwrap();
    let control =
        server.heartbeats.heard(house.agent("ceo").await, Incarnation(1), Beat::default()).await.unwrap();
    assert_eq!(control.desired, Desired::Stopped);
}

#[tokio::test]
async fn all_faults_are_named_at_once_and_nothing_is_taken() {
    let house = House::automatic();
    let server = house.server(&["ceo"]).await;
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    let ceo = house.agent("ceo").await;
    let bad = Beat {
        loop_count: Some(-1),
        focus: Some(Some("x".repeat(MAX_FOCUS + 1))),
        last_loop_at: Some("yesterday".to_owned()),
        activity: Some("dancing".to_owned()),
    };
    let Err(Error::Invalid(faults)) = server.heartbeats.heard(ceo.clone(), Incarnation(1), bad).await else {
        panic!("everything is wrong with it")
    };
    let mut pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
    pointers.sort_unstable();
    assert_eq!(pointers, ["/currentFocus", "/lastLoopAt", "/loopCount", "/status"]);
    assert_eq!(server.heartbeats.last(ceo.id), None);
    assert_eq!(house.agent("ceo").await, ceo);

    let longest =
        Beat { focus: Some(Some("ä".repeat(MAX_FOCUS))), loop_count: Some(i64::MAX), ..Beat::default() };
    server.heartbeats.heard(ceo, Incarnation(1), longest).await.unwrap();
}

#[tokio::test]
async fn only_the_present_incarnation_is_heard() {
    let house = House::automatic();
    let server = house.server(&["ceo"]).await;
    let newborn = house.agent("ceo").await;
    let refused = server.heartbeats.heard(newborn, Incarnation(0), Beat::default()).await;
    assert!(matches!(refused, Err(Error::PastIncarnation { .. })));
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    house.beat(&server).await;
    let before_restart = house.agent("ceo").await;
    server.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    let ceo = house.agent("ceo").await;
    for said in [Incarnation(1), Incarnation(3)] {
        let refused = server.heartbeats.heard(ceo.clone(), said, full(1)).await;
        let Err(Error::PastIncarnation { said: named, present }) = refused else {
            panic!("{said} is not present")
        };
        assert_eq!((named, present), (said, Incarnation(2)));
    }
    assert_eq!(house.agent("ceo").await, ceo, "still starting");
    assert_eq!(server.heartbeats.last_at(&ceo), None, "of this incarnation nothing was heard");

    // Its credential was checked against a state that has passed: the change is refused where it is written.
    let late = server.heartbeats.heard(before_restart.clone(), Incarnation(1), full(1)).await;
    assert!(matches!(late, Err(Error::PastIncarnation { .. })), "{late:?}");
    assert_eq!(house.agent("ceo").await, ceo);
    house.beat(&server).await;
    let row = server.heartbeats.last(ceo.id);
    assert_eq!(row.as_ref().unwrap().incarnation, Incarnation(2));
    let late = server.heartbeats.heard(before_restart, Incarnation(1), full(1)).await;
    assert!(matches!(late, Err(Error::PastIncarnation { .. })), "{late:?}");
    assert_eq!(server.heartbeats.last(ceo.id), row, "nor does it hide the present one");
}

#[tokio::test]
async fn a_heartbeat_whose_change_cannot_be_written_is_heard_all_the_same() {
    let house = House::automatic();
    let ledger = Scripted::new(house.store.clone(), []);
    let server = house.server_of([spec_of("ceo")], ledger.clone(), house.store.clone()).await;
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    let ceo = house.agent("ceo").await;
    ledger.then([Next::Unavailable]);
    let refused = server.heartbeats.heard(ceo.clone(), Incarnation(1), Beat::default()).await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })));
    assert_eq!(server.heartbeats.last_at(&ceo), Some(ceo.updated_at));
    assert_eq!(house.agent("ceo").await.status(), Status::Starting);
    server.heartbeats.heard(ceo, Incarnation(1), Beat::default()).await.unwrap();
    assert_eq!(house.agent("ceo").await.status(), Status::Active);
}

#[tokio::test]
async fn rows_that_cannot_be_stored_are_kept_and_stored_later() {
    let house = House::new();
    let rows = Arc::new(Switched { inner: house.store.clone(), off: AtomicBool::new(true) });
    let specs = ["ceo", "cmo"].map(spec_of);
    let server = house.server_of(specs, house.store.clone(), rows.clone()).await;
    for name in ["ceo", "cmo"] {
        server.fleet.start(&ty(name), &operator()).await.unwrap();
    }
    house.beat(&server).await;
    assert!(server.heartbeats.flush().await.is_err());
    assert!(rows.all().await.unwrap().is_empty());

    house.clock.advance(FLUSH_EVERY).await;
    let cmo = house.agent("cmo").await;
    server.heartbeats.heard(cmo.clone(), Incarnation(1), full(3)).await.unwrap();
    rows.off.store(false, Ordering::SeqCst);
    server.heartbeats.flush().await.unwrap();
    let stored = rows.all().await.unwrap();
    assert_eq!(stored.len(), 2);
    for row in stored {
        assert_eq!(Some(&row), server.heartbeats.last(row.agent_id).as_ref());
        assert_eq!(row.loop_count, if row.agent_id == cmo.id { 3 } else { 0 });
    }
}

#[tokio::test]
async fn the_loop_flushes_in_time_and_once_more_at_the_end() {
    let house = House::new();
    let server = house.server(&["ceo"]).await;
    server.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    let ceo = house.agent("ceo").await;
    let stop = CancellationToken::new();
    let heartbeats = server.heartbeats.clone();
    let running = tokio::spawn({
        let (heartbeats, stop) = (heartbeats.clone(), stop.clone());
        async move { heartbeats.run(stop).await }
    });
    let asleep = async || {
        wait::until("the flusher to sleep", SOON, async || (house.clock.sleepers() == 1).then_some(())).await;
    };
    asleep().await;
    heartbeats.heard(ceo.clone(), Incarnation(1), full(1)).await.unwrap();
    assert!(house.store.all().await.unwrap().is_empty(), "not before its time");
    house.clock.advance(FLUSH_EVERY).await;
    wait::until("the row", SOON, async || house.store.all().await.unwrap().pop()).await;

    asleep().await;
    heartbeats.heard(house.agent("ceo").await, Incarnation(1), full(2)).await.unwrap();
    stop.cancel();
    running.await.unwrap();
    assert_eq!(house.store.all().await.unwrap()[0].loop_count, 2);
}

#[tokio::test]
async fn a_new_server_knows_what_was_heard_and_prefers_what_it_heard_itself() {
    let house = House::new();
    let first = house.server(&["ceo"]).await;
    first.fleet.start(&ty("ceo"), &operator()).await.unwrap();
    let ceo = house.agent("ceo").await;
    first.heartbeats.heard(ceo.clone(), Incarnation(1), full(5)).await.unwrap();
    first.heartbeats.flush().await.unwrap();
    drop(first);

    let second = house.server(&["ceo"]).await;
    assert_eq!(second.heartbeats.last(ceo.id).unwrap().loop_count, 5);
    house.clock.advance(FLUSH_EVERY).await;
    let ceo = house.agent("ceo").await;
    assert_eq!(ceo.reach, Reach::Ok);
    second.heartbeats.heard(ceo.clone(), Incarnation(1), full(6)).await.unwrap();
    second.heartbeats.load().await.unwrap();
    assert_eq!(second.heartbeats.last(ceo.id).unwrap().loop_count, 6, "an older row replaces nothing");

    // Counts go on over incarnations; what an incarnation said of itself does not.
    second.fleet.restart(&ty("ceo"), &operator()).await.unwrap();
    house.beat(&second).await;
    let row = second.heartbeats.last(ceo.id).unwrap();
    assert_eq!((row.incarnation, row.loop_count, row.activity), (Incarnation(2), 6, None));
}
