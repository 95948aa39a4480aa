//! The mailbox: watched apart from the loop, shown to thinking, acknowledged when what came of it is done.
//!
//! Invariants:
//! - A message is acknowledged only after a turn that saw it has carried out its actions, rows that waited for the server
//!   included; whoever dies before that gets it again.
//! - From the end of that turn on it is not shown again, however long the server cannot be told.
//! - A message wakes the loop once. One whose turn failed is shown again, but in a turn that begins for another reason.
//! - One task looks and acknowledges, one after the other, so that nothing acknowledged comes back with an older look. It
//!   looks at most every 250 ms; while nothing changes, and after failures, ever more seldom, down to the heartbeat
//!   interval (longer only when the server asks for it).

use crate::{
    heartbeat::{Control, FIRST_RETRY, grown},
    log::Log,
    server::Server,
    think::Message,
    time,
};
use aito_api::Mail;
use aito_client::Error;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::sync::watch;
use uuid::Uuid;

/// How many messages one turn is shown.
pub(crate) const MAX_MESSAGES: u32 = 50;
/// How long the server is asked to wait for a message, in seconds.
const WAIT: u32 = 30;
/// An answer without news that came sooner was not waited for, so that asking again at once would be asking in a circle.
const WAITED: Duration = Duration::from_secs(1);
/// How many messages the server can be told to be known.
const MAX_KNOWN: usize = 64;
/// How many are read: as many as can be known, or what is not shown yet would end every wait.
const MAX_READ: u32 = 64;
/// The longest wait that a server can ask for after a refusal.
const MAX_ASKED: Duration = Duration::from_secs(300);

/// What is known of the mailbox. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox(Arc<watch::Sender<State>>);

#[derive(Debug, Default)]
struct State {
    /// What the last look found, without what was dealt with.
    waiting: Vec<Message>,
    /// Those of them that woke the loop or were shown.
    seen: BTreeSet<Uuid>,
    /// All that the last look found and is not acknowledged, also beyond what one turn is shown.
    read: BTreeSet<Uuid>,
    /// Dealt with, but something that came of it still waits for the server.
    held: BTreeSet<Uuid>,
    /// To be acknowledged.
    done: BTreeSet<Uuid>,
}

impl State {
    fn wakes(&self) -> bool {
        self.waiting.iter().any(|message| !self.seen.contains(&message.id))
    }
}

impl Mailbox {
    pub(crate) fn new() -> Self {
        Self(Arc::new(watch::channel(State::default()).0))
    }

    /// Whether something waits that was not shown yet.
    pub(crate) fn wakes(&self) -> bool {
        self.0.borrow().wakes()
    }

    /// Ends when something waits that was not shown yet.
    pub(crate) async fn woken(&self) {
        self.until(State::wakes).await;
    }

    /// What waits, from now on seen.
    pub(crate) fn show(&self) -> Vec<Message> {
        let mut shown = Vec::new();
        self.0.send_modify(|state| {
            shown.clone_from(&state.waiting);
            state.seen.extend(shown.iter().map(|message| message.id));
        });
        shown
    }

    /// A turn has carried out what came of these: they are not shown again.
    pub(crate) fn dealt_with(&self, ids: &[Uuid]) {
        self.0.send_modify(|state| {
            state.waiting.retain(|message| !ids.contains(&message.id));
            state.held.extend(ids);
        });
    }

    /// Nothing that came of them waits for the server any more: they may be acknowledged.
    pub(crate) fn release(&self) {
        self.0.send_if_modified(|state| {
            let any = !state.held.is_empty();
            state.done.append(&mut state.held);
            any
        });
    }

