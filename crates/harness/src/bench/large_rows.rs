//! Rows of years, made in minutes: events, tasks and what belongs to them, straight into a store's tables.
//!
//! Invariants: the tables are those that the server's migrations made, with the same indexes before and after; the rows
//! are such as the server writes, read back by it without a fault; of two stores one has only more of them. No server
//! is connected meanwhile. Room on the disk is looked for first, and every step is bounded in time.

use std::{path::Path, time::Duration};

use super::words;
use crate::{servers, wait};

/// What the large store and its log take at the most, in bytes.
const ROOM: u64 = 8 << 30;
/// How long one step may take.
const PATIENCE: Duration = Duration::from_secs(30 * 60);

/// How many rows of each kind are made.
pub(super) struct Size {
    /// What people call it.
    pub(super) name: &'static str,
    pub(super) events: u64,
    /// Each with a message to its agent that was heard.
    pub(super) tasks: u64,
    /// Of one agent.
    pub(super) history: u64,
    /// Requests for domains, of each status.
    pub(super) requests: u64,
    pub(super) domains: u64,
    pub(super) audit: u64,
    /// Messages that wait for one agent: as many as may.
    pub(super) waiting: u64,
}

/// To compare with.
pub(super) const SMALL: Size = Size {
    name: "the small store",
    events: 10_000,
    tasks: 10_000,
    history: 10_000,
    requests: 1000,
    domains: 1000,
    audit: 10_000,
    waiting: 1000,
};

/// What is compared.
pub(super) const LARGE: Size = Size {
    name: "the large store",
    events: 10_000_000,
    tasks: 1_000_000,
    history: 1_000_000,
    requests: 100_000,
    domains: 100_000,
    audit: 100_000,
    waiting: 1000,
};

/// What it came to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filled {
    /// How long it took.
    pub(super) time: Duration,
    /// The size of the database.
    pub(super) bytes: u64,
}

/// Says how much room is missing where sandboxes are.
pub(super) fn room(sandboxes: &Path) -> Result<(), String> {
    let untold = |why: rustix::io::Errno| format!("{} does not tell its room: {why}", sandboxes.display());
    let told = rustix::fs::statvfs(sandboxes).map_err(untold)?;
    enough(told.f_bavail.saturating_mul(told.f_frsize))
        .map_err(|why| format!("{} {why}", sandboxes.display()))
}

fn enough(free: u64) -> Result<(), String> {
    const GIB: f64 = (1_u64 << 30) as f64;
    if free >= ROOM {
        return Ok(());
    }
    let (free, missing, all) = (free as f64 / GIB, (ROOM - free) as f64 / GIB, ROOM as f64 / GIB);
    Err(format!("has {free:.1} GiB free of the {all:.0} that this needs: {missing:.1} GiB are missing"))
}

/// Fills the database that a server has migrated, and that no server is connected to.
pub(super) async fn fill(url: &str, size: &Size) -> Result<Filled, String> {
    let since = wait::stopwatch();
    // Else what was written stands on the disk twice.
    let log = ["ALTER SYSTEM SET max_wal_size = '512MB'", "SELECT pg_reload_conf()"];
    let log_as_before = ["ALTER SYSTEM RESET max_wal_size", "SELECT pg_reload_conf()"];
    for statement in log {
        run(url, statement.to_owned()).await?;
    }
    let filled = steps(url, size).await;
    for statement in log_as_before {
        run(url, statement.to_owned()).await?;
    }
    filled?;
    let bytes = run(url, "SELECT pg_database_size(current_database())".to_owned()).await?;
    let bytes = bytes.trim().parse().map_err(|_| format!("\"{bytes}\" is no size"))?;
    let time = since();
    eprintln!("  {}: {:.1} s, {} MiB", size.name, time.as_secs_f64(), bytes >> 20);
    Ok(Filled { time, bytes })
}

