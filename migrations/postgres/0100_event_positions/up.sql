-- Positions of events, given after the commit.
--
-- A writer adds a row to event_pending for each of its events, in its own transaction. The numberer takes the rows
-- that it can see, which are those of finished transactions, and gives them positions in event_order. Readers see
-- events through event_order only.

-- Rows live for milliseconds. No index: there are few, and each look reads all of them. Vacuum comes often and costs
-- little; it leaves the empty pages, whose removal would lock writers out for a moment.
CREATE TABLE event_pending (
    seq bigint NOT NULL
) WITH (
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_cost_delay = 0,
    vacuum_truncate = false
);

-- Type and agent are here once more, so that a filtered page is a walk through one index.
CREATE TABLE event_order (
    position bigint PRIMARY KEY,
    seq bigint NOT NULL UNIQUE,
    event_type text COLLATE "C" NOT NULL,
    source_agent uuid
);

CREATE INDEX event_order_by_type ON event_order (event_type, position);
CREATE INDEX event_order_by_agent ON event_order (source_agent, position) WHERE source_agent IS NOT NULL;

-- The last position that was given: none is given twice, also when the newest events were pruned.
CREATE TABLE event_head (
    one integer PRIMARY KEY CHECK (one = 1),
    position bigint NOT NULL
) WITH (
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0
);

INSERT INTO event_head (one, position) VALUES (1, 0);
