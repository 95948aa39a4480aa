//! The tables as diesel sees them, written by hand after `migrations/postgres`.
//!
//! Invariant: what stands here is what the newest migration leaves behind; a column that an older binary must
//! not see is not named here until that binary is gone.

diesel::table! {
    schema_info (one) {
        one -> Integer,
        min_reader_version -> BigInt,
        written_by -> Text,
    }
}

diesel::table! {
    installation (one) {
        one -> Integer,
        id -> Uuid,
        epoch -> Text,
        key_fingerprint -> Text,
        runtime -> Text,
        engine_id -> Text,
    }
}

diesel::table! {
    commits (id) {
        id -> Uuid,
        outcome -> Text,
        answer -> Nullable<Json>,
        at -> Timestamptz,
    }
}

diesel::table! {
    agents (id) {
        id -> Uuid,
        agent_type -> Text,
        version -> BigInt,
        desired -> Text,
        incarnation -> BigInt,
        lifecycle -> Json,
        reach -> Json,
        focus -> Nullable<Text>,
        failures -> BigInt,
        restarts -> BigInt,
        last_exit -> Nullable<Json>,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    events (seq) {
        seq -> BigInt,
        id -> Uuid,
        event_type -> Text,
        source_agent -> Nullable<Uuid>,
        actor -> Text,
        body -> Json,
        created_at -> Timestamptz,
    }
}

// It has no key; diesel wants one named.
diesel::table! {
    event_pending (seq) {
        seq -> BigInt,
    }
}

diesel::table! {
    event_order (position) {
        position -> BigInt,
        seq -> BigInt,
        event_type -> Text,
        source_agent -> Nullable<Uuid>,
    }
}

diesel::table! {
    history (id) {
        id -> Uuid,
        agent_id -> Uuid,
        incarnation -> BigInt,
        action_type -> Text,
        summary -> Text,
        details -> Nullable<Json>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    heartbeats (agent_id) {
        agent_id -> Uuid,
        incarnation -> BigInt,
        at -> Timestamptz,
        loop_count -> BigInt,
        last_loop_at -> Nullable<Timestamptz>,
        activity -> Nullable<Text>,
    }
}

diesel::table! {
    tokens (id) {
        id -> Uuid,
        version -> BigInt,
        name -> Text,
        grants -> Json,
        hash -> Bytea,
        retiring_hash -> Nullable<Bytea>,
        retiring_until -> Nullable<Timestamptz>,
        created_by -> Text,
        created_at -> Timestamptz,
        rotated_at -> Nullable<Timestamptz>,
        expires_at -> Nullable<Timestamptz>,
        revoked_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    token_uses (id) {
        id -> Uuid,
        at -> Timestamptz,
    }
}

diesel::table! {
    audit (id) {
        id -> Uuid,
        at -> Timestamptz,
        actor -> Text,
        credential -> Text,
        operation -> Text,
        object -> Text,
        source -> Text,
        request_id -> Text,
        outcome -> Text,
        detail -> Text,
        times -> BigInt,
        n -> Nullable<BigInt>,
        seal -> Nullable<Bytea>,
    }
}

diesel::table! {
    audit_head (one) {
        one -> Integer,
        n -> BigInt,
        seal -> Bytea,
    }
}

diesel::table! {
    audit_checkpoint (one) {
        one -> Integer,
        n -> BigInt,
        seal -> Bytea,
        at -> Timestamptz,
        signature -> Bytea,
    }
}

diesel::table! {
    tasks (id) {
        id -> Uuid,
        version -> BigInt,
        title -> Text,
        description -> Nullable<Text>,
        priority -> SmallInt,
        status -> Text,
        state -> Json,
        assigned_to -> Uuid,
        created_by -> Nullable<Uuid>,
        actor -> Text,
        due_at -> Nullable<Timestamptz>,
        overdue -> Bool,
        claims -> BigInt,
        created_at -> Timestamptz,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    mailbox (id) {
        id -> Uuid,
        version -> BigInt,
        agent_id -> Uuid,
        kind -> Text,
        sender -> Text,
        from_agent -> Nullable<Uuid>,
        priority -> SmallInt,
        body -> Json,
        created_at -> Timestamptz,
        wake_at -> Timestamptz,
        expires_at -> Timestamptz,
        acknowledged_by -> Nullable<BigInt>,
        acknowledged_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    domains (id) {
        id -> Uuid,
        version -> BigInt,
        domain -> Text,
        category -> Text,
        description -> Nullable<Text>,
        actor -> Text,
        created_at -> Timestamptz,
        removed_at -> Nullable<Timestamptz>,
    }
}

diesel::table! {
    domain_requests (id) {
        id -> Uuid,
        version -> BigInt,
        domain -> Text,
        url -> Nullable<Text>,
        requested_by -> Nullable<Uuid>,
        actor -> Text,
        task_context -> Nullable<Text>,
        reason -> Nullable<Text>,
        category -> Nullable<Text>,
        status -> Text,
        decided_by -> Nullable<Text>,
        decided_at -> Nullable<Timestamptz>,
        decision_reason -> Nullable<Text>,
        created_at -> Timestamptz,
    }
}

diesel::table! {
    settings (category, key) {
        category -> Text,
        key -> Text,
        version -> BigInt,
        value -> Nullable<Json>,
        sealed -> Nullable<Bytea>,
        description -> Nullable<Text>,
        updated_by -> Text,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    agent_state (agent_id, key) {
        agent_id -> Uuid,
        key -> Text,
        version -> BigInt,
        value -> Nullable<Json>,
        updated_at -> Timestamptz,
    }
}

diesel::table! {
    spent (agent_id, kind, day) {
        agent_id -> Uuid,
        kind -> Text,
        day -> Timestamptz,
        rows -> BigInt,
        bytes -> BigInt,
    }
}

diesel::allow_tables_to_appear_in_same_query!(events, event_order);
