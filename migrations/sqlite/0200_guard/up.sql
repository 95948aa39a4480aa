-- Operators' tokens, and the audit with its chain of seals.

CREATE TABLE tokens (
    id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    version INTEGER NOT NULL CHECK (version > 0),
    name TEXT NOT NULL,
    grants TEXT NOT NULL,
    -- SHA-256 of the present secret, and of the one before while it is good.
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    retiring_hash BLOB CHECK (length(retiring_hash) = 32),
    retiring_until INTEGER,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    rotated_at INTEGER,
    expires_at INTEGER,
    revoked_at INTEGER,
    CHECK ((retiring_hash IS NULL) = (retiring_until IS NULL))
) STRICT;

-- A name is free again when its token is revoked.
CREATE UNIQUE INDEX tokens_by_name ON tokens (name) WHERE revoked_at IS NULL;

-- Apart from tokens, so that a use makes no new version of one. No foreign key: uses come in batches, and one
-- unknown token must not refuse the others.
CREATE TABLE token_uses (
    id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- A row is written with the change that it is about, without a place in the chain; the place is given afterwards.
CREATE TABLE audit (
    id BLOB PRIMARY KEY NOT NULL CHECK (length(id) = 16),
    at INTEGER NOT NULL,
    actor TEXT NOT NULL,
    credential TEXT NOT NULL,
    operation TEXT NOT NULL,
    object TEXT NOT NULL,
    source TEXT NOT NULL,
    request_id TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL,
    times INTEGER NOT NULL CHECK (times >= 0),
    n INTEGER CHECK (n > 0),
    seal BLOB CHECK (length(seal) = 32),
    CHECK ((n IS NULL) = (seal IS NULL))
) STRICT;

CREATE UNIQUE INDEX audit_by_number ON audit (n) WHERE n IS NOT NULL;
CREATE INDEX audit_unsealed ON audit (id) WHERE n IS NULL;
-- Each ends with the id, so that a filtered page is a walk through one of them.
CREATE INDEX audit_by_actor ON audit (actor, id);
CREATE INDEX audit_by_operation ON audit (operation, id);
CREATE INDEX audit_by_outcome ON audit (outcome, id);

-- The end of the chain.
CREATE TABLE audit_head (
    one INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
    n INTEGER NOT NULL CHECK (n >= 0),
    seal BLOB NOT NULL CHECK (length(seal) = 32)
) STRICT;

INSERT INTO audit_head (one, n, seal) VALUES (1, 0, zeroblob(32));

-- What was forgotten up to; no row until then.
CREATE TABLE audit_checkpoint (
    one INTEGER PRIMARY KEY NOT NULL CHECK (one = 1),
    n INTEGER NOT NULL CHECK (n >= 0),
    seal BLOB NOT NULL CHECK (length(seal) = 32),
    at INTEGER NOT NULL,
    signature BLOB NOT NULL CHECK (length(signature) = 64)
) STRICT;