    /// Takes what a look found; how many of it are new.
    fn found(&self, list: Vec<Mail>) -> usize {
        let mut fresh = 0;
        self.0.send_modify(|state| {
            state.read = list.iter().map(|mail| mail.id).collect();
            let dealt_with = |id: &Uuid| state.held.contains(id) || state.done.contains(id);
            state.waiting = list
                .into_iter()
                .take(MAX_MESSAGES as usize)
                .filter(|mail| !dealt_with(&mail.id))
                .map(message)
                .collect();
            let (waiting, seen) = (&state.waiting, &mut state.seen);
            seen.retain(|id| waiting.iter().any(|message| message.id == *id));
            fresh = waiting.len() - seen.len();
        });
        fresh
    }

    /// What was read and is not acknowledged, as much of it as the server lets itself be told.
    fn known(&self) -> Vec<Uuid> {
        let state = self.0.borrow();
        let known: BTreeSet<Uuid> =
            state.read.iter().chain(&state.held).chain(&state.done).copied().collect();
        known.into_iter().take(MAX_KNOWN).collect()
    }

    fn to_acknowledge(&self) -> Vec<Uuid> {
        self.0.borrow().done.iter().copied().collect()
    }

    fn acknowledged(&self, id: Uuid) {
        self.0.send_modify(|state| {
            state.done.remove(&id);
            state.read.remove(&id);
        });
    }

    async fn until(&self, wanted: impl FnMut(&State) -> bool) {
        // An error would mean that the sender is gone; it is here.
        let _ = self.0.subscribe().wait_for(wanted).await;
    }
}

fn message(mail: Mail) -> Message {
    let Mail { id, kind, from, priority, payload, created_at, .. } = mail;
    Message { id, kind, from, priority, payload, created_at }
}

/// What a look came to.
enum Look {
    /// Messages that were not known.
    New(usize),
    /// None but known ones.
    Same,
    /// The mailbox is empty.
    Empty,
    /// It was given up: there is something to acknowledge.
    GivenUp,
}

/// Watches from the first accepted heartbeat until the credential is refused; the text is the server's.
pub(crate) async fn run(
    server: Arc<Server>,
    mailbox: Mailbox,
    interval: Duration,
    mut control: watch::Receiver<Control>,
    log: Log,
) -> String {
    if control.wait_for(|control| control.answered_at.is_some()).await.is_err() {
        // The heartbeat has ended, and with it soon the agent.
        std::future::pending::<()>().await;
    }
    let (mut failures, mut same) = (0_u32, 0_u32);
    loop {
        let begun = time::now();
        match look(&server, &mailbox).await {
            Ok(look) => {
                if failures > 0 {
                    log.line(format!("mailbox can be read again, after {failures} failures"));
                    failures = 0;
                }
                same = match look {
                    Look::Same | Look::Empty if begun.elapsed() < WAITED => same.saturating_add(1),
                    Look::New(_) | Look::Same | Look::Empty | Look::GivenUp => 0,
                };
                if let Look::New(count) = look {
                    log.line(format!("{count} new messages"));
                }
                let rest = if same > 0 { grown(same).min(interval) } else { Duration::ZERO };
                time::sleep_until(begun + FIRST_RETRY).await;
                tokio::select! {
                    () = time::sleep_until(begun + rest) => {}
                    () = mailbox.until(|state| !state.done.is_empty()) => {}
                }
            }
            Err(error) if error.is_refused_credential() => return error.to_string(),
            Err(error) => {
                if failures == 0 {
                    log.line(format!("mailbox cannot be read, trying again: {error}"));
                }
                let wait = retry_after(failures, error.retry_after(), interval);
                failures = failures.saturating_add(1);
                time::sleep_until(time::now() + wait).await;
            }
        }
    }
}

/// Acknowledges what is to be, then looks what waits.
async fn look(server: &Server, mailbox: &Mailbox) -> Result<Look, Error> {
    for id in mailbox.to_acknowledge() {
        match server.acknowledge(id).await {
            Err(Error::Problem(problem)) if matches!(problem.status, 404 | 409 | 410) => {
                // It has expired, or nobody waits for this any more.
            }
            answer => answer?,
        }
        mailbox.acknowledged(id);
    }
    let known = mailbox.known();
    let list = tokio::select! {
        biased;
        () = mailbox.until(|state| !state.done.is_empty()) => return Ok(Look::GivenUp),
        list = server.mailbox(MAX_READ, WAIT, &known) => list?,
    };
    // Nothing new came; of what is known something may have expired.
    let list =
        if list.is_empty() && !known.is_empty() { server.mailbox(MAX_READ, 0, &[]).await? } else { list };
    let empty = list.is_empty();
    Ok(match mailbox.found(list) {
        0 if empty => Look::Empty,
        0 => Look::Same,
        count => Look::New(count),
    })
}

