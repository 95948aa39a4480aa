//! How much and how long, whatever a server does.

use std::future::pending;

use tokio::{net::TcpListener, time::timeout};

use super::{
    server::{Reply, Server, answer},
    *,
};

/// 100,000 zeros, compressed to fewer than 200 bytes.
const BOMB: &[u8] = &[
    31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 237, 193, 49, 1, 0, 0, 0, 194, 160, 245, 79, 109, 13, 15, 160, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128, 87, 3, 125, 149, 17, 212, 160,
    134, 1, 0,
];

/// So little that reading on would be noticed.
const LIMIT: usize = 64 << 10;

fn small() -> Policy {
    Policy { max_body: LIMIT, ..allowing(&["127.0.0.1"]) }
}

/// Little time; the tests below wait for it to pass.
fn hasty() -> Policy {
    Policy { timeout: Duration::from_millis(800), ..allowing(&["127.0.0.1"]) }
}

async fn call(policy: Policy, server: &Server) -> Result<Response, OutboundError> {
    let outbound = outbound(policy);
    let call = outbound.send(get(server.url("/")));
    timeout(Duration::from_secs(20), call).await.expect("the call does not end")
}

fn too_large(done: &Result<Response, OutboundError>, wanted: &str) -> bool {
    matches!(done, Err(OutboundError::TooLarge { part, .. }) if *part == wanted)
}

fn timed_out(done: &Result<Response, OutboundError>, wanted: bool) -> bool {
    matches!(done, Err(OutboundError::TimedOut { sent }) if *sent == wanted)
}

#[tokio::test]
async fn a_body_up_to_the_limit_is_read_and_a_longer_one_is_not() {
    let chunked = |length: usize| {
        let head = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n");
        [head.as_bytes(), &vec![b'x'; length], b"\r\n0\r\n\r\n"].concat()
    };
    let until_closed = |length: usize| [b"HTTP/1.1 200 OK\r\n\r\n", &vec![b'x'; length][..]].concat();
    let declared = |length: usize| answer("200 OK", &[], &vec![b'x'; length]);
    for made in [&chunked as &dyn Fn(usize) -> Vec<u8>, &until_closed, &declared] {
        let server = Server::saying(made(LIMIT)).await;
        assert_eq!(call(small(), &server).await.unwrap().body.len(), LIMIT);
        let server = Server::saying(made(LIMIT + 1)).await;
        let done = call(small(), &server).await;
        assert!(too_large(&done, "body"), "{done:?}");
    }
    let nothing = Policy { max_body: 0, ..small() };
    assert!(call(nothing.clone(), &Server::saying(declared(0)).await).await.unwrap().body.is_empty());
    assert!(too_large(&call(nothing, &Server::saying(declared(1)).await).await, "body"));
}

#[tokio::test]
async fn an_endless_body_is_left_soon_after_the_limit() {
    let chunk = [b"1000\r\n", &[b'x'; 0x1000][..], b"\r\n"].concat();
    for (head, piece) in [
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", chunk),
        ("HTTP/1.1 200 OK\r\n\r\n", vec![b'x'; 0x1000]),
        ("HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551615\r\n\r\n", vec![b'x'; 0x1000]),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n", vec![b'x'; 0x1000]),
    ] {
        let server = Server::start("127.0.0.1:0", move |_, _| {
            Reply::Endless(head.as_bytes().to_vec(), piece.clone(), None)
        })
        .await;
        let done = call(small(), &server).await;
        // A length past what can be counted is one of the head to the parser.
        assert!(matches!(done, Err(OutboundError::TooLarge { .. })), "{head}: {done:?}");
        // What the kernel's buffers take is not read by anybody.
        assert!(server.left_after().await < 32 << 20, "{head}");
    }
}

