//! Who may depend on whom, as data, proven from `cargo metadata`.
//!
//! Invariants: a workspace crate that the table does not name is an error; production code depends on neither
//! `contracts` nor `harness`; a vendor's crate is named only by the adapter that owns it.

use std::path::Path;

use crate::licences;
use crate::report::Report;
use crate::workspace::{self, Dependency, Metadata, Package};

/// One row of the layer rule.
struct Layer {
    name: &'static str,
    /// Workspace crates that it may use.
    uses: &'static [&'static str],
}

/// Production code points inward; only `app` knows an adapter by name.
const LAYERS: &[Layer] = &[
    Layer { name: "aito-domain", uses: &[] },
    Layer { name: "aito-api", uses: &[] },
    Layer { name: "aito-application", uses: &["aito-domain"] },
    Layer { name: "aito-contracts", uses: &["aito-domain"] },
    Layer { name: "aito-embedded", uses: &["aito-domain"] },
    Layer { name: "aito-postgres", uses: &["aito-domain"] },
    Layer { name: "aito-redis", uses: &["aito-domain"] },
    Layer { name: "aito-docker", uses: &["aito-domain"] },
    Layer { name: "aito-jwt", uses: &[] },
    Layer { name: "aito-outbound", uses: &[] },
    Layer { name: "aito-llm", uses: &["aito-domain", "aito-outbound"] },
    Layer { name: "aito-notify", uses: &["aito-domain", "aito-outbound"] },
    Layer { name: "aito-http", uses: &["aito-application", "aito-domain", "aito-api"] },
    Layer { name: "aito-client", uses: &["aito-api"] },
    Layer { name: "aito-agent", uses: &["aito-client", "aito-api"] },
    Layer { name: "aito-harness", uses: &["aito-client", "aito-api"] },
    Layer {
        name: "aito-app",
        uses: &[
            "aito-agent",
            "aito-api",
            "aito-application",
            "aito-client",
            "aito-docker",
            "aito-domain",
            "aito-embedded",
            "aito-http",
            "aito-jwt",
            "aito-llm",
            "aito-notify",
            "aito-outbound",
            "aito-postgres",
            "aito-redis",
        ],
    },
    Layer { name: "xtask", uses: &[] },
];

/// What every crate's tests may use besides.
const FOR_TESTS: &[&str] = &["aito-contracts", "aito-harness"];

/// What the tests of single crates may use besides: SQLite serves the use cases as the quick store.
const FOR_TESTS_OF: &[(&str, &str)] = &[("aito-application", "aito-embedded")];

/// Vendors' crates and the workspace crates that alone may name them. A trailing `*` stands for anything.
const OWNED: &[(&str, &[&str])] = &[
    ("diesel*", &["aito-embedded", "aito-postgres"]),
    ("libsqlite3-sys", &["aito-embedded", "aito-postgres"]),
    ("tokio-postgres*", &["aito-postgres"]),
    ("redis", &["aito-redis"]),
    ("deadpool-redis", &["aito-redis"]),
    ("docker-api*", &["aito-docker"]),
    ("containers-api", &["aito-docker"]),
    ("actix*", &["aito-http", "aito-app"]),
    ("hyper*", &["aito-outbound"]),
    ("genai", &["aito-llm"]),
    ("lettre", &["aito-notify"]),
    ("jsonwebtoken", &["aito-jwt"]),
];

/// What the domain, which computes and never acts, must not name.
const NOT_IN_DOMAIN: &[&str] = &["tokio*", "actix*", "diesel*", "reqwest", "rand", "getrandom"];

/// A package that must not be anywhere in the tree.
struct Ban {
    name: &'static str,
    /// The first version, major and minor, that is fine again; nothing: none is.
    fine_from: Option<(u64, u64)>,
    why: &'static str,
}

const BANNED: &[Ban] = &[
    Ban {
        name: "h2",
        fine_from: Some((0, 4)),
        why: "older than 0.4 has an open advisory; actix-web's http2 feature brings it",
    },
    Ban { name: "openssl-sys", fine_from: None, why: "TLS is rustls, so that the binary stays static" },
    Ban { name: "native-tls", fine_from: None, why: "TLS is rustls, so that the binary stays static" },
    Ban { name: "actix-governor", fine_from: None, why: "it is GPL; governor is MIT" },
];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// `cargo xtask deps`: layers, bans and sources as one step, licences as another, cargo-deny as a third if it is there.
pub fn run(root: &Path, report: &mut Report) {
    layers(root, report);
    licences(root, report);
}

/// The step that holds the layer rule, the bans and the sources.
pub fn layers(root: &Path, report: &mut Report) {
    report.step("deps", |report| {
        let resolved = workspace::packages_of_all_platforms(root)?;
        if let Some(why) = resolved.narrowed {
            report.skip(format!("deps: {why}"));
        }
        say(&findings(&resolved.metadata))?;
        deny(root, &["bans", "sources"])
    });
}

