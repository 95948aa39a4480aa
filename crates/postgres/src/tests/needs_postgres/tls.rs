//! TLS against a server with certificates of the test's own making.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use aito_contracts::clock::ManualClock;
use aito_domain::ports::agent_store::AgentStore as _;
use aito_harness::servers::Postgres;

use crate::{OpenError, Options, PgStore};

async fn open(server: &Postgres, host: &str, how: &str) -> Result<Arc<PgStore>, OpenError> {
    let url = format!("postgres://aito@{host}:{}/postgres?{how}", server.port());
    PgStore::open(Options::new(url, Arc::new(ManualClock::new()))).await
}

fn openssl(dir: &Path, arguments: &str) {
    let done = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output().unwrap();
    assert!(done.status.success(), "{arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Makes a certificate authority `{name}.pem`.
fn authority(dir: &Path, name: &str) -> PathBuf {
    openssl(
        dir,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -subj /CN={name} -addext subjectAltName=DNS:localhost -keyout {name}.key -out {name}.pem"
        ),
    );
    dir.join(format!("{name}.pem"))
}

/// Makes a server's certificate, signed by `ca`, for these names.
fn certificate(dir: &Path, ca: &str, name: &str, names: &str) {
    fs::write(dir.join("names"), format!("subjectAltName={names}\n")).unwrap();
    openssl(
        dir,
        &format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} \
             -keyout {name}.key -out {name}.csr"
        ),
    );
    openssl(
        dir,
        &format!(
            "x509 -req -in {name}.csr -CA {ca}.pem -CAkey {ca}.key -CAcreateserial -days 2 -extfile names \
             -out {name}.pem"
        ),
    );
}

/// Has the server show this certificate from now on.
async fn show(server: &mut Postgres, name: &str) {
    let dir = server.dir().to_owned();
    let owner = fs::metadata(&dir).unwrap();
    for file in [format!("{name}.key"), format!("{name}.pem")] {
        fs::set_permissions(dir.join(&file), fs::Permissions::from_mode(0o600)).unwrap();
        chown(dir.join(&file), Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let settings = format!(
        "ssl = on\nssl_cert_file = '{0}/{name}.pem'\nssl_key_file = '{0}/{name}.key'\n",
        dir.display()
    );
    fs::write(dir.join("data/postgresql.auto.conf"), settings).unwrap();
    tokio::task::block_in_place(|| {
        server.stop();
        server.start_again();
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_is_verified_or_there_is_no_connection() {
    let mut server = tokio::task::block_in_place(|| Postgres::start(false));
    let dir = server.dir().to_owned();
    let right = authority(&dir, "right").display().to_string();
    let wrong = authority(&dir, "wrong").display().to_string();
    certificate(&dir, "right", "server", "DNS:localhost,IP:127.0.0.1");
    certificate(&dir, "right", "elsewhere", "DNS:db.example");

    let with_right = format!("sslmode=verify-full&sslrootcert={right}");
    for how in [&with_right, &format!("sslrootcert={right}"), "sslmode=require"] {
        let error = open(&server, "127.0.0.1", how).await.err().unwrap();
        assert!(matches!(error, OpenError::Unreachable { .. }), "a server without TLS, {how}: {error:?}");
    }

    show(&mut server, "server").await;
    for host in ["127.0.0.1", "localhost"] {
        let store = open(&server, host, &with_right).await.unwrap();
        assert!(store.list().await.unwrap().is_empty());
        let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
             WHERE application_name = 'aito'";
        let outside = crate::tests::bench::connect(&server.url("postgres")).await;
        assert!(outside.query_one(encrypted, &[]).await.unwrap().get::<_, bool>(0));
    }
    for (how, why) in [
        (format!("sslmode=verify-full&sslrootcert={wrong}"), "another authority"),
        (format!("sslmode=require&sslrootcert={wrong}"), "require verifies too"),
        (format!("sslmode=verify-ca&sslrootcert={wrong}"), "verify-ca as well"),
        ("sslmode=require".to_owned(), "none of the usual authorities"),
    ] {
        let error = open(&server, "127.0.0.1", &how).await.err().unwrap();
        assert!(matches!(error, OpenError::Unreachable { .. }), "{why}: {error:?}");
    }
    assert!(open(&server, "127.0.0.1", "").await.is_ok(), "on this machine nobody listens in between");

    show(&mut server, "elsewhere").await;
    let error = open(&server, "localhost", &with_right).await.err().unwrap();
    assert!(matches!(error, OpenError::Unreachable { .. }), "another name: {error:?}");

    show(&mut server, "right").await;
    let error = open(&server, "localhost", &with_right).await.err().unwrap();
    assert!(matches!(error, OpenError::Unreachable { .. }), "an authority is no server: {error:?}");
}
