//! The configuration of the guard: names, origins and proxies, limits, the audit, identity providers.
//!
//! Invariants: as for all configuration, a wrong value names its key and what is allowed, and every key has a
//! consumer; a secret is never shown.

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use aito_application::quota::{Allowance, Quota};
use aito_http::Limits;
use aito_jwt::{JwtConfig, JwtKeys, MAX_LEEWAY};
use serde::{Deserialize, Serialize};

/// Keys of the guard whose values are lists of texts.
pub(crate) const LISTS: [&str; 3] = ["hosts", "cors_origins", "trusted_proxies"];

/// As it stands in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLimits {
    rate: u32,
    burst: u32,
    connections: u32,
    connections_per_address: u32,
    streams_per_credential: u32,
    history_rows_per_day: u64,
    history_bytes_per_day: u64,
    state_rows_per_day: u64,
    state_bytes_per_day: u64,
    tasks_rows_per_day: u64,
    tasks_bytes_per_day: u64,
    messages_rows_per_day: u64,
    messages_bytes_per_day: u64,
    domain_requests_rows_per_day: u64,
    domain_requests_bytes_per_day: u64,
}

impl Default for RawLimits {
    fn default() -> Self {
        let (limits, allowance) = (Limits::default(), Allowance::default());
        Self {
            rate: limits.rate.get(),
            burst: limits.burst.get(),
            connections: limits.connections,
            connections_per_address: limits.connections_per_address,
            streams_per_credential: limits.streams_per_credential,
            history_rows_per_day: allowance.history.rows,
            history_bytes_per_day: allowance.history.bytes,
            state_rows_per_day: allowance.state.rows,
            state_bytes_per_day: allowance.state.bytes,
            tasks_rows_per_day: allowance.tasks.rows,
            tasks_bytes_per_day: allowance.tasks.bytes,
            messages_rows_per_day: allowance.messages.rows,
            messages_bytes_per_day: allowance.messages.bytes,
            domain_requests_rows_per_day: allowance.domain_requests.rows,
            domain_requests_bytes_per_day: allowance.domain_requests.bytes,
        }
    }
}

/// As it stands in the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAudit {
    /// 0: for ever.
    keep_days: u32,
}

/// As it stands in the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAuth {
    #[serde(default)]
    jwt: Option<RawJwt>,
}

/// As it stands in the file.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJwt {
    secret: Option<String>,
    jwks_file: Option<PathBuf>,
    issuer: Option<String>,
    audience: Option<String>,
    #[serde(default = "roles")]
    role_claim: String,
    #[serde(default = "leeway")]
    leeway: u64,
}

impl std::fmt::Debug for RawJwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RawJwt").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

fn roles() -> String {
    "roles".to_owned()
}

fn leeway() -> u64 {
    60
}

