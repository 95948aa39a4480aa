//! `aito serve`: builds the adapters, hands them to the use cases, runs until told to stop.
//!
//! Invariants: it listens first and recovers behind; what is missing is said in one message; a stop leaves
//! agents running, ends open streams and stores what was heard.

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::TcpListener,
    sync::Arc,
    time::Duration,
};

use actix_web::web;
use aito_application::{
    events::EventService,
    feed::Feed,
    fleet::{FleetParts, FleetService, Roster},
    health::HealthService,
    heartbeat::HeartbeatService,
    history::HistoryService,
    metrics::Metrics,
    writer::Writer,
};
use aito_domain::{
    credential::AgentCredentials,
    installation::RuntimeKind,
    ports::{
        bus::EventBus,
        clock::{Clock, IdSource},
        runtime::ContainerRuntime,
    },
};
use aito_embedded::{
    bus::LocalBus,
    data_dir::{DataDir, InstallationFile},
    process::ProcessRuntime,
    sqlite::{self, SqliteStore},
};
use aito_http::{Access, AppState, Frames, Listener};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    config::{Config, LogFormat, RuntimeChoice},
    installation::{self, Engine, chain},
    profiles, sockets,
    system::{SystemClock, SystemIds, SystemSecrets},
};

/// How many events live listeners can be behind.
const RING: usize = 4096;
/// How long loops may take to end after a stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Runs the server; returns after a signal has stopped it.
pub(crate) fn run(config: Config) -> Result<(), String> {
    if !config.no_auth {
        return Err("--no-auth is needed: this version has no credentials for operators yet, so it serves \
                    callers on loopback only, all of whom may do everything"
            .into());
    }
    log_to_stderr(&config);
    let chosen = choose_runtime(config.runtime)?;
    // Held until nothing of this server runs any more, also no effect that a stop left under way.
    let data = DataDir::open(&config.data_dir).map_err(|why| why.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("aito")
        .build()
        .map_err(|why| format!("cannot start: {why}"))?;
    let served = runtime.block_on(serve(config, &data, chosen));
    // A blocking read that hangs on a broken disk must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    drop(data);
    served
}

fn log_to_stderr(config: &Config) {
    use tracing_subscriber::{
        Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
    };
    // Checked when the configuration was read.
    let filter = config.log_filter.parse::<Targets>().unwrap_or_default();
    let lines =
        tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(io::stderr().is_terminal());
    let registry = tracing_subscriber::registry();
    // A second subscriber in one process is a test's; the first one stays.
    let _ = match config.log_format {
        LogFormat::Text => registry.with(lines.with_filter(filter)).try_init(),
        LogFormat::Json => registry.with(lines.json().with_filter(filter)).try_init(),
    };
}

async fn serve(
    config: Config,
    data: &DataDir,
    (runtime_kind, why): (RuntimeKind, String),
) -> Result<(), String> {
    let tcp = TcpListener::bind(config.listen)
        .map_err(|why| format!("cannot listen on {}: {why}", config.listen))?;
    tcp.set_nonblocking(true).map_err(|why| why.to_string())?;
    let listen = tcp.local_addr().map_err(|why| why.to_string())?;

    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ids: Arc<dyn IdSource> = Arc::new(SystemIds);
    installation::check_store_file(data, &data.db())?;
    let store =
        SqliteStore::open(sqlite::Options::new(data.db(), clock.clone())).map_err(|why| chain(&why))?;
    let engine = Engine { runtime: runtime_kind, engine_id: aito_embedded::process::engine_id() };
    let installation = installation::settle(data, &*store, &*ids, engine, config.socket_dir.clone()).await?;
    if config.runtime != RuntimeChoice::Auto && installation.runtime != runtime_kind {
        return Err(format!(
            "runtime from the configuration: this installation runs its agents as {}, chosen at its first start",
            installation.runtime
        ));
    }
    profiles::install(&data.profiles())?;
    let unix = sockets::bind(&installation.socket_dir)?;
    let runtime = ProcessRuntime::open(aito_embedded::process::Options {
        installation: installation.id,
        dir: data.agents(),
        program: aito_embedded::process::Options::OWN_PROGRAM.into(),
        clock: clock.clone(),
    })
    .map_err(|why| chain(&why))?;
    let runtime: Arc<dyn ContainerRuntime> = Arc::new(runtime);
    let engine = runtime.engine_id().await.map_err(|why| chain(&why))?;
    if engine != installation.engine_id {
        // The lock on the data directory is the guard: one server holds it, and processes of another machine
        // or of a time before a reboot are recognised as gone by their boot id.
        warn!(
            now = engine,
            first = installation.engine_id,
            "the data directory was moved to another machine; agents that should run are started here"
        );
    }

    let parts = Parts { store, runtime, clock, ids, installation: &installation };
    let services = build(&config, parts).await?;
    announce(&config, data, &installation, listen, &why, &*services.runtime);
    run_until_stopped(&config, services, vec![Listener::Tcp(tcp), Listener::Unix(unix)]).await
}

fn choose_runtime(choice: RuntimeChoice) -> Result<(RuntimeKind, String), String> {
    match choice {
        RuntimeChoice::Process => Ok((RuntimeKind::Process, "as configured".into())),
        RuntimeChoice::Auto => Ok((RuntimeKind::Process, "this version has no Docker adapter".into())),
        RuntimeChoice::Docker => Err("runtime from the configuration: this version has no Docker adapter; \
                                      allowed are auto and process"
            .into()),
    }
}

/// The adapters, built.
struct Parts<'a> {
    store: Arc<SqliteStore>,
    runtime: Arc<dyn ContainerRuntime>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    installation: &'a InstallationFile,
}

