//! Many topics, readers, publishers, threads and installations on one Redis.

use std::sync::Arc;

use aito_contracts::wait;
use aito_domain::ports::bus::{BusItem, BusMessage, EventBus as _};
use aito_harness::servers::{REDIS, Redis, address};
use aito_redis::{Options, RedisBus};
use futures_util::future::join_all;

use super::support::{PATIENCE, Proxy, listeners, message, next, prefix, raw, subscribe, topic};

fn shared(prefix: &str) -> Arc<RedisBus> {
    RedisBus::open(Options { prefix: prefix.to_owned(), ..Options::new(address(REDIS)) }).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_prefixes_on_one_redis_do_not_hear_each_other() {
    let (one, two) = (prefix(), prefix());
    // Another database number would not part them.
    let ours = shared(&one);
    let theirs =
        RedisBus::open(Options { prefix: two, ..Options::new(format!("{}/1", address(REDIS))) }).unwrap();
    let (mut here, mut there) = (subscribe(&ours, "t").await, subscribe(&theirs, "t").await);
    theirs.publish(message("t", "theirs")).await.unwrap();
    ours.publish(message("t", "ours")).await.unwrap();
    theirs.publish(message("t", "theirs, too")).await.unwrap();
    assert_eq!(next(&mut here).await, BusItem::Message(message("t", "ours")));
    assert_eq!(next(&mut there).await, BusItem::Message(message("t", "theirs")));
    assert_eq!(next(&mut there).await, BusItem::Message(message("t", "theirs, too")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_reader_of_a_topic_unsubscribes_it() {
    let prefix = prefix();
    let bus = shared(&prefix);
    let channel = format!("{prefix}t");
    let first = subscribe(&bus, "t").await;
    let second = bus.subscribe(&[topic("t"), topic("u")]).await.unwrap();
    assert_eq!(listeners(&address(REDIS), &channel), 1, "one connection for both");
    drop(first);
    drop(second);
    wait::until("the topic to be unsubscribed", PATIENCE, async || {
        (listeners(&address(REDIS), &channel) == 0).then_some(())
    })
    .await;
    assert_eq!(bus.subscriptions(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsubscription_never_undoes_a_later_subscription() {
    let bus = shared(&prefix());
    for n in 0..200 {
        let text = n.to_string();
        let mut items = bus.subscribe(&[topic("t")]).await.unwrap();
        bus.publish(message("t", &text)).await.unwrap();
        assert_eq!(next(&mut items).await, BusItem::Message(message("t", &text)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_reader_gets_nothing_from_before_it_however_slow_the_way_is() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let far = RedisBus::open(Options::new(proxy.url.clone())).unwrap();
    let near = RedisBus::open(Options::new(server.url())).unwrap();
    let mut early = subscribe(&far, "t").await;
    proxy.hold(true);
    near.publish(message("t", "old")).await.unwrap();
    let topics = [topic("t")];
    let (late, ()) = tokio::join!(far.subscribe(&topics), async { proxy.hold(false) });
    near.publish(message("t", "new")).await.unwrap();
    assert_eq!(next(&mut early).await, BusItem::Message(message("t", "old")));
    assert_eq!(next(&mut early).await, BusItem::Message(message("t", "new")));
    assert_eq!(next(&mut late.unwrap()).await, BusItem::Message(message("t", "new")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_sleeps_does_not_hold_up_another_one() {
    let bus = shared(&prefix());
    let (mut asleep, mut awake) = (subscribe(&bus, "t").await, subscribe(&bus, "t").await);
    let count = 2 * bus.capacity();
    for n in 0..count {
        bus.publish(message("t", &n.to_string())).await.unwrap();
        assert_eq!(next(&mut awake).await, BusItem::Message(message("t", &n.to_string())));
    }
    assert_eq!(next(&mut asleep).await, BusItem::Missed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_ten_megabytes_arrives_whole() {
    let bus = shared(&prefix());
    let mut items = subscribe(&bus, "t").await;
    let payload: Vec<u8> = (0..10_000_000_u32).map(|n| (n % 251) as u8).collect();
    let large = BusMessage { topic: topic("t"), payload };
    bus.publish(large.clone()).await.unwrap();
    assert!(next(&mut items).await == BusItem::Message(large));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_listen_to_is_listened_to() {
    let bus = shared(&prefix());
    let items = subscribe(&bus, "t").await;
    let none = bus.subscribe(&[]).await.unwrap();
    assert_eq!(bus.subscriptions(), 2);
    drop((items, none));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_driven_by_the_runtime_that_opened_the_bus() {
    let server = Redis::start();
    let bus = RedisBus::open(Options::new(server.url())).unwrap();
    let mut items = subscribe(&bus, "t").await;
    let elsewhere = bus.clone();
    std::thread::spawn(move || {
        // As the worker threads of the web server: it ends, and its tasks with it.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(elsewhere.publish(message("t", "elsewhere"))).unwrap();
    })
    .join()
    .unwrap();
    let before = connections(&server);
    bus.publish(message("t", "here")).await.unwrap();
    assert_eq!(connections(&server), before + 1, "the one of this count; the bus made none");
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "elsewhere")));
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "here")));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_publishers_share_few_connections() {
    let server = Redis::start();
    let bus = RedisBus::open(Options::new(server.url())).unwrap();
    let mut items = subscribe(&bus, "t").await;
    let before = connections(&server);
    let all = join_all((0..500).map(|_| bus.publish(message("t", "x")))).await;
    assert!(all.iter().all(Result::is_ok));
    assert!(connections(&server) <= before + 5, "four, and the one of this count");
    for _ in 0..500 {
        assert_eq!(next(&mut items).await, BusItem::Message(message("t", "x")));
    }
}

/// How many connections the server has ever taken.
fn connections(server: &Redis) -> u64 {
    let stats: String = redis::from_redis_value(raw(&server.url(), &["INFO", "stats"])).unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:")).unwrap();
    line.trim().parse().unwrap()
}
