//! The rules of `DomainStore`.

use std::time::Duration;

use aito_domain::{
    allowlist::{Decided, DomainEntry, DomainRequest, RequestStatus},
    domain_name::DomainName,
    event::Actor,
    id::{AgentId, DomainRequestId, Version},
    ports::{
        clock::Clock as _,
        domain_store::RequestCursor,
        ledger::{Change, Commit},
    },
    time::{after, millis},
};
use uuid::Uuid;

use super::{
    Handles, Maker, StoreFixture,
    kinds::{TEXTS, actors, change_domain, change_request},
    must, within,
};

/// Rule 1.
pub async fn domain_store_01_what_is_read_is_what_was_committed_by_whoever<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let times = [millis(0), millis(1_766_224_800_123), millis(-5), millis(253_402_300_799_999)];
    let names = ["example.com", "münchen.de", "a-b.example.co.uk", "x1.y2.example.org"];
    let (text, actors) = (|n: usize| TEXTS[n % 5].to_owned(), actors());
    let (mut entry, mut request) = (make.domain(names[0]), make.request(names[0], Actor::System));
    for n in 0..60_usize {
        let writes = if n % 2 == 0 { &handles } else { &other };
        entry.domain = names[n % 4].parse().unwrap();
        entry.category = text(n);
        entry.description = [None, Some(text(n + 1))][n % 2].clone();
        entry.actor = actors[n % 4].clone();
        entry.created_at = times[n % 4];
        entry.removed_at = [None, None, Some(times[n % 4])][n % 3];
        request.domain = names[(n + 1) % 4].parse().unwrap();
        request.url = [None, Some(text(n)), Some("u".repeat(2048))][n % 3].clone();
        request.requested_by = [None, Some(AgentId(Uuid::max()))][n % 2];
        request.actor = actors[(n + 1) % 4].clone();
        request.task_context = [Some(text(n + 2)), None][n % 2].clone();
        request.reason = [None, Some(text(n + 3))][n / 2 % 2].clone();
        request.category = [None, Some(text(n + 4))][n / 3 % 2].clone();
        request.created_at = times[(n + 2) % 4];
        request.decided = (n % 3 != 0).then(|| Decided {
            approved: n % 3 == 1,
            by: actors[(n + 2) % 4].clone(),
            at: times[(n + 1) % 4],
            reason: [None, Some(text(n))][n / 4 % 2].clone(),
        });
        write(&make, writes, vec![change_domain(&entry), change_request(&request)]).await;
        (entry.version, request.version) = (entry.version.next(), request.version.next());
        for store in [&other.domains, &handles.domains] {
            let standing = store.standing(std::slice::from_ref(&entry.domain)).await.unwrap();
            let expected = if entry.removed_at.is_none() { vec![entry.clone()] } else { Vec::new() };
            assert_eq!(standing, expected);
            assert_eq!(store.request(request.id).await.unwrap().as_ref(), Some(&request));
            let open = store.open_request(&request.domain, &request.actor).await.unwrap();
            assert_eq!(open.as_ref(), request.decided.is_none().then_some(&request));
            let listed = store.requests(request.status(), None, 10).await.unwrap();
            assert_eq!(listed, std::slice::from_ref(&request));
        }
    }
    assert_eq!(handles.domains.request(DomainRequestId(make.uuid())).await.unwrap(), None);
}

/// Rule 2.
pub async fn domain_store_02_page_gives_entries_that_stand_by_domain<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    assert_eq!(handles.domains.page(None, 10).await.unwrap(), []);
    let entries = listed(&make, &handles).await;
    let mut expected: Vec<_> = entries.iter().filter(|entry| entry.removed_at.is_none()).cloned().collect();
    expected.sort_by(|one, other| one.domain.as_str().as_bytes().cmp(other.domain.as_str().as_bytes()));
    for limit in [0, 1, 3, 1000] {
        let page = handles.domains.page(None, limit).await.unwrap();
        assert_eq!(page, expected.iter().take(limit as usize).cloned().collect::<Vec<_>>());
    }
    for limit in [1, 4] {
        let (mut read, mut last): (Vec<DomainEntry>, Option<DomainName>) = (Vec::new(), None);
        loop {
            let page = within(handles.domains.page(last.as_ref(), limit)).await.unwrap();
            let Some(end) = page.last() else { break };
            last = Some(end.domain.clone());
            assert!(page.len() <= limit as usize);
            read.extend(page);
            assert!(read.len() <= expected.len(), "the pages do not come to an end");
        }
        assert_eq!(read, expected);
    }
    let gone: DomainName = "example-b.org".parse().unwrap();
    let rest: Vec<_> = expected.iter().filter(|entry| entry.domain > gone).cloned().collect();
    assert_eq!(handles.domains.page(Some(&gone), 1000).await.unwrap(), rest);
}

