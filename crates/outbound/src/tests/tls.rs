//! TLS with certificates of the tests' own making.

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::{
    server::{Reply, Server, answer},
    *,
};

/// A server with a certificate for these names, and the certificate.
async fn server(names: &[&str], expired: bool) -> (Server, CertificateDer<'static>) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    if expired {
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(2001, 1, 1);
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let reply = |_: &str, _: usize| Reply::Say(answer("200 OK", &[], b"private"));
    (Server::with("127.0.0.1:0", Some(acceptor), reply).await, certificate)
}

/// Calls `host` at the server, trusting only that certificate.
async fn call(
    server: &Server,
    trusted: Option<&CertificateDer<'static>>,
    host: &str,
) -> Result<Response, OutboundError> {
    let mut roots = RootCertStore::empty();
    if let Some(trusted) = trusted {
        roots.add(trusted.clone()).unwrap();
    }
    let lookup = Prepared::new(&[&["127.0.0.1"]]);
    let outbound = Outbound::with(allowing(&["127.0.0.1"]), lookup, roots).unwrap();
    outbound.send(get(format!("https://{host}:{}/", server.address.port()))).await
}

fn told(done: Result<Response, OutboundError>) -> String {
    let error = done.unwrap_err();
    assert!(matches!(error, OutboundError::Protocol { sent: false, .. }), "{error:?}");
    error.to_string()
}

#[tokio::test]
async fn a_server_with_its_own_certificate_is_spoken_to() {
    let (server, certificate) = server(&["hooks.example", "127.0.0.1"], false).await;
    for host in ["hooks.example", "HOOKS.example.", "127.0.0.1", "[::ffff:127.0.0.1]"] {
        let done = call(&server, Some(&certificate), host).await;
        assert_eq!(&done.unwrap().body[..], b"private", "{host}");
    }
}

#[tokio::test]
async fn a_wrong_certificate_ends_the_call_before_anything_is_sent() {
    let (fine, certificate) = server(&["hooks.example"], false).await;
    assert!(told(call(&fine, Some(&certificate), "other.example").await).contains("another host's"));
    assert!(told(call(&fine, Some(&certificate), "127.0.0.1").await).contains("another host's"));
    assert!(told(call(&fine, None, "hooks.example").await).contains("not known"));
    let (_, other) = server(&["hooks.example"], false).await;
    assert!(told(call(&fine, Some(&other), "hooks.example").await).contains("the certificate"));
    let (late, certificate) = server(&["hooks.example"], true).await;
    assert!(told(call(&late, Some(&certificate), "hooks.example").await).contains("has expired"));
    assert!(fine.heard().is_empty() && late.heard().is_empty());
}

#[tokio::test]
async fn public_authorities_are_trusted_and_nobody_else() {
    let (server, _) = server(&["127.0.0.1"], false).await;
    let done = outbound(allowing(&["127.0.0.1"])).send(get(format!("https://{}/", server.address))).await;
    assert!(told(done).contains("not known"));
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_over_https() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let plain = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        heard
    });
    let request = get(format!("https://{address}/path")).header("x-key", "value");
    let done = outbound(allowing(&["127.0.0.1"])).send(request).await;
    assert!(told(done).contains("does not speak TLS"));
    let heard = String::from_utf8_lossy(&plain.await.unwrap()).into_owned();
    assert!(!heard.is_empty() && !heard.contains("path") && !heard.contains("value"), "{heard}");
    let (tls, _) = server(&["127.0.0.1"], false).await;
    let done = outbound(allowing(&["127.0.0.1"])).send(get(tls.url("/"))).await;
    assert!(matches!(done, Err(OutboundError::Protocol { .. })), "plain to TLS: {done:?}");
    assert!(tls.heard().is_empty());
}
