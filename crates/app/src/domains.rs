//! The domains that ship with the program: put on the list of a new installation.
//!
//! Invariant: they stand in a file of their own, and nowhere else.

use aito_application::domains::NewDomain;
use serde::Deserialize;

/// The file that ships.
const SHIPPED: &str = include_str!("../../../deploy/domains/default.toml");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    domains: Vec<NewDomain>,
}

/// What ships.
pub(crate) fn shipped() -> Result<Vec<NewDomain>, String> {
    let file: File =
        toml::from_str(SHIPPED).map_err(|why| format!("the shipped domains are malformed: {why}"))?;
    Ok(file.domains)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use aito_domain::{allowlist::is_category, domain_name::DomainName};

    use super::*;

    #[test]
    fn what_ships_are_some_twenty_entries_as_they_are_kept() {
        let all = shipped().unwrap_or_else(|why| panic!("{why}"));
        assert!((15..=30).contains(&all.len()), "{}", all.len());
        for entry in &all {
            let name =
                entry.domain.parse::<DomainName>().unwrap_or_else(|why| panic!("{}: {why}", entry.domain));
            assert_eq!(name.as_str(), entry.domain);
            assert!(is_category(&entry.category) && entry.description.is_some(), "{name}");
        }
        let names: BTreeSet<_> = all.iter().map(|entry| &entry.domain).collect();
        assert_eq!(names.len(), all.len(), "none twice");
    }
}
