-- The tables of the foundation.
--
-- Ids are BLOBs of 16 bytes: half of what their text takes in the table and again in every index, and memcmp orders
-- them as the domain does (version 7 by time). Read them with hex(id). Times are INTEGER milliseconds since
-- 1970-01-01T00:00:00Z. JSON is TEXT. Every table is STRICT.

CREATE TABLE schema_info (
    one INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
    -- The lowest schema version a binary must know to read this store.
    min_reader_version INTEGER NOT NULL,
    -- The binary that migrated last.
    written_by TEXT NOT NULL
) STRICT;

INSERT INTO schema_info (one, min_reader_version, written_by) VALUES (1, 1, '');

CREATE TABLE installation (
    one INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
    id BLOB NOT NULL CHECK (length(id) = 16),
    epoch TEXT NOT NULL,
    key_fingerprint TEXT NOT NULL,
    runtime TEXT NOT NULL,
    engine_id TEXT NOT NULL
) STRICT;

-- What became of each commit id: applied, or barred by a settle that came first.
CREATE TABLE commits (
    id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    outcome TEXT NOT NULL CHECK (outcome IN ('applied', 'barred')),
    answer TEXT,
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX commits_by_time ON commits (at);

CREATE TABLE agents (
    id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    agent_type TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL CHECK (version > 0),
    desired TEXT NOT NULL,
    incarnation INTEGER NOT NULL CHECK (incarnation >= 0),
    lifecycle TEXT NOT NULL,
    reach TEXT NOT NULL,
    focus TEXT,
    failures INTEGER NOT NULL,
    restarts INTEGER NOT NULL,
    last_exit TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- AUTOINCREMENT: a position is never given twice, also after the newest events were pruned. Its counter is an
-- ordinary row of sqlite_sequence, so a commit that is rolled back leaves no hole.
CREATE TABLE events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    event_type TEXT NOT NULL,
    -- No foreign key: what happened stays when the agent is gone.
    source_agent BLOB,
    actor TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX events_by_type ON events (event_type, position);
CREATE INDEX events_by_agent ON events (source_agent, position);

CREATE TABLE history (
    id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    agent_id BLOB NOT NULL REFERENCES agents (id),
    incarnation INTEGER NOT NULL,
    action_type TEXT NOT NULL,
    summary TEXT NOT NULL,
    details TEXT,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX history_by_agent ON history (agent_id, created_at DESC, id DESC);

-- No foreign key: rows come in batches, and one unknown agent must not refuse the others for ever.
CREATE TABLE heartbeats (
    agent_id BLOB PRIMARY KEY NOT NULL CHECK (length(agent_id) = 16),
    incarnation INTEGER NOT NULL,
    at INTEGER NOT NULL,
    loop_count INTEGER NOT NULL,
    last_loop_at INTEGER,
    activity TEXT
) STRICT, WITHOUT ROWID;
