//! The rules of an agent company and the ports through which they act: values, pure functions, traits.
//!
//! Invariants: no I/O, no clock and no random source of its own (both are ports), no SQL, no HTTP shape.
//! Everything that changes does so by a function that takes the old state and the time and returns the new
//! state with its events, or a refusal; an adapter behind [`ports`] makes it durable.

pub mod access;
pub mod agent;
pub mod allowlist;
pub mod audit;
pub mod credential;
pub mod display;
pub mod domain_name;
pub mod event;
pub mod fleet;
pub mod history;
pub mod id;
pub mod installation;
pub mod mailbox;
pub mod ports;
pub mod principal;
pub mod quota;
pub mod setting;
pub mod spec;
pub mod state;
pub mod task;
pub mod ticket;
pub mod time;
pub mod token;

/// The opaque cause behind a port's error: kept for the log, never shown to a caller.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

#[cfg(test)]
mod tests {
    use proptest::test_runner::{Config, RngSeed};

    /// So many cases from a fixed seed, so that every run tries the same. `PROPTEST_RNG_SEED` and
    /// `PROPTEST_CASES` ask for others.
    pub(crate) fn cases(count: u32) -> Config {
        let given = Config::default();
        let asked = std::env::var_os("PROPTEST_CASES").is_some();
        Config {
            cases: if asked { given.cases } else { count },
            rng_seed: if given.rng_seed == RngSeed::Random {
                RngSeed::Fixed(20_251_220)
            } else {
                given.rng_seed
            },
            failure_persistence: None,
            ..given
        }
    }
}
