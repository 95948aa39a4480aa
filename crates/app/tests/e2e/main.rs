//! The real binary, from outside: what its users do, and what must hold when it is killed, starved or misused.
//!
//! Invariants: every test has a sandbox of its own; nothing sleeps to wait for something; what users do runs on both
//! sets of adapters, the embedded one and real servers, with the same bodies.

#![allow(clippy::unwrap_used, missing_docs)] // a failed unwrap is a failed test

mod access;
mod audit;
mod bad_input;
mod bad_start;
mod canaries;
mod disk;
mod events;
mod examples;
mod fleet;
mod images;
mod limits;
mod outages;
mod roles;
mod several;
mod shapes;
mod streams;
mod tokens;

use std::time::Duration;

use aito_api::AgentStatus;
use aito_client::{Client, Endpoint, Options, RawAnswer, Token};
use aito_harness::{Sandbox, Set, wait};
use serde_json::Value;

/// How long something may take that promises no time.
const SOON: Duration = wait::SOON;

/// The same bodies on both sets: a test in `embedded` and one in `servers` for each name.
macro_rules! on_both_sets {
    ($($area:ident { $($name:ident,)+ })+) => {
        on_both_sets!(@set embedded, Set::Embedded, $($area { $($name,)+ })+);
        on_both_sets!(@set servers, Set::Servers, $($area { $($name,)+ })+);
    };
    (@set $module:ident, $set:expr, $($area:ident { $($name:ident,)+ })+) => {
        mod $module {
            use super::*;
            $(mod $area {
                use super::*;
                $(
                    #[tokio::test(flavor = "multi_thread")]
                    async fn $name() {
                        crate::$area::$name($set).await;
                    }
                )+
            })+
        }
    };
}

on_both_sets! {
    fleet {
        seven_agents_live_outlive_a_killed_server_and_are_found_once,
        a_killed_agent_is_an_event_within_1_s_and_a_restart_begun_within_2_s,
        the_exit_of_an_agent_that_died_without_a_server_is_known,
        start_is_idempotent_and_restart_and_stop_do_what_they_say,
        concurrent_starts_and_restarts_leave_one_process,
        an_agent_that_always_dies_backs_off_and_is_said_to_loop,
        a_silent_agent_is_unreachable_until_it_is_heard_again,
        a_stop_leaves_agents_running_and_is_quick,
        logs_can_be_read_and_followed,
        the_last_words_of_a_dead_agent_can_be_read_after_its_restart,
        chaos_ten_kills,
    }
    events {
        a_listener_that_is_cut_and_resumes_at_random_has_exactly_the_log,
        listeners_get_the_present_status_first_and_frames_in_the_documented_form,
        a_position_that_cannot_be_resumed_gets_one_reset,
        lists_are_paged_without_gap_or_double,
        a_listener_that_never_reads_does_not_stop_the_others,
        a_repeated_history_row_is_stored_once,
    }
    access {
        only_the_present_incarnation_speaks_and_only_for_itself,
        a_credential_of_another_installation_or_changed_is_refused,
        the_agents_socket_wants_a_credential_for_all_but_what_is_public,
        pages_of_other_sites_reach_nothing,
        request_ids_are_kept_when_they_are_fit,
    }
    shapes {
        documented_answers_have_their_documented_shapes,
        the_seven_agents_have_their_documented_intervals_and_tiers,
        metrics_are_text_that_a_scraper_reads_and_the_api_describes_itself,
    }
    bad_input {
        unknown_and_invalid_requests_are_refused,
        wrong_methods_name_the_right_ones_and_later_paths_say_so,
        bodies_are_checked_whole,
        what_cannot_start_is_refused_by_name_and_nothing_changes,
    }
}

fn sandbox(set: Set) -> Sandbox {
    Sandbox::of(set, env!("CARGO_BIN_EXE_aito"))
}

/// A sandbox whose `ceo` runs a shell script that hands out its credential and waits.
fn sandbox_with_leaky_ceo(set: Set) -> Sandbox {
    let sandbox = sandbox(set);
    sandbox.configure(&format!(
        "[agents.ceo]\ngrace = 1\ncommand = [\"/bin/sh\", \"-c\", '{}']\n",
        leak(&sandbox)
    ));
    sandbox
}

/// Copies the credential whole to `credential-<incarnation>`, then waits to be ended.
fn leak(sandbox: &Sandbox) -> String {
    let to = sandbox.root().join("credential");
    let to = to.display();
    format!("cp \"$AGENT_CREDENTIAL_FILE\" {to}.new; mv {to}.new {to}-$AGENT_INCARNATION; exec sleep 1000")
}

/// The credential that an incarnation of the leaky ceo was given.
async fn credential(sandbox: &Sandbox, incarnation: u64) -> String {
    let file = sandbox.root().join(format!("credential-{incarnation}"));
    wait::until("the credential", SOON, async || std::fs::read_to_string(&file).ok()).await.trim().to_owned()
}

/// A caller on the agents' socket with this credential.
fn as_agent(sandbox: &Sandbox, credential: &str) -> Client {
    let options = Options { token: Some(Token::new(credential).unwrap()), ..Options::default() };
    Client::new(Endpoint::unix(sandbox.socket()), options).unwrap()
}

async fn until_status(client: &Client, agent: &str, status: AgentStatus) {
    let what = format!("{agent} to be {status:?}");
    wait::until(&what, SOON, async || (client.agent(agent).await.ok()?.status == status).then_some(())).await;
}

async fn get(client: &Client, path: &str) -> RawAnswer {
    client.raw("GET", path, &[], None).await.unwrap()
}

async fn post(client: &Client, path: &str, body: &str) -> RawAnswer {
    client.raw("POST", path, &[("content-type", "application/json")], Some(body.into())).await.unwrap()
}

/// The answer must be a problem document with this status; gives the pointers of its faults.
fn refused(answer: &RawAnswer, status: u16) -> Vec<String> {
    let body: Value = answer.json().unwrap();
    assert_eq!(answer.status, status, "{body}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{body}");
    assert!(answer.header("x-request-id").is_some());
    assert_eq!((&body["status"], &body["success"]), (&Value::from(status), &Value::from(false)), "{body}");
    for key in ["type", "title", "detail", "instance", "error"] {
        assert!(body[key].as_str().is_some_and(|text| !text.is_empty()), "{key} is missing in {body}");
    }
    let faults = body["errors"].as_array().cloned().unwrap_or_default();
    faults.iter().map(|fault| fault["pointer"].as_str().unwrap().to_owned()).collect()
}
