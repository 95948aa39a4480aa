-- Mailboxes by when they wake, by who sent what, and by expiry. Indexes only. They are made while nobody writes, which is
-- bearable because no version with this table was released yet.

-- What is due is counted and named here without a look at the rows.
DROP INDEX mailbox_waking;
CREATE INDEX mailbox_waking ON mailbox (agent_id, wake_at, id) INCLUDE (created_at, expires_at)
    WHERE acknowledged_at IS NULL;
-- How much of what people and agents sent waits, and how much of it one agent sent.
CREATE INDEX mailbox_sent ON mailbox (agent_id, from_agent) INCLUDE (expires_at)
    WHERE acknowledged_at IS NULL AND kind IN ('message', 'broadcast');
-- For who removes what has expired, who alone says this condition, which always holds: others would rather walk it than
-- their own index.
CREATE INDEX mailbox_expiring ON mailbox (expires_at) WHERE sender <> '#expiring';
