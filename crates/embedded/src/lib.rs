//! The set that needs no server: SQLite stores, an in-process bus, local processes.
//!
//! Invariants: everything that is acknowledged is durable; one server per data directory, held by a lock; no
//! network.

pub mod bus;
pub mod data_dir;
pub mod process;
pub mod sqlite;
