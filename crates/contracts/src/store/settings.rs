//! The rules of `SettingsStore`, `StateStore` and `QuotaStore`.

use std::time::Duration;

use aito_domain::{
    id::{AgentId, Version},
    ports::{
        clock::Clock as _,
        history_store::Written,
        ledger::{Change, Commit},
    },
    quota::{Spent, SpentKind, day_after},
    setting::{Setting, StoredValue},
    state::StateEntry,
    time::{after, millis},
};
use serde_json::json;
use uuid::Uuid;

use super::{
    Handles, Maker, StoreFixture,
    kinds::{TEXTS, actors, change_note, change_setting, values},
    must, within,
};

/// Rule 1 of `SettingsStore`.
pub async fn settings_store_01_what_is_read_is_what_was_committed_by_whoever<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let sealed = [Vec::new(), vec![0], (0..=255).collect(), vec![0xff; 66_000]].map(StoredValue::Sealed);
    let shown: Vec<_> =
        values().into_iter().chain([json!("ä".repeat(30_000))]).map(StoredValue::Plain).collect();
    let actors = actors();
    let mut setting = make.setting("queue", "delay.low_1-A");
    for n in 0..48_usize {
        // From the one kind to the other and back.
        setting.value = if n % 2 == 0 { shown[n / 2 % 6].clone() } else { sealed[n / 2 % 4].clone() };
        setting.description = [None, Some(TEXTS[n % 5].to_owned())][n / 2 % 2].clone();
        setting.updated_by = actors[n % 4].clone();
        setting.updated_at = [millis(0), millis(-5), millis(253_402_300_799_999)][n % 3];
        let writes = if n % 3 == 0 { &handles } else { &other };
        write(&make, writes, vec![change_setting(&setting)]).await;
        setting.version = setting.version.next();
        for store in [&other.settings, &handles.settings] {
            assert_eq!(store.all().await.unwrap(), std::slice::from_ref(&setting));
        }
    }
}

/// Rule 2 of `SettingsStore`.
pub async fn settings_store_02_all_are_ordered_by_category_and_key<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    assert_eq!(handles.settings.all().await.unwrap(), []);
    let mut expected: Vec<Setting> = Vec::new();
    for category in ["queue", "agents", "a-b", "a_b", "ab", "0"] {
        for key in ["delay_low", "Delay_low", "delay-low", "delay.low", "delaylow", "_", "9"] {
            let setting = make.setting(category, key);
            write(&make, &handles, vec![change_setting(&setting)]).await;
            expected.push(Setting { version: Version(1), ..setting });
        }
    }
    expected.sort_by_key(|one| (one.category.clone().into_bytes(), one.key.clone().into_bytes()));
    assert_eq!(handles.settings.all().await.unwrap(), expected);
}

/// Rule 3 of `SettingsStore`.
pub async fn settings_store_03_version_grows_with_every_change<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    assert_eq!(handles.settings.version().await.unwrap(), 0);
    let mut settings = [make.setting("queue", "delay_low"), make.setting("agents", "x")];
    for n in 0..9_usize {
        let setting = &mut settings[n / 2 % 2];
        write(&make, if n % 3 == 0 { &other } else { &handles }, vec![change_setting(setting)]).await;
        setting.version = setting.version.next();
        for store in [&handles.settings, &other.settings] {
            assert_eq!(store.version().await.unwrap(), n as u64 + 1);
        }
    }
    let sum: u64 = handles.settings.all().await.unwrap().iter().map(|one| one.version.0).sum();
    assert_eq!(sum, 9);
}

