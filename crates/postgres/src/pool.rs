//! The connections that calls share.
//!
//! Invariants: never more than configured, but for a moment: the server ends the statement of a call that was given up
//! within a second or so, and its connection is not counted meanwhile; a call waits a bounded time for one. A connection goes back only when
//! the call says that it is clean: whoever fails, runs out of time or is dropped half-way takes its connection
//! along, and with it the transaction. A call runs where its connection is driven, so that the answers of one call
//! wake no other thread than the last one does.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::Duration,
};

use aito_domain::{Cause, ports::ReadError};
use deadpool::Runtime as PoolRuntime;
use diesel::result::Error as DieselError;
use diesel_async::{
    AsyncPgConnection, RunQueryDsl as _,
    methods::LoadQuery,
    pooled_connection::{
        AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
        deadpool::{Object, Pool as Deadpool},
    },
};
use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Options,
    connect::{Connector, Role},
    translate::{Meaning, meaning, read_error},
};

/// How long a check of a connection that was used before may take; it asks nobody.
const RECYCLE: Duration = Duration::from_secs(1);

/// The pool.
pub(super) struct Pool {
    connections: Deadpool<AsyncPgConnection>,
    runtime: Handle,
    timeout: Duration,
}

impl Pool {
    /// An empty pool. Connections are opened on `runtime` and driven by it, so that a caller whose own thread is
    /// busy stalls nobody else.
    pub(super) fn new(connector: Arc<Connector>, options: &Options, runtime: Handle) -> Result<Self, Cause> {
        let mut config = ManagerConfig::default();
        config.recycling_method = RecyclingMethod::Fast;
        let driver = runtime.clone();
        config.custom_setup = Box::new(move |_| {
            let connector = Arc::clone(&connector);
            let opening =
                AbortOnDropHandle::new(driver.spawn(async move { connector.open(Role::Call).await }));
            async move {
                match opening.await {
                    Ok(Ok(connection)) => Ok(connection),
                    Ok(Err(error)) => Err(diesel::ConnectionError::CouldntSetupConfiguration(
                        DieselError::QueryBuilderError(Box::new(error)),
                    )),
                    Err(gone) => Err(diesel::ConnectionError::BadConnection(gone.to_string())),
                }
            }
            .boxed()
        });
        let connections = Deadpool::builder(AsyncDieselConnectionManager::new_with_config("", config))
            .max_size(options.connections.max(1))
            .wait_timeout(Some(options.wait_timeout))
            .create_timeout(Some(options.connect_timeout))
            .recycle_timeout(Some(RECYCLE))
            .runtime(PoolRuntime::Tokio1)
            .build()?;
        Ok(Self { connections, runtime, timeout: options.timeout })
    }

    /// A connection for one call.
    pub(super) async fn lease(&self) -> Result<Lease, Cause> {
        let object = self.connections.get().await?;
        Ok(Lease { object: Some(object) })
    }

    /// Runs a call where connections are driven, and gives up when it takes too long. Dropped, it ends there as well.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        call: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, Cause> {
        let limit = self.timeout;
        let bounded = self.runtime.spawn(async move { tokio::time::timeout(limit, call).await });
        Ok(AbortOnDropHandle::new(bounded).await??)
    }

    /// How long a call may take.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The rows of a query. (Boxed, since the compiler cannot see otherwise that it may change threads.)
    pub(super) fn read<Q, Row>(self: &Arc<Self>, query: Q) -> BoxFuture<'_, Result<Vec<Row>, ReadError>>
    where
        Q: LoadQuery<'static, AsyncPgConnection, Row> + Send + 'static,
        Row: Send + 'static,
    {
        let this = Arc::clone(self);
        let answer = async move {
            let mut lease = this.lease().await.map_err(ReadError::Unavailable)?;
            match query.load(&mut *lease).await {
                Ok(rows) => {
                    lease.give_back();
                    Ok(rows)
                }
                Err(error) => Err(this.failed(error, read_error)),
            }
        };
        async move { self.run(answer.boxed()).await.map_err(ReadError::Unavailable)? }.boxed()
    }

    /// Says what a failure means. After a server that takes no changes, all that wait in the pool are closed:
    /// the next ones may reach the server that took its place.
    pub(super) fn failed<E>(&self, error: DieselError, say: impl FnOnce(DieselError) -> E) -> E {
        if meaning(&error) == Meaning::ReadOnly {
            self.connections.retain(|_, _| false);
        }
        say(error)
    }
}

#[cfg(test)]
impl Pool {
    /// Connections that exist, those of them that are idle, and calls that wait.
    pub(super) fn status(&self) -> (usize, usize, usize) {
        let status = self.connections.status();
        (status.size, status.available, status.waiting)
    }
}

/// A connection on loan. Dropped, it is closed; [`give_back`](Self::give_back) is the only way back.
pub(super) struct Lease {
    object: Option<Object<AsyncPgConnection>>,
}

impl Lease {
    /// The connection is clean: no transaction is open, no answer is outstanding.
    pub(super) fn give_back(mut self) {
        drop(self.object.take());
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            // Out of the pool, and closed.
            drop(Object::take(object));
        }
    }
}

impl Deref for Lease {
    type Target = AsyncPgConnection;

    fn deref(&self) -> &AsyncPgConnection {
        match &self.object {
            Some(object) => object,
            None => unreachable!("only the end of the lease takes it out"),
        }
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut AsyncPgConnection {
        match &mut self.object {
            Some(object) => object,
            None => unreachable!("only the end of the lease takes it out"),
        }
    }
}
