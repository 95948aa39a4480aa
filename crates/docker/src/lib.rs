//! Agents as containers of a Docker engine.
//!
//! Invariants: a container is this installation's only with both the installation's label and the exact name that its
//! own labels derive; no call ever changes another one. An incarnation is started once: servers on one engine take
//! turns on a lock beside its credential. Every call ends within its time limit, whatever the engine does; when the
//! engine is away calls fail as unavailable, and work again by themselves when it is back. A credential lies in a
//! file of its own and nowhere in what the engine shows. Only the module `engine` names docker-api and its transport.
//!
//! An agent gets exactly: the environment of its start, the four places of the port, and [`ADDED`] from engine and
//! image; `PATH` is the image's. Its root is read-only and `/tmp` is 64 MiB that nothing can be executed from.

mod asked;
mod body;
mod check;
mod credentials;
mod engine;
mod host;
mod list;
mod logs;
mod network;
mod open;
mod runtime;
mod start;
mod stop;
mod translate;

pub use asked::DockerEngine;
pub use body::ADDED;
pub use host::Surroundings;
pub use open::{DockerRuntime, OpenError, Options};
