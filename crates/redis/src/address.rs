//! Reads where Redis is from text. Pure.
//!
//! Invariants: what is not understood is refused, never ignored; a refusal holds nothing of the text, which may hold a
//! password; what is shown of an address has neither user nor password.

use std::fmt;

use redis::{
    ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisConnectionInfo, io::tcp::TcpSettings,
};

/// The forms of a URL, for messages.
pub(crate) const ALLOWED: &str = "redis://[user:password@]host[:port][/database], rediss://… with TLS, \
    redis+unix:///path[?db=…&user=…&pass=…] and \
    redis-sentinel://[user:password@]host[:port][,host[:port]…]/master";

/// The port of a sentinel that names none.
const SENTINEL_PORT: u16 = 26379;

/// Where to connect.
#[derive(Clone)]
pub(crate) enum Nodes {
    /// One server.
    One(ConnectionInfo),
    /// The master that sentinels know.
    Master {
        /// The sentinels.
        sentinels: Vec<ConnectionInfo>,
        /// The name under which they watch it.
        name: String,
        /// How to begin a connection to a server.
        server: RedisConnectionInfo,
    },
}

impl Nodes {
    /// The same with user or password replaced where one is given.
    pub(crate) fn with_credentials(self, user: Option<&str>, password: Option<&str>) -> Self {
        let replace = |mut settings: RedisConnectionInfo| {
            if let Some(user) = user {
                settings = settings.set_username(user);
            }
            if let Some(password) = password {
                settings = settings.set_password(password);
            }
            settings
        };
        match self {
            Self::One(info) => {
                let settings = replace(info.redis_settings().clone());
                Self::One(info.set_redis_settings(settings))
            }
            Self::Master { sentinels, name, server } => {
                Self::Master { sentinels, name, server: replace(server) }
            }
        }
    }

    /// The password of the servers.
    pub(crate) fn password(&self) -> Option<&str> {
        match self {
            Self::One(info) => info.redis_settings().password(),
            Self::Master { server, .. } => server.password(),
        }
    }

    /// Whether the connection is by TLS.
    pub(crate) fn tls(&self) -> bool {
        matches!(self, Self::One(info) if matches!(info.addr(), ConnectionAddr::TcpTls { .. }))
    }
}

impl fmt::Display for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(info) => write!(f, "{}", info.addr()),
            Self::Master { sentinels, name, .. } => {
                write!(f, "{name} of the sentinels")?;
                for (n, sentinel) in sentinels.iter().enumerate() {
                    write!(f, "{}{}", if n == 0 { " " } else { ", " }, sentinel.addr())?;
                }
                Ok(())
            }
        }
    }
}

/// Reads a URL; an error says what is wrong.
pub(crate) fn parse_url(text: &str) -> Result<Nodes, &'static str> {
    match text.strip_prefix("redis-sentinel://") {
        Some(rest) => parse_sentinel_url(rest),
        None => parse_server(text).map(|(info, _)| Nodes::One(info)),
    }
}

/// Reads a list of sentinels (`host[:port]`) with the name of their master.
pub(crate) fn parse_sentinels<'a>(
    hosts: impl Iterator<Item = &'a str>,
    name: &str,
) -> Result<Nodes, &'static str> {
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        return Err("the name of a master has letters, digits, `.`, `_` and `-`");
    }
    let mut sentinels = Vec::new();
    for host in hosts.map(str::trim) {
        if host.contains(['/', '@', '?', '#']) {
            return Err("a sentinel is host[:port]");
        }
        let (info, has_port) =
            parse_server(&format!("redis://{host}")).map_err(|_| "a sentinel is host[:port]")?;
        sentinels.push(match info.addr() {
            ConnectionAddr::Tcp(host, _) if !has_port => {
                let addr = ConnectionAddr::Tcp(host.clone(), SENTINEL_PORT);
                info.set_addr(addr)
            }
            _ => info,
        });
    }
    if sentinels.is_empty() {
        return Err("there is no sentinel");
    }
    let server = RedisConnectionInfo::default().set_skip_set_lib_name();
    Ok(Nodes::Master { sentinels, name: name.to_owned(), server })
}

fn parse_sentinel_url(rest: &str) -> Result<Nodes, &'static str> {
    let (authority, name) = rest.split_once('/').ok_or("the name of the master is missing")?;
    let (login, hosts) = match authority.rsplit_once('@') {
        Some((login, hosts)) => (Some(login), hosts),
        None => (None, authority),
    };
    let nodes = parse_sentinels(hosts.split(','), name)?;
    let Some(login) = login else { return Ok(nodes) };
    let (info, _) = parse_server(&format!("redis://{login}@host"))?;
    let settings = info.redis_settings();
    Ok(nodes.with_credentials(settings.username(), settings.password()))
}