/// Rule 3.
pub async fn domain_store_03_standing_gives_those_that_were_asked_for<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let entries = listed(&make, &handles).await;
    let unknown: DomainName = "unknown.com".parse().unwrap();
    let parent: DomainName = "www.example.com".parse().unwrap();
    for asked in [
        vec![],
        vec![unknown.clone()],
        vec![entries[0].domain.clone(), unknown.clone(), entries[0].domain.clone()],
        entries.iter().map(|entry| entry.domain.clone()).collect(),
        parent.coverers(),
        // Far more than are ever asked for at once.
        (0..1200).map(|n| format!("d{n}.com").parse().unwrap()).chain([entries[1].domain.clone()]).collect(),
    ] {
        let expected =
            entries.iter().filter(|entry| entry.removed_at.is_none() && asked.contains(&entry.domain));
        let mut expected: Vec<_> = expected.cloned().collect();
        expected.sort_by_key(|entry| entry.id);
        for store in [&handles.domains, &other.domains] {
            let mut standing = store.standing(&asked).await.unwrap();
            standing.sort_by_key(|entry| entry.id);
            assert_eq!(standing, expected, "each once, whoever asks for it twice");
        }
    }
}

/// Rule 4.
pub async fn domain_store_04_untouched_until_the_first_entry<F: StoreFixture>() {
    let mut fixture = F::fresh().await;
    let make = Maker::new();
    let (handles, other) = (fixture.handles(), fixture.second_handle().await);
    write(&make, &handles, vec![change_request(&make.request("example.com", Actor::System))]).await;
    for store in [&handles.domains, &other.domains] {
        assert!(store.is_untouched().await.unwrap(), "a request is no entry");
    }
    let entry = make.domain("example.com");
    write(&make, &handles, vec![change_domain(&entry)]).await;
    for store in [&handles.domains, &other.domains] {
        assert!(!store.is_untouched().await.unwrap());
    }
    let removed = DomainEntry { version: Version(1), removed_at: Some(make.clock().now()), ..entry };
    write(&make, &handles, vec![change_domain(&removed)]).await;
    drop((handles, other));
    fixture.reopen().await;
    assert!(!fixture.handles().domains.is_untouched().await.unwrap(), "also when it was removed since");
    assert_eq!(fixture.handles().domains.page(None, 10).await.unwrap(), []);
}

/// Rule 5.
pub async fn domain_store_05_requests_of_a_status_from_the_newest_on<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let start = make.clock().now();
    let all: Vec<_> = (0..45_usize)
        .map(|n| DomainRequest {
            // Three of each time and status, whose ids do not follow the order of writing.
            id: DomainRequestId(Uuid::from_u128(((n as u128 * 29 + 11) % 45) << 64 | 1)),
            created_at: after(start, Duration::from_millis(n as u64 / 9)),
            decided: [None, Some(true), Some(false)][n % 3].map(|approved| Decided {
                approved,
                by: Actor::System,
                at: start,
                reason: None,
            }),
            ..make.request(&format!("example-{n}.com"), Actor::System)
        })
        .collect();
    for chunk in all.chunks(7) {
        write(&make, &handles, chunk.iter().map(change_request).collect()).await;
    }
    for status in RequestStatus::ALL {
        let mut expected: Vec<_> = all
            .iter()
            .filter(|request| request.status() == status)
            .map(|request| DomainRequest { version: Version(1), ..request.clone() })
            .collect();
        expected.sort_by_key(|request| std::cmp::Reverse((request.created_at, request.id)));
        assert_eq!(handles.domains.requests(status, None, 1000).await.unwrap(), expected);
        assert_eq!(handles.domains.requests(status, None, 0).await.unwrap(), []);
        for limit in [1, 2, 4] {
            let (mut read, mut before) = (Vec::new(), None);
            loop {
                let page = within(handles.domains.requests(status, before, limit)).await.unwrap();
                let Some(last) = page.last() else { break };
                before = Some(RequestCursor { at: last.created_at, id: last.id });
                assert!(page.len() <= limit as usize);
                read.extend(page);
                assert!(read.len() <= expected.len(), "the pages do not come to an end");
            }
            assert_eq!(read, expected, "by {limit}");
        }
        let at = expected[5].created_at;
        let gone = Some(RequestCursor { at, id: DomainRequestId(Uuid::nil()) });
        let rest: Vec<_> = expected.iter().filter(|request| request.created_at < at).cloned().collect();
        assert_eq!(handles.domains.requests(status, gone, 1000).await.unwrap(), rest);
    }
}

