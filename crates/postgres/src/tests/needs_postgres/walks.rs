//! Every list is a walk through one index, whatever the planner knows: with the values, and without them.

use std::sync::atomic::{AtomicU32, Ordering};

use aito_domain::{
    allowlist::RequestStatus,
    id::{AgentId, DomainRequestId, MailId, TaskId},
    ports::{
        domain_store::RequestCursor,
        mailbox_store::MailCursor,
        task_store::{TaskCursor, TaskQuery},
    },
    task::{Priority, TaskStatus},
    time::millis,
};
use diesel::{debug_query, pg::Pg, query_builder::QueryFragment, sql_types::Text};
use diesel_async::{RunQueryDsl as _, SimpleAsyncConnection as _};
use uuid::Uuid;

use crate::{domains, keyed, mailbox, pool::Lease, sql::Sql, tasks, tests::bench::Bench};

/// 8 agents; the first has half of the tasks, and the newest ones of everybody wait. Row n is of the time n.
const FILLED: &[&str] = &[
    "INSERT INTO agents (id, agent_type, version, desired, incarnation, lifecycle, reach, failures, restarts,
         created_at, updated_at)
     SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, 'a' || n, 1, 'stopped', 0,
         '{\"state\": \"inactive\"}', '{}', 0, 0, now(), now() FROM generate_series(0, 7) AS n",
    "INSERT INTO tasks (id, version, title, priority, status, state, assigned_to, created_by, actor, due_at, overdue,
         claims, created_at, updated_at)
     SELECT gen_random_uuid(), 1, repeat('title ', 20), n % 5,
         CASE WHEN n > 15000 THEN 'pending' WHEN n % 500 = 0 THEN 'in_progress' WHEN n % 100 = 1 THEN 'pending'
              WHEN n % 10 = 2 THEN 'failed' WHEN n % 10 = 3 THEN 'cancelled' ELSE 'completed' END,
         '{}', ('00000000-0000-0000-0000-00000000000' || CASE WHEN n % 2 = 0 THEN 0 ELSE n % 8 END)::uuid,
         CASE WHEN n % 3 = 0 THEN ('00000000-0000-0000-0000-00000000000' || n / 3 % 8)::uuid END,
         'system', CASE WHEN n % 7 = 0 THEN to_timestamp(n) END, n % 14 = 0, 0, to_timestamp(n), now()
     FROM generate_series(1, 20000) AS n",
    "INSERT INTO mailbox (id, version, agent_id, kind, sender, priority, body, created_at, wake_at, expires_at,
         acknowledged_by, acknowledged_at)
     SELECT gen_random_uuid(), 1, ('00000000-0000-0000-0000-00000000000' || n % 8)::uuid, 'message', 'system',
         n % 5, '{}', now(), now(), now() + interval '7 days', CASE WHEN n % 10 > 0 THEN 1 END,
         CASE WHEN n % 10 > 0 THEN now() END
     FROM generate_series(1, 20000) AS n",
    "INSERT INTO domains (id, version, domain, category, actor, created_at, removed_at)
     SELECT gen_random_uuid(), 1, 'd' || n || '.example.com', 'data', 'system', now(),
         CASE WHEN n % 2 = 0 THEN now() END
     FROM generate_series(1, 5000) AS n",
    "INSERT INTO domain_requests (id, version, domain, actor, status, decided_by, decided_at, created_at)
     SELECT gen_random_uuid(), 1, 'd' || n || '.example.com', 'system',
         CASE WHEN n % 50 = 0 THEN 'pending' WHEN n % 3 = 0 THEN 'rejected' ELSE 'approved' END,
         CASE WHEN n % 50 > 0 THEN 'system' END, CASE WHEN n % 50 > 0 THEN now() END, to_timestamp(n)
     FROM generate_series(1, 5000) AS n",
    "INSERT INTO settings (category, key, version, value, updated_by, updated_at)
     SELECT 'c' || n % 10, 'k' || n, 1, '1', 'system', now() FROM generate_series(1, 1000) AS n",
    "INSERT INTO agent_state (agent_id, key, version, value, updated_at)
     SELECT ('00000000-0000-0000-0000-00000000000' || n % 8)::uuid, 'k' || n, 1,
         CASE WHEN n % 4 = 0 THEN '1'::json END, now()
     FROM generate_series(1, 8000) AS n",
    "ANALYZE",
];