/// Rule 1 of `StateStore`.
pub async fn state_store_01_what_is_read_is_what_was_committed_by_whoever<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let agents = [make.stored_agent(&handles, "ceo").await.id, make.stored_agent(&handles, "cto").await.id];
    let values: Vec<_> =
        values().into_iter().map(Some).chain([None, Some(json!("ä".repeat(30_000)))]).collect();
    let mut notes = agents.map(|agent| make.note(agent, "last.seen:2025-12_A"));
    for n in 0..42_usize {
        let note = &mut notes[n % 2];
        note.value = values[n / 2 % 7].clone();
        note.updated_at = [millis(0), millis(-5), millis(253_402_300_799_999)][n % 3];
        let writes = if n % 3 == 0 { &handles } else { &other };
        write(&make, writes, vec![change_note(note)]).await;
        note.version = note.version.next();
        let note = note.clone();
        for store in [&other.state, &handles.state] {
            assert_eq!(store.by_key(note.agent_id, &note.key).await.unwrap().as_ref(), Some(&note));
            let page = store.page(note.agent_id, None, 10).await.unwrap();
            assert_eq!(page, if note.value.is_some() { vec![note.clone()] } else { Vec::new() });
        }
    }
    for (agent, key) in
        [(agents[0], "last.seen"), (agents[0], ""), (AgentId(Uuid::max()), "last.seen:2025-12_A")]
    {
        assert_eq!(handles.state.by_key(agent, key).await.unwrap(), None);
    }
}

/// Rule 2 of `StateStore`.
pub async fn state_store_02_page_gives_an_agents_notes_by_key<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, make) = (fixture.handles(), Maker::new());
    let (agents, notes) = noted(&make, &handles).await;
    for agent in agents {
        let mut expected: Vec<_> =
            notes.iter().filter(|note| note.agent_id == agent && note.value.is_some()).cloned().collect();
        expected.sort_by_key(|note| note.key.clone().into_bytes());
        for limit in [0, 1, 5, 1000] {
            let page = handles.state.page(agent, None, limit).await.unwrap();
            assert_eq!(page, expected.iter().take(limit as usize).cloned().collect::<Vec<_>>());
        }
        for limit in [1, 4] {
            let (mut read, mut last): (Vec<StateEntry>, Option<String>) = (Vec::new(), None);
            loop {
                let page = within(handles.state.page(agent, last.as_deref(), limit)).await.unwrap();
                let Some(end) = page.last() else { break };
                last = Some(end.key.clone());
                assert!(page.len() <= limit as usize);
                read.extend(page);
                assert!(read.len() <= expected.len(), "the pages do not come to an end");
            }
            assert_eq!(read, expected);
        }
        let rest: Vec<_> = expected.iter().filter(|note| note.key.as_str() > "a").cloned().collect();
        assert!(rest.len() < expected.len());
        assert_eq!(
            handles.state.page(agent, Some("a"), 1000).await.unwrap(),
            rest,
            "also of a key that is not there"
        );
    }
    assert_eq!(handles.state.page(AgentId(make.uuid()), None, 10).await.unwrap(), []);
}

/// Rule 3 of `StateStore`.
pub async fn state_store_03_a_removed_note_keeps_its_version<F: StoreFixture>() {
    let mut fixture = F::fresh().await;
    let make = Maker::new();
    let agent = make.stored_agent(&fixture.handles(), "ceo").await.id;
    let mut note = make.note(agent, "key");
    for n in 1..=6_u64 {
        note.value = (n % 2 == 1).then(|| json!(n));
        write(&make, &fixture.handles(), vec![change_note(&note)]).await;
        note.version = Version(n);
        if n == 4 {
            fixture.reopen().await;
        }
        for handles in [fixture.handles(), fixture.second_handle().await] {
            assert_eq!(handles.state.by_key(agent, "key").await.unwrap().as_ref(), Some(&note));
            assert_eq!(handles.state.page(agent, None, 10).await.unwrap().len(), n as usize % 2);
        }
    }
}