/// Rule 6.
pub async fn domain_store_06_open_request_is_of_one_asker_and_open_requests_of_all<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let askers = [
        Actor::Agent("cmo".parse().unwrap()),
        Actor::Agent("cto".parse().unwrap()),
        // A name that looks like another kind of asker.
        Actor::Token("cmo".to_owned()),
        Actor::System,
    ];
    let domains = ["example.com", "www.example.com", "example.org"];
    let mut open = Vec::new();
    for (n, asker) in askers.iter().enumerate() {
        for (m, domain) in domains.iter().enumerate() {
            let request = make.request(domain, asker.clone());
            if (n + m) % 3 == 0 {
                continue;
            }
            write(&make, &handles, vec![change_request(&request)]).await;
            open.push(DomainRequest { version: Version(1), ..request });
        }
    }
    // One that is decided is not open.
    let by = Decided { approved: false, by: Actor::System, at: make.clock().now(), reason: None };
    let decided = DomainRequest { decided: Some(by), ..open.remove(0) };
    write(&make, &handles, vec![change_request(&decided)]).await;
    for asker in &askers {
        for domain in domains {
            let domain: DomainName = domain.parse().unwrap();
            let expected = open.iter().find(|one| one.domain == domain && one.actor == *asker);
            for store in [&handles.domains, &other.domains] {
                let found = store.open_request(&domain, asker).await.unwrap();
                assert_eq!(found.as_ref(), expected, "{asker} for {domain}");
            }
        }
    }
    for domain in domains {
        let domain: DomainName = domain.parse().unwrap();
        let mut expected: Vec<_> = open.iter().filter(|one| one.domain == domain).cloned().collect();
        expected.sort_by_key(|one| one.id);
        for store in [&handles.domains, &other.domains] {
            let mut found = store.open_requests(&domain, 100).await.unwrap();
            found.sort_by_key(|one| one.id);
            assert_eq!(found, expected, "{domain}");
            assert_eq!(store.open_requests(&domain, 1).await.unwrap().len(), 1);
        }
    }
    assert_eq!(other.domains.open_requests(&"nobody.example".parse().unwrap(), 9).await.unwrap(), []);
}

async fn write(make: &Maker, handles: &Handles, changes: Vec<Change>) {
    must(&handles.ledger, &Commit { changes, ..make.commit() }).await;
}

/// Stores entries whose names some orders would mix up, a few of them removed.
async fn listed(make: &Maker, handles: &Handles) -> Vec<DomainEntry> {
    let names = [
        "example.com",
        "www.example.com",
        "example-a.com",
        "examplea.com",
        "1example.com",
        "a.example.org",
        "example.org",
        "example0.org",
        "xn--mnchen-3ya.de",
        "z.co.uk",
    ];
    let mut entries = Vec::new();
    for (n, name) in names.into_iter().enumerate() {
        let entry = DomainEntry { removed_at: (n % 4 == 2).then(|| make.clock().now()), ..make.domain(name) };
        write(make, handles, vec![change_domain(&entry)]).await;
        entries.push(DomainEntry { version: Version(1), ..entry });
    }
    entries
}
