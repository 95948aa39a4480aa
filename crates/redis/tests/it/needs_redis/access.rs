//! Who is let in, and what may be written as an address.

use aito_contracts::wait;
use aito_domain::ports::bus::{BusItem, EventBus as _};
use aito_harness::servers::Redis;
use aito_redis::{OpenError, Options, RedisBus};

use super::support::{PATIENCE, message, next, publish, raw, subscribe, text, topic};

#[tokio::test(flavor = "multi_thread")]
async fn the_right_password_is_let_in() {
    let server = Redis::start_with(&["--requirepass", "s3cret/p@ss"]);
    let by_url = format!("redis://:s3cret%2Fp%40ss@127.0.0.1:{}", server.port());
    let given = Options { password: Some("s3cret/p@ss".to_owned()), ..Options::new(server.url()) };
    for options in [Options::new(by_url), given] {
        let bus = RedisBus::open(options).unwrap();
        let mut items = subscribe(&bus, "t").await;
        bus.publish(message("t", "heard")).await.unwrap();
        assert_eq!(next(&mut items).await, BusItem::Message(message("t", "heard")));
        assert!(!format!("{bus:?}").contains("s3cret"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_needs_only_what_the_bus_does() {
    let server = Redis::start();
    let rights = "on >s3cret resetchannels &p:* +publish +subscribe +unsubscribe +ping +unwatch";
    let words: Vec<&str> = ["ACL", "SETUSER", "bus"].into_iter().chain(rights.split(' ')).collect();
    raw(&server.url(), &words);
    let url = format!("redis://bus:s3cret@127.0.0.1:{}", server.port());
    let bus = RedisBus::open(Options { prefix: "p:".to_owned(), ..Options::new(url.clone()) }).unwrap();
    let mut items = subscribe(&bus, "t").await;
    publish(&bus, message("t", "heard")).await;
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "heard")));
    let stranger = RedisBus::open(Options { prefix: "q:".to_owned(), ..Options::new(url) }).unwrap();
    stranger.ping().await.unwrap();
    stranger.publish(message("t", "x")).await.unwrap_err();
    let refused = stranger.subscribe(&[topic("t")]).await.err().unwrap();
    assert!(text(&refused).contains("no permissions"), "{}", text(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_can_only_speak_does_not_answer() {
    let server = Redis::start();
    let change = |right| raw(&server.url(), &["ACL", "SETUSER", "default", right]);
    let bus = RedisBus::open(Options::new(server.url())).unwrap();
    let mut items = subscribe(&bus, "t").await;
    bus.ping().await.unwrap();
    change("-subscribe");
    raw(&server.url(), &["CLIENT", "KILL", "TYPE", "pubsub"]);
    let error = wait::until("it to say so", PATIENCE, async || bus.ping().await.err()).await;
    assert!(text(&error).contains("connection is lost") || text(&error).contains("no permissions"));
    bus.publish(message("t", "unheard")).await.unwrap();
    change("+subscribe");
    assert_eq!(next(&mut items).await, BusItem::Missed);
    wait::until("it to answer", PATIENCE, async || bus.ping().await.ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_or_missing_password_is_an_error_that_says_so() {
    let server = Redis::start_with(&["--requirepass", "s3cret"]);
    let wrong = format!("redis://:wr0ng@127.0.0.1:{}", server.port());
    let stranger = format!("redis://nobody:wr0ng@127.0.0.1:{}", server.port());
    for (url, what) in [
        (wrong, "the user name or the password is wrong"),
        (stranger, "the user name or the password is wrong"),
        (server.url(), "it asks for a password and none is configured"),
    ] {
        let bus = RedisBus::open(Options::new(url)).unwrap();
        let errors = [
            bus.publish(message("t", "x")).await.unwrap_err(),
            bus.ping().await.unwrap_err(),
            bus.subscribe(&[topic("t")]).await.err().unwrap(),
        ];
        for error in errors {
            let text = text(&error);
            assert!(text.contains(what) && !text.contains("wr0ng"), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_file_serves_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("redis.sock").to_str().unwrap().to_owned();
    let _server = Redis::start_with(&["--unixsocket", &path, "--requirepass", "s3cret"]);
    let bus = RedisBus::open(Options::new(format!("redis+unix://{path}?db=1&pass=s3cret"))).unwrap();
    let mut items = subscribe(&bus, "t").await;
    bus.publish(message("t", "heard")).await.unwrap();
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "heard")));
}

#[tokio::test]
async fn wrong_options_are_refused_without_a_password() {
    let refused = RedisBus::open(Options::new("redis://:s3cret@host/zero")).unwrap_err();
    let shown = format!("{refused} {refused:?}");
    assert!(shown.contains("the database is a number") && shown.contains("redis-sentinel://"), "{shown}");
    assert!(!shown.contains("s3cret"), "{shown}");
    assert!(matches!(
        RedisBus::open(Options { prefix: "a b".to_owned(), ..Options::new("redis://host") }),
        Err(OpenError::Prefix { .. })
    ));
    assert!(matches!(
        RedisBus::open(Options { ca_file: Some("/ca".into()), ..Options::new("redis://host") }),
        Err(OpenError::Misplaced { .. })
    ));
    assert!(matches!(
        RedisBus::open(Options { sentinel_password: Some("s".into()), ..Options::new("redis://host") }),
        Err(OpenError::Misplaced { .. })
    ));
    assert!(matches!(RedisBus::open(Options::sentinel(Vec::new(), "main")), Err(OpenError::Address { .. })));
}

#[test]
fn options_are_shown_without_passwords() {
    let mut options = Options::new("redis://me:s3cret@cache:1/2");
    options.password = Some("s3cret".to_owned());
    options.sentinel_password = Some("s3cret".to_owned());
    let shown = format!("{options:?}");
    assert!(shown.contains("cache:1") && !shown.contains("s3cret"), "{shown}");
    let shown = format!("{:?}", Options::new("redis:s3cret@nonsense"));
    assert!(shown.contains("unusable") && !shown.contains("s3cret"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_password_is_asked_for_again() {
    let server = Redis::start_with(&["--requirepass", "s3cret"]);
    let bus = RedisBus::open(Options::new(format!("redis://:n3w@127.0.0.1:{}", server.port()))).unwrap();
    bus.publish(message("t", "x")).await.unwrap_err();
    let admin = format!("redis://:s3cret@127.0.0.1:{}", server.port());
    raw(&admin, &["CONFIG", "SET", "requirepass", "n3w"]);
    bus.publish(message("t", "x")).await.unwrap();
    drop(subscribe(&bus, "t").await);
}
