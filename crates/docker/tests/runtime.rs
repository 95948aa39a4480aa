//! Containers of a real engine: the contract, and what the contract cannot know of.

#![allow(clippy::unwrap_used)]

mod support;

mod needs_docker {
    mod contract {
        aito_contracts::runtime_suite!(crate::support::fixture::Fixture);
    }

    mod apart;
    mod away;
    mod inside;
    mod logs;
    mod starts;
}
