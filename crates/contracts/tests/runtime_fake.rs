//! The fake runtime keeps the contract, and its switches do what they say.

#![allow(clippy::unwrap_used)]

use std::{sync::Arc, time::Duration};

use aito_contracts::{
    clock::ManualClock,
    runtime::{Behaviour, RuntimeFixture, key, listed, start},
    runtime_fake::FakeRuntime,
};
use aito_domain::{
    agent::Exit,
    fleet::{ContainerKey, ContainerState},
    id::InstallationId,
    ports::{
        clock::Clock as _,
        runtime::{ContainerRuntime, LogChannel, LogQuery, RuntimeError, Start, Started, Stopped},
    },
};
use async_trait::async_trait;
use futures_util::StreamExt as _;
use uuid::Uuid;

struct Fixture(FakeRuntime);

#[async_trait]
impl RuntimeFixture for Fixture {
    async fn fresh() -> Self {
        Self(FakeRuntime::new(Arc::new(ManualClock::automatic())))
    }

    fn runtime(&self) -> Arc<dyn ContainerRuntime> {
        Arc::new(self.0.clone())
    }

    async fn second_handle(&self) -> Arc<dyn ContainerRuntime> {
        self.runtime()
    }

    async fn other_installation(&self) -> Arc<dyn ContainerRuntime> {
        Arc::new(self.0.of_installation(InstallationId(Uuid::from_u128(2))))
    }

    fn start(&self, key: &ContainerKey, behaviour: Behaviour) -> Start {
        self.0.script(&key.agent_type, behaviour);
        start(key)
    }

    async fn kill_agent(&self, key: &ContainerKey) {
        self.0.exit_now(key, Exit::Signal(9));
    }

    async fn living(&self, key: &ContainerKey) -> usize {
        match (self.0.is_running(key), listed(&self.0, key).await) {
            (false, _) => 0,
            // The behaviour that forks stands for three processes.
            (true, _) if has_ready_line(&self.0, key).await => 3,
            (true, _) => 1,
        }
    }

    fn own_variables(&self) -> Vec<String> {
        Vec::new()
    }
}

async fn has_ready_line(runtime: &FakeRuntime, key: &ContainerKey) -> bool {
    runtime.logs(key, &LogQuery::default()).await.unwrap().count().await > 0
}

mod contract {
    use super::Fixture;
    aito_contracts::runtime_suite!(Fixture);
}

fn fake() -> (FakeRuntime, Start) {
    (FakeRuntime::new(Arc::new(ManualClock::automatic())), start(&key("ceo", 1)))
}

#[tokio::test]
async fn unavailable_does_nothing() {
    let (runtime, start) = fake();
    runtime.set_unavailable(true);
    assert!(matches!(runtime.ensure_started(&start).await, Err(RuntimeError::Unavailable(_))));
    assert!(matches!(runtime.list().await, Err(RuntimeError::Unavailable(_))));
    runtime.set_unavailable(false);
    assert_eq!(runtime.list().await.unwrap(), []);
    assert_eq!(runtime.starts(&start.key), 0);
}

#[tokio::test]
async fn unknown_has_done_it() {
    let (runtime, start) = fake();
    runtime.unknown_after_apply(2);
    assert!(matches!(runtime.ensure_started(&start).await, Err(RuntimeError::Unknown(_))));
    assert_eq!(listed(&runtime, &start.key).await, Some(ContainerState::Running));
    let stopped = runtime.ensure_stopped(&start.key, Duration::ZERO).await;
    assert!(matches!(stopped, Err(RuntimeError::Unknown(_))));
    assert_eq!(listed(&runtime, &start.key).await, Some(ContainerState::Exited(Exit::Signal(15))));
    runtime.remove(&start.key).await.unwrap();
    assert_eq!(runtime.ensure_started(&start).await.unwrap(), Started::Now);
    assert_eq!(runtime.starts(&start.key), 2);
}

#[tokio::test]
async fn slow_takes_the_clocks_time() {
    let clock = Arc::new(ManualClock::automatic());
    let runtime = FakeRuntime::new(clock.clone());
    runtime.set_slow(Some(Duration::from_secs(9)));
    let before = clock.monotonic();
    runtime.ping().await.unwrap();
    assert_eq!(clock.monotonic() - before, Duration::from_secs(9));
}

#[tokio::test]
async fn conflicts_are_named_or_foreign() {
    let (runtime, first) = fake();
    let second = start(&key("ceo", 2));
    runtime.set_exclusive(true);
    runtime.ensure_started(&first).await.unwrap();
    match runtime.ensure_started(&second).await {
        Err(RuntimeError::Conflict(what)) => assert!(what.contains("incarnation 1"), "{what}"),
        other => panic!("{other:?}"),
    }
    runtime.exit_now(&first.key, Exit::Code(1));
    runtime.occupy(&second.key);
    assert!(matches!(runtime.ensure_started(&second).await, Err(RuntimeError::Conflict(_))));
    assert_eq!(runtime.starts(&second.key), 0);
}

#[tokio::test]
async fn a_vanished_container_is_not_there_and_a_written_line_is_followed() {
    let (runtime, start) = fake();
    runtime.ensure_started(&start).await.unwrap();
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut log = runtime.logs(&start.key, &query).await.unwrap();
    runtime.write(&start.key, LogChannel::Stderr, "hello");
    assert_eq!(log.next().await.unwrap().text, "hello");
    runtime.vanish(&start.key);
    assert_eq!(log.next().await, None);
    assert_eq!(runtime.ensure_stopped(&start.key, Duration::ZERO).await.unwrap(), Stopped::NotThere);
}