/// One server's URL, and whether it names a port.
fn parse_server(text: &str) -> Result<(ConnectionInfo, bool), &'static str> {
    let url = redis::parse_redis_url(text).ok_or(
        "it is none of these forms (in a user or password, all but letters and digits is percent-encoded)",
    )?;
    if url.fragment().is_some() {
        return Err("a `#` has no meaning in it (in a password it is written `%23`)");
    }
    match url.scheme() {
        "redis" | "rediss" => {
            if url.query().is_some() {
                return Err("a `?` has no meaning in it (in a password it is written `%3F`)");
            }
            let database = url.path().strip_prefix('/').unwrap_or_default();
            if !database.is_empty() && database.parse::<u16>().is_err() {
                return Err("the database is a number");
            }
        }
        "redis+unix" => {
            for (key, value) in url.query_pairs() {
                match &*key {
                    "db" if value.parse::<u16>().is_err() => return Err("the database is a number"),
                    "db" | "user" | "pass" => {}
                    _ => return Err("after `?` there may be db, user and pass"),
                }
            }
        }
        _ => return Err("it is none of these forms"),
    }
    let has_port = url.port().is_some();
    let info = url.into_connection_info().map_err(|_| "the host, the path or the encoding cannot be used")?;
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    let tcp = TcpSettings::default().set_nodelay(true);
    Ok((info.set_redis_settings(settings).set_tcp_settings(tcp), has_port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_and_as_whom() {
        let Ok(Nodes::One(info)) = parse_url("rediss://me:p%40ss@cache.example:6390/3") else { panic!() };
        assert!(matches!(
            info.addr(),
            ConnectionAddr::TcpTls { host, port: 6390, insecure: false, .. } if host == "cache.example"
        ));
        let settings = info.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("me"), Some("p@ss"), 3));

        let Ok(Nodes::One(info)) = parse_url("redis://[::1]") else { panic!() };
        assert_eq!(*info.addr(), ConnectionAddr::Tcp("::1".to_owned(), 6379));

        let Ok(Nodes::One(info)) = parse_url("redis+unix:///run/redis.sock?db=2&pass=s%26t") else {
            panic!()
        };
        assert_eq!(*info.addr(), ConnectionAddr::Unix("/run/redis.sock".into()));
        assert_eq!((info.redis_settings().password(), info.redis_settings().db()), (Some("s&t"), 2));
    }

    #[test]
    fn sentinels_are_a_url_or_a_list() {
        let by_url = parse_url("redis-sentinel://:p%2Fw@one:1,[::1],three/main").ok().unwrap();
        assert_eq!(by_url.to_string(), "main of the sentinels one:1, ::1:26379, three:26379");
        assert_eq!(by_url.password(), Some("p/w"));
        let by_list = parse_sentinels(["one:1", " [::1]", "three"].into_iter(), "main").ok().unwrap();
        assert_eq!(by_list.to_string(), by_url.to_string());
        assert_eq!(by_list.password(), None);
        assert_eq!(by_list.with_credentials(Some("u"), Some("q")).password(), Some("q"));
    }

    #[test]
    fn what_is_not_understood_is_refused_and_not_repeated() {
        for wrong in [
            "",
            "localhost:6379",
            "http://s3cret@host",
            "valkey://s3cret@host",
            "redis://",
            "redis://host:port",
            "redis://:s3cret@0.0.0.0",
            "redis://:s3cret@host/-1",
            "redis://:s3cret@host/some",
            "redis://:s3cret@host/1/2",
            "redis://:s3cret@host?protocol=resp3",
            "redis://:s3c#ret@host",
            "rediss://:s3cret@host#insecure",
            "redis+unix://host/path",
            "redis+unix:///path?password=s3cret",
            "redis-sentinel://host",
            "redis-sentinel://host/",
            "redis-sentinel:///main",
            "redis-sentinel://:s3cret@host,/main",
            "redis-sentinel://:s3cret@host/ma/in",
            "redis-sentinel://:s3cret@host/main?db=1",
            "redis-sentinel://:s3cret@host:none/main",
        ] {
            let Err(what) = parse_url(wrong) else { panic!("{wrong} is refused") };
            assert!(!what.contains("s3c"), "{what}");
        }
        assert!(parse_sentinels([].into_iter(), "main").is_err());
        assert!(parse_sentinels(["a@b"].into_iter(), "main").is_err());
    }
}
