//! Operators' credentials at the outermost edge: the first token's file, `aito token recover`, other people's tokens.
//!
//! Invariants: a secret is written to one file that only its owner can read, and shown nowhere else; who may read the
//! installation's file may make a token, and that is the proof that they own the machine.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use aito_application::{
    login::{Vouched, Vouches},
    metrics::Metrics,
    tokens::{Randomness, TokenService},
    writer::Writer,
};
use aito_domain::{ports::clock::Clock, time::Timestamp, token::TokenText};
use aito_embedded::data_dir::{self, InstallationFile};
use aito_jwt::JwtVerifier;

use crate::{
    config::Config,
    installation::chain,
    stores::Stores,
    system::{self, SystemClock, SystemIds},
};

/// 256 random bits of the system.
pub(crate) struct SystemRandomness;

impl Randomness for SystemRandomness {
    fn secret(&self) -> Result<[u8; 32], String> {
        system::random()
    }
}

/// JSON Web Tokens.
pub(crate) struct Provider(pub(crate) JwtVerifier);

impl Vouches for Provider {
    fn verify(&self, token: &str, now: Timestamp) -> Option<Vouched> {
        match self.0.verify(token, now) {
            Ok(claims) => {
                Some(Vouched { subject: claims.subject, roles: claims.roles, until: claims.expires_at })
            }
            Err(why) => {
                tracing::debug!(reason = why.reason(), "a JSON Web Token was refused");
                None
            }
        }
    }
}

/// Where the first token is put.
pub(crate) fn first_token_file(data_dir: &Path) -> PathBuf {
    data_dir.join("first-token")
}

/// Writes a token to a file that only this user can read; one of this name that is there already is replaced.
pub(crate) fn keep(path: &Path, text: &TokenText) -> Result<(), String> {
    let wrong = |why: io::Error| format!("{} cannot be written: {why}", path.display());
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(wrong(why)),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft).map_err(wrong)?;
    writeln!(file, "{}", text.expose()).and_then(|()| file.sync_all()).map_err(wrong)?;
    fs::rename(&draft, path).map_err(wrong)?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(wrong)
}

/// Makes the first token of an installation that never had one; gives the file that it stands in.
pub(crate) async fn first(
    tokens: &TokenService,
    installation: &InstallationFile,
    data_dir: &Path,
) -> Result<Option<PathBuf>, String> {
    let path = first_token_file(data_dir);
    let draft = data_dir.join("first-token.draft");
    let found = |to: &Path| fs::rename(&draft, to).map_err(|why| format!("{}: {why}", to.display()));
    // A start before was cut short when its token counted already.
    let left = fs::read_to_string(&draft).ok().and_then(|text| text.trim().parse::<TokenText>().ok());
    if let Some(text) = left {
        let counts = tokens.principal(&text).await;
        if counts.map_err(|why| format!("the first token cannot be looked up: {}", chain(&why)))?.is_some() {
            found(&path)?;
            return Ok(Some(path));
        }
    }
    let made = tokens.first(installation.id, |text| keep(&draft, text)).await;
    match made {
        Ok(Some(_)) => {
            found(&path)?;
            Ok(Some(path))
        }
        Ok(None) => {
            // It was made long ago, or another server made it meanwhile.
            let _ = fs::remove_file(&draft);
            Ok(None)
        }
        // Whether it counts is not known: the next start sees.
        Err(why) => Err(format!("the first token cannot be made: {}", chain(&why))),
    }
}

/// `aito token recover`: gives two lines, where the token is and what it may.
pub(crate) fn recover(config: Config) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|why| format!("cannot start: {why}"))?;
    runtime.block_on(async {
        let (stores, _) = opened(&config).await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let writer = Arc::new(Writer::new(
            stores.ledger.clone(),
            stores.agents.clone(),
            clock,
            Arc::new(SystemIds),
            Arc::new(Metrics::new()),
        ));
        let tokens = TokenService::new(
            stores.tokens.clone(),
            stores.agents.clone(),
            writer,
            Arc::new(SystemRandomness),
        );
        let path = config.data_dir.join("recovered-token");
        let (token, _) =
            tokens.recover(|text| keep(&path, text)).await.map_err(|why| chain(&why))?;
        Ok(format!(
            "token \"{}\" ({}) stands in {}\nit has the roles admin, operator and human; revoke what was lost: \
             DELETE /tokens/{{id}}",
            token.name,
            token.id,
            path.display()
        ))
    })
}

/// The store of an installation on this machine, beside a server that may be running, and its file.
pub(crate) async fn opened(config: &Config) -> Result<(Stores, InstallationFile), String> {
    let file = data_dir::peek(&config.data_dir).map_err(|why| why.to_string())?;
    let Some(file) = file else {
        return Err(format!(
            "{} holds no installation: no server was ever started with this configuration",
            config.data_dir.display()
        ));
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let stores = match &config.database_url {
        Some(url) => Stores::postgres_now(url, clock).await?,
        None => {
            let db = config.data_dir.join("aito.sqlite3");
            if !db.is_file() {
                return Err(format!("{} is not there", db.display()));
            }
            Stores::sqlite(&db, clock)?
        }
    };
    let record = stores.installation.load().await.map_err(|why| chain(&why))?;
    let same =
        record.is_some_and(|record| record.id == file.id && record.key_fingerprint == file.key.fingerprint());
    if !same {
        return Err("the store is another installation's than the data directory".into());
    }
    Ok((stores, file))
}
