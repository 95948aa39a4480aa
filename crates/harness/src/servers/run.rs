//! The servers of one test run.
//!
//! Invariant: all start at the same time; when one does not come up, the others are stopped and the reason is told.

use std::{any::Any, path::Path, thread};

use super::{ENGINE, Engine, POSTGRES, Postgres, REDIS, Redis};
use crate::{Sandbox, image};

/// One of each, for all test executables of a run.
pub struct Servers {
    engine: Engine,
    redis: Redis,
    postgres: Postgres,
}

impl Servers {
    /// Starts them; the engine has the test image ([`image::test_image`]) of the program at `bin`.
    pub fn start(bin: &Path) -> Result<Self, String> {
        let (postgres, redis, engine) = thread::scope(|scope| {
            let postgres = scope.spawn(|| Postgres::start(false));
            let redis = scope.spawn(Redis::start);
            let engine = scope.spawn(|| {
                let engine = Engine::start();
                image::test_image(&engine.socket(), bin);
                engine
            });
            (postgres.join(), redis.join(), engine.join())
        });
        Ok(Self {
            engine: engine.map_err(|why| told("the Docker engine", &*why))?,
            redis: redis.map_err(|why| told("Redis", &*why))?,
            postgres: postgres.map_err(|why| told("PostgreSQL", &*why))?,
        })
    }

    /// An empty sandbox on them.
    pub fn sandbox(&self, bin: &Path) -> Sandbox {
        Sandbox::on_servers(&self.postgres.url("postgres"), &self.redis.url(), &self.engine.socket(), bin)
    }

    /// The variables that tell test executables of them: name and value.
    pub fn variables(&self) -> [(&'static str, String); 3] {
        [
            (POSTGRES, self.postgres.url("postgres")),
            (REDIS, self.redis.url()),
            (ENGINE, self.engine.socket().display().to_string()),
        ]
    }
}

/// What a panic said.
fn told(what: &str, why: &(dyn Any + Send)) -> String {
    let said = why.downcast_ref::<String>().map(String::as_str).or_else(|| why.downcast_ref().copied());
    format!("{what}: {}", said.unwrap_or("did not start"))
}
