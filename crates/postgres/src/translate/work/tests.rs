//! What goes in comes out equal, in one order, and what cannot be understood is an error.

use aito_domain::{
    event::{NewEvent, Payload},
    id::{CommitId, EventId},
    ports::ledger::{Commit, Speaker},
    quota::SpentKind,
    task::{ClaimRules, Lease, PickOutcome, Picked, TaskPick, TaskState},
    time::millis,
};
use serde_json::json;

use super::{super::CommitRows, *};

fn task(id: u128) -> Task {
    Task {
        id: TaskId(Uuid::from_u128(id)),
        version: Version(6),
        title: "\"quoted\" and ünïcode".into(),
        description: Some(String::new()),
        priority: Priority::Urgent,
        state: TaskState::InProgress(Lease { incarnation: Incarnation(8), since: millis(3) }),
        assigned_to: AgentId(Uuid::from_u128(1)),
        created_by: Some(AgentId(Uuid::from_u128(2))),
        actor: Actor::Token("ops".into()),
        due_at: Some(millis(9)),
        overdue: true,
        claims: i64::MAX as u64,
        created_at: millis(1),
        updated_at: millis(2),
    }
}

fn mail(id: u128) -> Mail {
    Mail {
        id: MailId(Uuid::from_u128(id)),
        version: Version(6),
        agent_id: AgentId(Uuid::from_u128(1)),
        kind: MailKind::Notice,
        sender: Actor::System,
        from_agent: Some(AgentId(Uuid::from_u128(2))),
        priority: Priority::Critical,
        body: json!({"deep": [0.1, 1e300, null, "\u{0}"]}),
        created_at: millis(1),
        wake_at: millis(2),
        expires_at: millis(3),
        acknowledged: Some(Acknowledged { incarnation: Incarnation(8), at: millis(4) }),
    }
}

fn entry(id: u128, domain: &str) -> DomainEntry {
    DomainEntry {
        id: DomainId(Uuid::from_u128(id)),
        version: Version(6),
        domain: domain.parse().unwrap(),
        category: "data".into(),
        description: Some("more".into()),
        actor: Actor::Agent("ceo".parse().unwrap()),
        created_at: millis(1),
        removed_at: Some(millis(2)),
    }
}

fn request(id: u128, domain: &str) -> DomainRequest {
    DomainRequest {
        id: DomainRequestId(Uuid::from_u128(id)),
        version: Version(6),
        domain: domain.parse().unwrap(),
        url: Some("https://example.com/x".into()),
        requested_by: Some(AgentId(Uuid::from_u128(1))),
        actor: Actor::Agent("ceo".parse().unwrap()),
        task_context: Some("for a task".into()),
        reason: Some("why".into()),
        category: Some("data".into()),
        decided: Some(Decided { approved: false, by: Actor::System, at: millis(5), reason: None }),
        created_at: millis(1),
    }
}

fn setting(key: &str, value: StoredValue) -> Setting {
    Setting {
        category: "queue".into(),
        key: key.into(),
        version: Version(6),
        value,
        description: None,
        updated_by: Actor::Token("ops".into()),
        updated_at: millis(1),
    }
}

fn note(agent: u128, key: &str) -> StateEntry {
    StateEntry {
        agent_id: AgentId(Uuid::from_u128(agent)),
        key: key.into(),
        version: Version(6),
        value: Some(json!(null)),
        updated_at: millis(1),
    }
}

