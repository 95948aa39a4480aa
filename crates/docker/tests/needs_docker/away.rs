//! An engine that is killed, comes back, or stands still under a runtime that is in use.

use std::time::Duration;

use aito_contracts::{
    runtime::{SOON, key, listed, printed, within},
    wait::until,
};
use aito_docker::{DockerRuntime, Options};
use aito_domain::{
    fleet::ContainerState,
    ports::runtime::{ContainerRuntime, LogQuery, RuntimeError, Started},
};
use aito_harness::servers::Engine;
use futures_util::StreamExt as _;

use crate::support::{
    fixture::{Fixture, SLEEP},
    image,
};

#[tokio::test]
async fn an_engine_that_was_killed_is_unavailable_and_then_used_again_without_a_word() {
    let mut engine = Engine::start();
    let image = image::provide(&engine.socket(), &[]);
    let fixture = Fixture::on(&engine.socket(), &image);
    let (before, after) = (key("ceo", 1), key("dao", 1));
    fixture.run(&before, &format!("echo before; {SLEEP}")).await;
    let id = fixture.runtime.engine_id().await.unwrap();
    let mut hints = fixture.runtime.watch().await.unwrap();
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut followed = fixture.runtime.logs(&before, &query).await.unwrap();
    assert_eq!(followed.next().await.unwrap().text, "before");

    engine.kill();
    let all_hints = async { while hints.next().await.is_some() {} };
    within("the end of the hints", SOON, all_hints).await;
    let start = fixture.script(&after, SLEEP);
    assert!(matches!(fixture.runtime.list().await, Err(RuntimeError::Unavailable(_))));
    assert!(matches!(fixture.runtime.watch().await, Err(RuntimeError::Unavailable(_))));
    let started = fixture.runtime.ensure_started(&start).await;
    assert!(matches!(started, Err(RuntimeError::Unavailable(_))), "{started:?}");

    engine.start_again();
    // Its container did not outlive it, or did: either is told, and it can be removed.
    let state = until("the listing", SOON, async || listed_if(&fixture.runtime, &before).await).await;
    assert!(!matches!(state, ContainerState::Creating), "{state:?}");
    assert_eq!(fixture.runtime.engine_id().await.unwrap(), id);
    let mut hints = fixture.runtime.watch().await.unwrap();
    assert_eq!(fixture.runtime.ensure_started(&start).await.unwrap(), Started::Now);
    within("a hint", SOON, hints.next()).await.unwrap();
    fixture.runtime.remove(&before).await.unwrap();
    // Whoever followed the log all the time hears of the end, and nothing twice.
    assert_eq!(within("the end of the log", SOON, followed.next()).await, None);
    fixture.runtime.remove(&after).await.unwrap();
}

async fn listed_if(
    runtime: &DockerRuntime,
    key: &aito_domain::fleet::ContainerKey,
) -> Option<ContainerState> {
    runtime.list().await.ok()?;
    listed(runtime, key).await
}

#[tokio::test]
async fn an_engine_that_stands_still_holds_no_call_and_goes_on_afterwards() {
    let engine = Engine::start();
    let image = image::provide(&engine.socket(), &[]);
    let fixture = Fixture::on(&engine.socket(), &image);
    let limit = Duration::from_millis(400);
    let options = Options { call_timeout: limit, start_timeout: limit, ..fixture.options() };
    let (key, next) = (key("ceo", 1), key("dao", 1));
    fixture.run(&key, &format!("echo before; {SLEEP}")).await;
    printed(&*fixture.runtime, &key, "before").await;
    let impatient = DockerRuntime::open(options).unwrap();
    impatient.list().await.unwrap();

    engine.freeze();
    until("the standstill", SOON, async || impatient.ping().await.err()).await;
    let bound = limit * 4;
    let start = fixture.script(&next, SLEEP);
    let grace = Duration::from_millis(100);
    macro_rules! ends {
        ($call:expr) => {
            let error = within(stringify!($call), bound, $call).await.err();
            let uncertain = matches!(error, Some(RuntimeError::Unavailable(_) | RuntimeError::Unknown(_)));
            assert!(uncertain, "{}: {error:?}", stringify!($call));
        };
    }
    ends!(impatient.list());
    ends!(impatient.foreign());
    ends!(impatient.ping());
    ends!(impatient.engine_id());
    ends!(impatient.watch());
    ends!(impatient.stats(&key));
    ends!(impatient.check(&start.spec));
    ends!(impatient.logs(&key, &LogQuery::default()));
    ends!(impatient.ensure_started(&start));
    ends!(impatient.ensure_stopped(&key, grace));
    ends!(impatient.remove(&key));
    engine.go_on();

    // What was asked meanwhile may still be done: the same calls settle it.
    let started = fixture.runtime.ensure_started(&start).await.unwrap();
    assert!(matches!(started, Started::Now | Started::AlreadyRunning), "{started:?}");
    fixture.runtime.remove(&key).await.unwrap();
    fixture.runtime.remove(&next).await.unwrap();
    assert_eq!(fixture.runtime.list().await.unwrap(), []);
}
