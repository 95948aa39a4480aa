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
