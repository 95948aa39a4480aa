//! The servers that scenarios measure on: private ones, or those of the test run.
//!
//! Invariants: they start with the first scenario that wants them, once in a run, and end with it; private ones are
//! durable, as in production, and nobody else is on them; those of a test run ([`servers::address`]) are there already
//! and are never ended here.

use std::{
    any::Any,
    path::{Path, PathBuf},
    thread,
};

use tokio::sync::OnceCell;

use super::{pgbench::Pgbench, words};
use crate::{
    Sandbox, image,
    servers::{self, Engine, Postgres, Redis},
};

/// Started when they are asked for.
#[derive(Default)]
pub(crate) struct Lazy(OnceCell<Result<Servers, String>>);

impl Lazy {
    /// The servers; the engine has the image of the server at `bin`.
    ///
    /// # Errors
    /// Why this machine cannot have them; it is not tried again.
    pub(crate) async fn get(&self, bin: &Path) -> Result<&Servers, String> {
        let started = self.0.get_or_init(|| start(bin.to_owned())).await;
        started.as_ref().map_err(Clone::clone)
    }
}

/// Where the servers are.
pub(crate) struct Servers {
    postgres: String,
    redis: String,
    engine: PathBuf,
    pgbench: Pgbench,
    _private: Option<Private>,
}

impl Servers {
    /// A sandbox for the server at `bin`, with a database of its own.
    pub(crate) fn sandbox(&self, bin: &Path) -> Sandbox {
        Sandbox::on_servers(&self.postgres, &self.redis, &self.engine, bin)
    }

    /// What loads its PostgreSQL.
    pub(crate) fn pgbench(&self) -> Pgbench {
        self.pgbench.clone()
    }

    /// The URL of another database beside that of `url`.
    pub(crate) fn beside(url: &str, name: &str) -> String {
        let (server, _) = url.rsplit_once('/').unwrap_or((url, ""));
        format!("{server}/{name}")
    }
}

async fn start(bin: PathBuf) -> Result<Servers, String> {
    let named = |variable: &str| std::env::var(variable).ok().filter(|value| !value.is_empty());
    if let (Some(postgres), Some(redis), Some(engine)) =
        (named(servers::POSTGRES), named(servers::REDIS), named(servers::ENGINE))
    {
        let pgbench = Pgbench::on_path();
        return Ok(Servers { postgres, redis, engine: engine.into(), pgbench, _private: None });
    }
    let started = tokio::task::spawn_blocking(move || Private::start(&bin));
    let private = started.await.map_err(|why| why.to_string())??;
    Ok(Servers {
        postgres: private.postgres.url("postgres"),
        redis: private.redis.url(),
        engine: private.engine.socket(),
        pgbench: Pgbench::in_directory(private.postgres.bin()),
        _private: Some(private),
    })
}

/// Servers of this run alone.
struct Private {
    engine: Engine,
    redis: Redis,
    postgres: Postgres,
}

impl Private {
    /// All at the same time. The engine has the image that agents run by default.
    fn start(bin: &Path) -> Result<Self, String> {
        let (postgres, redis, engine) = thread::scope(|scope| {
            let postgres = scope.spawn(|| Postgres::start(true));
            let redis = scope.spawn(Redis::start);
            let engine = scope.spawn(|| {
                let engine = Engine::start();
                image::agent_image(&engine.socket(), bin, image::TEST_IMAGES[0]);
                engine
            });
            (postgres.join(), redis.join(), engine.join())
        });
        let told = |what: &str, why: Box<dyn Any + Send>| format!("{what}: {}", words(&*why));
        Ok(Self {
            engine: engine.map_err(|why| told("the Docker engine", why))?,
            redis: redis.map_err(|why| told("Redis", why))?,
            postgres: postgres.map_err(|why| told("PostgreSQL", why))?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_database_is_beside_the_first() {
        assert_eq!(Servers::beside("postgres://u@h:1/a", "b-c"), "postgres://u@h:1/b-c");
    }
}
