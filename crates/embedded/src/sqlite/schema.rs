//! The tables as diesel sees them, written by hand after `migrations/sqlite`.
//!
//! Invariant: what stands here is what the newest migration leaves behind; a column that an older binary must
//! not see is not named here until that binary is gone.

diesel::table! {
    schema_info (one) {
        one -> BigInt,
        min_reader_version -> BigInt,
        written_by -> Text,
    }
}

diesel::table! {
    installation (one) {
        one -> BigInt,
        id -> Binary,
        epoch -> Text,
        key_fingerprint -> Text,
        runtime -> Text,
        engine_id -> Text,
    }
}

diesel::table! {
    commits (id) {
        id -> Binary,
        outcome -> Text,
        answer -> Nullable<Text>,
        at -> BigInt,
    }
}

diesel::table! {
    agents (id) {
        id -> Binary,
        agent_type -> Text,
        version -> BigInt,
        desired -> Text,
        incarnation -> BigInt,
        lifecycle -> Text,
        reach -> Text,
        focus -> Nullable<Text>,
        failures -> BigInt,
        restarts -> BigInt,
        last_exit -> Nullable<Text>,
        created_at -> BigInt,
        updated_at -> BigInt,
    }
}

diesel::table! {
    events (position) {
        position -> BigInt,
        id -> Binary,
        event_type -> Text,
        source_agent -> Nullable<Binary>,
        actor -> Text,
        body -> Text,
        created_at -> BigInt,
    }
}

diesel::table! {
    history (id) {
        id -> Binary,
        agent_id -> Binary,
        incarnation -> BigInt,
        action_type -> Text,
        summary -> Text,
        details -> Nullable<Text>,
        created_at -> BigInt,
    }
}

diesel::table! {
    heartbeats (agent_id) {
        agent_id -> Binary,
        incarnation -> BigInt,
        at -> BigInt,
        loop_count -> BigInt,
        last_loop_at -> Nullable<BigInt>,
        activity -> Nullable<Text>,
    }
}

diesel::table! {
    tokens (id) {
        id -> Binary,
        version -> BigInt,
        name -> Text,
        grants -> Text,
        hash -> Binary,
        retiring_hash -> Nullable<Binary>,
        retiring_until -> Nullable<BigInt>,
        created_by -> Text,
        created_at -> BigInt,
        rotated_at -> Nullable<BigInt>,
        expires_at -> Nullable<BigInt>,
        revoked_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    token_uses (id) {
        id -> Binary,
        at -> BigInt,
    }
}

diesel::table! {
    audit (id) {
        id -> Binary,
        at -> BigInt,
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
        seal -> Nullable<Binary>,
    }
}

diesel::table! {
    audit_head (one) {
        one -> BigInt,
        n -> BigInt,
        seal -> Binary,
    }
}

diesel::table! {
    audit_checkpoint (one) {
        one -> BigInt,
        n -> BigInt,
        seal -> Binary,
        at -> BigInt,
        signature -> Binary,
    }
}

diesel::table! {
    tasks (id) {
        id -> Binary,
        version -> BigInt,
        title -> Text,
        description -> Nullable<Text>,
        priority -> BigInt,
        status -> Text,
        state -> Text,
        assigned_to -> Binary,
        created_by -> Nullable<Binary>,
        actor -> Text,
        due_at -> Nullable<BigInt>,
        overdue -> Bool,
        claims -> BigInt,
        created_at -> BigInt,
        updated_at -> BigInt,
    }
}

diesel::table! {
    mailbox (id) {
        id -> Binary,
        version -> BigInt,
        agent_id -> Binary,
        kind -> Text,
        sender -> Text,
        from_agent -> Nullable<Binary>,
        priority -> BigInt,
        body -> Text,
        created_at -> BigInt,
        wake_at -> BigInt,
        expires_at -> BigInt,
        acknowledged_by -> Nullable<BigInt>,
        acknowledged_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    domains (id) {
        id -> Binary,
        version -> BigInt,
        domain -> Text,
        category -> Text,
        description -> Nullable<Text>,
        actor -> Text,
        created_at -> BigInt,
        removed_at -> Nullable<BigInt>,
    }
}

diesel::table! {
    domain_requests (id) {
        id -> Binary,
        version -> BigInt,
        domain -> Text,
        url -> Nullable<Text>,
        requested_by -> Nullable<Binary>,
        actor -> Text,
        task_context -> Nullable<Text>,
        reason -> Nullable<Text>,
        category -> Nullable<Text>,
        status -> Text,
        decided_by -> Nullable<Text>,
        decided_at -> Nullable<BigInt>,
        decision_reason -> Nullable<Text>,
        created_at -> BigInt,
    }
}

diesel::table! {
    settings (category, key) {
        category -> Text,
        key -> Text,
        version -> BigInt,
        value -> Nullable<Text>,
        sealed -> Nullable<Binary>,
        description -> Nullable<Text>,
        updated_by -> Text,
        updated_at -> BigInt,
    }
}

diesel::table! {
    agent_state (agent_id, key) {
        agent_id -> Binary,
        key -> Text,
        version -> BigInt,
        value -> Nullable<Text>,
        updated_at -> BigInt,
    }
}

diesel::table! {
    spent (agent_id, kind, day) {
        agent_id -> Binary,
        kind -> Text,
        day -> BigInt,
        rows -> BigInt,
        bytes -> BigInt,
    }
}