async fn steps(url: &str, size: &Size) -> Result<(), String> {
    for Step { table, rows, statement } in all(size) {
        let since = wait::stopwatch();
        run(url, statement).await.map_err(|why| format!("{table}: {why}"))?;
        eprintln!("  {}: {rows} rows of {table} in {:.1} s", size.name, since().as_secs_f64());
    }
    // As the server's own housekeeping would do sooner or later.
    run(url, "VACUUM (ANALYZE)".to_owned()).await?;
    run(url, "CHECKPOINT".to_owned()).await?;
    Ok(())
}

async fn run(url: &str, statement: String) -> Result<String, String> {
    let url = url.to_owned();
    let running = tokio::task::spawn_blocking(move || servers::sql(&url, &statement));
    let ended = tokio::time::timeout(PATIENCE, running).await;
    let ended = ended.map_err(|_| format!("a statement takes longer than {PATIENCE:?}"))?;
    ended.map_err(|why| why.try_into_panic().map_or_else(|why| why.to_string(), |panic| words(&*panic)))
}

/// One table's rows.
struct Step {
    table: &'static str,
    rows: u64,
    statement: String,
}

impl Step {
    fn new(table: &'static str, rows: u64, insert: &str) -> Self {
        Self { table, rows, statement: in_bulk(table, insert) }
    }
}

/// What adds rows to a table, in one transaction: its indexes and keys are taken off, and made anew afterwards.
fn in_bulk(table: &str, insert: &str) -> String {
    let patience = PATIENCE.as_millis();
    format!(
        "SET LOCAL synchronous_commit = off;
         SET LOCAL maintenance_work_mem = '512MB';
         SET LOCAL statement_timeout = {patience};
         -- As the server makes ids: in the order of time.
         CREATE OR REPLACE FUNCTION pg_temp.id_of(at timestamptz, n bigint) RETURNS uuid LANGUAGE sql STABLE AS $$
             SELECT (lpad(to_hex((date_part('epoch', at) * 1000)::bigint), 12, '0') || '70008'
                     || lpad(to_hex(n), 15, '0'))::uuid
         $$;
         CREATE FUNCTION pg_temp.at(n bigint) RETURNS timestamptz LANGUAGE sql STABLE AS $$
             SELECT date_trunc('day', now()) - interval '30 days' + n * interval '1 millisecond'
         $$;
         CREATE FUNCTION pg_temp.chance(n bigint, what bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
             SELECT hashint8extended(n, what) & 1048575
         $$;
         CREATE TEMPORARY TABLE kept ON COMMIT DROP AS
             SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) AS take,
                 format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname,
                        pg_get_constraintdef(oid)) AS make
             FROM pg_constraint WHERE conrelid = '{table}'::regclass AND contype IN ('p', 'u', 'f')
             UNION ALL
             SELECT format('DROP INDEX %s', indexrelid::regclass), pg_get_indexdef(indexrelid)
             FROM pg_index WHERE indrelid = '{table}'::regclass
                 AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = indrelid AND conindid = indexrelid);
         DO $$ DECLARE one record; BEGIN FOR one IN SELECT * FROM kept LOOP EXECUTE one.take; END LOOP; END $$;
         {insert};
         DO $$ DECLARE one record; BEGIN FOR one IN SELECT * FROM kept LOOP EXECUTE one.make; END LOOP; END $$"
    )
}

