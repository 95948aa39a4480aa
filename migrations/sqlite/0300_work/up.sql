-- Work and policy: tasks, mailboxes, the list of domains, settings, agents' notes, and what agents have used up.

CREATE TABLE tasks (
    id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    version INTEGER NOT NULL CHECK (version > 0),
    title TEXT NOT NULL,
    description TEXT,
    -- 0 (low) to 4 (critical).
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 4),
    -- The word for what `state` says, for the indexes.
    status TEXT NOT NULL,
    state TEXT NOT NULL,
    assigned_to BLOB NOT NULL REFERENCES agents (id),
    created_by BLOB CHECK (length(created_by) = 16),
    actor TEXT NOT NULL,
    due_at INTEGER,
    overdue INTEGER NOT NULL CHECK (overdue IN (0, 1)),
    claims INTEGER NOT NULL CHECK (claims >= 0),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- Each ends with the time and the id, so that a filtered page is a walk through one of them.
CREATE INDEX tasks_by_time ON tasks (created_at, id);
CREATE INDEX tasks_by_status ON tasks (status, created_at, id);
CREATE INDEX tasks_by_agent ON tasks (assigned_to, created_at, id);
CREATE INDEX tasks_by_agent_and_status ON tasks (assigned_to, status, created_at, id);
CREATE INDEX tasks_by_creator ON tasks (created_by, created_at, id) WHERE created_by IS NOT NULL;
CREATE INDEX tasks_by_creator_and_assignee ON tasks (created_by, assigned_to, created_at, id) WHERE created_by IS NOT NULL;
CREATE INDEX tasks_by_creator_and_status ON tasks (created_by, status, created_at, id) WHERE created_by IS NOT NULL;
-- What an agent claims next, what it holds, and what is newly overdue. `NOT IN`, because with `IN` SQLite would rather
-- walk through tasks_by_status and sort.
CREATE INDEX tasks_waiting ON tasks (assigned_to, priority, created_at, id) WHERE status = 'pending';
CREATE INDEX tasks_held ON tasks (assigned_to, id) WHERE status = 'in_progress';
CREATE INDEX tasks_due ON tasks (due_at, id)
    WHERE due_at IS NOT NULL AND NOT overdue AND status NOT IN ('completed', 'failed', 'cancelled');

CREATE TABLE mailbox (
    id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    version INTEGER NOT NULL CHECK (version > 0),
    agent_id BLOB NOT NULL CHECK (length(agent_id) = 16),
    kind TEXT NOT NULL,
    sender TEXT NOT NULL,
    from_agent BLOB CHECK (length(from_agent) = 16),
    priority INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 4),
    body TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    wake_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    -- The incarnation that has heard it, and when.
    acknowledged_by INTEGER,
    acknowledged_at INTEGER,
    CHECK ((acknowledged_by IS NULL) = (acknowledged_at IS NULL))
) STRICT;

CREATE INDEX mailbox_waiting ON mailbox (agent_id, priority DESC, id) WHERE acknowledged_at IS NULL;

CREATE TABLE domains (
    id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    version INTEGER NOT NULL CHECK (version > 0),
    domain TEXT NOT NULL,
    category TEXT NOT NULL,
    description TEXT,
    actor TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    removed_at INTEGER
) STRICT;

-- A domain may be listed again when its entry was removed.
CREATE UNIQUE INDEX domains_by_name ON domains (domain) WHERE removed_at IS NULL;

CREATE TABLE domain_requests (
    id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    version INTEGER NOT NULL CHECK (version > 0),
    domain TEXT NOT NULL,
    url TEXT,
    requested_by BLOB CHECK (length(requested_by) = 16),
    actor TEXT NOT NULL,
    task_context TEXT,
    reason TEXT,
    category TEXT,
    status TEXT NOT NULL,
    decided_by TEXT,
    decided_at INTEGER,
    decision_reason TEXT,
    created_at INTEGER NOT NULL,
    CHECK ((decided_by IS NULL) = (decided_at IS NULL)),
    CHECK ((decided_by IS NULL) = (status = 'pending'))
) STRICT;

-- Who asked may ask again when it was decided.
CREATE UNIQUE INDEX domain_requests_open ON domain_requests (domain, actor) WHERE status = 'pending';
CREATE INDEX domain_requests_by_status ON domain_requests (status, created_at, id);

-- A value is plain JSON or sealed bytes.
CREATE TABLE settings (
    category TEXT NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version > 0),
    value TEXT,
    sealed BLOB,
    description TEXT,
    updated_by TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (category, key),
    CHECK ((value IS NULL) <> (sealed IS NULL))
) STRICT;

-- A row without a value was removed; it stays, so that no version of its key comes twice.
CREATE TABLE agent_state (
    agent_id BLOB NOT NULL CHECK (length(agent_id) = 16),
    key TEXT NOT NULL,
    version INTEGER NOT NULL CHECK (version > 0),
    value TEXT,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (agent_id, key)
) STRICT;

CREATE INDEX agent_state_present ON agent_state (agent_id, key) WHERE value IS NOT NULL;

-- What an agent has used up of a kind on the day that begins at `day`.
CREATE TABLE spent (
    agent_id BLOB NOT NULL CHECK (length(agent_id) = 16),
    kind TEXT NOT NULL,
    day INTEGER NOT NULL,
    rows INTEGER NOT NULL CHECK (rows >= 0),
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    PRIMARY KEY (agent_id, kind, day)
) STRICT, WITHOUT ROWID;
