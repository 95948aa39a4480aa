//! A master that sentinels know, and that changes.

use std::{net::TcpListener, time::Duration};

use aito_contracts::wait;
use aito_domain::ports::bus::{BusItem, EventBus as _};
use aito_harness::servers::Redis;
use aito_redis::{Options, RedisBus};
use futures_util::future::join_all;

use super::support::{CALL, PATIENCE, listeners, message, next, publish, raw, subscribe, text, topic};

/// A sentinel that watches a master, quickly.
fn sentinel(master: &Redis, more: &[&str]) -> Redis {
    let watch = format!("sentinel monitor main 127.0.0.1 {} 1", master.port());
    let mut lines = vec![
        watch.as_str(),
        "sentinel down-after-milliseconds main 500",
        "sentinel failover-timeout main 2000",
    ];
    lines.extend(more);
    Redis::start_sentinel(&lines)
}

fn place(sentinel: &Redis) -> String {
    format!("127.0.0.1:{}", sentinel.port())
}

/// The port of the master as the sentinel knows it.
fn master_port(url: &str) -> u16 {
    let answer = raw(url, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]);
    let (_, port): (String, String) = redis::from_redis_value(answer).unwrap();
    port.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_is_followed() {
    let passwords = ["--requirepass", "s3rver", "--masterauth", "s3rver", "--repl-diskless-sync-delay", "0"];
    let mut master = Redis::start_with(&passwords);
    let port = master.port().to_string();
    let replica = Redis::start_with(&[&passwords[..], &["--replicaof", "127.0.0.1", &port]].concat());
    let admin = |server: &Redis, password: &str| format!("redis://:{password}@127.0.0.1:{}", server.port());
    wait::until("the replica to follow", PATIENCE, async || {
        let info: String =
            redis::from_redis_value(raw(&admin(&replica, "s3rver"), &["INFO", "replication"])).unwrap();
        info.contains("master_link_status:up").then_some(())
    })
    .await;
    let sentinel = sentinel(&master, &["sentinel auth-pass main s3rver", "requirepass s3ntinel"]);
    let sentinel_admin = admin(&sentinel, "s3ntinel");
    wait::until("the sentinel to find the replica", PATIENCE, async || {
        let replicas = raw(&sentinel_admin, &["SENTINEL", "REPLICAS", "main"]);
        matches!(replicas, redis::Value::Array(found) if found.len() == 1).then_some(())
    })
    .await;
    let options = Options {
        sentinel_password: Some("s3ntinel".to_owned()),
        ..Options::new(format!("redis-sentinel://:s3rver@127.0.0.1:1,{}/main", place(&sentinel)))
    };
    let (bus, other) = (RedisBus::open(options.clone()).unwrap(), RedisBus::open(options).unwrap());
    let mut items = subscribe(&bus, "t").await;
    other.publish(message("t", "before")).await.unwrap();
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "before")));

    master.kill();
    tokio::time::timeout(CALL, bus.publish(message("t", "lost"))).await.expect("in time").unwrap_err();
    assert_eq!(next(&mut items).await, BusItem::Missed);
    assert_eq!(master_port(&sentinel_admin), replica.port());
    publish(&other, message("t", "after")).await;
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "after")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_lives_on_as_none_is_left() {
    let (before, after) = (Redis::start(), Redis::start());
    let sentinel = sentinel(&before, &[]);
    let bus = RedisBus::open(Options::sentinel(vec![place(&sentinel)], "main")).unwrap();
    let mut items = subscribe(&bus, "t").await;
    bus.publish(message("t", "there")).await.unwrap();
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "there")));
    raw(&sentinel.url(), &["SENTINEL", "REMOVE", "main"]);
    raw(&sentinel.url(), &["SENTINEL", "MONITOR", "main", "127.0.0.1", &after.port().to_string(), "1"]);
    assert_eq!(next(&mut items).await, BusItem::Missed);
    bus.publish(message("t", "here")).await.unwrap();
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "here")));
    assert_eq!(listeners(&after.url(), "t"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_that_are_away_disturb_nobody_who_is_connected() {
    let master = Redis::start();
    let mut sentinel = sentinel(&master, &[]);
    let bus = RedisBus::open(Options {
        answer_timeout: Duration::from_secs(1),
        ..Options::sentinel(vec![place(&sentinel)], "main")
    })
    .unwrap();
    let mut items = subscribe(&bus, "t").await;
    bus.publish(message("t", "before")).await.unwrap();
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "before")));
    sentinel.kill();
    for name in ["u", "v"] {
        // The last command of the connection that listens is this, until it is asked for an answer the next time, and
        // after that the sentinels are looked for.
        let _short = subscribe(&bus, name).await;
        wait::until("the bus to look after its connection", PATIENCE, async || {
            let clients: String =
                redis::from_redis_value(raw(&master.url(), &["CLIENT", "LIST", "TYPE", "pubsub"])).unwrap();
            clients.contains("cmd=ping").then_some(())
        })
        .await;
    }
    bus.publish(message("t", "heard")).await.unwrap();
    // Without sentinels no lost connection would have been replaced.
    while next(&mut items).await != BusItem::Message(message("t", "heard")) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_that_never_answers_delays_nothing_for_long() {
    // It takes connections, into the kernel's queue, and nobody ever reads from them.
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let master = Redis::start();
    let sentinel = sentinel(&master, &[]);
    let sentinels = vec![hole.local_addr().unwrap().to_string(), place(&sentinel)];
    for _ in 0..5 {
        let bus = RedisBus::open(Options::sentinel(sentinels.clone(), "main")).unwrap();
        let published = join_all((0..4).map(|_| bus.publish(message("t", "x")))).await;
        assert!(published.iter().all(Result::is_ok), "{published:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_no_sentinel_knows_is_an_error_that_says_so() {
    let master = Redis::start();
    let sentinel = sentinel(&master, &[]);
    let bus = RedisBus::open(Options::sentinel(vec![place(&sentinel)], "another")).unwrap();
    let error = bus.publish(message("t", "x")).await.unwrap_err();
    assert!(text(&error).contains("know no master of this name"), "{}", text(&error));
    assert!(text(&bus.subscribe(&[topic("t")]).await.err().unwrap()).contains("another of the sentinels"));
}
