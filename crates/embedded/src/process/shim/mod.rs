//! The supervisor of one incarnation: a small program that outlives the server and stays the agent's parent.
//!
//! It reads an [`Order`] on standard input, answers one line on standard output, and then only writes the
//! agent's log, passes on requests to stop, and records how the agent ended.
//!
//! Invariants: it has one thread; it holds the agent's lock for as long as anything of the incarnation may live;
//! it is the subreaper of all that the agent starts, so nothing escapes it; `exit.json` is written after the
//! last process of the incarnation has ended; what it cannot write (a full disk) never holds up the agent.

mod spawn;
mod supervise;
mod sys;

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    process::ExitCode,
};

use rustix::process::{getpid, set_child_subreaper, setsid};

use super::{
    place::{AgentPlace, Lock, Owner},
    record::{Order, Reply},
};

/// Runs the supervisor; to be called from `main` before the program has opened a descriptor or begun a thread.
#[must_use]
pub fn main() -> ExitCode {
    let signals = match isolate() {
        Ok(signals) => signals,
        Err(error) => {
            return refuse(&Reply::Failed {
                for_good: false,
                reason: format!("the supervisor cannot detach: {error}"),
            });
        }
    };
    let order = match read_order() {
        Ok(order) => order,
        Err(error) => {
            return refuse(&Reply::Failed { for_good: true, reason: format!("there is no order: {error}") });
        }
    };
    let agent = AgentPlace(order.place.clone());
    let owner = Owner { agent_id: order.agent_id, incarnation: order.incarnation };
    let lock = spawn::make_agent_dir(&agent).and_then(|()| Lock::take(&agent, owner));
    let _lock = match lock {
        Ok(Some(lock)) => lock,
        Ok(None) => return refuse(&Reply::Held { incarnation: spawn::held_by(&agent) }),
        Err(error) => {
            let reason = format!("the agent's lock cannot be taken: {error}");
            return refuse(&Reply::Failed { for_good: false, reason });
        }
    };
    let running = match spawn::spawn(&order) {
        Ok(running) => running,
        Err(reply) => return refuse(&reply),
    };
    let grace = std::time::Duration::from_millis(order.grace_ms);
    // The order holds secrets that nobody needs any more.
    drop(order);
    answer(&Reply::Started);
    supervise::run(running, signals, grace);
    ExitCode::SUCCESS
}

/// Leaves the server's session, descriptors and signals behind.
fn isolate() -> io::Result<supervise::Signals> {
    sys::close_inherited()?;
    match setsid() {
        // A leader of its group already: started by hand, and detached enough.
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    set_child_subreaper(Some(getpid()))?;
    supervise::Signals::install()
}

fn read_order() -> io::Result<Order> {
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text)?;
    Ok(serde_json::from_slice(&text)?)
}

fn refuse(reply: &Reply) -> ExitCode {
    answer(reply);
    ExitCode::FAILURE
}

/// Answers, and lets go of the pipes to the server. Whether the server still listens does not matter: what was
/// started is recorded.
fn answer(reply: &Reply) {
    let mut out = io::stdout().lock();
    if let Ok(mut line) = serde_json::to_vec(reply) {
        line.push(b'\n');
        let _ = out.write_all(&line).and_then(|()| out.flush());
    }
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