/// What the guard is told, checked.
#[derive(Clone)]
pub(crate) struct GuardConfig {
    /// Names of this server.
    pub(crate) hosts: Vec<String>,
    /// Origins whose pages may call.
    pub(crate) origins: Vec<String>,
    /// Proxies that are believed.
    pub(crate) proxies: Vec<ipnet::IpNet>,
    pub(crate) limits: Limits,
    /// What an agent may store a day.
    pub(crate) allowance: Allowance,
    /// How long the audit is kept; `None`: for ever.
    pub(crate) keep_audit: Option<Duration>,
    /// Whose tokens besides this installation's own count.
    pub(crate) jwt: Option<JwtConfig>,
    /// Key and value of everything here, for `aito config`.
    pub(crate) described: Vec<(&'static str, String)>,
}

/// What is wrong: the key, and what is allowed.
type Wrong = (&'static str, String);

/// The parts of the configuration that are the guard's.
pub(crate) struct RawGuard<'a> {
    pub(crate) hosts: &'a [String],
    pub(crate) cors_origins: &'a [String],
    pub(crate) trusted_proxies: &'a [String],
    pub(crate) limits: &'a RawLimits,
    pub(crate) audit: &'a RawAudit,
    pub(crate) auth: &'a RawAuth,
}

/// Checks everything.
pub(crate) fn check(raw: &RawGuard<'_>) -> Result<GuardConfig, Wrong> {
    let wrong = |key, allowed: &str| (key, allowed.to_owned());
    for host in raw.hosts {
        let fine = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
        if host.is_empty() || host.len() > 253 || !host.chars().all(fine) {
            return Err((
                "hosts",
                format!("names of hosts without a port, such as aito.example, not \"{host}\""),
            ));
        }
    }
    for origin in raw.cors_origins {
        let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        let fine = |c: char| c.is_ascii_alphanumeric() || "-.:[]".contains(c);
        if !rest.is_some_and(|rest| !rest.is_empty() && rest.chars().all(fine)) {
            let allowed =
                format!("origins such as https://board.example, without a path and no *, not \"{origin}\"");
            return Err(("cors_origins", allowed));
        }
    }
    let network = |text: &String| {
        let address = text.parse::<std::net::IpAddr>().map(ipnet::IpNet::from).ok();
        text.parse().ok().or(address).ok_or_else(|| {
            ("trusted_proxies", format!("addresses or networks such as 10.0.0.0/8, not \"{text}\""))
        })
    };
    let proxies = raw.trusted_proxies.iter().map(network).collect::<Result<Vec<_>, _>>()?;
    let l = raw.limits;
    let bounded = |key, value: u32, most: u32| {
        NonZeroU32::new(value).filter(|value| value.get() <= most).ok_or((key, format!("1 to {most}")))
    };
    let limits = Limits {
        rate: bounded("limits.rate", l.rate, 1_000_000)?,
        burst: bounded("limits.burst", l.burst, 1_000_000)?,
        connections: bounded("limits.connections", l.connections, 1_000_000)?.get(),
        connections_per_address: bounded(
            "limits.connections_per_address",
            l.connections_per_address,
            l.connections,
        )
        .map_err(|(key, _)| (key, "1 to limits.connections".to_owned()))?
        .get(),
        streams_per_credential: bounded(
            "limits.streams_per_credential",
            l.streams_per_credential,
            1_000_000,
        )?
        .get(),
    };
    let keep_days = raw.audit.keep_days;
    if keep_days > 36_500 {
        return Err(wrong("audit.keep_days", "0 (for ever) to 36500 days"));
    }
    let jwt = raw.auth.jwt.as_ref().map(jwt).transpose()?;
    let list = |all: &[String]| if all.is_empty() { "none".to_owned() } else { all.join(",") };
    let mut described = vec![
        ("hosts", list(raw.hosts)),
        ("cors_origins", list(raw.cors_origins)),
        ("trusted_proxies", list(raw.trusted_proxies)),
        ("limits.rate", l.rate.to_string()),
        ("limits.burst", l.burst.to_string()),
        ("limits.connections", l.connections.to_string()),
        ("limits.connections_per_address", l.connections_per_address.to_string()),
        ("limits.streams_per_credential", l.streams_per_credential.to_string()),
        ("limits.history_rows_per_day", l.history_rows_per_day.to_string()),
        ("limits.history_bytes_per_day", l.history_bytes_per_day.to_string()),
        ("limits.state_rows_per_day", l.state_rows_per_day.to_string()),
        ("limits.state_bytes_per_day", l.state_bytes_per_day.to_string()),
        ("limits.tasks_rows_per_day", l.tasks_rows_per_day.to_string()),
        ("limits.tasks_bytes_per_day", l.tasks_bytes_per_day.to_string()),
        ("limits.messages_rows_per_day", l.messages_rows_per_day.to_string()),
        ("limits.messages_bytes_per_day", l.messages_bytes_per_day.to_string()),
        ("limits.domain_requests_rows_per_day", l.domain_requests_rows_per_day.to_string()),
        ("limits.domain_requests_bytes_per_day", l.domain_requests_bytes_per_day.to_string()),
        ("audit.keep_days", if keep_days == 0 { "0: for ever".to_owned() } else { keep_days.to_string() }),
    ];
    match &raw.auth.jwt {
        None => described.push(("auth.jwt", "none".to_owned())),
        Some(jwt) => described.extend([
            ("auth.jwt.secret", jwt.secret.as_ref().map_or("none", |_| "***").to_owned()),
            ("auth.jwt.jwks_file", jwt.jwks_file.as_ref().map_or("none".into(), |p| p.display().to_string())),
            ("auth.jwt.issuer", jwt.issuer.clone().unwrap_or_default()),
            ("auth.jwt.audience", jwt.audience.clone().unwrap_or_default()),
            ("auth.jwt.role_claim", jwt.role_claim.clone()),
            ("auth.jwt.leeway", jwt.leeway.to_string()),
        ]),
    }
    Ok(GuardConfig {
        hosts: raw.hosts.to_vec(),
        origins: raw.cors_origins.to_vec(),
        proxies,
        limits,
        allowance: Allowance {
            history: Quota { rows: l.history_rows_per_day, bytes: l.history_bytes_per_day },
            state: Quota { rows: l.state_rows_per_day, bytes: l.state_bytes_per_day },
            tasks: Quota { rows: l.tasks_rows_per_day, bytes: l.tasks_bytes_per_day },
            messages: Quota { rows: l.messages_rows_per_day, bytes: l.messages_bytes_per_day },
            domain_requests: Quota {
                rows: l.domain_requests_rows_per_day,
                bytes: l.domain_requests_bytes_per_day,
            },
        },
        keep_audit: (keep_days > 0).then(|| Duration::from_secs(u64::from(keep_days) * 24 * 3600)),
        jwt,
        described,
    })
}

fn jwt(raw: &RawJwt) -> Result<JwtConfig, Wrong> {
    let keys = match (&raw.secret, &raw.jwks_file) {
        (Some(secret), None) if secret.len() >= 32 => JwtKeys::Secret(secret.clone().into_bytes()),
        (Some(_), None) => return Err(("auth.jwt.secret", "at least 32 bytes".to_owned())),
        (None, Some(path)) if path.is_absolute() => JwtKeys::Jwks(path.clone()),
        (None, Some(_)) => return Err(("auth.jwt.jwks_file", "an absolute path".to_owned())),
        _ => return Err(("auth.jwt", "given either secret or jwks_file".to_owned())),
    };
    let given = |key, value: &Option<String>| {
        let value = value.clone().filter(|value| !value.is_empty());
        value.ok_or((key, "given: a token is believed only from one issuer, for one audience".to_owned()))
    };
    let leeway = Duration::from_secs(raw.leeway);
    if leeway > MAX_LEEWAY {
        return Err(("auth.jwt.leeway", format!("0 to {} seconds", MAX_LEEWAY.as_secs())));
    }
    Ok(JwtConfig {
        keys,
        issuer: given("auth.jwt.issuer", &raw.issuer)?,
        audience: given("auth.jwt.audience", &raw.audience)?,
        role_claim: raw.role_claim.clone(),
        leeway,
    })
}