/// How long to wait after so many failures before this one.
fn retry_after(failures: u32, asked: Option<Duration>, interval: Duration) -> Duration {
    let own = grown(failures).min(interval);
    asked.unwrap_or_default().min(MAX_ASKED).max(own).max(FIRST_RETRY)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn mail(number: u128) -> Mail {
        serde_json::from_value(json!({
            "id": Uuid::from_u128(number), "kind": "message", "from": "token:ops", "fromAgent": null,
            "priority": "normal", "payload": {"message": "hi"}, "createdAt": "2025-12-20T10:00:00.000Z",
            "dueAt": "2025-12-20T10:00:05.000Z", "expiresAt": "2025-12-27T10:00:00.000Z", "acknowledgedAt": null,
        }))
        .unwrap()
    }

    fn ids(numbers: &[u128]) -> Vec<Uuid> {
        numbers.iter().copied().map(Uuid::from_u128).collect()
    }

    fn shown(mailbox: &Mailbox) -> Vec<Uuid> {
        mailbox.show().iter().map(|message| message.id).collect()
    }

    #[test]
    fn a_message_wakes_once_and_is_shown_until_it_was_dealt_with() {
        let mailbox = Mailbox::new();
        assert!(!mailbox.wakes());
        assert_eq!(mailbox.found(vec![mail(1)]), 1);
        assert_eq!(mailbox.found(vec![mail(1), mail(2)]), 2, "the first was not seen yet");
        assert!(mailbox.wakes());
        assert_eq!(shown(&mailbox), ids(&[1, 2]));
        assert_eq!(mailbox.found(vec![mail(1), mail(2)]), 0);
        assert!(!mailbox.wakes());
        assert_eq!(shown(&mailbox), ids(&[1, 2]), "its turn failed");
        mailbox.dealt_with(&ids(&[1]));
        assert_eq!(mailbox.found(vec![mail(1), mail(2), mail(3)]), 1);
        assert_eq!(shown(&mailbox), ids(&[2, 3]));
    }

    #[test]
    fn what_was_dealt_with_is_acknowledged_when_it_is_released() {
        let mailbox = Mailbox::new();
        mailbox.found(vec![mail(1), mail(2)]);
        mailbox.show();
        mailbox.dealt_with(&ids(&[1, 2]));
        assert!(mailbox.to_acknowledge().is_empty());
        mailbox.release();
        assert_eq!(mailbox.to_acknowledge(), ids(&[1, 2]));
        mailbox.acknowledged(Uuid::from_u128(1));
        assert_eq!(mailbox.found(vec![mail(2)]), 0);
        assert!(shown(&mailbox).is_empty());
        assert_eq!(mailbox.to_acknowledge(), ids(&[2]));
    }

    #[test]
    fn the_wait_is_never_tight_and_as_long_as_the_server_asks() {
        let interval = Duration::from_secs(10);
        let waits: Vec<_> = (0..40).map(|failures| retry_after(failures, None, interval)).collect();
        assert_eq!(waits[..3], [250, 500, 1000].map(Duration::from_millis));
        assert!(waits.is_sorted() && waits[39] == interval, "{waits:?}");
        assert_eq!(retry_after(0, Some(Duration::from_secs(40)), interval), Duration::from_secs(40));
        assert_eq!(retry_after(0, Some(Duration::from_secs(1 << 40)), interval), MAX_ASKED);
        assert_eq!(retry_after(0, None, Duration::from_millis(50)), FIRST_RETRY);
    }
}
