//! A server in a container of the engine, and one beside a container of its name.

use aito_contracts::runtime::within;
use aito_docker::Surroundings;
use aito_domain::ports::runtime::RuntimeError;
use serde_json::json;

use crate::{
    BOUND, ID, container, engine, open,
    support::fake::{Fake, Reply, answer, refusal},
};

/// What a server sees on a machine of this name, without a sign of the container's id.
fn surroundings(hostname: &str, dockerenv: bool) -> Surroundings {
    Surroundings { mountinfo: String::new(), hostname: hostname.to_owned(), dockerenv }
}

/// An engine that finds this container, whose processes see this host name, when it is asked for the name.
fn finds(name: &str, hostname: &str) -> Fake {
    let (asked, hostname) = (format!("GET /v1.41/containers/{name}/json"), hostname.to_owned());
    engine(move |request| {
        let mut server = container("running", 0);
        server["Config"]["Hostname"] = json!(hostname);
        server["Mounts"] = json!([
            { "Type": "bind", "Source": "/srv/aito", "Destination": "/srv/aito" },
            { "Type": "bind", "Source": "/elsewhere", "Destination": "/run/aito" },
        ]);
        let look = request.ends_with("/json");
        look.then(|| if request == asked { answer(&server) } else { refusal(404, "No such container") })
    })
}

#[tokio::test]
async fn a_server_in_a_container_is_told_what_to_mount() {
    let by_id = Surroundings {
        mountinfo: format!("4 2 8:1 /x/{ID}/hostname /etc/hostname rw - ext4 /dev/vda rw\n"),
        ..surroundings("web", false)
    };
    for (name, hostname, own) in [
        (ID, "other", by_id.clone()),
        (&ID[..12], "other", surroundings(&ID[..12], true)),
        ("company", "company", surroundings("company", true)),
    ] {
        let fake = finds(name, hostname);
        let runtime = open(&fake);
        runtime.verify_host_paths_from(&["/srv/aito/agents".into()], &own).await.unwrap();
        let paths = ["/srv/aito".into(), "/run/aito/x".into()];
        let refused = runtime.verify_host_paths_from(&paths, &own).await;
        assert!(
            matches!(&refused, Err(RuntimeError::Refused(why)) if why.contains("/run/aito/x:/run/aito/x")),
            "{refused:?}"
        );
    }
    // An engine that does not know the container is another one.
    let refused = open(&finds("x", "x")).verify_host_paths_from(&["/srv/aito".into()], &by_id).await;
    assert!(matches!(&refused, Err(RuntimeError::Refused(why)) if why.contains("socket")), "{refused:?}");
}

#[tokio::test]
async fn a_host_beside_a_container_of_its_name_is_none() {
    let anywhere = ["/anywhere".into()];
    // The engine resolves a name, and the unique beginning of an id, to a container that has nothing to do with it.
    for (name, dockerenv) in [("web", false), ("web", true), ("0f", true), (&ID[..12], false)] {
        let fake = finds(name, "4a1b2c3d4e5f");
        let own = surroundings(name, dockerenv);
        open(&fake).verify_host_paths_from(&anywhere, &own).await.unwrap();
    }
    // One that calls itself like the host is not looked for where nothing says that this is a container.
    open(&finds("web", "web")).verify_host_paths_from(&anywhere, &surroundings("web", false)).await.unwrap();
    // On the host itself the engine knows no container of its name.
    open(&finds("x", "x")).verify_host_paths_from(&anywhere, &surroundings("vm", true)).await.unwrap();
    let fake = Fake::start(|_| Reply::Stalled(Vec::new()));
    let runtime = open(&fake);
    let own = surroundings("vm", true);
    let refused = within("a check", BOUND, runtime.verify_host_paths_from(&anywhere, &own)).await;
    assert!(matches!(refused, Err(RuntimeError::Unavailable(_))), "{refused:?}");
}
