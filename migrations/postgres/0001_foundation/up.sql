-- The tables of the foundation.
--
-- Ids are uuid, which orders as the domain does (memcmp; version 7 by time). Times are timestamptz with whole
-- milliseconds. What must read back as it was written is json, not jsonb: that one refuses the escape of NUL and
-- forgets how a number was written. Words that are ordered have the collation "C", which is byte order.

CREATE TABLE schema_info (
    one integer PRIMARY KEY CHECK (one = 1),
    -- The lowest schema version a binary must know to read this store.
    min_reader_version bigint NOT NULL,
    -- The binary that migrated last.
    written_by text NOT NULL
);

INSERT INTO schema_info (one, min_reader_version, written_by) VALUES (1, 1, '');

CREATE TABLE installation (
    one integer PRIMARY KEY CHECK (one = 1),
    id uuid NOT NULL,
    epoch text NOT NULL,
    key_fingerprint text NOT NULL,
    runtime text NOT NULL,
    engine_id text NOT NULL
);

-- What became of each commit id: applied, or barred by a settle that came first. Both insert here first, so that
-- the later of the two waits for the end of the other.
CREATE TABLE commits (
    id uuid PRIMARY KEY,
    outcome text NOT NULL CHECK (outcome IN ('applied', 'barred')),
    answer json,
    at timestamptz NOT NULL
);

CREATE INDEX commits_by_time ON commits (at);

CREATE TABLE agents (
    id uuid PRIMARY KEY,
    agent_type text COLLATE "C" NOT NULL UNIQUE,
    version bigint NOT NULL CHECK (version > 0),
    desired text NOT NULL,
    incarnation bigint NOT NULL CHECK (incarnation >= 0),
    lifecycle json NOT NULL,
    reach json NOT NULL,
    focus text,
    failures bigint NOT NULL,
    restarts bigint NOT NULL,
    last_exit json,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

-- In the order in which writers took a number, which is not the order of their commits: positions are given
-- afterwards (0100). CACHE 1, so that no connection keeps numbers for later.
CREATE TABLE events (
    seq bigint GENERATED ALWAYS AS IDENTITY (CACHE 1) PRIMARY KEY,
    id uuid NOT NULL UNIQUE,
    event_type text COLLATE "C" NOT NULL,
    -- No foreign key: what happened stays when the agent is gone.
    source_agent uuid,
    actor text NOT NULL,
    body json NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE history (
    id uuid PRIMARY KEY,
    agent_id uuid NOT NULL REFERENCES agents (id),
    incarnation bigint NOT NULL,
    action_type text NOT NULL,
    summary text NOT NULL,
    details json,
    created_at timestamptz NOT NULL
);

CREATE INDEX history_by_agent ON history (agent_id, created_at DESC, id DESC);

-- No foreign key: rows come in batches, and one unknown agent must not refuse the others for ever.
-- Every row is written again every few seconds: half of each page is left for that.
CREATE TABLE heartbeats (
    agent_id uuid PRIMARY KEY,
    incarnation bigint NOT NULL,
    at timestamptz NOT NULL,
    loop_count bigint NOT NULL,
    last_loop_at timestamptz,
    activity text
) WITH (fillfactor = 50);
