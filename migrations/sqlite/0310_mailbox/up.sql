-- Mailboxes by when they wake, by who sent what, and by expiry; who works on tasks. Indexes only.

-- What wakes an agent by now, and when the next message does.
CREATE INDEX mailbox_waking ON mailbox (agent_id, wake_at, id) WHERE acknowledged_at IS NULL;
-- How much of what people and agents sent waits, and how much of it one agent sent.
CREATE INDEX mailbox_sent ON mailbox (agent_id, from_agent, expires_at)
    WHERE acknowledged_at IS NULL AND kind IN ('message', 'broadcast');
CREATE INDEX mailbox_expiring ON mailbox (expires_at);
-- Which incarnations work on tasks, without a look at the tasks.
CREATE INDEX tasks_leases ON tasks (assigned_to, json_extract(state, '$.incarnation')) WHERE status = 'in_progress';
