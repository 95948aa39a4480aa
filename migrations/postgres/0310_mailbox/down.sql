DROP INDEX mailbox_expiring;
DROP INDEX mailbox_sent;
DROP INDEX mailbox_waking;
CREATE INDEX mailbox_waking ON mailbox (agent_id, wake_at) INCLUDE (expires_at) WHERE acknowledged_at IS NULL;
