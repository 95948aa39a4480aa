//! Where a call may go, and what is told when it may not.

use std::process::Command;

use super::{
    server::{Reply, Server, answer, redirect},
    *,
};

#[tokio::test]
async fn a_call_reaches_an_allowed_server_and_gives_its_answer_as_it_is() {
    let server = Server::saying(answer("418 I'm a teapot", &["X-Two: a", "x-two: b"], b"short")).await;
    let request = Request::new(Method::Post, server.url("/a/b?c=d#e"))
        .header("X-Key", "value")
        .header("Content-Type", "text/plain")
        .body("stout");
    let answer = outbound(allowing(&["127.0.0.1"])).send(request).await.unwrap();
    assert_eq!((answer.status, &answer.body[..]), (418, &b"short"[..]));
    let two: Vec<_> =
        answer.headers.iter().filter(|(name, _)| name == "x-two").map(|(_, value)| value.as_str()).collect();
    assert_eq!((two, answer.header("x-two")), (vec!["a", "b"], Some("a")));
    let heard = server.heard().concat();
    let (head, body) = heard.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /a/b?c=d HTTP/1.1\r\n"), "{head}");
    for line in [
        "x-key: value",
        "content-type: text/plain",
        "content-length: 5",
        "accept-encoding: identity",
        "connection: close",
        &format!("host: {}", server.address),
    ] {
        assert!(head.lines().any(|told| told == line), "{line}: {head}");
    }
    assert_eq!((body, head.matches("host:").count()), ("stout", 1));
}

#[tokio::test]
async fn every_method_is_sent_as_it_is() {
    let server = Server::saying(answer("204 No Content", &[], b"")).await;
    let outbound = outbound(allowing(&["127.0.0.1"]));
    for method in [Method::Get, Method::Head, Method::Post, Method::Put, Method::Patch, Method::Delete] {
        assert_eq!(outbound.send(Request::new(method, server.url("/"))).await.unwrap().status, 204);
    }
    let verbs: Vec<_> =
        server.heard().iter().map(|request| request.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(verbs, ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]);
}