#[tokio::test]
async fn a_declared_length_is_neither_trusted_nor_exceeded() {
    let longer = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nshort and more than that").await;
    assert_eq!(&call(small(), &longer).await.unwrap().body[..], b"short");
    let shorter = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort").await;
    let done = call(small(), &shorter).await;
    assert!(matches!(done, Err(OutboundError::Protocol { sent: true, .. })), "{done:?}");
    for two in [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nshort!",
        "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nshort",
    ] {
        let done = call(small(), &Server::saying(two).await).await;
        assert!(matches!(done, Err(OutboundError::Protocol { sent: true, .. })), "{two}: {done:?}");
    }
    let head = Server::saying("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
    let request = Request::new(Method::Head, head.url("/"));
    let done = outbound(small()).send(request).await.unwrap();
    assert_eq!((done.status, done.body.len()), (200, 0), "HEAD has no body");
}

#[tokio::test]
async fn compressed_bodies_come_as_they_are_and_count_as_they_come() {
    let server = Server::saying(answer("200 OK", &["content-encoding: gzip"], BOMB)).await;
    let done = call(Policy { max_body: BOMB.len(), ..small() }, &server).await.unwrap();
    assert_eq!((&done.body[..], done.header("content-encoding")), (BOMB, Some("gzip")));
    let done = call(Policy { max_body: BOMB.len() - 1, ..small() }, &server).await;
    assert!(too_large(&done, "body"), "{done:?}");
}

#[tokio::test]
async fn a_head_of_more_than_64_kib_or_100_headers_is_not_read() {
    let fits = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: {}\r\n\r\n", "x".repeat(60 << 10));
    assert_eq!(call(small(), &Server::saying(fits).await).await.unwrap().status, 200);
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: {}\r\n\r\n", "x".repeat(70 << 10));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
    for head in [long, many] {
        let done = call(small(), &Server::saying(head).await).await;
        assert!(too_large(&done, "head"), "{done:?}");
    }
    for (head, piece) in
        [("HTTP/1.1 200 OK\r\nx: ", "x"), ("HTTP/1.1 200 ", "O"), ("HTTP/1.1 200 OK\r\n", "x: y\r\n")]
    {
        let server = Server::start("127.0.0.1:0", move |_, _| {
            Reply::Endless(head.as_bytes().to_vec(), piece.repeat(1000).into_bytes(), None)
        })
        .await;
        let done = call(small(), &server).await;
        assert!(too_large(&done, "head"), "{done:?}");
        assert!(server.left_after().await < 32 << 20, "{head}");
    }
}

#[tokio::test]
async fn trailers_without_an_end_are_not_read() {
    let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n".to_vec();
    let server = Server::start("127.0.0.1:0", move |_, _| {
        Reply::Endless(head.clone(), "x: y\r\n".repeat(1000).into_bytes(), None)
    })
    .await;
    assert!(call(small(), &server).await.is_err());
    assert!(server.left_after().await < 32 << 20);
}

#[tokio::test]
async fn what_comes_drop_by_drop_ends_in_time_all_the_same() {
    let pause = Some(Duration::from_millis(20));
    for head in [
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: ",
    ] {
        let server = Server::start("127.0.0.1:0", move |_, _| {
            Reply::Endless(head.as_bytes().to_vec(), b"x".to_vec(), pause)
        })
        .await;
        let done = call(hasty(), &server).await;
        assert!(timed_out(&done, true), "{head}: {done:?}");
        server.left_after().await;
    }
}

#[tokio::test]
async fn preliminary_answers_are_passed_over_and_do_not_extend_the_time() {
    let server = Server::saying("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let done = call(small(), &server).await.unwrap();
    assert_eq!((done.status, &done.body[..]), (200, &b"ok"[..]));
    for pause in [Some(Duration::from_millis(5)), None] {
        let endless = Server::start("127.0.0.1:0", move |_, _| {
            Reply::Endless(Vec::new(), b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), pause)
        })
        .await;
        let done = call(hasty(), &endless).await;
        assert!(timed_out(&done, true), "{done:?}");
        endless.left_after().await;
    }
}

#[tokio::test]
async fn silence_ends_in_time_and_it_is_known_whether_a_request_was_on_its_way() {
    let silent = Server::start("127.0.0.1:0", |_, _| Reply::Silence).await;
    let done = call(hasty(), &silent).await;
    assert!(timed_out(&done, true), "{done:?}");
    // A server that says nothing about TLS has been sent no request.
    let request = get(format!("https://{}/", silent.address));
    let done = outbound(hasty()).send(request).await;
    assert!(timed_out(&done, false), "{done:?}");
}

struct Hanging;

#[async_trait]
impl Lookup for Hanging {
    async fn addresses(&self, _: &str) -> io::Result<Vec<IpAddr>> {
        pending().await
    }
}

#[tokio::test]
async fn a_look_up_that_hangs_ends_with_the_time_for_the_connection() {
    let policy = Policy {
        connect_timeout: Duration::from_millis(200),
        timeout: Duration::from_secs(3600),
        ..Policy::default()
    };
    let outbound = Outbound::with(policy, Arc::new(Hanging), RootCertStore::empty()).unwrap();
    let call = outbound.send(get("https://hooks.example/"));
    let done = timeout(Duration::from_secs(20), call).await.expect("the call does not end");
    assert!(timed_out(&done, false), "{done:?}");
}

#[tokio::test]
async fn a_connection_that_is_refused_is_unreachable_and_the_next_address_is_tried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let done = outbound(small()).send(get(format!("http://127.0.0.1:{port}/"))).await;
    let Err(OutboundError::Unreachable { source: Some(source), .. }) = &done else { panic!("{done:?}") };
    assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
    let server = Server::start("127.0.0.3:0", |_, _| Reply::Say(answer("200 OK", &[], b""))).await;
    let lookup = Prepared::new(&[&["127.0.0.1", "127.0.0.2", "127.0.0.3"]]);
    let request = get(format!("http://hooks.example:{}/", server.address.port()));
    let done = outbound_with(allowing(&["127.0.0.0/8"]), &lookup).send(request).await;
    assert_eq!(done.unwrap().status, 200);
}

#[tokio::test]
async fn what_is_half_an_answer_or_none_is_not_understood() {
    for broken in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nx: y\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nsho",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfive\r\nshort\r\n",
        "HTTP/1.1 99999 OK\r\n\r\n",
        "HTTP/9.9 200 OK\r\n\r\n",
        "SSH-2.0-OpenSSH_9.9\r\n\r\n",
        "<html>hello</html>\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    ] {
        let done = call(small(), &Server::saying(broken).await).await;
        assert!(matches!(done, Err(OutboundError::Protocol { sent: true, .. })), "{broken:?}: {done:?}");
    }
}
