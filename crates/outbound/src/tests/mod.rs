//! Calls to real servers on this machine.

mod limits;
mod rules;
mod server;
mod tls;

use std::{
    collections::VecDeque,
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use rustls::RootCertStore;

use super::*;

/// A resolver with prepared answers, one per look-up; the last one stays.
struct Prepared {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl Prepared {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parsed = |answer: &&[&str]| answer.iter().map(|text| text.parse().unwrap()).collect();
        let answers = Mutex::new(answers.iter().map(parsed).collect());
        Arc::new(Self { answers, asked: Mutex::default() })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Lookup for Prepared {
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.asked.lock().unwrap().push(name.to_owned());
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        answer.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// Allows these networks; plenty of time.
fn allowing(networks: &[&str]) -> Policy {
    Policy {
        allowed_private: networks.iter().map(|network| network.parse().unwrap()).collect(),
        timeout: Duration::from_secs(20),
        ..Policy::default()
    }
}

/// Makes calls with a prepared resolver.
fn outbound_with(policy: Policy, lookup: &Arc<Prepared>) -> Outbound {
    Outbound::with(policy, lookup.clone(), RootCertStore::empty()).unwrap()
}

/// Makes calls as a program does.
fn outbound(policy: Policy) -> Outbound {
    Outbound::new(policy).unwrap()
}

fn get(url: impl Into<String>) -> Request {
    Request::new(Method::Get, url)
}

/// The rule that refused the call.
fn refusal(done: Result<Response, OutboundError>) -> Refusal {
    match done {
        Err(OutboundError::Refused { why }) => why,
        other => panic!("not refused: {other:?}"),
    }
}
