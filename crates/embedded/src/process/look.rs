//! What the records and the kernel together say of one incarnation.
//!
//! Invariants: looking changes nothing, but that the rest of an incarnation whose supervisor died is killed and
//! its end recorded before it counts as ended, and what cannot be killed counts as running; records of another
//! boot are never compared with living processes.

use std::{fs, io, time::Duration};

use aito_domain::{
    agent::Exit,
    id::{AgentId, Incarnation},
};
use rustix::process::Signal;

use super::{
    os::{self, Stat},
    place::{self, AgentPlace, Place},
    record::{Ended, State},
};

/// How long the rest of an incarnation may take to die of SIGKILL before that is given up for now.
const DEATH: Duration = Duration::from_secs(1);

/// How one incarnation is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Look {
    /// There is no such incarnation, or only what a failed start left.
    Nothing,
    /// Its supervisor lives and has not executed its program yet.
    Creating(AgentId),
    /// Its supervisor lives, or something of it that cannot be ended.
    Running(State),
    /// It has ended, and nothing of it lives.
    Ended(AgentId, Exit),
}

/// Looks, and completes the end of an incarnation that lost its supervisor.
pub(crate) fn look(agent: &AgentPlace, incarnation: Incarnation, boot_id: &str) -> io::Result<Look> {
    let place = agent.incarnation(incarnation);
    // Asked before the records are read: what has none by then, and did not hold the lock before, is nothing.
    let held = held_by(agent, incarnation)?;
    let Some(state) = place::read_json::<State>(&place.state())? else {
        return Ok(held.map_or(Look::Nothing, Look::Creating));
    };
    if let Some(exit) = recorded_end(&place)? {
        return Ok(Look::Ended(state.agent_id, exit));
    }
    let supervised = state.boot_id == boot_id && os::alive(state.shim);
    if supervised && place.running().exists() {
        return Ok(Look::Running(state));
    }
    // A supervisor writes its record before it dies, which may have been just now.
    if let Some(exit) = recorded_end(&place)? {
        return Ok(Look::Ended(state.agent_id, exit));
    }
    if supervised {
        return Ok(Look::Creating(state.agent_id));
    }
    Ok(match settle(&place, &state, boot_id) {
        Ok(exit) => Look::Ended(state.agent_id, exit),
        Err(error) => {
            tracing::warn!(place = %place.dir().display(), %error, "the rest of an agent cannot be ended");
            Look::Running(state)
        }
    })
}

fn recorded_end(place: &Place) -> io::Result<Option<Exit>> {
    Ok(place::read_json::<Ended>(&place.exit())?.map(|ended| ended.exit))
}

fn held_by(agent: &AgentPlace, incarnation: Incarnation) -> io::Result<Option<AgentId>> {
    let owner = place::holder(agent)?.and_then(|holder| holder.owner);
    Ok(owner.filter(|owner| owner.incarnation == incarnation).map(|owner| owner.agent_id))
}

/// Ends what is left of an incarnation whose supervisor is dead, and records that.
fn settle(place: &Place, state: &State, boot_id: &str) -> io::Result<Exit> {
    let reason = if state.boot_id == boot_id {
        end_leftovers(place, state)?;
        "its supervisor was killed"
    } else {
        "the machine was restarted"
    };
    let _ = fs::remove_dir_all(place.secret_dir());
    let ended = Ended { exit: Exit::Lost(reason.to_owned()), at: os::wall() };
    if let Err(error) = place::write_json(&place.exit(), &ended) {
        // It is found again the same way next time.
        tracing::warn!(place = %place.dir().display(), %error, "the end of an agent could not be recorded");
    }
    Ok(ended.exit)
}

/// Kills what an incarnation without a supervisor left; an error when something of it cannot be ended.
pub(crate) fn end_leftovers(place: &Place, state: &State) -> io::Result<()> {
    let deadline = os::monotonic() + DEATH;
    loop {
        let rest = leftovers(place, state)?;
        if rest.is_empty() {
            return Ok(());
        }
        if os::monotonic() >= deadline {
            let pids: Vec<i32> = rest.iter().map(|stat| stat.pid).collect();
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("processes {pids:?} do not die")));
        }
        for stat in rest {
            if let Err(error) = os::signal(stat.id(), Signal::KILL) {
                // One that may not be signalled must not save the others; the deadline tells of it.
                tracing::debug!(pid = stat.pid, %error, "a process cannot be killed");
            }
        }
        os::pause(Duration::from_millis(5));
    }
}

/// The living processes of an incarnation without a supervisor: the members of the agent's session, and whoever
/// carries the path of this incarnation's credential in its environment.
///
/// A session's id is not given to a new process while the session has a member; so if the agent's pid belongs to
/// another process by now, there is no member left, and whoever has that session id is a stranger.
fn leftovers(place: &Place, state: &State) -> io::Result<Vec<Stat>> {
    let reused = os::stat(state.agent.pid).is_some_and(|stat| stat.start != state.agent.start);
    let mark = format!("{CREDENTIAL_FILE}={}", place.credential().display());
    let ours = |stat: &Stat| (!reused && stat.session == state.agent.pid) || carries(stat.pid, &mark);
    Ok(os::all_processes()?.into_iter().filter(Stat::lives).filter(ours).collect())
}

/// The variable that tells an agent where its credential lies.
pub(crate) const CREDENTIAL_FILE: &str = "AGENT_CREDENTIAL_FILE";

fn carries(pid: i32, variable: &str) -> bool {
    // Unreadable for another user's processes, which are none of ours.
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
}
