//! The rules of `MailboxStore`.

use std::{cmp::Reverse, time::Duration};

use aito_domain::{
    id::{AgentId, Incarnation, MailId, Version},
    mailbox::{Acknowledged, MAX_WAITING, Mail, MailKind},
    ports::{
        clock::Clock as _,
        ledger::Commit,
        mailbox_store::{Due, MAX_COUNTED, MAX_FIRST, MailCursor, Sent},
    },
    task::Priority,
    time::{Timestamp, after, millis},
};
use uuid::Uuid;

use super::{
    Maker, StoreFixture,
    kinds::{actors, change_mail, far, past, values},
    must, within,
};

/// Rule 1.
pub async fn mailbox_store_01_what_is_read_is_what_was_committed_by_whoever<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let agents = [make.stored_agent(&handles, "ceo").await.id, make.stored_agent(&handles, "cto").await.id];
    let times = [millis(0), millis(1_766_224_800_123), millis(-5), millis(253_402_300_799_999)];
    let (values, actors) = (values(), actors());
    let mut mail = make.mail(agents[0]);
    for n in 0..60_usize {
        mail.agent_id = agents[n % 2];
        mail.kind = MailKind::ALL[n % 4];
        mail.sender = actors[(n + 1) % 4].clone();
        mail.from_agent = [None, Some(agents[1]), Some(AgentId(Uuid::max()))][n % 3];
        mail.priority = Priority::ALL[n % 5];
        mail.body = values[n % 5].clone();
        mail.created_at = times[n % 4];
        mail.wake_at = times[(n + 1) % 4];
        mail.expires_at = [far(), past(), times[3]][n % 3];
        mail.acknowledged = match n % 3 {
            2 => {
                Some(Acknowledged { incarnation: Incarnation([0, i64::MAX as u64][n % 2]), at: times[n % 4] })
            }
            _ => None,
        };
        let writes = if n % 2 == 0 { &handles } else { &other };
        must(&writes.ledger, &changing(&make, std::slice::from_ref(&mail))).await;
        mail.version = mail.version.next();
        for store in [&other.mailbox, &handles.mailbox] {
            assert_eq!(
                store.by_id(mail.id).await.unwrap().as_ref(),
                Some(&mail),
                "also when nobody waits for it"
            );
            let waits = mail.acknowledged.is_none() && mail.expires_at != past();
            let expected = if waits { vec![mail.clone()] } else { Vec::new() };
            assert_eq!(store.waiting(mail.agent_id, None, 10).await.unwrap(), expected);
        }
    }
    assert_eq!(handles.mailbox.by_id(MailId(make.uuid())).await.unwrap(), None);
}

/// Rule 2.
pub async fn mailbox_store_02_waiting_gives_the_most_urgent_first<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let agents = [make.stored_agent(&handles, "ceo").await.id, make.stored_agent(&handles, "cto").await.id];
    let heard = Acknowledged { incarnation: Incarnation(1), at: past() };
    let all: Vec<_> = (0..60_usize)
        .map(|n| Mail {
            // Ids do not follow the order of writing.
            id: MailId(Uuid::from_u128(((n as u128 * 29 + 11) % 60) << 64 | 1)),
            priority: Priority::ALL[n * 7 / 2 % 5],
            acknowledged: (n % 5 == 0).then_some(heard),
            expires_at: if n % 7 == 0 { past() } else { far() },
            // When it wakes its agent is apart from whether it can be read.
            wake_at: if n % 3 == 0 { far() } else { past() },
            ..make.mail(agents[n % 2])
        })
        .collect();
    for chunk in all.chunks(7) {
        must(&handles.ledger, &changing(&make, chunk)).await;
    }
    for agent in agents {
        let mut expected: Vec<_> = all
            .iter()
            .filter(|mail| mail.agent_id == agent && mail.acknowledged.is_none() && mail.expires_at == far())
            .map(|mail| Mail { version: Version(1), ..mail.clone() })
            .collect();
        expected.sort_by_key(|mail| (Reverse(mail.priority), mail.id));
        assert_eq!(handles.mailbox.waiting(agent, None, 1000).await.unwrap(), expected);
        for limit in [1, 2, 7] {
            let (mut read, mut last) = (Vec::new(), None);
            loop {
                let page = within(handles.mailbox.waiting(agent, last, limit)).await.unwrap();
                let Some(end) = page.last() else { break };
                last = Some(MailCursor { priority: end.priority, id: end.id });
                assert!(page.len() <= limit as usize);
                read.extend(page);
                assert!(read.len() <= expected.len(), "the pages do not come to an end");
            }
            assert_eq!(read, expected, "by {limit}");
        }
        assert_eq!(handles.mailbox.waiting(agent, None, 0).await.unwrap(), []);
        let gone = Some(MailCursor { priority: Priority::High, id: MailId(Uuid::max()) });
        let rest: Vec<_> = expected.iter().filter(|mail| mail.priority < Priority::High).cloned().collect();
        assert_eq!(handles.mailbox.waiting(agent, gone, 1000).await.unwrap(), rest);
    }
    assert_eq!(handles.mailbox.waiting(AgentId(make.uuid()), None, 10).await.unwrap(), []);
}