#[test]
fn everything_reads_back_with_the_next_version() {
    let states = [
        TaskState::Pending,
        TaskState::Completed { result: Some(json!({"deep": [0.1, null]})), at: millis(4) },
        TaskState::Completed { result: None, at: millis(4) },
        TaskState::Failed { error: String::new(), at: millis(4) },
        TaskState::Cancelled { reason: None, at: millis(4) },
    ];
    let of_states = states.into_iter().map(|state| Task { state, ..task(3) });
    let bare = Task { description: None, created_by: None, due_at: None, overdue: false, ..task(3) };
    for task in of_states.chain([task(3), bare]) {
        let read = TaskRow::next_of(&task).unwrap().into_domain().unwrap();
        assert_eq!(read, Task { version: Version(7), ..task });
    }
    for mail in [mail(3), Mail { acknowledged: None, from_agent: None, ..mail(3) }] {
        let read = MailRow::next_of(&mail).unwrap().into_domain().unwrap();
        assert_eq!(read, Mail { version: Version(7), ..mail });
    }
    for entry in [entry(3, "a.com"), DomainEntry { removed_at: None, ..entry(3, "a.com") }] {
        let read = DomainRow::next_of(&entry).unwrap().into_domain().unwrap();
        assert_eq!(read, DomainEntry { version: Version(7), ..entry });
    }
    let approved = Decided { approved: true, by: Actor::System, at: millis(5), reason: Some("ok".into()) };
    for decided in [None, Some(approved), request(3, "a.com").decided] {
        let request = DomainRequest { decided, ..request(3, "a.com") };
        let read = DomainRequestRow::next_of(&request).unwrap().into_domain().unwrap();
        assert_eq!(read, DomainRequest { version: Version(7), ..request });
    }
    for value in [StoredValue::Plain(json!(null)), StoredValue::Sealed(vec![0, 255])] {
        let setting = setting("delay_low", value);
        let read = SettingRow::next_of(&setting).unwrap().into_domain().unwrap();
        assert_eq!(read, Setting { version: Version(7), ..setting });
    }
    for note in [note(3, "a"), StateEntry { value: None, ..note(3, "a") }] {
        let read = StateRow::next_of(&note).unwrap().into_domain().unwrap();
        assert_eq!(read, StateEntry { version: Version(7), ..note });
    }
}

