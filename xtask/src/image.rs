//! `cargo xtask image`: the images that agents and servers run from.
//!
//! Invariants: an image holds one statically linked program and nothing else, so nothing is downloaded for it; what is
//! in it stands in `deploy/Dockerfile`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::compile;
use crate::workspace;

/// The targets of the Dockerfile and the names of their images.
const IMAGES: [(&str, &str); 2] = [("agent", "aito-agent:latest"), ("server", "aito-server:latest")];

/// What the caller asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// What the names of the images begin with, such as `registry.example/team/`.
    pub tag_prefix: Option<String>,
    /// The debug profile instead of the release profile.
    pub debug: bool,
    /// The engine's address, `unix:///run/docker.sock`; nothing: what the docker command takes by itself.
    pub host: Option<String>,
}

/// Builds the program, and the images with the docker command.
pub fn run(root: &Path, options: &Options) -> Result<(), String> {
    // Before the long build.
    let engine = workspace::output(docker(options).args(["version", "--format", "{{.Server.Version}}"]))
        .map_err(|why| match workspace::find_program("docker") {
            None => {
                "there is no docker command: Debian: apt-get install -y docker.io or docker-cli".to_owned()
            }
            Some(_) => format!("no engine answers, name it with --host: {why}"),
        })?;
    println!("    engine {}", engine.trim());
    let make = if options.debug { compile::debug } else { compile::release };
    let built = make(root, &["aito-app"])?;
    // The whole context is the program: nothing else is sent to the engine.
    let context = root.join("target/image");
    let failed = |e: std::io::Error| format!("{} cannot be filled: {e}", context.display());
    fs::create_dir_all(&context).map_err(failed)?;
    fs::copy(built.program("aito")?, context.join("aito")).map_err(failed)?;
    for (target, name) in IMAGES {
        let tag = format!("{}{name}", options.tag_prefix.as_deref().unwrap_or_default());
        let mut command = docker(options);
        command.args(["build", "--target", target, "--tag", &tag, "--file"]);
        command.arg(root.join("deploy/Dockerfile")).arg(&context).stdin(Stdio::null());
        if workspace::output(docker(options).args(["buildx", "version"])).is_err() {
            // The classic builder: the other one is a plugin of the command, and is not there.
            command.env("DOCKER_BUILDKIT", "0");
        }
        said(&mut command)?;
        let format = "{{.Id}} {{.Size}}";
        let made = workspace::output(docker(options).args(["image", "inspect", "--format", format, &tag]))?;
        println!("    {}", line(&tag, &made)?);
    }
    Ok(())
}

fn docker(options: &Options) -> Command {
    let mut command = Command::new("docker");
    if let Some(host) = &options.host {
        command.args(["--host", host]);
    }
    command
}

/// Runs a command whose output is told only if it fails.
fn said(command: &mut Command) -> Result<(), String> {
    let done = command.output().map_err(|e| format!("docker does not start: {e}"))?;
    if done.status.success() {
        return Ok(());
    }
    let text = [done.stdout, done.stderr].concat();
    Err(format!("docker build ended with {}:\n{}", done.status, String::from_utf8_lossy(&text).trim()))
}

/// What is printed of an image whose id and size in bytes the engine told.
fn line(tag: &str, made: &str) -> Result<String, String> {
    let told = made.trim().split_once(' ');
    let (id, size) = told
        .and_then(|(id, size)| Some((id, size.parse::<u64>().ok()?)))
        .ok_or_else(|| format!("docker does not describe {tag} as expected: {made}"))?;
    Ok(format!("{tag}: {id}, {}.{} MB", size / 1_000_000, size % 1_000_000 / 100_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_with_id_and_size() {
        assert_eq!(line("a:latest", "sha256:12ab 10980000\n"), Ok("a:latest: sha256:12ab, 10.9 MB".into()));
        assert!(line("a:latest", "sha256:12ab").is_err());
        assert!(line("a:latest", "sha256:12ab many").is_err());
    }

    #[test]
    fn every_image_is_a_target_of_the_dockerfile_and_is_made_of_the_program_alone() {
        let root = workspace::root().unwrap();
        let text = fs::read_to_string(root.join("deploy/Dockerfile")).unwrap();
        for (target, _) in IMAGES {
            assert!(text.lines().any(|line| line == format!("FROM scratch AS {target}")), "{target}");
        }
        let copied: Vec<&str> = text.lines().filter(|line| line.starts_with("COPY ")).collect();
        assert_eq!(copied, ["COPY aito /aito"; 2]);
    }

    fn deployed(file: &str) -> Vec<String> {
        let path = workspace::root().unwrap().join("deploy").join(file);
        let text = fs::read_to_string(path).unwrap();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn unit_leaves_agents_alone_when_the_server_ends() {
        let unit = deployed("aito.service");
        for line in ["KillMode=process", "RuntimeDirectoryPreserve=yes", "OOMPolicy=continue"] {
            assert!(unit.iter().any(|found| found == line), "{line}");
        }
        assert!(!unit.iter().any(|line| line.starts_with("PrivateTmp")), "it ends with the server");
    }

    #[test]
    fn composed_server_names_the_same_paths_inside_and_outside_and_listens_on_loopback_alone() {
        let lines = deployed("compose.yaml");
        let mounts = lines.iter().filter_map(|line| line.strip_prefix("- /"));
        for mount in mounts.clone() {
            let (outside, inside) = mount.split_once(":/").unwrap();
            assert_eq!(outside, inside);
        }
        assert!(mounts.count() >= 3);
        let ports: Vec<&String> = lines.iter().filter(|line| line.starts_with("- \"")).collect();
        assert!(ports.len() == 2 && ports.iter().all(|port| port.starts_with("- \"127.0.0.1:")), "{ports:?}");
        assert!(lines.contains(&"AITO_LISTEN: 127.0.0.1:8080".to_owned()), "{lines:?}");
    }
}