/// The step that holds the licences.
pub fn licences(root: &Path, report: &mut Report) {
    report.step("licences", |report| {
        let resolved = workspace::packages_of_all_platforms(root)?;
        if let Some(why) = resolved.narrowed {
            report.skip(format!("licences: {why}"));
        }
        say(&licences::findings(&resolved.metadata, &licences::allowed(root)?))?;
        println!("    {} packages", resolved.metadata.packages.len());
        deny(root, &["licenses"])
    });
}

fn say(findings: &[String]) -> Result<(), String> {
    for finding in findings {
        println!("    {finding}");
    }
    if findings.is_empty() { Ok(()) } else { Err(format!("{} findings", findings.len())) }
}

/// Where cargo-deny is installed it must agree; where it is not, the checks above have looked at the same.
fn deny(root: &Path, what: &[&str]) -> Result<(), String> {
    if workspace::output(workspace::cargo(root).args(["deny", "--version"])).is_err() {
        return Ok(());
    }
    let mut command = workspace::cargo(root);
    command.args(["deny", "--offline", "check", "--hide-inclusion-graph"]).args(what);
    let status = command.status().map_err(|e| format!("cargo deny does not start: {e}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("cargo deny check {} ended with {status}", what.join(" ")))
    }
}

/// Everything that breaks a rule, one line each.
fn findings(metadata: &Metadata) -> Vec<String> {
    let mut findings = Vec::new();
    let ours: Vec<&str> = metadata.members().map(|package| package.name.as_str()).collect();
    for package in metadata.members() {
        match LAYERS.iter().find(|layer| layer.name == package.name) {
            None => {
                findings.push(format!("{}: has no row in the layer rule (xtask/src/deps.rs)", package.name))
            }
            Some(layer) => layer_findings(package, layer, &ours, &mut findings),
        }
        owner_findings(package, &mut findings);
    }
    for package in &metadata.packages {
        banned_findings(package, &mut findings);
        source_findings(package, metadata, &mut findings);
    }
    findings.sort();
    findings.dedup();
    findings
}

fn layer_findings(package: &Package, layer: &Layer, ours: &[&str], findings: &mut Vec<String>) {
    let own = package.dependencies.iter().filter(|dependency| ours.contains(&dependency.name.as_str()));
    for dependency in own {
        let name = dependency.name.as_str();
        let for_tests = FOR_TESTS.contains(&name) || FOR_TESTS_OF.contains(&(layer.name, name));
        let allowed = layer.uses.contains(&name) || (dependency.is_dev() && for_tests);
        if !allowed {
            let kind = kind(dependency);
            findings.push(format!(
                "{}: must not depend on {name}{kind}: the layer rule does not say so",
                package.name
            ));
        }
    }
}

fn owner_findings(package: &Package, findings: &mut Vec<String>) {
    for dependency in &package.dependencies {
        let kind = kind(dependency);
        for (pattern, owners) in OWNED {
            if matches(pattern, &dependency.name) && !owners.contains(&package.name.as_str()) {
                let owners = owners.join(", ");
                findings.push(format!(
                    "{}: must not name {}{kind}: only {owners} may",
                    package.name, dependency.name
                ));
            }
        }
        let acting = NOT_IN_DOMAIN.iter().any(|pattern| matches(pattern, &dependency.name));
        if package.name == "aito-domain" && !dependency.is_dev() && acting {
            findings.push(format!(
                "{}: must not name {}: the domain computes only",
                package.name, dependency.name
            ));
        }
    }
}

fn banned_findings(package: &Package, findings: &mut Vec<String>) {
    for Ban { name, fine_from, why } in BANNED {
        let banned = match fine_from {
            None => true,
            // What cannot be read as a version is refused.
            Some(first) => major_minor(&package.version).is_none_or(|version| version < *first),
        };
        if package.name == *name && banned {
            findings.push(format!("{} {}: is banned: {why}", package.name, package.version));
        }
    }
}

fn source_findings(package: &Package, metadata: &Metadata, findings: &mut Vec<String>) {
    let name = format!("{} {}", package.name, package.version);
    match package.source.as_deref() {
        Some(CRATES_IO) => {}
        Some(other) => findings
            .push(format!("{name}: comes from {other}; only crates.io and this workspace may be used")),
        None if package.manifest_path.starts_with(&metadata.workspace_root) => {}
        None => findings.push(format!("{name}: is a path outside of this workspace")),
    }
}

fn kind(dependency: &Dependency) -> String {
    dependency.kind.as_ref().map(|kind| format!(" ({kind})")).unwrap_or_default()
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |prefix| name.starts_with(prefix))
}

