//! TLS, which is never given up.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use aito_domain::ports::bus::{BusItem, EventBus as _};
use aito_harness::servers::{Redis, free_port};
use aito_redis::{OpenError, Options, RedisBus};

use super::support::{message, next, subscribe, text, topic};

/// A Redis that speaks TLS on one port and plain on another one.
struct TlsRedis {
    dir: tempfile::TempDir,
    server: Redis,
    port: u16,
}

impl TlsRedis {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        authority(dir.path(), "ours");
        authority(dir.path(), "other");
        certificate(dir.path(), "ours", "server", "DNS:localhost");
        let port = free_port();
        let file = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let server = Redis::start_with(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &file("server.pem"),
            "--tls-key-file",
            &file("server.key"),
            "--tls-ca-cert-file",
            &file("ours.pem"),
            "--tls-auth-clients",
            "no",
        ]);
        Self { dir, server, port }
    }

    fn open(&self, url: &str, ca: Option<&str>) -> Arc<RedisBus> {
        let ca_file = ca.map(|name| self.file(name));
        RedisBus::open(Options { ca_file, ..Options::new(url) }).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_the_right_certificate_is_spoken_to() {
    let redis = TlsRedis::start();
    let bus = redis.open(&format!("rediss://localhost:{}", redis.port), Some("ours.pem"));
    let mut items = subscribe(&bus, "t").await;
    bus.publish(message("t", "heard")).await.unwrap();
    assert_eq!(next(&mut items).await, BusItem::Message(message("t", "heard")));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_other_server_is_refused() {
    let redis = TlsRedis::start();
    let (tls, plain) = (redis.port, redis.server.port());
    for (why, url, ca, says) in [
        ("another authority", format!("rediss://localhost:{tls}"), Some("other.pem"), "UnknownIssuer"),
        ("only public authorities", format!("rediss://localhost:{tls}"), None, "UnknownIssuer"),
        ("another name", format!("rediss://127.0.0.1:{tls}"), Some("ours.pem"), "not valid for name"),
        // It waits for the end of what it takes for a command.
        ("no TLS", format!("rediss://localhost:{plain}"), Some("ours.pem"), "no answer in time"),
        ("TLS where none was asked for", format!("redis://localhost:{tls}"), None, "redis (localhost:"),
    ] {
        let bus = redis.open(&url, ca);
        let error = bus.publish(message("t", "secret")).await.expect_err(why);
        assert!(text(&error).contains(says), "{why}: {}", text(&error));
        bus.subscribe(&[topic("t")]).await.err().expect(why);
        bus.ping().await.expect_err(why);
    }
}

#[tokio::test]
async fn a_file_without_usable_certificates_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str, content: Option<&str>| {
        let path = dir.path().join(name);
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        RedisBus::open(Options { ca_file: Some(path), ..Options::new("rediss://localhost") }).unwrap_err()
    };
    assert!(matches!(open("none", None), OpenError::Unreadable { .. }));
    assert!(matches!(open("empty", Some("")), OpenError::Certificates { .. }));
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert!(matches!(open("nonsense", Some(nonsense)), OpenError::Certificates { .. }));
}

/// Makes `<name>.pem` and `<name>.key` of an authority.
fn authority(dir: &Path, name: &str) {
    openssl(
        dir,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN={name} \
             -addext basicConstraints=critical,CA:TRUE -keyout {name}.key -out {name}.pem"
        ),
    );
}

/// Makes `<name>.pem` and `<name>.key`, signed by an authority.
fn certificate(dir: &Path, authority: &str, name: &str, for_name: &str) {
    openssl(
        dir,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} \
             -keyout {name}.key -out {name}.csr"
        ),
    );
    std::fs::write(dir.join("extensions"), format!("subjectAltName={for_name}\n")).unwrap();
    openssl(
        dir,
        &format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days 2 \
             -extfile extensions -out {name}.pem"
        ),
    );
}

fn openssl(dir: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}
