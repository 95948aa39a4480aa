//! Logs that arrive in pieces, cut, or as something else.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aito_contracts::runtime::{SOON, key, within};
use aito_domain::ports::runtime::{ContainerRuntime, LogQuery, RuntimeError};
use futures_util::StreamExt as _;
use serde_json::json;

use crate::{
    container, engine, open,
    support::{
        fake::{Reply, answer, refusal},
        warnings,
    },
};

/// A piece of a log in the engine's format: written on this channel so many seconds after another time.
fn piece(channel: u8, seconds: u32, text: &str) -> Vec<u8> {
    let text = format!("2026-11-25T19:33:{seconds:02}.000000000Z {text}");
    let mut out = vec![channel, 0, 0, 0, 0, 0, 0, u8::try_from(text.len()).unwrap()];
    out.extend(text.into_bytes());
    out
}

#[tokio::test]
async fn of_the_last_lines_one_whose_beginning_was_not_sent_is_left_out() {
    // Of a log like this the engine sends as many of the last pieces as it is asked for.
    let of = async |pieces: Vec<Vec<u8>>, tail: u32| {
        let fake = engine(move |request| {
            let (_, asked) = request.split_once("&tail=")?;
            let asked: usize = asked.parse().unwrap();
            Some(Reply::Pieces(pieces[pieces.len().saturating_sub(asked)..].to_vec()))
        });
        let query = LogQuery { tail: Some(tail), ..LogQuery::default() };
        let lines = open(&fake).logs(&key("ceo", 1), &query).await.unwrap();
        lines.map(|line| line.text).collect::<Vec<_>>().await
    };
    // A line of more pieces than the longest one should have, and others after it.
    let long = |begins: &str| -> Vec<Vec<u8>> {
        let middle = std::iter::repeat_n(piece(1, 1, "-"), 30);
        [piece(1, 1, begins)].into_iter().chain(middle).collect()
    };
    let ends = [piece(1, 1, "end\n"), piece(2, 2, "error\n"), piece(1, 3, "last\n")];
    let all = [long("begins"), ends.to_vec()].concat();
    assert_eq!(of(all.clone(), 5).await, ["error", "last"]);
    assert_eq!(of(all.clone(), 1).await, ["last"]);
    assert_eq!(of(all.clone(), 0).await, [""; 0]);
    // The whole log has its beginning.
    let whole = of(all, 7).await;
    assert!(whole.len() == 3 && whole[0].starts_with("begins-") && whole[0].ends_with("-end"), "{whole:?}");
    // What was cut may end after a line of the other channel.
    let crossed = [long("begins"), vec![piece(2, 2, "error\n"), piece(1, 1, "end\n")]].concat();
    assert_eq!(of(crossed, 5).await, ["error"]);
    // An answer of exactly as many pieces as were asked for may be everything there is, or not.
    let exactly: Vec<_> = (0..12).map(|n| piece(1, n, &format!("{n}\n"))).collect();
    assert_eq!(of(exactly.clone(), 1).await, ["11"]);
    assert_eq!(of(exactly, 12).await.len(), 12);
}

#[tokio::test]
async fn a_log_that_stays_broken_is_warned_of_once() {
    warnings::collect();
    let tries = Arc::new(AtomicUsize::new(0));
    let made = Arc::clone(&tries);
    let fake = engine(move |request| {
        if request.contains("/logs?") {
            made.fetch_add(1, Ordering::SeqCst);
            return Some(Reply::Pieces(vec![b"text of a terminal".to_vec()]));
        }
        let gone = request.ends_with("/json") && made.load(Ordering::SeqCst) >= 3;
        gone.then(|| refusal(404, "No such container: x"))
    });
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let lines = open(&fake).logs(&key("ceo", 1), &query).await.unwrap();
    assert_eq!(within("the end of a log", SOON, lines.collect::<Vec<_>>()).await, []);
    assert_eq!((tries.load(Ordering::SeqCst), warnings::count("cannot be read on")), (3, 1));
}

#[tokio::test]
async fn a_log_that_breaks_or_makes_no_sense_ends_without_a_panic() {
    let frame = |text: &str| {
        let mut out = vec![1, 0, 0, 0, 0, 0, 0, u8::try_from(text.len()).unwrap()];
        out.extend(text.as_bytes());
        out
    };
    let good = frame("2026-11-25T19:33:33.473925276Z one\n");
    for (reply, wanted) in [
        (Reply::Pieces(vec![good.clone(), good[..20].to_vec()]), 1),
        (Reply::Broken(vec![good.clone()]), 1),
        (Reply::Pieces(vec![good.clone(), b"text of a terminal".to_vec()]), 1),
        (Reply::Pieces(vec![vec![1, 0, 0, 0, 255, 255, 255, 255], vec![b'x'; 100_000]]), 0),
        (Reply::Stalled(b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec()), 0),
    ] {
        let fake = engine(move |request| request.contains("/logs?").then(|| reply.clone()));
        let runtime = open(&fake);
        let lines = runtime.logs(&key("ceo", 1), &LogQuery::default()).await.unwrap();
        assert_eq!(within("the end of a log", SOON, lines.collect::<Vec<_>>()).await.len(), wanted);
    }
}

#[tokio::test]
async fn a_container_on_a_terminal_has_no_log() {
    let fake = engine(|request| {
        let mut terminal = container("running", 0);
        terminal["Config"]["Tty"] = json!(true);
        request.ends_with("/json").then(|| answer(&terminal))
    });
    let log = open(&fake).logs(&key("ceo", 1), &LogQuery::default()).await;
    assert!(matches!(log, Err(RuntimeError::Refused(_))));
}
