-- Tasks, mailboxes, the list of domains, settings, agents' notes, and what agents use up a day.
--
-- A page of tasks must be a walk through its own index, however many rows there are, also where the planner believes
-- that to filter another index is cheaper. So each index of a list of tasks has a condition that always holds (no
-- actor's name begins with #) and that only the statement which is to walk it says.

-- The store's present time, in whole milliseconds as all times are kept. Also within a transaction it goes on.
CREATE FUNCTION aito_now() RETURNS timestamptz LANGUAGE sql VOLATILE
    AS $$ SELECT date_trunc('milliseconds', clock_timestamp()) $$;

CREATE TABLE tasks (
    id uuid PRIMARY KEY,
    version bigint NOT NULL CHECK (version > 0),
    title text NOT NULL,
    description text,
    -- The least first.
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 4),
    -- The word for the state.
    status text COLLATE "C" NOT NULL,
    state json NOT NULL,
    assigned_to uuid NOT NULL REFERENCES agents (id),
    -- No foreign key: where a task came from stays.
    created_by uuid,
    actor text NOT NULL,
    due_at timestamptz,
    overdue boolean NOT NULL,
    claims bigint NOT NULL CHECK (claims >= 0),
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    CHECK (actor NOT LIKE '#%')
);

CREATE INDEX tasks_by_time ON tasks (created_at, id) WHERE actor <> '#by_time';
CREATE INDEX tasks_by_status ON tasks (status, created_at, id) WHERE actor <> '#by_status';
CREATE INDEX tasks_by_assignee ON tasks (assigned_to, created_at, id) WHERE actor <> '#by_assignee';
CREATE INDEX tasks_by_assignee_status ON tasks (assigned_to, status, created_at, id)
    WHERE actor <> '#by_assignee_status';
CREATE INDEX tasks_by_creator ON tasks (created_by, created_at, id)
    WHERE created_by IS NOT NULL AND actor <> '#by_creator';
CREATE INDEX tasks_by_creator_status ON tasks (created_by, status, created_at, id)
    WHERE created_by IS NOT NULL AND actor <> '#by_creator_status';
-- What one agent sees of another's.
CREATE INDEX tasks_by_both ON tasks (created_by, assigned_to, created_at, id)
    WHERE created_by IS NOT NULL AND actor <> '#by_both';
CREATE INDEX tasks_by_both_status ON tasks (created_by, assigned_to, status, created_at, id)
    WHERE created_by IS NOT NULL AND actor <> '#by_both_status';
CREATE INDEX tasks_waiting ON tasks (assigned_to, priority, created_at, id) WHERE status = 'pending';
CREATE INDEX tasks_in_progress ON tasks (assigned_to, id) WHERE status = 'in_progress';
CREATE INDEX tasks_due ON tasks (due_at, id)
    WHERE due_at IS NOT NULL AND NOT overdue AND status IN ('pending', 'in_progress');

-- A row for each agent that ever claimed: who picks from an agent's tasks locks it, so that picks come one after
-- another.
CREATE TABLE task_claims (
    agent_id uuid PRIMARY KEY
);

CREATE TABLE mailbox (
    id uuid PRIMARY KEY,
    version bigint NOT NULL CHECK (version > 0),
    agent_id uuid NOT NULL,
    kind text NOT NULL,
    sender text NOT NULL,
    from_agent uuid,
    priority smallint NOT NULL CHECK (priority BETWEEN 0 AND 4),
    body json NOT NULL,
    created_at timestamptz NOT NULL,
    wake_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- The incarnation.
    acknowledged_by bigint,
    acknowledged_at timestamptz,
    CHECK ((acknowledged_by IS NULL) = (acknowledged_at IS NULL))
);

-- The most urgent first, then by id. Both rise in the index, so that a page goes on with one comparison of a row.
CREATE INDEX mailbox_waiting ON mailbox (agent_id, (- priority), id) WHERE acknowledged_at IS NULL;
-- What is due is counted here without a look at the rows.
CREATE INDEX mailbox_waking ON mailbox (agent_id, wake_at) INCLUDE (expires_at) WHERE acknowledged_at IS NULL;

CREATE TABLE domains (
    id uuid PRIMARY KEY,
    version bigint NOT NULL CHECK (version > 0),
    domain text COLLATE "C" NOT NULL,
    category text NOT NULL,
    description text,
    actor text NOT NULL,
    created_at timestamptz NOT NULL,
    removed_at timestamptz
);

-- A domain may be put on the list again when it was taken off.
CREATE UNIQUE INDEX domains_standing ON domains (domain) WHERE removed_at IS NULL;

CREATE TABLE domain_requests (
    id uuid PRIMARY KEY,
    version bigint NOT NULL CHECK (version > 0),
    domain text COLLATE "C" NOT NULL,
    url text,
    requested_by uuid,
    actor text COLLATE "C" NOT NULL,
    task_context text,
    reason text,
    category text,
    status text COLLATE "C" NOT NULL,
    decided_by text,
    decided_at timestamptz,
    decision_reason text,
    created_at timestamptz NOT NULL,
    CHECK ((status = 'pending') = (decided_by IS NULL)),
    CHECK ((decided_by IS NULL) = (decided_at IS NULL))
);

CREATE UNIQUE INDEX domain_requests_open ON domain_requests (domain, actor) WHERE status = 'pending';
CREATE INDEX domain_requests_by_status ON domain_requests (status, created_at, id);

CREATE TABLE settings (
    category text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    value json,
    sealed bytea,
    description text,
    updated_by text NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (category, key),
    CHECK ((value IS NULL) <> (sealed IS NULL))
);

CREATE TABLE agent_state (
    agent_id uuid NOT NULL,
    key text COLLATE "C" NOT NULL,
    version bigint NOT NULL CHECK (version > 0),
    -- NULL once it was removed.
    value json,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (agent_id, key)
);

CREATE INDEX agent_state_present ON agent_state (agent_id, key) WHERE value IS NOT NULL;

-- Rows are added to all day: half of each page is left for that.
CREATE TABLE spent (
    agent_id uuid NOT NULL,
    kind text COLLATE "C" NOT NULL,
    -- Its beginning, UTC.
    day timestamptz NOT NULL,
    rows bigint NOT NULL CHECK (rows >= 0),
    bytes bigint NOT NULL CHECK (bytes >= 0),
    PRIMARY KEY (agent_id, kind, day)
) WITH (fillfactor = 50);