/// Rule 3.
pub async fn mailbox_store_03_due_counts_what_waits_and_what_wakes<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let agents = [make.stored_agent(&handles, "ceo").await.id, make.stored_agent(&handles, "cto").await.id];
    assert_eq!(handles.mailbox.due(agents[0]).await.unwrap(), Due::default());
    let heard = Acknowledged { incarnation: Incarnation(1), at: make.clock().now() };
    let later = |n: u64| after(far(), Duration::from_millis(n));
    // One whose delay is over, and one that had none, of a sender whose clock is far ahead.
    let over = Mail { created_at: before(past(), 2), ..make.mail(agents[0]) };
    let ahead = Mail { created_at: later(3), wake_at: later(3), ..make.mail(agents[0]) };
    let first = |mails: &[&Mail]| mails.iter().map(|mail| mail.id).collect::<Vec<_>>();
    let earlier = Mail { created_at: before(past(), 3), wake_at: before(past(), 1), ..make.mail(agents[0]) };
    for (mail, expected) in [
        (
            Mail { wake_at: later(9), ..make.mail(agents[0]) },
            Due { due: 0, waiting: 1, next: Some(later(9)), first: Vec::new() },
        ),
        (over.clone(), Due { due: 1, waiting: 2, next: Some(later(9)), first: first(&[&over]) }),
        (
            Mail { wake_at: later(5), ..make.mail(agents[0]) },
            Due { due: 1, waiting: 3, next: Some(later(5)), first: first(&[&over]) },
        ),
        // Not those that expired, were heard, or are another's.
        (
            Mail { wake_at: later(1), expires_at: past(), ..make.mail(agents[0]) },
            Due { due: 1, waiting: 3, next: Some(later(5)), first: first(&[&over]) },
        ),
        (
            Mail { acknowledged: Some(heard), ..make.mail(agents[0]) },
            Due { due: 1, waiting: 3, next: Some(later(5)), first: first(&[&over]) },
        ),
        (make.mail(agents[1]), Due { due: 1, waiting: 3, next: Some(later(5)), first: first(&[&over]) }),
        (ahead.clone(), Due { due: 2, waiting: 4, next: Some(later(5)), first: first(&[&over, &ahead]) }),
        (
            earlier.clone(),
            Due { due: 3, waiting: 5, next: Some(later(5)), first: first(&[&earlier, &over, &ahead]) },
        ),
    ] {
        must(&handles.ledger, &changing(&make, &[mail])).await;
        for store in [&handles.mailbox, &other.mailbox] {
            assert_eq!(store.due(agents[0]).await.unwrap(), expected);
        }
    }
    let theirs = handles.mailbox.due(agents[1]).await.unwrap();
    assert_eq!((theirs.due, theirs.waiting, theirs.next, theirs.first.len()), (1, 1, None, 1));

    // More than are counted, the first of them not due yet.
    let mut stored = 1;
    for (step, priority, wake_at) in [(2600, Priority::Critical, later(7)), (7500, Priority::Low, past())] {
        for begin in (0..step).step_by(2600) {
            let part: Vec<_> = (begin..step.min(begin + 2600))
                .map(|_| Mail { priority, wake_at, ..make.mail(agents[1]) })
                .collect();
            must(&handles.ledger, &changing(&make, &part)).await;
            stored += part.len() as u64;
        }
        let due = if wake_at == past() { 7501 } else { 1 };
        let found = handles.mailbox.due(agents[1]).await.unwrap();
        assert_eq!((found.due, found.waiting), (due, stored.min(MAX_COUNTED)));
        assert_eq!((found.next, found.first.len()), (Some(later(7)), MAX_FIRST.min(due as usize)));
    }
    assert!(stored > MAX_COUNTED);
}