#[tokio::test]
async fn without_permission_this_machine_is_reached_in_no_form_of_writing() {
    let server = Server::saying(answer("200 OK", &[], b"")).await;
    let port = server.address.port();
    let outbound = outbound(Policy { plain_http: true, ..Policy::default() });
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "①②⑦.0.0.1",
        "127.255.255.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "localhost",
        "LOCALHOST",
    ] {
        let why = refusal(outbound.send(get(format!("http://{host}:{port}/"))).await);
        assert_eq!(why, Refusal::Address("loopback"), "{host}");
    }
    for (host, what) in [
        ("0.0.0.0", "of this network"),
        ("0", "of this network"),
        ("[::]", "unspecified"),
        ("[::127.0.0.1]", "IPv4 in IPv6"),
        ("[::ffff:0:127.0.0.1]", "IPv4 in IPv6"),
        ("[64:ff9b::7f00:1]", "translated to IPv4"),
        ("[2002:7f00:1::]", "a 6to4 tunnel"),
        ("[2001::80ff:fffe]", "a Teredo tunnel"),
        ("169.254.169.254", "link-local"),
        ("0xa9fea9fe", "link-local"),
        ("[fe80::1]", "link-local"),
        ("10.0.0.1", "private"),
        ("[fd00:ec2::254]", "private"),
        ("100.64.0.1", "shared by a provider's customers"),
        ("224.0.0.1", "multicast"),
        ("255.255.255.255", "broadcast"),
    ] {
        let why = refusal(outbound.send(get(format!("http://{host}:{port}/"))).await);
        assert_eq!(why, Refusal::Address(what), "{host}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn an_allowed_address_is_reached_in_every_form_of_writing_and_by_name() {
    let server = Server::saying(answer("200 OK", &[], b"")).await;
    let port = server.address.port();
    // localhost may be first known by its IPv6 address, where nobody listens.
    let outbound = outbound(allowing(&["127.0.0.1", "::1"]));
    for host in ["127.0.0.1", "127.1", "0x7f.1", "[::ffff:127.0.0.1]", "localhost"] {
        let answer = outbound.send(get(format!("http://{host}:{port}/"))).await;
        assert_eq!(answer.unwrap().status, 200, "{host}");
    }
    let why = refusal(outbound.send(get(format!("http://127.0.0.2:{port}/"))).await);
    assert_eq!((why, server.connections()), (Refusal::Address("loopback"), 5));
}

#[tokio::test]
async fn plain_http_is_only_for_what_is_allowed() {
    let lookup = Prepared::new(&[&["1.1.1.1"]]);
    let none = outbound_with(Policy::default(), &lookup);
    assert_eq!(refusal(none.send(get("http://hooks.example/")).await), Refusal::PlainHttp);
    assert!(lookup.asked().is_empty(), "nothing need be looked up to know that");
    let private = outbound_with(allowing(&["10.0.0.0/8"]), &lookup);
    assert_eq!(refusal(private.send(get("http://hooks.example/")).await), Refusal::PlainHttp);
    assert_eq!(refusal(private.send(get("http://1.1.1.1/")).await), Refusal::PlainHttp);
    assert_eq!(lookup.asked(), ["hooks.example"]);
}

#[tokio::test]
async fn other_schemes_and_user_information_are_refused_and_nonsense_is_invalid() {
    let lookup = Prepared::new(&[&["1.1.1.1"]]);
    let outbound = outbound_with(Policy::default(), &lookup);
    assert_eq!(refusal(outbound.send(get("file:///etc/passwd")).await), Refusal::Scheme);
    assert_eq!(refusal(outbound.send(get("gopher://hooks.example/")).await), Refusal::Scheme);
    assert_eq!(refusal(outbound.send(get("https://u:p@hooks.example/")).await), Refusal::UserInfo);
    let invalid = |done| matches!(done, Err(OutboundError::Invalid { .. }));
    assert!(invalid(outbound.send(get("https://[fe80::1%25lo]/")).await));
    assert!(invalid(outbound.send(get("https://hooks.example/").header("Host", "x")).await));
    assert!(lookup.asked().is_empty());
}

#[tokio::test]
async fn of_a_name_only_the_allowed_addresses_are_used() {
    let inside = Server::saying(answer("200 OK", &[], b"inside")).await;
    let port = inside.address.port();
    let outside = Server::start(&format!("127.0.0.2:{port}"), |_, _| Reply::Silence).await;
    let lookup = Prepared::new(&[&["127.0.0.2", "10.0.0.1", "::1", "127.0.0.1"]]);
    let outbound = outbound_with(allowing(&["127.0.0.1"]), &lookup);
    let answer = outbound.send(get(format!("http://hooks.example:{port}/"))).await.unwrap();
    assert_eq!(&answer.body[..], b"inside");
    assert_eq!((outside.connections(), lookup.asked()), (0, vec!["hooks.example".to_owned()]));
    let heard = inside.heard().concat();
    assert!(heard.contains(&format!("\r\nhost: hooks.example:{port}\r\n")), "{heard}");
}

#[tokio::test]
async fn a_name_that_turns_private_between_two_connections_leads_nowhere() {
    let inside = Server::start("127.0.0.1:0", |_, _| Reply::Say(redirect(307, "/again"))).await;
    let port = inside.address.port();
    let victim = Server::start(&format!("127.0.0.2:{port}"), |_, _| Reply::Silence).await;
    let lookup = Prepared::new(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let outbound = outbound_with(allowing(&["127.0.0.1"]), &lookup);
    let error = outbound.send(get(format!("http://hooks.example:{port}/"))).await;
    assert_eq!(refusal(error), Refusal::Redirect("address"));
    assert_eq!((inside.connections(), victim.connections(), lookup.asked().len()), (1, 0, 2));
    // The next call looks again, and is told what the name has become.
    let error = outbound.send(get(format!("http://hooks.example:{port}/"))).await;
    assert_eq!(refusal(error), Refusal::Address("loopback"));
    assert_eq!(victim.connections(), 0);
}

#[tokio::test]
async fn a_name_that_was_public_is_judged_anew_and_looked_up_once_a_connection() {
    let lookup = Prepared::new(&[&["1.1.1.1"], &["10.0.0.1"], &["169.254.169.254", "::1"]]);
    let connector = Connector::new(lookup.clone(), RootCertStore::empty()).unwrap();
    let target = Target::parse("https://hooks.example/").unwrap();
    let policy = Policy::default();
    let admitted = connector.admitted(&target, &policy).await.unwrap();
    assert_eq!(admitted, ["1.1.1.1".parse::<IpAddr>().unwrap()]);
    for wanted in ["private", "link-local"] {
        match connector.open(&target, &policy).await.map(drop) {
            Err(OutboundError::Refused { why }) => assert_eq!(why, Refusal::Address(wanted)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lookup.asked().len(), 3);
}

#[tokio::test]
async fn a_name_that_is_not_there_is_unreachable() {
    for lookup in [Prepared::new(&[]), Prepared::new(&[&[]])] {
        let error = outbound_with(Policy::default(), &lookup).send(get("https://hooks.example/")).await;
        assert!(matches!(error, Err(OutboundError::Unreachable { .. })), "{error:?}");
    }
    // Longer than a label can be, so the system's resolver knows without asking anybody.
    let url = format!("https://{}.example/", "a".repeat(64));
    let error = outbound(Policy::default()).send(get(url)).await.unwrap_err();
    assert!(matches!(error, OutboundError::Unreachable { .. }) && !error.may_have_been_sent(), "{error:?}");
}

#[tokio::test]
async fn redirects_within_the_origin_are_followed_with_headers_and_as_the_status_says() {
    for (status, method, wanted) in [
        (307, Method::Post, "POST /b HTTP/1.1 body"),
        (308, Method::Put, "PUT /b HTTP/1.1 body"),
        (303, Method::Post, "GET /b HTTP/1.1 "),
        (301, Method::Get, "GET /b HTTP/1.1 body"),
        (302, Method::Get, "GET /b HTTP/1.1 body"),
    ] {
        let server = Server::start("127.0.0.1:0", move |_, number| {
            Reply::Say(if number == 0 { redirect(status, "b") } else { answer("200 OK", &[], b"there") })
        })
        .await;
        let request = Request::new(method, server.url("/a")).header("x-key", "v").body("body");
        let answer = outbound(allowing(&["127.0.0.1"])).send(request).await.unwrap();
        assert_eq!(&answer.body[..], b"there");
        let second = server.heard().remove(1);
        let (head, body) = second.split_once("\r\n\r\n").unwrap();
        assert_eq!(format!("{} {body}", head.lines().next().unwrap()), wanted, "{status}");
        assert!(head.contains("\r\nx-key: v"), "{head}");
    }
}

#[tokio::test]
async fn a_redirect_to_another_origin_or_a_private_address_is_an_error_that_names_why() {
    let victim = Server::start("127.0.0.1:0", |_, _| Reply::Silence).await;
    let port = victim.address.port();
    for (location, why) in [
        (victim.url("/"), "port"),
        (format!("http://localhost:{port}/"), "host"),
        (format!("//127.0.0.2:{port}/"), "host"),
        ("http://169.254.169.254/latest/meta-data/".to_owned(), "host"),
        ("http://10.0.0.1/".to_owned(), "host"),
        (format!("https://127.0.0.1:{port}/"), "scheme"),
        ("file:///etc/passwd".to_owned(), "scheme"),
    ] {
        let server = Server::saying(redirect(302, &location)).await;
        let error = outbound(allowing(&["127.0.0.0/8"])).send(get(server.url("/"))).await.unwrap_err();
        assert!(error.may_have_been_sent());
        assert_eq!(refusal(Err(error)), Refusal::Redirect(why), "{location}");
    }
    assert_eq!(victim.connections(), 0);
}

#[tokio::test]
async fn redirects_end_at_the_limit_and_unclear_ones_at_once() {
    let server =
        Server::start("127.0.0.1:0", |_, number| Reply::Say(redirect(302, &format!("/{number}")))).await;
    let policy = Policy { max_redirects: 2, ..allowing(&["127.0.0.1"]) };
    let error = outbound(policy.clone()).send(get(server.url("/"))).await;
    assert_eq!((refusal(error), server.connections()), (Refusal::TooManyRedirects(2), 3));
    let none = outbound(Policy { max_redirects: 0, ..policy.clone() });
    assert_eq!(refusal(none.send(get(server.url("/"))).await), Refusal::TooManyRedirects(0));
    let post = Request::new(Method::Post, server.url("/"));
    assert_eq!(refusal(outbound(policy.clone()).send(post).await), Refusal::AmbiguousRedirect);
    for nowhere in [answer("302 Found", &[], b""), redirect(302, "http://[")] {
        let server = Server::saying(nowhere).await;
        let error = outbound(policy.clone()).send(get(server.url("/"))).await;
        assert!(matches!(error, Err(OutboundError::Protocol { sent: true, .. })), "{error:?}");
    }
    let choices = Server::saying(answer("300 Multiple Choices", &["location: http://10.0.0.1/"], b"")).await;
    assert_eq!(outbound(policy).send(get(choices.url("/"))).await.unwrap().status, 300);
}

#[tokio::test]
async fn a_server_that_is_gone_after_its_redirect_has_had_a_request() {
    let server = Server::saying(redirect(307, "/again")).await;
    let lookup = Prepared::new(&[&["127.0.0.1"], &[]]);
    let request = get(format!("http://hooks.example:{}/", server.address.port()));
    let error = outbound_with(allowing(&["127.0.0.1"]), &lookup).send(request).await.unwrap_err();
    assert!(matches!(error, OutboundError::Protocol { .. }) && error.may_have_been_sent(), "{error:?}");
}

/// Run by the next test with a proxy in the environment; does no harm by itself.
#[tokio::test]
async fn a_call_goes_straight_to_its_server() {
    let server = Server::saying(answer("200 OK", &[], b"")).await;
    let answer = outbound(allowing(&["127.0.0.1"])).send(get(server.url("/"))).await;
    assert_eq!((answer.unwrap().status, server.connections()), (200, 1));
}

#[tokio::test]
async fn proxies_of_the_environment_are_not_used() {
    let proxy = Server::saying(answer("502 Bad Gateway", &[], b"")).await;
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "tests::rules::a_call_goes_straight_to_its_server"]);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(name, proxy.url(""));
    }
    command.env_remove("no_proxy").env_remove("NO_PROXY");
    let run = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && told.contains("1 passed"), "{told}");
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn secrets_are_in_no_error_and_no_debug_output() {
    const SECRET: &str = "s3cr3t";
    let hide = |text: String| assert!(!text.to_lowercase().contains(SECRET), "{text}");
    let outbound = outbound(allowing(&["127.0.0.1"]));
    let broken = Server::saying(format!("{SECRET} {SECRET}\r\n\r\n")).await;
    let short = Server::saying(format!("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{SECRET}")).await;
    let away = Server::saying(redirect(302, &format!("http://{SECRET}.example/{SECRET}"))).await;
    let mut urls: Vec<String> =
        [&broken, &short, &away].iter().map(|server| server.url(&format!("/{SECRET}?k={SECRET}"))).collect();
    urls.extend(
        [
            "https://u:s3cr3t@hooks.example/",
            "http://127.0.0.1:1/s3cr3t",
            "https://127.0.0.1:1/s3cr3t",
            "http://10.0.0.1/s3cr3t",
            "s3cr3t://x",
            "https://hooks.example/s3cr3t s3cr3t",
            "https://[s3cr3t]/",
            "s3cr3t",
        ]
        .map(str::to_owned),
    );
    urls.push(format!("https://s3cr3t-{}/s3cr3t", "a".repeat(64)));
    for url in urls {
        let request = get(url).header("Authorization", SECRET).body(SECRET);
        hide(format!("{request:?} {request:#?}"));
        let error = outbound.send(request).await.unwrap_err();
        hide(format!("{error} {error:?} {:?}", std::error::Error::source(&error)));
    }
    for header in [("x", "s3cr3t\n"), ("s3cr3t\n", "x"), ("proxy-s3cr3t", "x")] {
        let error =
            outbound.send(get("https://hooks.example/").header(header.0, header.1)).await.unwrap_err();
        hide(format!("{error} {error:?}"));
    }
    let fine = Server::saying(answer("200 OK", &["set-cookie: s3cr3t"], b"s3cr3t")).await;
    hide(format!("{:?}", outbound.send(get(fine.url("/"))).await.unwrap()));
    hide(format!("{outbound:?}"));
}