fn agent(n: u128) -> AgentId {
    AgentId(Uuid::from_u128(n))
}

/// A statement as diesel shows it: its text and its values.
fn shown<Row>(statement: &Sql<'static, Row>) -> (String, Vec<String>)
where
    Sql<'static, Row>: QueryFragment<Pg>,
{
    let shown = debug_query::<Pg, _>(statement).to_string();
    let (text, values) = shown.split_once(" -- binds: [").unwrap();
    let values = values.trim_end_matches(']').split(", ").filter(|value| !value.is_empty());
    (text.to_owned(), values.map(|value| format!("'{}'", value.trim_matches('"'))).collect())
}

/// How the server does it, which is given no plan by what is known of the values if `is_generic`.
async fn plan<Row>(lease: &mut Lease, statement: Sql<'static, Row>, is_generic: bool) -> String
where
    Sql<'static, Row>: QueryFragment<Pg>,
{
    let (text, values) = shown(&statement);
    let mode = if is_generic { "force_generic_plan" } else { "force_custom_plan" };
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("asked_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let prepared = format!("SET plan_cache_mode = {mode}; PREPARE {name} AS {text}");
    lease.batch_execute(&prepared).await.unwrap();
    let values = if values.is_empty() { String::new() } else { format!("({})", values.join(", ")) };
    let explained = Sql::<Text>::new(format!("EXPLAIN EXECUTE {name}{values}"));
    let lines: Vec<String> = explained.load(&mut **lease).await.unwrap();
    lines.join("\n")
}

/// The names of the indexes that are walked.
fn walked(plan: &str) -> Vec<&str> {
    let lines = plan.lines().filter(|line| line.contains("Index Scan") || line.contains("Index Only Scan"));
    let names = lines.map(|line| {
        let named = line.split(" using ").nth(1).or_else(|| line.split("Bitmap Index Scan on ").nth(1));
        named.unwrap().split(' ').next().unwrap()
    });
    names.collect()
}

/// Looks that a statement is a walk through these indexes and nothing else, which filters nothing out of them but
/// what `filters` says.
macro_rules! walks {
    ($lease:expr, $statement:expr, $indexes:expr) => {
        walks!($lease, $statement, $indexes, "")
    };
    ($lease:expr, $statement:expr, $indexes:expr, $filter:expr) => {
        for is_generic in [true, false] {
            let plan = plan($lease, $statement, is_generic).await;
            assert_eq!(walked(&plan), $indexes, "generic: {is_generic}\n{plan}");
            for other in ["Sort  (", "Seq Scan", "Bitmap", "Hash"] {
                assert!(!plan.contains(other), "generic: {is_generic}\n{plan}");
            }
            for line in plan.lines().filter(|line| line.contains("Filter:")) {
                assert!(!$filter.is_empty() && line.contains($filter), "generic: {is_generic}\n{plan}");
            }
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_a_walk_through_its_own_index() {
    let bench = Bench::with(|options| options.connections = 1).await;
    bench.run(FILLED).await;
    let mut lease = bench.store.pool.lease().await.unwrap();
    let lease = &mut lease;

    let cursor = TaskCursor { at: millis(10_000_000), id: TaskId(Uuid::from_u128(5)) };
    let statuses = TaskStatus::ALL.map(Some).into_iter().chain([None]);
    for status in statuses {
        for (assigned_to, seen_by, indexes) in [
            (None, None, &["tasks_by_time"][..]),
            (Some(0), None, &["tasks_by_assignee"]),
            (Some(3), None, &["tasks_by_assignee"]),
            (Some(3), Some(3), &["tasks_by_assignee"]),
            (Some(0), Some(3), &["tasks_by_both"]),
            (None, Some(0), &["tasks_by_assignee", "tasks_by_creator"]),
        ] {
            let query =
                TaskQuery { status, assigned_to: assigned_to.map(agent), seen_by: seen_by.map(agent) };
            let indexes: Vec<String> = indexes
                .iter()
                .map(|index| match (status, *index) {
                    (None, index) => index.to_owned(),
                    (Some(_), "tasks_by_time") => "tasks_by_status".to_owned(),
                    (Some(_), index) => format!("{index}_status"),
                })
                .collect();
            for before in [None, Some(cursor)] {
                walks!(lease, tasks::page(&query, before, 20, 50), indexes);
            }
            for is_generic in [true, false] {
                let plan = plan(lease, tasks::total(&query), is_generic).await;
                let walked: Vec<&str> =
                    walked(&plan).into_iter().filter(|index| index.starts_with("tasks")).collect();
                assert_eq!(walked, indexes, "{plan}");
                assert!(!plan.contains("Sort  (") && !plan.contains("Seq Scan"), "{plan}");
            }
        }
    }
    walks!(lease, tasks::overdue(50), ["tasks_due"]);

    for after in [None, Some(MailCursor { priority: Priority::High, id: MailId(Uuid::from_u128(5)) })] {
        walks!(lease, mailbox::waiting(agent(3), after, 50), ["mailbox_waiting"], "expires_at");
    }
    for after in [None, Some("d17.example.com".parse().unwrap())] {
        walks!(lease, domains::page(after.as_ref(), 50), ["domains_standing"]);
    }
    for status in RequestStatus::ALL {
        for before in
            [None, Some(RequestCursor { at: millis(1_000_000), id: DomainRequestId(Uuid::from_u128(5)) })]
        {
            walks!(lease, domains::requests(status, before, 50), ["domain_requests_by_status"]);
        }
    }
    walks!(lease, domains::open_requests(&"d50.example.com".parse().unwrap(), 50), ["domain_requests_open"]);
    walks!(lease, keyed::all_settings(), ["settings_pkey"]);
    for after in [None, Some("k17")] {
        walks!(lease, keyed::notes(agent(3), after, 50), ["agent_state_present"]);
    }
}

/// These give few rows, or one: not their order matters, but that they read no more.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_claim_decides_on_and_what_is_counted_reads_no_more_than_that() {
    let bench = Bench::with(|options| options.connections = 1).await;
    bench.run(FILLED).await;
    let mut lease = bench.store.pool.lease().await.unwrap();
    for is_generic in [true, false] {
        let claimable = plan(&mut lease, tasks::held_and_oldest(agent(0)), is_generic).await;
        assert_eq!(walked(&claimable), ["tasks_in_progress", "tasks_waiting"], "{claimable}");
        let due = plan(&mut lease, mailbox::due(agent(0)), is_generic).await;
        assert_eq!(walked(&due), ["mailbox_waking"; 4], "{due}");
        let room = plan(&mut lease, mailbox::room(agent(0), Some(agent(3))), is_generic).await;
        assert_eq!(walked(&room), ["mailbox_sent"; 2], "{room}");
        let forget = plan(&mut lease, mailbox::forget(1000), is_generic).await;
        assert_eq!(walked(&forget), ["mailbox_expiring", "mailbox_pkey"], "{forget}");
        let leases = plan(&mut lease, tasks::leases(), is_generic).await;
        assert_eq!(walked(&leases), ["tasks_in_progress"], "{leases}");
        let notes = plan(&mut lease, keyed::count(agent(0)), is_generic).await;
        assert!(notes.contains("agent_state_present"), "{notes}");
        let all = [claimable, due, room, forget, leases, notes].join("\n");
        assert!(!all.contains("Seq Scan") && !all.contains("Sort  ("), "{all}");
    }
}
