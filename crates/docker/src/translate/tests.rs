//! What the engine says, and what is made of it.

use aito_domain::{id::AgentId, time::millis};
use uuid::Uuid;

use super::*;

const OURS: InstallationId = InstallationId(Uuid::from_u128(7));

fn key() -> ContainerKey {
    ContainerKey {
        agent_id: AgentId(Uuid::from_u128(1)),
        agent_type: "ceo".parse().unwrap(),
        incarnation: Incarnation(3),
    }
}

fn own_labels() -> Labels {
    labels(OURS, &key()).into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn answer(status: u16, message: &str) -> Fault {
    Fault::Answer { status, message: message.to_owned() }
}

#[test]
fn only_label_and_exact_name_together_make_it_ours() {
    let name = key().name(OURS);
    assert_eq!(key_of(OURS, &name, &own_labels()), Some(key()));
    for other in [format!("my-{name}-old"), format!("{name}2"), name[..name.len() - 1].to_owned()] {
        assert_eq!(key_of(OURS, &other, &own_labels()), None, "{other}");
    }
    let stranger = InstallationId(Uuid::from_u128(8));
    assert_eq!(key_of(stranger, &name, &own_labels()), None);
    for (label, value) in [(INSTALLATION, stranger.to_string().as_str()), (AGENT, "x"), (INCARNATION, "4")] {
        let changed = own_labels().into_iter().chain([(label.to_owned(), value.to_owned())]).collect();
        assert_eq!(key_of(OURS, &name, &changed), None, "{label}");
    }
    for missing in [INSTALLATION, AGENT, TYPE, INCARNATION] {
        let mut fewer = own_labels();
        fewer.remove(missing);
        assert_eq!(key_of(OURS, &name, &fewer), None, "{missing}");
    }
}

#[test]
fn ends_by_the_kernel_are_signals_and_others_codes() {
    let exited = |exit_code| exit(&Inspected { exit_code, ..Inspected::default() });
    for (code, wanted) in [
        (0, Exit::Code(0)),
        (77, Exit::Code(77)),
        (137, Exit::Signal(9)),
        (139, Exit::Signal(11)),
        (143, Exit::Code(143)),
        (255, Exit::Code(255)),
        (i64::MAX, Exit::Code(i32::MAX)),
    ] {
        assert_eq!(exited(code), wanted);
    }
}

#[test]
fn states_are_what_they_are_to_the_fleet() {
    let of =
        |status: &str| state(&Inspected { status: status.to_owned(), exit_code: 4, ..Inspected::default() });
    assert_eq!(of("created"), Some(ContainerState::Creating));
    for lives in ["running", "paused", "restarting", "something new"] {
        assert_eq!(of(lives), Some(ContainerState::Running), "{lives}");
    }
    for ended in ["exited", "dead"] {
        assert_eq!(of(ended), Some(ContainerState::Exited(Exit::Code(4))), "{ended}");
    }
    assert_eq!(of("removing"), None);
}

#[test]
fn look_alikes_are_shown_with_type_and_owner() {
    let listed = |name: &str, image: &str, labels: &[(&str, &str)]| Listed {
        names: vec![name.to_owned()],
        image: image.to_owned(),
        labels: map(labels),
        state: "running".to_owned(),
        ..Listed::default()
    };
    let other = Uuid::from_u128(9).to_string();
    let compose = [(COMPOSE_PROJECT, "shibc-aito"), (COMPOSE_SERVICE, "cmo-agent")];
    for (found, agent_type, whose) in [
        (listed("aito-ceo", "x", &[]), Some("ceo"), "no label"),
        (listed("aito-ceo-k3v7qa", "x", &[(INSTALLATION, &other)]), Some("ceo"), other.as_str()),
        (listed("one", "x", &[(MANAGED, "true")]), None, "no label"),
        (listed("one", "x", &[(TYPE, "dao")]), Some("dao"), "no label"),
        (listed("project_cmo_1", "x", &compose), Some("cmo"), "compose project shibc-aito"),
        (listed("aito-", "x", &[]), None, "no label"),
        (listed("aito-ceo", "x", &[(INSTALLATION, &OURS.to_string())]), Some("ceo"), "this installation"),
    ] {
        let shown = foreign(OURS, &found).unwrap_or_else(|| panic!("{found:?}"));
        assert_eq!(shown.agent_type.as_deref(), agent_type, "{found:?}");
        assert!(shown.whose.contains(whose) && shown.running, "{shown:?}");
    }
    let stranger = [(COMPOSE_PROJECT, "shop"), (COMPOSE_SERVICE, "mail-agent")];
    for found in [
        listed("my-aito-ceo-old", "x", &[]),
        listed("postgres", "postgres:15", &[]),
        listed("shop_mail-agent_1", "mail", &stranger),
        listed("probe", "x", &[(PROBE, &other), (MANAGED, "true")]),
    ] {
        assert_eq!(foreign(OURS, &found), None, "{found:?}");
    }
    let ours = Listed { names: vec![key().name(OURS)], labels: own_labels(), ..Listed::default() };
    assert_eq!(foreign(OURS, &ours), None);
}

#[test]
fn certain_and_uncertain_failures_are_not_mixed() {
    let lost = || Fault::Lost("cut off".into());
    let none = || Fault::NoEngine("refused".into());
    assert!(matches!(looking(lost()), RuntimeError::Unavailable(_)));
    assert!(matches!(acting(lost()), RuntimeError::Unknown(_)));
    assert!(matches!(acting(none()), RuntimeError::Unavailable(_)));
    assert!(matches!(acting_on(none()), RuntimeError::Unknown(_)));
    assert!(matches!(acting(answer(500, "x")), RuntimeError::Unknown(_)));
    assert!(matches!(looking(answer(500, "x")), RuntimeError::Unavailable(_)));
    assert!(matches!(acting(answer(503, "x")), RuntimeError::Unavailable(_)));
    assert!(matches!(acting(answer(409, "x")), RuntimeError::Conflict(_)));
    assert!(matches!(acting(answer(400, "x")), RuntimeError::Refused(_)));
    assert!(matches!(looking(answer(404, "x")), RuntimeError::NotFound));
    assert!(matches!(acting_on(answer(404, "x")), RuntimeError::Unknown(_)));
    assert!(
        matches!(acting(Fault::Unsuitable("old".to_owned())), RuntimeError::Refused(why) if why == "old")
    );
}

#[test]
fn a_failure_is_the_engines_own_word_and_no_gateways() {
    for status in [500, 501, 503] {
        assert!(failed(&answer(status, "no space left")).unwrap().contains("no space left"), "{status}");
    }
    for other in [answer(502, "x"), answer(504, "x"), answer(409, "x"), Fault::Lost("cut off".into())] {
        assert_eq!(failed(&other), None, "{other:?}");
    }
}

#[test]
fn a_404_is_told_by_what_is_missing() {
    assert_eq!(not_created(&answer(404, "No such image: nope:latest")), NotCreated::NoImage);
    assert_eq!(not_created(&answer(404, "network abc not found")), NotCreated::NoNetwork);
    let taken = "Conflict. The container name \"/a\" is already in use by container \"b\".";
    assert_eq!(not_created(&answer(409, taken)), NotCreated::NameTaken);
    assert_eq!(not_created(&answer(500, "x")), NotCreated::Other);
    assert_eq!(not_started(&answer(404, "network nonet not found")), NotStarted::NoNetwork);
    let two = "network aito-1 is ambiguous (2 matches found on name)";
    assert_eq!(not_started(&answer(400, two)), NotStarted::NoNetwork);
    assert_eq!(not_started(&answer(404, "No such container: a")), NotStarted::Other);
    for (status, message) in [
        (400, "OCI runtime create failed: exec: \"/x\": stat /x: no such file or directory: unknown"),
        (404, "exec: \"x\": executable file not found in $PATH: unknown"),
        (500, "standard_init_linux.go:228: exec user process caused: exec format error"),
    ] {
        assert_eq!(not_started(&answer(status, message)), NotStarted::Never(message.to_owned()));
    }
    assert_eq!(
        not_started(&answer(500, "driver failed programming external connectivity")),
        NotStarted::Other
    );
}

#[test]
fn statistics_of_both_cgroup_versions_are_read() {
    let at = millis(5);
    let v1 = serde_json::json!({
        "pids_stats": { "current": 2 },
        "cpu_stats": { "cpu_usage": { "total_usage": 1_500_000_000_u64 } },
        "memory_stats": { "usage": 1000, "stats": { "total_inactive_file": 300, "inactive_file": 1 } },
    });
    let read = stats(&v1, at).unwrap();
    assert_eq!((read.cpu.as_millis(), read.memory_bytes, read.processes), (1500, 700, 2));
    let v2 = serde_json::json!({
        "pids_stats": { "current": 1 }, "memory_stats": { "usage": 10, "stats": { "inactive_file": 30 } },
    });
    assert_eq!(stats(&v2, at).unwrap().memory_bytes, 0);
    for nothing in [serde_json::json!({}), serde_json::json!({ "pids_stats": { "current": 0 } })] {
        assert_eq!(stats(&nothing, at), None);
    }
}

#[test]
fn what_the_kernel_cannot_bound_is_said() {
    let all = Info { id: "x".to_owned(), memory: true, swap: true, cpu: true, pids: true };
    assert_eq!(unenforced(Some(&all)), [""; 0]);
    assert_eq!(unenforced(None).len(), 1);
    let lines =
        unenforced(Some(&Info { memory: false, swap: false, cpu: false, pids: false, ..all.clone() }));
    assert_eq!(lines.len(), 3);
    let lines = unenforced(Some(&Info { swap: false, ..all }));
    assert!(lines.len() == 1 && lines[0].contains("swap"), "{lines:?}");
}
