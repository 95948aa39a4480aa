//! Translates between Redis and the domain. Pure.
//!
//! Invariant: no text that is made here holds one of the passwords, whatever a server repeats of them.

use std::sync::Arc;

use aito_domain::ports::bus::{BusError, BusMessage, Topic};
use redis::{ErrorKind, PushInfo, PushKind, RedisError, Value};

/// Which Redis it is, for messages.
#[derive(Clone)]
pub(crate) struct Server {
    name: Arc<str>,
    secrets: Arc<[String]>,
}

impl Server {
    /// `name` is how it is shown, `secrets` what never is.
    pub(crate) fn new(name: String, secrets: impl IntoIterator<Item = String>) -> Self {
        let secrets = secrets.into_iter().filter(|secret| !secret.is_empty()).collect();
        Self { name: name.into(), secrets }
    }

    /// What an error of the library means.
    pub(crate) fn failed(&self, error: &RedisError) -> Failure {
        let text = error.to_string();
        let why = match (error.kind(), error.code()) {
            _ if error.is_timeout() => Why::Silent,
            (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS")) => Why::Password,
            // Asked for in RESP3, this comes inside of the text of another error.
            (_, Some("NOAUTH")) => Why::NoPassword,
            _ if text.contains("WRONGPASS") => Why::Password,
            _ if text.contains("NOAUTH") => Why::NoPassword,
            (ErrorKind::MasterNameNotFoundBySentinel, _) => Why::NoMaster,
            _ => Why::Other(self.without_secrets(text)),
        };
        self.because(why)
    }

    /// It did not answer in time.
    pub(crate) fn silent(&self) -> Failure {
        self.because(Why::Silent)
    }

    /// Anything else.
    pub(crate) fn other(&self, what: &str) -> Failure {
        self.because(Why::Other(self.without_secrets(what.to_owned())))
    }

    fn because(&self, why: Why) -> Failure {
        Failure { server: self.name.clone(), why }
    }

    fn without_secrets(&self, mut text: String) -> String {
        for secret in self.secrets.iter() {
            text = text.replace(secret.as_str(), "***");
        }
        text
    }
}

/// Why Redis does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("redis ({server}): {why}")]
pub(crate) struct Failure {
    server: Arc<str>,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error("no answer in time")]
    Silent,
    #[error("the user name or the password is wrong")]
    Password,
    #[error("it asks for a password and none is configured")]
    NoPassword,
    #[error("the sentinels know no master of this name that is up")]
    NoMaster,
    #[error("{0}")]
    Other(String),
}

impl From<Failure> for BusError {
    fn from(failure: Failure) -> Self {
        Self(Box::new(failure))
    }
}

/// The channel of a topic.
pub(crate) fn channel(prefix: &str, topic: &Topic) -> String {
    format!("{prefix}{}", topic.0)
}

/// The message that a push carries; `None` if it is none, or none of ours.
pub(crate) fn message(prefix: &str, push: PushInfo) -> Option<BusMessage> {
    if push.kind != PushKind::Message {
        return None;
    }
    let [Value::BulkString(channel), Value::BulkString(payload)] = <[Value; 2]>::try_from(push.data).ok()?
    else {
        return None;
    };
    let topic = String::from_utf8(channel).ok()?.strip_prefix(prefix)?.to_owned();
    Some(BusMessage { topic: Topic(topic.into()), payload })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn server() -> Server {
        Server::new("cache:6379".to_owned(), ["s3cret".to_owned(), String::new()])
    }

    fn answer(line: &str) -> RedisError {
        redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap().extract_error().unwrap_err()
    }

    #[test]
    fn an_error_says_what_the_operator_can_do() {
        for (error, why) in [
            (answer("WRONGPASS invalid username-password pair or user is disabled."), Why::Password),
            ((ErrorKind::AuthenticationFailed, "Password authentication failed").into(), Why::Password),
            (answer("NOAUTH Authentication required."), Why::NoPassword),
            (
                (ErrorKind::Client, "it said", "NOAUTH HELLO must be called authenticated".to_owned()).into(),
                Why::NoPassword,
            ),
            (io::Error::from(io::ErrorKind::TimedOut).into(), Why::Silent),
            ((ErrorKind::MasterNameNotFoundBySentinel, "not found").into(), Why::NoMaster),
        ] {
            assert_eq!(server().failed(&error).why, why, "{error}");
        }
        let refused = server().failed(&io::Error::from(io::ErrorKind::ConnectionRefused).into());
        assert_eq!(refused.to_string(), "redis (cache:6379): connection refused");
    }

    #[test]
    fn a_password_that_a_server_repeats_is_not_shown() {
        let error = answer("ERR unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `s3cret`");
        let failure = server().failed(&error);
        for text in [failure.to_string(), format!("{failure:?}")] {
            assert!(text.contains("***") && !text.contains("s3cret"), "{text}");
        }
        assert!(!server().other("s3cret").to_string().contains("s3cret"));
    }

    #[test]
    fn only_messages_under_the_prefix_are_ours() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let push = |kind, data: &[Value]| PushInfo { kind, data: data.to_vec() };
        let topic = Topic("hint:log".into());
        assert_eq!(channel("a:", &topic), "a:hint:log");
        let ours = push(PushKind::Message, &[bulk("a:hint:log"), bulk("\0x")]);
        assert_eq!(message("a:", ours), Some(BusMessage { topic, payload: b"\0x".to_vec() }));
        for other in [
            push(PushKind::Message, &[bulk("b:hint:log"), bulk("x")]),
            push(PushKind::Message, &[bulk("a:hint:log")]),
            push(PushKind::Message, &[Value::Int(1), bulk("x")]),
            push(PushKind::Subscribe, &[bulk("a:hint:log"), bulk("x")]),
        ] {
            assert_eq!(message("a:", other), None);
        }
    }
}