/// The use cases, wired.
struct Services {
    state: web::Data<AppState>,
    fleet: Arc<FleetService>,
    heartbeats: Arc<HeartbeatService>,
    feed: Arc<Feed<Frames>>,
    runtime: Arc<dyn ContainerRuntime>,
    bus: Arc<dyn EventBus>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
}

async fn build(config: &Config, parts: Parts<'_>) -> Result<Services, String> {
    let Parts { store, runtime, clock, ids, installation } = parts;
    let log = store.log(installation.epoch.clone());
    let bus: Arc<dyn EventBus> = Arc::new(LocalBus::new());
    let metrics = Arc::new(Metrics::new());
    let writer = Arc::new(Writer::new(
        store.clone(),
        store.clone(),
        bus.clone(),
        clock.clone(),
        ids.clone(),
        metrics.clone(),
    ));
    let roster = Arc::new(Roster::new(config.agents.iter().cloned()));
    let heartbeats =
        Arc::new(HeartbeatService::new(store.clone(), writer.clone(), roster.clone(), metrics.clone()));
    let credentials = AgentCredentials::new(&installation.key, installation.id, &installation.epoch);
    let fleet = Arc::new(FleetService::new(FleetParts {
        agents: store.clone(),
        runtime: runtime.clone(),
        writer: writer.clone(),
        roster,
        heartbeats: heartbeats.clone(),
        secrets: Arc::new(SystemSecrets),
        credentials: credentials.clone(),
        installation: installation.id,
        socket_dir: installation.socket_dir.clone(),
        supervises: Ok(()),
        metrics: metrics.clone(),
    }));
    let feed = Feed::open(log.clone(), RING, aito_http::encode).await.map_err(|why| chain(&why))?;
    let feed = Arc::new(feed);
    let stop = CancellationToken::new();
    let state = web::Data::new(AppState {
        fleet: fleet.clone(),
        heartbeats: heartbeats.clone(),
        history: Arc::new(HistoryService::new(store.clone(), writer)),
        events: Arc::new(EventService::new(log.clone())),
        feed: feed.clone(),
        health: Arc::new(HealthService::new(log, bus.clone(), runtime.clone(), clock.clone())),
        metrics,
        credentials,
        clock: clock.clone(),
        ids,
        access: Access::Open,
        stop: stop.clone(),
    });
    Ok(Services { state, fleet, heartbeats, feed, runtime, bus, clock, stop })
}

