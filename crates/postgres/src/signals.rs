//! Tells other servers that there are new events, and hears it from them: LISTEN and NOTIFY.
//!
//! Invariants: signals are hints. They are sent after the positions are committed, on a connection of their own,
//! many that come together as one, and never faster than a listener can use; a lost one costs a listener the time
//! until its next look. After every reconnecting there is one hint, because something may have been missed.

use std::{sync::Arc, time::Duration};

use aito_domain::Cause;
use diesel::sql_types::Integer;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _};
use futures_util::StreamExt as _;
use tokio::{sync::Notify, time::MissedTickBehavior};

use super::{
    connect::{Connector, Role},
    sql::Sql,
};

/// The pause before the first new attempt; it doubles up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// At least so long after one signal comes the next.
const SPACING: Duration = Duration::from_millis(10);

/// Sends a signal each time that `wanted` says so, and calls `heard` for those of others, as long as the store
/// lives.
pub(super) async fn run(
    connector: Arc<Connector>,
    wanted: Arc<Notify>,
    timeout: Duration,
    heard: impl Fn() + Send,
) {
    let mut pause = PAUSE;
    loop {
        let lost = match connector.open(Role::Signal).await {
            Ok(connection) => match exchange(connection, &wanted, timeout, &heard, &mut pause).await {
                Ok(()) => "the connection was closed".into(),
                Err(error) => error,
            },
            Err(error) => Box::new(error) as Cause,
        };
        tracing::debug!(error = &*lost as &dyn std::error::Error, "no signals between servers for a moment");
        let mut passed = tokio::time::interval(pause);
        passed.tick().await;
        passed.tick().await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Sends and hears on one connection until that ends.
async fn exchange(
    mut connection: AsyncPgConnection,
    wanted: &Notify,
    timeout: Duration,
    heard: &(impl Fn() + Send),
    pause: &mut Duration,
) -> Result<(), Cause> {
    let own: i32 = tokio::time::timeout(timeout, async {
        let own = Sql::<Integer>::new("SELECT pg_backend_pid()").get_result(&mut connection).await?;
        connection.batch_execute("LISTEN aito_log").await?;
        Ok::<_, Cause>(own)
    })
    .await??;
    *pause = PAUSE;
    heard();
    let mut spacing = tokio::time::interval(SPACING);
    spacing.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_wanted = {
            let mut notifications = std::pin::pin!(connection.notifications_stream());
            tokio::select! {
                notification = notifications.next() => match notification.transpose()? {
                    // The server tells it to whoever said it, too.
                    Some(notification) if notification.process_id == own => continue,
                    Some(_) => false,
                    None => return Ok(()),
                },
                () = wanted.notified() => true,
            }
        };
        if is_wanted {
            spacing.tick().await;
            tokio::time::timeout(timeout, connection.batch_execute("NOTIFY aito_log")).await??;
        } else {
            heard();
        }
    }
}
