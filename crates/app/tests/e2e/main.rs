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
mod claims;
mod disk;
mod events;
mod examples;
mod fleet;
mod images;
mod limits;
mod live;
mod outages;
mod roles;
mod several;
mod shapes;
mod sse;
mod streams;
mod tokens;
mod work;

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
        tasks_mail_notes_domains_and_settings_have_their_documented_shapes,
        the_seven_agents_have_their_documented_intervals_and_tiers,
        metrics_are_text_that_a_scraper_reads_and_the_api_describes_itself,
    }
    audit {
        every_change_has_one_entry_and_nothing_else_has,
        a_refused_attempt_is_told_with_its_status,
        a_flood_of_refusals_is_a_handful_of_entries,
        lists_are_filtered_and_paged_without_gap_or_double,
        a_killed_server_has_told_of_every_change_that_it_acknowledged,
        the_chain_is_verified_beside_a_running_server_and_without_one,
        a_chain_that_was_tampered_with_is_found_out,
    }
    canaries {
        no_planted_secret_comes_out_again,
    }
    bad_input {
        unknown_and_invalid_requests_are_refused,
        wrong_methods_name_the_right_ones_and_later_paths_say_so,
        bodies_are_checked_whole,
        bad_tasks_mail_notes_domains_and_settings_change_nothing,
        what_is_repeated_with_its_key_is_done_once,
        what_was_changed_since_is_not_overwritten,
        what_cannot_start_is_refused_by_name_and_nothing_changes,
    }
    tokens {
        the_first_start_makes_one_token_for_its_owner_alone_and_no_later_start_another,
        a_lost_token_is_replaced_on_the_machine_beside_a_server_and_without_one,
        a_token_lives_as_it_is_told_and_its_secret_is_shown_once,
        a_token_keeps_its_name_until_it_is_revoked_even_when_it_has_expired,
        every_fault_of_a_new_token_is_named_and_a_name_that_is_taken_is_a_conflict,
        a_making_that_is_repeated_makes_no_second_token_and_shows_no_secret,
        a_row_that_is_repeated_gets_its_first_answer_and_keys_belong_to_caller_and_path,
        every_wrong_credential_gets_the_same_answer,
    }
    streams {
        a_ticket_opens_one_socket_once_and_nothing_else,
        a_ticket_ends_with_its_time_and_with_the_token_that_asked_for_it,
        an_ended_token_loses_its_open_streams_within_5_s_and_no_other_does,
        a_secret_that_was_rotated_away_loses_its_open_streams_within_5_s,
        a_past_incarnation_loses_its_open_socket_within_5_s,
        an_agent_hears_of_itself_only,
        what_is_told_of_tokens_is_for_those_who_may_list_them,
    }
    limits {
        an_agent_writes_so_much_history_a_day_and_no_other_pays_for_it,
    }
    roles {
        every_operation_is_for_those_whom_the_contract_names,
        where_no_credential_is_asked_for_all_may_all_and_agents_stay_themselves,
        the_page_of_the_description_is_everybodys,
        every_operation_refuses_what_is_wrong_as_documented,
    }
    claims {
        each_task_is_done_once_in_its_order_whoever_dies,
    }
    live {
        how_long_what_is_sent_may_wait_is_changed_live,
        the_loop_interval_is_changed_live_and_versions_grow,
        how_many_tasks_an_agent_may_hold_is_changed_live,
        what_waiting_is_worth_is_changed_live,
        a_setting_that_nothing_heeds_says_so,
        a_message_comes_again_until_it_is_acknowledged,
        who_waits_is_woken_by_what_another_server_is_told,
        a_message_that_is_known_ends_no_wait,
        however_much_an_agent_writes_it_can_be_restarted,
        a_wait_ends_with_the_credential_that_waits,
        a_stopping_server_lets_nobody_wait,
        a_full_mailbox_refuses_and_tasks_can_be_created,
        a_mailbox_has_room_again_when_something_was_heard,
        the_task_of_an_agent_that_ended_waits_again_without_a_claim,
        an_overdue_task_is_told_once,
        a_task_for_an_agent_that_does_not_run_waits,
        state_tasks_mail_and_settings_outlive_restarts,
        the_first_domains_are_on_the_list_once_and_stay_removed,
    }
    work {
        a_task_of_a_token_is_stored_and_wakes_its_agent,
        claiming_and_reading_lose_no_task,
        an_agent_has_one_mailbox_for_all_that_reaches_it,
        no_path_of_settings_hides_another,
        a_secret_setting_is_shown_to_nobody,
        an_approval_and_its_entry_are_one_and_names_are_covered_by_labels,
        agents_see_and_do_what_concerns_them_and_nothing_else,
    }
    sse {
        a_stream_that_is_cut_and_resumed_has_exactly_the_log,
        a_stream_from_nowhere_is_told_once_and_goes_on,
        a_stream_is_what_the_standard_says,
        a_stream_wants_a_credential_and_ends_with_it,
        a_ticket_opens_one_stream_once,
        who_does_not_read_its_stream_holds_up_nobody,
    }
    examples {
        the_documented_examples_work_as_they_stand,
        the_documented_examples_work_with_a_token,
        sockets_want_a_credential_other_sites_get_nothing_and_floods_are_slowed,
        a_scraper_reads_metrics_with_a_viewers_token_and_nobody_without,
        ids_of_any_form_are_unknown_and_json_is_camel_case_everywhere,
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