fn major_minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, dependencies: &[(&str, Option<&str>)]) -> Package {
        let dependencies = dependencies
            .iter()
            .map(|(name, kind)| Dependency { name: (*name).into(), kind: kind.map(str::to_owned) })
            .collect();
        let manifest_path = format!("/w/{name}/Cargo.toml").into();
        Package {
            name: name.into(),
            version: "0.1.0".into(),
            id: name.into(),
            manifest_path,
            dependencies,
            ..Package::default()
        }
    }

    fn foreign(name: &str, version: &str, source: Option<&str>) -> Package {
        Package {
            name: name.into(),
            version: version.into(),
            id: format!("{name}@{version}"),
            source: source.map(str::to_owned),
            manifest_path: "/elsewhere/Cargo.toml".into(),
            ..Package::default()
        }
    }

    fn judged(members: Vec<Package>, foreign: Vec<Package>) -> Vec<String> {
        let workspace_members = members.iter().map(|package| package.id.clone()).collect();
        let packages = members.into_iter().chain(foreign).collect();
        findings(&Metadata { packages, workspace_members, workspace_root: "/w".into() })
    }

    fn refused(member_name: &str, dependency: &str, kind: Option<&str>) -> bool {
        let mut members = vec![member(member_name, &[(dependency, kind)])];
        if dependency.starts_with("aito-") {
            members.push(member(dependency, &[]));
        }
        !judged(members, vec![]).is_empty()
    }

    #[test]
    fn good_workspace_has_no_findings() {
        let members = vec![
            member(
                "aito-domain",
                &[("serde", None), ("tokio", Some("dev")), ("aito-contracts", Some("dev"))],
            ),
            member("aito-contracts", &[("aito-domain", None), ("tokio", None)]),
            member(
                "aito-embedded",
                &[("aito-domain", None), ("diesel", None), ("aito-contracts", Some("dev"))],
            ),
            member("aito-app", &[("aito-embedded", None), ("aito-domain", None), ("actix-web", None)]),
            member("xtask", &[("serde", None)]),
        ];
        let foreign =
            vec![foreign("h2", "0.4.16", Some(CRATES_IO)), foreign("serde", "1.0.0", Some(CRATES_IO))];
        assert_eq!(judged(members, foreign), Vec::<String>::new());
    }

    #[test]
    fn arrows_that_point_up_are_refused() {
        for (from, to) in [
            ("aito-domain", "aito-application"),
            ("aito-domain", "aito-api"),
            ("aito-application", "aito-embedded"),
            ("aito-api", "aito-domain"),
            ("aito-http", "aito-embedded"),
            ("aito-client", "aito-domain"),
            ("aito-agent", "aito-domain"),
            ("aito-embedded", "aito-application"),
            ("aito-harness", "aito-app"),
            ("xtask", "aito-domain"),
        ] {
            assert!(refused(from, to, None), "{from} -> {to}");
            assert!(refused(from, to, Some("build")), "{from} -> {to} (build)");
        }
    }

    #[test]
    fn production_uses_neither_contracts_nor_harness_but_tests_may() {
        for layer in LAYERS {
            for tool in FOR_TESTS.iter().filter(|tool| **tool != layer.name) {
                assert!(refused(layer.name, tool, None), "{} -> {tool}", layer.name);
                assert!(!refused(layer.name, tool, Some("dev")), "{} -> {tool} (dev)", layer.name);
            }
        }
    }

    #[test]
    fn use_cases_are_tested_on_the_embedded_store_and_do_not_use_it() {
        assert!(!refused("aito-application", "aito-embedded", Some("dev")));
        assert!(refused("aito-application", "aito-embedded", None));
        assert!(refused("aito-http", "aito-embedded", Some("dev")));
    }

    #[test]
    fn crate_without_a_row_is_refused() {
        assert!(judged(vec![member("aito-novel", &[])], vec![])[0].contains("no row"));
    }

    #[test]
    fn vendors_stay_with_their_owners() {
        assert!(refused("aito-application", "diesel", None));
        assert!(refused("aito-http", "diesel-async", Some("dev")));
        assert!(refused("aito-app", "libsqlite3-sys", None));
        assert!(refused("aito-agent", "actix-web", None));
        assert!(!refused("aito-http", "actix-ws", None));
        assert!(!refused("aito-embedded", "diesel_migrations", None));
    }

    #[test]
    fn domain_names_nothing_that_acts() {
        for name in ["tokio", "tokio-util", "actix", "reqwest", "rand", "getrandom"] {
            assert!(refused("aito-domain", name, None), "{name}");
        }
        assert!(!refused("aito-domain", "rand", Some("dev")));
        assert!(!refused("aito-domain", "chrono", None));
    }

    #[test]
    fn banned_packages_are_refused_anywhere_in_the_tree() {
        for (name, version) in [
            ("h2", "0.3.26"),
            ("h2", "unreadable"),
            ("openssl-sys", "0.9.1"),
            ("native-tls", "0.2.0"),
            ("actix-governor", "1.0.0"),
        ] {
            assert_eq!(
                judged(vec![], vec![foreign(name, version, Some(CRATES_IO))]).len(),
                1,
                "{name} {version}"
            );
        }
        assert!(judged(vec![], vec![foreign("h2", "1.0.0", Some(CRATES_IO))]).is_empty());
    }

    #[test]
    fn other_sources_are_refused() {
        for source in
            [Some("git+https://example.org/x#abc"), Some("registry+https://example.org/index"), None]
        {
            assert_eq!(judged(vec![], vec![foreign("x", "1.0.0", source)]).len(), 1, "{source:?}");
        }
    }
}