/// Every row is made of its number, and of what chance makes of that.
fn all(size: &Size) -> Vec<Step> {
    const AGENTS: &str = "(SELECT array_agg(id ORDER BY agent_type) AS ids,
                               array_agg(agent_type ORDER BY agent_type) AS types FROM agents) AS agents";
    let Size { events, tasks, history, requests, domains, audit, waiting, .. } = *size;
    let all_requests = requests * 3;
    vec![
        Step::new(
            "events",
            events,
            &format!(
                "INSERT INTO events (id, event_type, source_agent, actor, body, created_at)
                 SELECT pg_temp.id_of(at, n), event_type, ids[agent], 'agent:' || types[agent],
                     CASE event_type
                         WHEN 'task_created' THEN json_build_object('taskId', pg_temp.id_of(at, n),
                             'title', 'Task ' || n, 'priority', 'normal', 'assignedTo', types[agent])
                         WHEN 'history_recorded' THEN json_build_object('agentType', types[agent],
                             'historyId', pg_temp.id_of(at, n), 'actionType', 'decision')
                         ELSE json_build_object('agentType', types[agent], 'status', 'active', 'incarnation', 1)
                     END, at
                 FROM {AGENTS}, generate_series(1, {events}) AS n,
                     LATERAL (SELECT pg_temp.at(n) AS at, 1 + pg_temp.chance(n, 1) % cardinality(types) AS agent,
                         (ARRAY['task_created', 'task_created', 'task_updated', 'task_updated', 'task_completed',
                                'history_recorded', 'history_recorded', 'history_recorded', 'message_sent',
                                'message_acknowledged', 'state_updated', 'agent_started'])
                             [1 + pg_temp.chance(n, 2) % 12] AS event_type) AS made"
            ),
        ),
        Step::new(
            "event_order",
            events,
            "INSERT INTO event_order (position, seq, event_type, source_agent)
             SELECT head.position + seq - last, seq, event_type, source_agent
             FROM events, event_head AS head, (SELECT coalesce(max(seq), 0) AS last FROM event_order) AS ordered
             WHERE seq > last;
             -- Of whatever waited for its position too.
             TRUNCATE event_pending;
             UPDATE event_head SET position = (SELECT max(position) FROM event_order)",
        ),
        Step::new(
            "tasks",
            tasks,
            // None is in progress: nobody works, and the server would take it back.
            &format!(
                "INSERT INTO tasks (id, version, title, description, priority, status, state, assigned_to,
                                    created_by, actor, due_at, overdue, claims, created_at, updated_at)
                 SELECT pg_temp.id_of(at, n), 2, 'Task ' || n, 'What is to be done, in some words.',
                     pg_temp.chance(n, 3) % 5, status,
                     CASE status
                         WHEN 'pending' THEN json_build_object('state', status)
                         WHEN 'completed' THEN json_build_object('state', status, 'result', NULL, 'at', at)
                         WHEN 'failed' THEN json_build_object('state', status, 'error', 'It did not go.', 'at', at)
                         ELSE json_build_object('state', status, 'reason', NULL, 'at', at)
                     END,
                     ids[1 + pg_temp.chance(n, 1) % cardinality(ids)], ids[creator],
                     coalesce('agent:' || types[creator], 'token:operations'),
                     CASE WHEN n % 4 = 0 THEN now() + interval '30 days' END, false, 1, at, at
                 FROM {AGENTS}, generate_series(1, {tasks}) AS n,
                     LATERAL (SELECT pg_temp.at(n) AS at, 1 + pg_temp.chance(n, 5) % (1 + cardinality(ids)) AS creator,
                         (ARRAY['pending', 'pending', 'completed', 'completed', 'completed', 'completed', 'completed',
                                'completed', 'failed', 'cancelled'])[1 + pg_temp.chance(n, 2) % 10] AS status) AS made"
            ),
        ),
        Step::new(
            "mailbox",
            tasks + waiting,
            &format!(
                "INSERT INTO mailbox (id, version, agent_id, kind, sender, from_agent, priority, body, created_at,
                                      wake_at, expires_at, acknowledged_by, acknowledged_at)
                 SELECT pg_temp.id_of(at, n), 2, ids[1 + pg_temp.chance(n, 1) % cardinality(ids)], 'task',
                     'token:operations', NULL, pg_temp.chance(n, 3) % 5,
                     json_build_object('taskId', pg_temp.id_of(at, n), 'title', 'Task ' || n, 'priority', 'normal'),
                     at, at, at + interval '7 days', 1, at
                 FROM {AGENTS}, generate_series(1, {tasks}) AS n, LATERAL (SELECT pg_temp.at(n) AS at) AS made;
                 INSERT INTO mailbox (id, version, agent_id, kind, sender, from_agent, priority, body, created_at,
                                      wake_at, expires_at)
                 SELECT pg_temp.id_of(now(), n), 1, agents.id, 'message', 'token:operations', NULL,
                     pg_temp.chance(n, 3) % 5, json_build_object('message', 'Message ' || n), pg_temp.at(n),
                     now() + interval '1 day', now() + interval '7 days'
                 FROM agents, generate_series(1, {waiting}) AS n WHERE agent_type = 'cmo'"
            ),
        ),
        Step::new(
            "history",
            history,
            &format!(
                "INSERT INTO history (id, agent_id, incarnation, action_type, summary, details, created_at)
                 SELECT pg_temp.id_of(at, n), agents.id, 1, 'decision', 'Compared the offers of week ' || n,
                     json_build_object('offers', 3, 'chosen', n % 3), at
                 FROM agents, generate_series(1, {history}) AS n, LATERAL (SELECT pg_temp.at(n) AS at) AS made
                 WHERE agent_type = 'ceo'"
            ),
        ),
        Step::new(
            "domains",
            domains,
            &format!(
                "INSERT INTO domains (id, version, domain, category, description, actor, created_at)
                 SELECT pg_temp.id_of(at, n), 1, 'shop-' || lpad(n::text, 7, '0') || '.com', 'shops', NULL,
                     'token:operations', at
                 FROM generate_series(1, {domains}) AS n, LATERAL (SELECT pg_temp.at(n) AS at) AS made"
            ),
        ),
        Step::new(
            "domain_requests",
            all_requests,
            &format!(
                "INSERT INTO domain_requests (id, version, domain, url, requested_by, actor, task_context, reason,
                                              category, status, decided_by, decided_at, decision_reason, created_at)
                 SELECT pg_temp.id_of(at, n), 1, 'shop-' || lpad(n::text, 7, '0') || '.com', NULL,
                     ids[agent], 'agent:' || types[agent], NULL, 'For a comparison of prices.', 'shops', status,
                     CASE WHEN status <> 'pending' THEN 'token:operations' END,
                     CASE WHEN status <> 'pending' THEN at END, NULL, at
                 FROM {AGENTS}, generate_series(1, {all_requests}) AS n,
                     LATERAL (SELECT pg_temp.at(n) AS at, 1 + pg_temp.chance(n, 1) % cardinality(ids) AS agent,
                         (ARRAY['pending', 'approved', 'rejected'])[1 + n % 3] AS status) AS made"
            ),
        ),
        Step::new(
            "audit",
            audit,
            // The seals are no chain: only who checks them would see that.
            &format!(
                "INSERT INTO audit (id, at, actor, credential, operation, object, source, request_id, outcome, detail,
                                    times, n, seal)
                 SELECT pg_temp.id_of(made.at, number), made.at, 'token:operations', 'token',
                     (ARRAY['tasks.create', 'tasks.edit', 'agents.start'])[1 + pg_temp.chance(number, 1) % 3],
                     '/tasks/' || pg_temp.id_of(made.at, number), '127.0.0.1', 'request-' || number, 'done', '', 1,
                     head.n + number, sha256(convert_to(number::text, 'UTF8'))
                 FROM audit_head AS head, generate_series(1, {audit}) AS number,
                     LATERAL (SELECT pg_temp.at(number) AS at) AS made;
                 UPDATE audit_head SET (n, seal) = (SELECT n, seal FROM audit WHERE n IS NOT NULL
                                                    ORDER BY n DESC LIMIT 1)"
            ),
        ),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a failed unwrap is a failed test
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_of_the_room_is_told() {
        assert_eq!(enough(ROOM), Ok(()));
        let why = enough(ROOM - (3 << 29)).unwrap_err();
        assert_eq!(why, "has 6.5 GiB free of the 8 that this needs: 1.5 GiB are missing");
        assert!(room(Path::new("/nowhere/at/all")).unwrap_err().contains("/nowhere/at/all"));
    }

    #[test]
    fn the_large_store_has_more_of_everything_but_what_is_bounded() {
        for (small, large) in all(&SMALL).iter().zip(all(&LARGE)) {
            assert_eq!(small.table, large.table);
            assert!(small.rows < large.rows, "{}", small.table);
        }
        assert_eq!(SMALL.waiting, LARGE.waiting);
    }
}
