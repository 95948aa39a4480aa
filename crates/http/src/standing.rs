//! Whether somebody who was let in for long still would be.
//!
//! Invariant: who is revoked, expires, or speaks for a past incarnation is known to be within 3 s; a store that does
//! not answer ends nothing, since nothing was revoked in it meanwhile.

use std::{sync::Arc, time::Duration};

use aito_application::login::LoginService;
use aito_domain::principal::Principal;

/// How often it is looked. With what is believed for half a second and the time of a look it stays below 3 s.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Returns when the principal may not any more.
pub(crate) async fn ended(login: Arc<LoginService>, principal: Principal) {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        if matches!(login.still(&principal).await, Ok(false)) {
            return;
        }
    }
}
