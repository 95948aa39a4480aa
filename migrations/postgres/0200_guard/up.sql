-- Operators' tokens, and the audit with its chain of seals.

CREATE TABLE tokens (
    id uuid PRIMARY KEY,
    version bigint NOT NULL CHECK (version > 0),
    name text COLLATE "C" NOT NULL,
    grants json NOT NULL,
    -- SHA-256 of the present secret, and of the one before while it is good.
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    retiring_hash bytea CHECK (octet_length(retiring_hash) = 32),
    retiring_until timestamptz,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    rotated_at timestamptz,
    expires_at timestamptz,
    revoked_at timestamptz,
    CHECK ((retiring_hash IS NULL) = (retiring_until IS NULL))
);

-- A name is free again when its token is revoked.
CREATE UNIQUE INDEX tokens_by_name ON tokens (name) WHERE revoked_at IS NULL;

-- Apart from tokens, so that a use makes no new version of one. No foreign key: uses come in batches, and one
-- unknown token must not refuse the others. Rows are written again and again: half of each page is left for that.
CREATE TABLE token_uses (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL
) WITH (fillfactor = 50);

-- A row is written with the change that it is about, without a place in the chain; the place is given afterwards.
CREATE TABLE audit (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    actor text COLLATE "C" NOT NULL,
    credential text NOT NULL,
    operation text COLLATE "C" NOT NULL,
    object text NOT NULL,
    source text NOT NULL,
    request_id text NOT NULL,
    outcome text COLLATE "C" NOT NULL,
    detail text NOT NULL,
    times bigint NOT NULL CHECK (times >= 0),
    n bigint CHECK (n > 0),
    seal bytea CHECK (octet_length(seal) = 32),
    CHECK ((n IS NULL) = (seal IS NULL))
);

CREATE UNIQUE INDEX audit_by_number ON audit (n) WHERE n IS NOT NULL;
CREATE INDEX audit_unsealed ON audit (id) WHERE n IS NULL;
CREATE INDEX audit_by_actor ON audit (actor, id);
CREATE INDEX audit_by_operation ON audit (operation, id);
CREATE INDEX audit_by_outcome ON audit (outcome, id);

-- The end of the chain. Who seals moves it first, from where it was read, and so locks it.
CREATE TABLE audit_head (
    one integer PRIMARY KEY CHECK (one = 1),
    n bigint NOT NULL CHECK (n >= 0),
    seal bytea NOT NULL CHECK (octet_length(seal) = 32)
);

INSERT INTO audit_head (one, n, seal) VALUES (1, 0, decode(repeat('00', 32), 'hex'));

-- What was forgotten up to; no row until then.
CREATE TABLE audit_checkpoint (
    one integer PRIMARY KEY CHECK (one = 1),
    n bigint NOT NULL CHECK (n >= 0),
    seal bytea NOT NULL CHECK (octet_length(seal) = 32),
    at timestamptz NOT NULL,
    signature bytea NOT NULL CHECK (octet_length(signature) = 64)
);