/// Rule 4.
pub async fn mailbox_store_04_room_counts_what_was_sent<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let agents = [make.stored_agent(&handles, "ceo").await.id, make.stored_agent(&handles, "cto").await.id];
    let heard = Acknowledged { incarnation: Incarnation(1), at: past() };
    let mut mails = Vec::new();
    for n in 0..96_usize {
        mails.push(Mail {
            kind: MailKind::ALL[n % 4],
            from_agent: [None, Some(agents[0]), Some(agents[1])][n / 4 % 3],
            acknowledged: (n / 12 % 4 == 1).then_some(heard),
            expires_at: if n / 12 % 4 == 2 { past() } else { far() },
            wake_at: if n % 5 == 0 { far() } else { past() },
            ..make.mail(agents[n / 48])
        });
    }
    must(&handles.ledger, &changing(&make, &mails)).await;
    for store in [&handles.mailbox, &other.mailbox] {
        for agent in agents {
            let counts = |mail: &&Mail| {
                mail.agent_id == agent
                    && matches!(mail.kind, MailKind::Message | MailKind::Broadcast)
                    && mail.acknowledged.is_none()
                    && mail.expires_at == far()
            };
            let by_all = mails.iter().filter(counts).count() as u64;
            for sender in [None, Some(agents[0]), Some(agents[1]), Some(AgentId(make.uuid()))] {
                let of_one = |mail: &&Mail| counts(mail) && sender.is_some() && mail.from_agent == sender;
                let by_one = mails.iter().filter(of_one).count() as u64;
                assert_eq!(store.room(agent, sender).await.unwrap(), Sent { by_all, by_one }, "{sender:?}");
            }
            assert!(by_all > 10, "there is something to see");
        }
    }
    let more: Vec<_> =
        (0..MAX_WAITING + 5).map(|_| Mail { from_agent: Some(agents[1]), ..make.mail(agents[0]) }).collect();
    must(&handles.ledger, &changing(&make, &more)).await;
    let full = Sent { by_all: MAX_WAITING, by_one: MAX_WAITING };
    assert_eq!(other.mailbox.room(agents[0], Some(agents[1])).await.unwrap(), full, "counting stops");
}

/// Rule 5.
pub async fn mailbox_store_05_forget_removes_what_has_expired<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let agent = make.stored_agent(&handles, "ceo").await.id;
    assert_eq!(handles.mailbox.forget(10).await.unwrap(), 0);
    let heard = Acknowledged { incarnation: Incarnation(1), at: past() };
    let mails: Vec<_> = (0..40_usize)
        .map(|n| Mail {
            acknowledged: (n % 2 == 0).then_some(heard),
            expires_at: if n % 4 < 2 { past() } else { far() },
            ..make.mail(agent)
        })
        .collect();
    must(&handles.ledger, &changing(&make, &mails)).await;
    let mut gone = Vec::new();
    for _ in 0..4 {
        gone.push(other.mailbox.forget(9).await.unwrap());
    }
    assert_eq!(gone, [9, 9, 2, 0]);
    for mail in &mails {
        let found = handles.mailbox.by_id(mail.id).await.unwrap();
        assert_eq!(found.is_some(), mail.expires_at == far());
    }
    let both = tokio::join!(handles.mailbox.forget(9), other.mailbox.forget(9));
    assert_eq!((both.0.unwrap(), both.1.unwrap()), (0, 0));
}

/// So many milliseconds before.
fn before(at: Timestamp, ms: i64) -> Timestamp {
    millis(at.timestamp_millis() - ms)
}

fn changing(make: &Maker, mails: &[Mail]) -> Commit {
    Commit { changes: mails.iter().map(change_mail).collect(), ..make.commit() }
}