/// Rule 4 of `StateStore`.
pub async fn state_store_04_count_leaves_out_what_was_removed<F: StoreFixture>() {
    let fixture = F::fresh().await;
    let (handles, other, make) = (fixture.handles(), fixture.second_handle().await, Maker::new());
    let (agents, notes) = noted(&make, &handles).await;
    for agent in agents {
        let mut mine: Vec<_> =
            notes.iter().filter(|note| note.agent_id == agent && note.value.is_some()).cloned().collect();
        while let Some(mut note) = mine.pop() {
            for store in [&handles.state, &other.state] {
                assert_eq!(store.count(agent).await.unwrap(), mine.len() as u64 + 1);
            }
            note.value = None;
            write(&make, &handles, vec![change_note(&note)]).await;
        }
        assert_eq!(handles.state.count(agent).await.unwrap(), 0);
    }
    assert_eq!(handles.state.count(AgentId(make.uuid())).await.unwrap(), 0);
}

/// Rule 1 of `QuotaStore`.
pub async fn quota_store_01_spent_gives_what_was_added<F: StoreFixture>() {
    let mut fixture = F::fresh().await;
    let make = Maker::new();
    let agents = [
        make.stored_agent(&fixture.handles(), "ceo").await.id,
        make.stored_agent(&fixture.handles(), "cto").await.id,
    ];
    let days = [make.day(), day_after(make.day()), millis(0)];
    let mut expected = std::collections::BTreeMap::new();
    for n in 0..40_usize {
        let (agent, kind, day) = (agents[n % 2], SpentKind::ALL[n / 2 % 4], days[n % 3]);
        // Also nothing at all, and more than 32 bits hold.
        let (rows, bytes) = ([0, 1, 5][n / 4 % 3], [0, 7, 5_000_000_000][n / 3 % 3]);
        let spent = vec![Spent { agent, kind, day, rows, bytes }];
        let (handles, other) = (fixture.handles(), fixture.second_handle().await);
        let writes = if n % 3 == 0 { &handles } else { &other };
        must(&writes.ledger, &Commit { spent, ..make.commit() }).await;
        let sum: &mut Written = expected.entry((agent, kind, day)).or_default();
        (sum.rows, sum.bytes) = (sum.rows + rows, sum.bytes + bytes);
        for store in [&handles.quotas, &other.quotas] {
            assert_eq!(store.spent(agent, kind, day).await.unwrap(), *sum);
        }
        drop((handles, other));
        if n == 20 {
            fixture.reopen().await;
        }
    }
    let handles = fixture.handles();
    for agent in agents.into_iter().chain([AgentId(make.uuid())]) {
        for kind in SpentKind::ALL {
            for day in days.into_iter().chain([day_after(days[1]), after(days[0], Duration::from_millis(1))])
            {
                let sum = expected.get(&(agent, kind, day)).copied().unwrap_or_default();
                assert_eq!(handles.quotas.spent(agent, kind, day).await.unwrap(), sum);
            }
        }
    }
    assert!(expected.len() > 12 && make.clock().now() > days[0], "there is something to see");
}

async fn write(make: &Maker, handles: &Handles, changes: Vec<Change>) {
    must(&handles.ledger, &Commit { changes, ..make.commit() }).await;
}

/// Stores notes of two agents whose keys some orders would mix up, a few of them removed.
async fn noted(make: &Maker, handles: &Handles) -> ([AgentId; 2], Vec<StateEntry>) {
    let agents = [make.stored_agent(handles, "ceo").await.id, make.stored_agent(handles, "cto").await.id];
    let mut notes = Vec::new();
    for (n, key) in
        ["b", "B", "_b", "a.b", "a-b", "a:b", "ab", "0", "a_b", "A", "Z", "zz"].into_iter().enumerate()
    {
        for (m, agent) in agents.into_iter().enumerate() {
            let note = StateEntry { value: ((n + m) % 4 != 3).then(|| json!(key)), ..make.note(agent, key) };
            write(make, handles, vec![change_note(&note)]).await;
            notes.push(StateEntry { version: Version(1), ..note });
        }
    }
    (agents, notes)
}
