//! Logs of real containers: long, binary, rotated, followed.

use std::{collections::HashSet, time::Duration};

use aito_contracts::runtime::{SOON, ended, key, log, printed, within};
use aito_domain::{
    agent::Exit,
    ports::runtime::{ContainerRuntime, LogLine, LogQuery, Started},
};
use aito_harness::engine::call;
use futures_util::StreamExt as _;

use crate::support::fixture::{Fixture, GRACE, SLEEP};

#[tokio::test]
async fn a_last_line_without_an_end_is_shown() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    fixture.run(&key, "printf 'one\\r\\ntwo'; printf three >&2").await;
    ended(&*fixture.runtime, &key).await;
    let mut texts = fixture.texts(&key).await;
    texts.sort();
    assert_eq!(texts, ["one", "three", "two"]);
}

#[tokio::test]
async fn long_lines_come_whole_up_to_the_cap_and_nothing_of_longer_ones_is_lost() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let line = |bytes: u32, letter: char| format!("head -c {bytes} /dev/zero | tr '\\0' {letter}; echo;");
    fixture.run(&key, &format!("{}{}echo end", line(50_000, 'a'), line(1_000_000, 'b'))).await;
    ended(&*fixture.runtime, &key).await;
    let texts = fixture.texts(&key).await;
    assert_eq!((texts[0].len(), texts.last().unwrap().as_str()), (50_000, "end"));
    let rest = &texts[1..texts.len() - 1];
    assert_eq!(rest.iter().map(String::len).sum::<usize>(), 1_000_000);
    assert!(rest.iter().all(|text| text.len() <= 64 << 10) && rest.len() == 16, "{}", rest.len());
    // Counted in lines, though the engine keeps the last ones in many pieces.
    let tail = LogQuery { tail: Some(17), ..LogQuery::default() };
    let last: Vec<LogLine> = fixture.runtime.logs(&key, &tail).await.unwrap().collect().await;
    assert_eq!(last.iter().map(|line| line.text.len()).collect::<Vec<_>>()[..1], [65_536]);
    assert_eq!(last.len(), 17);
}

#[tokio::test]
async fn the_last_lines_are_as_many_and_whole_however_long_they_are() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let script = "x=$(head -c 50000 /dev/zero | tr '\\0' x)
        n=10; while [ $n -lt 70 ]; do echo $n$x; n=$((n+1)); done; echo end";
    fixture.run(&key, script).await;
    ended(&*fixture.runtime, &key).await;
    let tail = LogQuery { tail: Some(40), ..LogQuery::default() };
    let last: Vec<LogLine> = fixture.runtime.logs(&key, &tail).await.unwrap().collect().await;
    assert_eq!((last.len(), last[39].text.as_str()), (40, "end"));
    for (number, line) in (31..70).zip(&last) {
        let begins = line.text.starts_with(&format!("{number}x"));
        assert!(begins && line.text.len() == 50_002, "{number}: {}", line.text.len());
    }
}

#[tokio::test]
async fn random_bytes_are_shown_as_lines_of_text() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    fixture.run(&key, "head -c 300000 /dev/urandom; echo; echo after").await;
    ended(&*fixture.runtime, &key).await;
    let lines = log(&*fixture.runtime, &key).await;
    assert!(lines.len() > 100 && lines.iter().all(|line| line.text.len() <= 64 << 10));
    assert_eq!(lines.last().unwrap().text, "after");
}

#[tokio::test]
async fn a_hundred_megabytes_are_rotated_and_a_follower_does_not_stall() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let line = "y".repeat(999);
    let script = format!("yes {line} | head -c 100000000; echo; echo last; {SLEEP}");
    fixture.run(&key, &script).await;
    let query = LogQuery { follow: true, tail: Some(0), ..LogQuery::default() };
    let mut followed = fixture.runtime.logs(&key, &query).await.unwrap();
    let reads = async {
        let mut count = 0_u64;
        while let Some(line) = followed.next().await {
            if line.text == "last" {
                return count;
            }
            count += 1;
        }
        panic!("the followed log ended");
    };
    let count = within("the last line", Duration::from_secs(60), reads).await;
    assert!(count > 0);
    // What is kept is the newest, at most two files of it, and can be read again.
    let mut kept = fixture.runtime.logs(&key, &LogQuery::default()).await.unwrap();
    let (mut bytes, mut last) = (0, String::new());
    while let Some(line) = kept.next().await {
        bytes += line.text.len() + 1;
        last = line.text;
    }
    assert_eq!(last, "last");
    assert!((5_000_000..21_000_000).contains(&bytes), "{bytes}");
    let tail = LogQuery { tail: Some(1), ..LogQuery::default() };
    let newest: Vec<LogLine> = fixture.runtime.logs(&key, &tail).await.unwrap().collect().await;
    assert_eq!(newest.iter().map(|line| line.text.as_str()).collect::<Vec<_>>(), ["last"]);
}

#[tokio::test]
async fn a_followed_log_begins_with_the_last_lines_and_misses_and_repeats_none() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let script = "n=0; while [ $n -lt 400 ]; do n=$((n+1)); echo $n; sleep 0.005; done; exit 0";
    fixture.run(&key, script).await;
    printed(&*fixture.runtime, &key, "20").await;
    let query = LogQuery { follow: true, tail: Some(5), ..LogQuery::default() };
    let mut followed = fixture.runtime.logs(&key, &query).await.unwrap();
    let mut numbers: Vec<u32> = Vec::new();
    let whole = async {
        while numbers.last() != Some(&400) {
            numbers.push(followed.next().await.unwrap().text.parse().unwrap());
        }
    };
    within("the last number", Duration::from_secs(30), whole).await;
    assert!(numbers[0] >= 16, "{numbers:?}");
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    fixture.runtime.remove(&key).await.unwrap();
    assert_eq!(within("the end of the log", SOON, followed.next()).await, None);
}

#[tokio::test]
async fn a_followed_log_goes_on_when_the_container_is_started_again_by_hand() {
    let fixture = Fixture::new();
    let key = key("ceo", 1);
    let mut start = fixture.script(&key, "echo begins; exit 4");
    start.spec.grace = GRACE;
    assert_eq!(fixture.runtime.ensure_started(&start).await.unwrap(), Started::Now);
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut followed = fixture.runtime.logs(&key, &query).await.unwrap();
    let first = within("the first line", SOON, followed.next()).await.unwrap();
    assert_eq!(ended(&*fixture.runtime, &key).await, Exit::Code(4));
    let path = format!("/containers/{}/start", fixture.name(&key));
    assert_eq!(call(&fixture.socket, "POST", &path, None).status, 204);
    let second = within("the second line", SOON, followed.next()).await.unwrap();
    assert!(first.text == "begins" && second.text == "begins" && second.at > first.at);
    let since = LogQuery { since: Some(second.at), ..LogQuery::default() };
    let later: Vec<LogLine> = fixture.runtime.logs(&key, &since).await.unwrap().collect().await;
    assert_eq!(later, [second]);
    let times: HashSet<_> = log(&*fixture.runtime, &key).await.into_iter().map(|line| line.at).collect();
    assert_eq!(times.len(), 2);
}
