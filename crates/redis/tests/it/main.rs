//! The bus on real Redis servers: the contract on the run's shared one, everything that harms a server on private ones.
//!
//! Invariants: no test sleeps; fixtures on the shared server have prefixes of their own.
#![allow(clippy::unwrap_used)] // a failed unwrap is a failed test

mod needs_redis {
    mod access;
    mod contract;
    mod outages;
    mod sentinels;
    mod sharing;
    mod support;
    mod tls;
}