#[test]
fn a_commit_writes_each_kind_in_one_order_with_new_rows_apart() {
    let new = |change| match change {
        Change::Domain(entry) => Change::Domain(Box::new(DomainEntry { version: Version(0), ..*entry })),
        Change::Mail(mail) => Change::Mail(Box::new(Mail { version: Version(0), ..*mail })),
        other => other,
    };
    let domain = |id, domain: &str| Change::Domain(Box::new(entry(id, domain)));
    let changes = vec![
        Change::Task(Box::new(task(3))),
        Change::Task(Box::new(task(2))),
        domain(9, "a.com"),
        domain(8, "b.com"),
        new(domain(6, "d.com")),
        new(domain(7, "c.com")),
        new(Change::Mail(Box::new(mail(5)))),
        new(Change::Mail(Box::new(mail(4)))),
        Change::Mail(Box::new(mail(3))),
        Change::DomainRequest(Box::new(request(1, "a.com"))),
        Change::Setting(Box::new(setting("b", StoredValue::Sealed(vec![1])))),
        Change::Setting(Box::new(setting("a", StoredValue::Sealed(vec![1])))),
        Change::State(Box::new(note(2, "a"))),
        Change::State(Box::new(note(1, "b"))),
        Change::State(Box::new(note(1, "a"))),
    ];
    let rows = WorkRows::of(&changes, &[]).unwrap();
    let ids = |rows: &[(i64, TaskRow)]| rows.iter().map(|(_, row)| row.id.as_u128()).collect::<Vec<_>>();
    assert_eq!(ids(&rows.tasks.stored), [2, 3]);
    assert_eq!(rows.domains.stored.iter().map(|(_, row)| row.id.as_u128()).collect::<Vec<_>>(), [8, 9]);
    assert_eq!(
        rows.domains.new.iter().map(|row| row.domain.as_str()).collect::<Vec<_>>(),
        ["c.com", "d.com"]
    );
    assert_eq!(rows.mail.len(), 1);
    assert_eq!(rows.new_mail.ids, [5, 4].map(Uuid::from_u128));
    assert_eq!(rows.new_mail.versions, [1, 1]);
    assert_eq!((rows.requests.stored.len(), rows.requests.new.len()), (1, 0));
    assert_eq!(rows.settings.stored.iter().map(|(_, row)| row.key.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let notes: Vec<(u128, &str)> =
        rows.states.stored.iter().map(|(_, row)| (row.agent_id.as_u128(), row.key.as_str())).collect();
    assert_eq!(notes, [(1, "a"), (1, "b"), (2, "a")]);
}

#[test]
fn what_is_spent_is_summed_and_ordered() {
    let spent = |agent: u128, kind, rows, bytes| Spent {
        agent: AgentId(Uuid::from_u128(agent)),
        kind,
        day: millis(0),
        rows,
        bytes,
    };
    let all = [
        spent(2, SpentKind::Tasks, 1, 10),
        spent(1, SpentKind::Tasks, 1, 20),
        spent(1, SpentKind::State, 1, 30),
        spent(1, SpentKind::Tasks, 2, 40),
    ];
    let rows = NewSpent::of(&all).unwrap();
    assert_eq!(rows.agent_ids, [1, 1, 2].map(Uuid::from_u128));
    assert_eq!(rows.kinds, ["state", "tasks", "tasks"]);
    assert_eq!((rows.rows, rows.bytes), (vec![1, 3, 1], vec![30, 60, 10]));
    assert!(NewSpent::of(&[spent(1, SpentKind::Tasks, u64::MAX, 1)]).is_err());
}

#[test]
fn a_pick_adds_to_what_its_commit_writes_and_is_its_answer() {
    let event = |id: u128| NewEvent {
        id: EventId(Uuid::from_u128(id)),
        source_agent: None,
        actor: Actor::System,
        payload: Payload::Unknown { event_type: "test".into(), body: json!({}) },
        created_at: millis(1),
    };
    let agent = AgentId(Uuid::from_u128(1));
    let pick = TaskPick {
        agent,
        claimant: None,
        rules: ClaimRules { at_most: 1, age_step: std::time::Duration::ZERO },
        at: millis(1),
        actor: Actor::System,
        ids: vec![],
        mail_ids: vec![],
        delays: aito_domain::mailbox::Delays::default(),
    };
    let commit = Commit {
        changes: vec![Change::Task(Box::new(task(3)))],
        events: vec![event(1)],
        speaker: Some(Speaker { agent, incarnation: Incarnation(8) }),
        pick: Some(pick),
        answer: Some(json!("whatever")),
        ..Commit::new(CommitId(Uuid::from_u128(9)))
    };
    let mut rows = CommitRows::of(&commit).unwrap();
    assert_eq!((&rows.answer, rows.speaker), (&None, Some((agent.0, 8))));
    let outcome = PickOutcome::Claimed { task: task(2).id };
    let told = Mail { version: Version(0), ..mail(4) };
    let picked = Picked {
        tasks: vec![task(2)],
        mails: vec![told.clone()],
        events: vec![event(2)],
        outcome: outcome.clone(),
    };
    rows.add(&picked).unwrap();
    assert_eq!((&rows.work.new_mail.ids, &rows.work.new_mail.versions), (&vec![told.id.0], &vec![1]));
    assert_eq!(
        rows.work.tasks.stored.iter().map(|(at, row)| (*at, row.id.as_u128())).collect::<Vec<_>>(),
        [(6, 2), (6, 3)]
    );
    assert_eq!(rows.events.ids, [1, 2].map(Uuid::from_u128));
    assert_eq!(serde_json::from_value::<PickOutcome>(rows.answer.unwrap()).unwrap(), outcome);
}

#[test]
fn what_does_not_fit_is_refused_and_what_is_strange_is_an_error() {
    assert!(TaskRow::next_of(&Task { claims: u64::MAX, ..task(1) }).is_err());
    assert!(TaskRow::next_of(&Task { version: Version(i64::MAX as u64), ..task(1) }).is_err());
    let row = TaskRow::next_of(&task(1)).unwrap();
    for strange in [
        TaskRow { priority: 5, ..row.clone() },
        TaskRow { status: "pending".into(), ..row.clone() },
        TaskRow { state: json!({"state": "dreaming"}), ..row.clone() },
        TaskRow { claims: -1, ..row },
    ] {
        assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
    }
    let row = MailRow::next_of(&mail(1)).unwrap();
    for strange in [
        MailRow { kind: "letter".into(), ..row.clone() },
        MailRow { priority: -1, ..row.clone() },
        MailRow { acknowledged_by: None, ..row },
    ] {
        assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
    }
    let row = DomainRequestRow::next_of(&request(1, "a.com")).unwrap();
    for strange in [
        DomainRequestRow { status: "postponed".into(), ..row.clone() },
        DomainRequestRow { status: "pending".into(), ..row.clone() },
        DomainRequestRow { decided_by: None, ..row.clone() },
        DomainRequestRow { domain: "com".into(), ..row },
    ] {
        assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
    }
    let row = SettingRow::next_of(&setting("a", StoredValue::Sealed(vec![1]))).unwrap();
    for strange in [SettingRow { value: Some(json!(1)), ..row.clone() }, SettingRow { sealed: None, ..row }] {
        assert!(matches!(strange.clone().into_domain(), Err(Untranslatable::Strange(..))), "{strange:?}");
    }
    let row = StateRow { version: -1, ..StateRow::next_of(&note(1, "a")).unwrap() };
    assert!(row.into_domain().is_err());
}
