DROP INDEX tasks_leases;
DROP INDEX mailbox_expiring;
DROP INDEX mailbox_sent;
DROP INDEX mailbox_waking;
