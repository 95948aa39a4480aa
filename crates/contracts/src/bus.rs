//! The contract of `EventBus`.

use std::{sync::Arc, time::Duration};

use aito_domain::ports::bus::{BusItem, BusMessage, EventBus, Topic};
use async_trait::async_trait;
use futures_util::{StreamExt as _, stream::BoxStream};

use crate::wait;

/// Within which everything here happens; far above what any bus needs.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the bus suite runs on.
#[async_trait]
pub trait BusFixture: Send + Sync + Sized + 'static {
    /// A bus of its own, to which nobody listens.
    async fn fresh() -> Self;
    /// The bus.
    fn bus(&self) -> Arc<dyn EventBus>;
    /// The same bus as another server sees it; the same object where there is one server only.
    async fn second_handle(&self) -> Arc<dyn EventBus>;
    /// How many messages a reader that does not read misses some of, for sure.
    fn overflow(&self) -> usize;
    /// How many subscriptions the adapter keeps something for.
    async fn held(&self) -> usize;
}

/// Rule 1.
pub async fn bus_01_every_subscription_gets_every_message_in_order<F: BusFixture>() {
    let fixture = F::fresh().await;
    let (near, far) = (fixture.bus(), fixture.second_handle().await);
    let topic = topic("a:order");
    let mut readers = Vec::new();
    for bus in [&near, &near, &far] {
        readers.push(bus.subscribe(std::slice::from_ref(&topic)).await.unwrap());
    }
    for n in 0..100_u32 {
        near.publish(message(&topic, n)).await.unwrap();
    }
    let mut late = near.subscribe(std::slice::from_ref(&topic)).await.unwrap();
    near.publish(message(&topic, 100)).await.unwrap();
    for reader in &mut readers {
        for n in 0..=100 {
            assert_eq!(next(reader).await, BusItem::Message(message(&topic, n)));
        }
    }
    assert_eq!(next(&mut late).await, BusItem::Message(message(&topic, 100)), "nothing from before it");
}

/// Rule 2.
pub async fn bus_02_only_the_topics_asked_for<F: BusFixture>() {
    let fixture = F::fresh().await;
    let bus = fixture.bus();
    let [one, two, other] = ["t:one", "t:two", "t:one:more"].map(topic);
    let mut both = bus.subscribe(&[one.clone(), two.clone()]).await.unwrap();
    let mut second = bus.subscribe(std::slice::from_ref(&two)).await.unwrap();
    for (topic, n) in [(&other, 0), (&one, 1), (&other, 2), (&two, 3), (&one, 4)] {
        bus.publish(message(topic, n)).await.unwrap();
    }
    for expected in [message(&one, 1), message(&two, 3), message(&one, 4)] {
        assert_eq!(next(&mut both).await, BusItem::Message(expected));
    }
    assert_eq!(next(&mut second).await, BusItem::Message(message(&two, 3)));
    bus.publish(message(&two, 5)).await.unwrap();
    assert_eq!(next(&mut second).await, BusItem::Message(message(&two, 5)), "and nothing between");
}

/// Rule 3.
pub async fn bus_03_nothing_is_lost_without_being_told<F: BusFixture>() {
    let fixture = F::fresh().await;
    let bus = fixture.bus();
    let topic = topic("slow");
    let mut reader = bus.subscribe(std::slice::from_ref(&topic)).await.unwrap();
    let last = u32::try_from(fixture.overflow()).unwrap();
    for n in 0..=last {
        bus.publish(message(&topic, n)).await.unwrap();
    }
    let (mut expected, mut missed, mut gap_is_told) = (0, 0, false);
    while expected <= last {
        match next(&mut reader).await {
            BusItem::Missed => {
                missed += 1;
                gap_is_told = true;
            }
            BusItem::Message(message) => {
                let n = number(&message);
                assert!(n == expected || (gap_is_told && n > expected), "{n} came where {expected} was due");
                expected = n + 1;
                gap_is_told = false;
            }
        }
    }
    assert!(missed > 0, "a reader that is {last} messages behind was told nothing");
    bus.publish(message(&topic, last + 1)).await.unwrap();
    assert_eq!(next(&mut reader).await, BusItem::Message(message(&topic, last + 1)), "it goes on");
}

/// Rule 4.
pub async fn bus_04_publishing_needs_no_reader_and_waits_for_none<F: BusFixture>() {
    let fixture = F::fresh().await;
    let bus = fixture.bus();
    let topic = topic("quiet");
    bus.publish(message(&topic, 0)).await.unwrap();
    let asleep = bus.subscribe(std::slice::from_ref(&topic)).await.unwrap();
    let all = async {
        for n in 0..2 * u32::try_from(fixture.overflow()).unwrap() {
            bus.publish(message(&topic, n)).await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("publishing does not wait for a reader that sleeps");
    bus.ping().await.unwrap();
    drop(asleep);
}

/// Rule 5.
pub async fn bus_05_dropping_a_subscription_frees_it<F: BusFixture>() {
    let fixture = F::fresh().await;
    let bus = fixture.bus();
    let topic = topic("gone");
    let before = fixture.held().await;
    let mut stays = bus.subscribe(std::slice::from_ref(&topic)).await.unwrap();
    let mut many = Vec::new();
    for _ in 0..50 {
        many.push(bus.subscribe(std::slice::from_ref(&topic)).await.unwrap());
    }
    assert_eq!(fixture.held().await, before + 51);
    drop(many);
    wait::until("the dropped subscriptions to be freed", PATIENCE, async || {
        (fixture.held().await == before + 1).then_some(())
    })
    .await;
    bus.publish(message(&topic, 1)).await.unwrap();
    assert_eq!(next(&mut stays).await, BusItem::Message(message(&topic, 1)));
}

fn topic(name: &'static str) -> Topic {
    Topic(name.into())
}

fn message(topic: &Topic, n: u32) -> BusMessage {
    BusMessage { topic: topic.clone(), payload: n.to_be_bytes().to_vec() }
}

fn number(message: &BusMessage) -> u32 {
    u32::from_be_bytes(message.payload.as_slice().try_into().unwrap())
}

async fn next(stream: &mut BoxStream<'static, BusItem>) -> BusItem {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("something comes").expect("the bus is open")
}

/// The contract of `EventBus` as tests of a fixture ([`BusFixture`]).
#[macro_export]
macro_rules! bus_suite {
    ($fixture:ty) => {
        $crate::contract_tests! { bus, $fixture,
            bus_01_every_subscription_gets_every_message_in_order,
            bus_02_only_the_topics_asked_for,
            bus_03_nothing_is_lost_without_being_told,
            bus_04_publishing_needs_no_reader_and_waits_for_none,
            bus_05_dropping_a_subscription_frees_it,
        }
    };
}
