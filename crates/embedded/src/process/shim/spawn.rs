//! Brings an incarnation into being: its directory, its credential, its process.
//!
//! Invariants: done under the agent's lock only; either the agent runs and its records say so, or nothing of the
//! attempt is left; `state.json` is durable before the agent's first instruction, because the new process itself
//! writes it before it becomes the agent.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
};

use aito_domain::id::Incarnation;
use rustix::process::{
    Resource, Rlimit, Signal, getpid, getppid, getrlimit, set_parent_process_death_signal, setrlimit, setsid,
};

use super::{super::logs::writer::Writer, super::os, super::place, super::record, sys};
use place::{AgentPlace, Place};
use record::{Order, Reply, State};

/// Bytes reserved for the record of the end, which is far shorter.
const EXIT_RESERVED: usize = 512;

/// An agent that runs.
pub(super) struct Running {
    pub child: Child,
    pub log: Writer,
    pub place: Place,
}

/// Starts the agent, or says why not.
pub(super) fn spawn(order: &Order) -> Result<Running, Reply> {
    let agent = AgentPlace(order.place.clone());
    let place = agent.incarnation(order.incarnation);
    if place.state().exists() || place.exit().exists() {
        return Err(Reply::Exists);
    }
    let prepared = agent.sweep().and_then(|()| prepare(&place, order));
    let started =
        match prepared {
            Ok(log) => execute(&place, order)
                .and_then(|child| announce(&place, child))
                .map(|child| Running { child, log, place: place.clone() }),
            Err(error) => Err(failed(false, "the agent's directory cannot be made", &error)),
        };
    if started.is_err() {
        let _ = place.remove();
    }
    started
}

fn failed(for_good: bool, what: &str, error: &io::Error) -> Reply {
    Reply::Failed { for_good, reason: format!("{what}: {error}") }
}

fn prepare(place: &Place, order: &Order) -> io::Result<Writer> {
    let private = |path| DirBuilder::new().mode(0o700).create(path);
    private(place.dir())?;
    private(&place.secret_dir())?;
    place::create_private(&place.credential())?.write_all(order.credential.as_bytes())?;
    let mut reserved = place::create_private(&place.reserved_exit())?;
    reserved.write_all(&[b' '; EXIT_RESERVED])?;
    reserved.sync_all()?;
    Writer::open(place.log(), order.log)
}

fn execute(place: &Place, order: &Order) -> Result<Child, Reply> {
    let broken = |error: &io::Error| failed(false, "the agent cannot be prepared", error);
    let shim = os::own_id().map_err(|error| broken(&error))?;
    let boot_id = os::boot_id().map_err(|error| broken(&error))?;
    let (name, arguments) = order
        .argv
        .split_first()
        .ok_or_else(|| Reply::Failed { for_good: true, reason: "the command is empty".to_owned() })?;
    let mut command = Command::new(&order.program);
    command.arg0(name).args(arguments).env_clear();
    command.envs(order.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());

    let state = place.state();
    let mut record = State {
        agent_id: order.agent_id,
        incarnation: order.incarnation,
        boot_id,
        shim,
        agent: shim,
        started_at: os::wall(),
    };
    let limits = Limits { memory: order.memory_bytes, files: order.open_files };
    let parent = getpid();
    sys::before_exec(&mut command, move || {
        setsid()?;
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(parent) {
            // The supervisor died before the line above: its death will not be signalled any more.
            return Err(rustix::io::Errno::SRCH.into());
        }
        record.agent = os::own_id()?;
        place::write_json(&state, &record)?;
        limits.apply()
    });
    command.spawn().map_err(|error| {
        let for_good = matches!(
            error.raw_os_error().map(rustix::io::Errno::from_raw_os_error),
            Some(
                rustix::io::Errno::NOENT
                    | rustix::io::Errno::ACCESS
                    | rustix::io::Errno::NOEXEC
                    | rustix::io::Errno::NOTDIR
                    | rustix::io::Errno::LOOP
                    | rustix::io::Errno::TOOBIG
            )
        );
        failed(for_good, &format!("command: {} cannot be run", order.program.display()), &error)
    })
}

/// Says that the program was executed, which `state.json` cannot know.
fn announce(place: &Place, mut child: Child) -> Result<Child, Reply> {
    match fs::rename(place.reserved_exit(), place.running()) {
        Ok(()) => Ok(child),
        Err(error) => {
            let _ = child.kill().and_then(|()| child.wait());
            Err(failed(false, "the agent's start cannot be recorded", &error))
        }
    }
}

/// Limits of one process, which its children inherit.
#[derive(Clone, Copy)]
struct Limits {
    memory: Option<u64>,
    files: Option<u64>,
}

impl Limits {
    fn apply(self) -> io::Result<()> {
        bound(Resource::Core, 0)?;
        if let Some(bytes) = self.memory {
            bound(Resource::Data, bytes)?;
        }
        if let Some(files) = self.files {
            bound(Resource::Nofile, files)?;
        }
        Ok(())
    }
}

/// Sets a limit that cannot be raised again; one that is lower already stays.
fn bound(resource: Resource, wanted: u64) -> io::Result<()> {
    let most = getrlimit(resource).maximum.map_or(wanted, |hard| hard.min(wanted));
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// Reads for whom a lock is held that could not be taken.
pub(super) fn held_by(agent: &AgentPlace) -> Option<Incarnation> {
    place::holder(agent).ok().flatten().and_then(|holder| holder.owner).map(|owner| owner.incarnation)
}

/// Makes sure that the agent's directory is there.
pub(super) fn make_agent_dir(agent: &AgentPlace) -> io::Result<()> {
    place::make_private_dir(&agent.0)?;
    fs::metadata(&agent.0).map(|_| ())
}
