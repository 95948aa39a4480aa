//! A few connections that only read, each used by one query at a time on a thread that may block.
//!
//! Invariants: never more connections than configured; a caller waits a bounded time and is then told
//! `Unavailable`; a caller that stops waiting neither loses nor blocks a connection for longer than its query
//! takes; a connection that failed is replaced.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aito_domain::{Cause, ports::ReadError};
use diesel::{result::Error as DieselError, sqlite::SqliteConnection};
use tokio::sync::Semaphore;

use super::{
    open,
    translate::{Untranslatable, read_error},
};

/// Why a query gave nothing.
pub(super) enum Failed {
    /// The database did not answer it.
    Query(DieselError),
    /// A row of it could not be understood.
    Row(Untranslatable),
}

impl From<DieselError> for Failed {
    fn from(error: DieselError) -> Self {
        Self::Query(error)
    }
}

impl From<Untranslatable> for Failed {
    fn from(error: Untranslatable) -> Self {
        Self::Row(error)
    }
}

/// The connections.
pub(super) struct Readers {
    pool: Arc<Pool>,
    permits: Arc<Semaphore>,
    timeout: Duration,
}

struct Pool {
    path: PathBuf,
    busy_timeout: Duration,
    idle: Mutex<Vec<SqliteConnection>>,
}

impl Readers {
    /// Opens all of them at once: later there may be no room for it.
    pub(super) fn open(
        path: PathBuf,
        count: usize,
        busy_timeout: Duration,
        timeout: Duration,
    ) -> Result<Self, Cause> {
        let count = count.max(1);
        let idle = (0..count).map(|_| open::reader(&path, busy_timeout)).collect::<Result<_, _>>()?;
        Ok(Self {
            pool: Arc::new(Pool { path, busy_timeout, idle: Mutex::new(idle) }),
            permits: Arc::new(Semaphore::new(count)),
            timeout,
        })
    }

    /// Runs one query.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        query: impl FnOnce(&mut SqliteConnection) -> Result<T, Failed> + Send + 'static,
    ) -> Result<T, ReadError> {
        let answer = async {
            let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(unavailable)?;
            let pool = Arc::clone(&self.pool);
            tokio::task::spawn_blocking(move || {
                let answer = pool.run(query);
                drop(permit);
                answer
            })
            .await
            .map_err(unavailable)?
        };
        tokio::time::timeout(self.timeout, answer).await.map_err(unavailable)?
    }
}

impl Pool {
    fn run<T>(&self, query: impl FnOnce(&mut SqliteConnection) -> Result<T, Failed>) -> Result<T, ReadError> {
        let idle = self.idle().pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => open::reader(&self.path, self.busy_timeout).map_err(ReadError::Unavailable)?,
        };
        // A panic in here drops the connection; the next query opens another one.
        match query(&mut connection) {
            Ok(value) => {
                self.idle().push(connection);
                Ok(value)
            }
            Err(Failed::Row(error)) => {
                self.idle().push(connection);
                Err(error.into())
            }
            Err(Failed::Query(error)) => Err(read_error(error)),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SqliteConnection>> {
        // Nothing panics while it is held; were it so, the vector would still be whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> ReadError {
    ReadError::Unavailable(Box::new(error))
}
