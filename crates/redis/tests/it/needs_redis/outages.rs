//! Redis that goes away, freezes, or never answers.

use std::{net::TcpListener, time::Duration};

use aito_contracts::wait;
use aito_domain::ports::bus::{BusItem, EventBus as _};
use aito_harness::servers::Redis;
use aito_redis::{Options, RedisBus};
use futures_util::{FutureExt as _, future::join_all};
use tokio::time::timeout;

use super::support::{
    CALL, PATIENCE, Proxy, impatient, listeners, message, next, publish, raw, subscribe, text, topic,
};

#[tokio::test(flavor = "multi_thread")]
async fn opening_needs_no_redis_and_it_serves_once_there_is_one() {
    let mut server = Redis::start();
    server.kill();
    let bus = RedisBus::open(Options::new(server.url())).unwrap();
    let refused = timeout(CALL, bus.publish(message("t", "lost"))).await.expect("in time").unwrap_err();
    assert!(text(&refused).contains(&format!("127.0.0.1:{}", server.port())), "{}", text(&refused));
    timeout(CALL, bus.ping()).await.expect("in time").unwrap_err();
    assert!(timeout(CALL, bus.subscribe(&[topic("t")])).await.expect("in time").is_err());
    assert_eq!(bus.subscriptions(), 0);
    server.start_again();
    let mut items = subscribe(&bus, "t").await;
    publish(&bus, message("t", "heard")).await;
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "heard")));
    bus.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_server_lost_is_told() {
    let mut server = Redis::start();
    let bus = RedisBus::open(Options::new(server.url())).unwrap();
    let mut readers = [subscribe(&bus, "t").await, subscribe(&bus, "t").await, subscribe(&bus, "u").await];
    bus.publish(message("t", "before")).await.unwrap();
    for _ in 0..2 {
        server.kill();
        timeout(CALL, bus.publish(message("t", "lost"))).await.expect("in time").unwrap_err();
        server.start_again();
        assert_eq!(next(&mut readers[2]).await, BusItem::Missed);
        bus.publish(message("t", "after")).await.unwrap();
        bus.publish(message("u", "after")).await.unwrap();
        assert_eq!(next(&mut readers[2]).await, BusItem::Message(message("u", "after")));
    }
    for reader in &mut readers[..2] {
        assert_eq!(next(reader).await, BusItem::Message(message("t", "before")));
        for _ in 0..2 {
            assert_eq!(next(reader).await, BusItem::Missed);
            assert_eq!(next(reader).await, BusItem::Message(message("t", "after")));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_server_fails_calls_in_time() {
    let server = Redis::start();
    let bus = RedisBus::open(Options::new(server.url())).unwrap();
    let mut items = subscribe(&bus, "t").await;
    bus.ping().await.unwrap();
    server.freeze();
    let topics = [topic("u")];
    let (published, answered, subscribed) = tokio::join!(
        timeout(CALL, bus.publish(message("t", "perhaps"))),
        timeout(CALL, bus.ping()),
        timeout(CALL, bus.subscribe(&topics)),
    );
    assert!(text(&published.expect("in time").unwrap_err()).contains("no answer in time"));
    answered.expect("in time").unwrap_err();
    assert!(subscribed.expect("in time").is_err());
    server.go_on();
    publish(&bus, message("t", "after")).await;
    // It may run what it was sent while it was frozen.
    while next(&mut items).await != BusItem::Message(message("t", "after")) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_dies_in_silence_is_noticed_and_told() {
    let server = Redis::start();
    let bus = impatient(server.url());
    let mut items = subscribe(&bus, "t").await;
    server.freeze();
    // A subscription that is refused at once, and not by waiting, means that the bus knows.
    wait::until("the bus to notice", PATIENCE, async || {
        bus.subscribe(&[topic("u")]).now_or_never().is_some_and(|done| done.is_err()).then_some(())
    })
    .await;
    server.go_on();
    assert_eq!(next(&mut items).await, BusItem::Missed);
    publish(&bus, message("t", "after")).await;
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "after")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_fails_calls_in_time() {
    // It takes connections, into the kernel's queue, and nobody ever reads from them.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", hole.local_addr().unwrap());
    let bus = RedisBus::open(Options::new(url)).unwrap();
    let topics = [topic("t")];
    let (published, answered, subscribed) = tokio::join!(
        timeout(CALL, bus.publish(message("t", "lost"))),
        timeout(CALL, bus.ping()),
        timeout(CALL, bus.subscribe(&topics)),
    );
    published.expect("in time").unwrap_err();
    answered.expect("in time").unwrap_err();
    assert!(subscribed.expect("in time").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_cut_costs_no_call_that_comes_after_those_under_way() {
    let server = Redis::start();
    let proxy = Proxy::to(server.port()).await;
    let bus = RedisBus::open(Options::new(proxy.url.clone())).unwrap();
    let mut items = subscribe(&bus, "t").await;
    // So that there are several connections for commands.
    assert!(join_all((0..100).map(|_| bus.ping())).await.iter().all(Result::is_ok));
    proxy.cut();
    let published = join_all((0..8).map(|_| bus.publish(message("t", "perhaps heard")))).await;
    // Most get through on new connections; one that waited for two dead ones may run out of time.
    assert!(published.iter().any(Result::is_ok), "{published:?}");
    while next(&mut items).await != BusItem::Missed {}
    bus.publish(message("t", "heard")).await.unwrap();
    while next(&mut items).await != BusItem::Message(message("t", "heard")) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_cannot_be_made_ends_none_that_works() {
    // With a password, since a connection is made when the server has accepted it.
    let server = Redis::start_with(&["--requirepass", "s3cret"]);
    let proxy = Proxy::to(server.port()).await;
    let options = Options { password: Some("s3cret".to_owned()), ..Options::new(proxy.url.clone()) };
    let bus = RedisBus::open(options).unwrap();
    let _items = subscribe(&bus, "t").await;
    bus.publish(message("t", "on one connection")).await.unwrap();
    assert_eq!(proxy.taken(), 2, "one listens, one is for commands");
    proxy.block();
    proxy.hold(true);
    let both = [message("t", "on the same"), message("t", "on a new one")];
    let (published, ()) = tokio::join!(join_all(both.map(|message| bus.publish(message))), async {
        wait::until("a new connection", PATIENCE, async || (proxy.taken() > 2).then_some(())).await;
        proxy.hold(false);
    });
    assert_eq!(published.iter().filter(|done| done.is_ok()).count(), 1, "{published:?}");
    for _ in 0..3 {
        bus.publish(message("t", "on the old one again")).await.unwrap();
    }
    assert_eq!(proxy.taken(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_throws_listeners_out_is_survived() {
    let server = Redis::start();
    let bus = RedisBus::open(Options::new(server.url())).unwrap();
    let mut items = subscribe(&bus, "t").await;
    for text in ["first", "second", "third"] {
        // As it does with one that does not take what waits for it.
        raw(&server.url(), &["CLIENT", "KILL", "TYPE", "pubsub"]);
        assert_eq!(next(&mut items).await, BusItem::Missed);
        bus.publish(message("t", text)).await.unwrap();
        assert_eq!(next(&mut items).await, BusItem::Message(message("t", text)));
    }
    raw(&server.url(), &["CLIENT", "KILL", "TYPE", "normal"]);
    bus.publish(message("t", "commands recover, too")).await.unwrap();
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "commands recover, too")));
    assert_eq!(listeners(&server.url(), "t"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_is_dropped_leaves_no_connection_and_ends_its_streams() {
    let server = Redis::start();
    let bus = RedisBus::open(Options::new(server.url())).unwrap();
    let mut items = subscribe(&bus, "t").await;
    bus.publish(message("t", "last")).await.unwrap();
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "last")));
    drop(bus);
    let end = timeout(Duration::from_secs(10), futures_util::StreamExt::next(&mut items)).await;
    assert_eq!(end.expect("it ends"), None);
    wait::until("the connections to be closed", PATIENCE, async || {
        let clients: String = redis::from_redis_value(raw(&server.url(), &["CLIENT", "LIST"])).unwrap();
        (clients.lines().count() == 1).then_some(())
    })
    .await;
}