async fn run_until_stopped(
    config: &Config,
    services: Services,
    listeners: Vec<Listener>,
) -> Result<(), String> {
    let Services { state, fleet, heartbeats, feed, bus, clock, stop, .. } = services;
    let server =
        aito_http::serve(state, listeners, config.workers).map_err(|why| format!("cannot serve: {why}"))?;
    let handle = server.handle();
    let mut server = tokio::spawn(server);

    let loops = TaskTracker::new();
    {
        let stop = stop.clone();
        loops.spawn(async move { feed.run(&*bus, &*clock, stop).await });
    }
    loops.spawn({
        let (fleet, heartbeats, stop) = (fleet.clone(), heartbeats.clone(), stop.clone());
        async move {
            recover(&fleet, &heartbeats, &stop).await;
            fleet.run(stop).await;
        }
    });
    {
        let stop = stop.clone();
        loops.spawn(async move { heartbeats.run(stop).await });
    }
    loops.close();

    let mut terminate = signal(SignalKind::terminate()).map_err(|why| why.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|why| why.to_string())?;
    let ended = tokio::select! {
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        ended = &mut server => Some(ended),
    };
    info!("stopping; agents go on running");
    stop.cancel();
    handle.stop(true).await;
    if tokio::time::timeout(STOP_LIMIT, loops.wait()).await.is_err() {
        warn!("a loop did not end in time");
    }
    match ended {
        None => Ok(()),
        Some(Ok(Ok(()))) => Err("the HTTP server ended by itself".into()),
        Some(Ok(Err(why))) => Err(format!("the HTTP server failed: {why}")),
        Some(Err(why)) => Err(format!("the HTTP server failed: {why}")),
    }
}

/// What a start owes to the time before it; tried until it works, while the server answers already.
async fn recover(fleet: &FleetService, heartbeats: &HeartbeatService, stop: &CancellationToken) {
    let mut pause = Duration::from_millis(250);
    loop {
        let done = async {
            fleet.register_configured().await?;
            heartbeats.load().await
        };
        match done.await {
            Ok(()) => return,
            Err(why) => warn!(why = chain(&why), "cannot recover yet; trying again"),
        }
        let clock = SystemClock::new();
        tokio::select! {
            () = stop.cancelled() => return,
            () = clock.sleep(pause) => {}
        }
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

/// Says in a few lines where it listens, what it keeps where, and what must be known.
fn announce(
    config: &Config,
    data: &DataDir,
    installation: &InstallationFile,
    listen: std::net::SocketAddr,
    why: &str,
    runtime: &dyn ContainerRuntime,
) {
    let mut text = format!(
        "aito {version}, installation {id}\n\
         operators  http://{listen}, no credentials asked (--no-auth), loopback only\n\
         agents     {sockets}, by their own credentials\n\
         state      {db} (SQLite), profiles and logs beside it in {dir}\n\
         runtime    {kind}, because {why}; {count} agents are configured\n",
        version = aito_application::VERSION,
        id = installation.id,
        sockets = installation.socket_dir.display(),
        db = data.db().display(),
        dir = data.path().display(),
        kind = installation.runtime,
        count = config.agents.len(),
    );
    if installation.runtime == RuntimeKind::Process {
        text.push_str(
            "note       local processes are trusted as you are; votes are not protected from them\n",
        );
    }
    for line in runtime.unenforced() {
        text.push_str(&format!("note       {line}\n"));
    }
    // Nobody may be listening on the other end any more; serving goes on.
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
}
