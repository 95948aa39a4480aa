//! `aito serve`: builds the adapters, hands them to the use cases, runs until told to stop.
//!
//! Invariants: it listens first and recovers behind; what is missing is said in one message; a stop leaves
//! agents running, ends open streams and stores what was heard.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use actix_web::web;
use aito_application::{
    Error,
    audit::AuditService,
    domains::DomainService,
    events::EventService,
    feed::Feed,
    fleet::{FleetParts, FleetService, Roster, Supervises},
    health::HealthService,
    heartbeat::HeartbeatService,
    history::HistoryService,
    login::{LoginService, Vouches},
    mailbox::MailService,
    metrics::Metrics,
    quota::Quotas,
    settings::SettingsService,
    state::StateService,
    tasks::TaskService,
    tokens::TokenService,
    writer::Writer,
};
use aito_domain::{
    audit::AuditKey,
    credential::AgentCredentials,
    display::{Sink, display_safe},
    installation::RuntimeKind,
    ports::{
        bus::EventBus,
        clock::{Clock, IdSource},
        runtime::ContainerRuntime,
    },
    setting::{Registry, SettingsKey},
    spec::AgentSpec,
    ticket::Tickets,
};
use aito_embedded::data_dir::{DataDir, InstallationFile, StoreKind};
use aito_http::{Access, Answers, AppState, Frames, Listener, Rates, Streams};
use aito_jwt::JwtVerifier;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    agents_config,
    audit_cli::{self, HeadFile},
    config::{Config, LogFormat},
    credentials::{self, Provider, SystemRandomness},
    domains,
    installation::{self, Proposal, chain},
    profiles,
    runtimes::{self, Chosen},
    sockets,
    stores::{self, Stores},
    system::{SystemClock, SystemIds, SystemSecrets},
};

/// How many events live listeners can be behind.
const RING: usize = 4096;
/// How long loops may take to end after a stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Runs the server; returns after a signal has stopped it.
pub(crate) fn run(config: Config) -> Result<(), String> {
    log_to_stderr(&config);
    // Held until nothing of this server runs any more, also no effect that a stop left under way.
    let data = DataDir::open(&config.data_dir).map_err(|why| why.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("aito")
        .build()
        .map_err(|why| format!("cannot start: {why}"))?;
    let served = runtime.block_on(async {
        let mut stop = Signals::new()?;
        let opened = tokio::select! {
            opened = open(&config, &data) => opened?,
            // A start may wait for its database for ever.
            () = stop.given() => return Ok(()),
        };
        serve(&config, &data, opened, stop).await
    });
    // A blocking read that hangs on a broken disk must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(2));
    drop(data);
    served
}

/// What asks a server to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|why| why.to_string());
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn given(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn log_to_stderr(config: &Config) {
    use tracing_subscriber::{
        Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
    };
    // Checked when the configuration was read.
    let filter = config.log_filter.parse::<Targets>().unwrap_or_default();
    let sink = match config.log_format {
        LogFormat::Text => Sink::Log,
        LogFormat::Json => Sink::Json,
    };
    // Without colours: what they are made of is what must not come from anybody else either.
    let lines = tracing_subscriber::fmt::layer().with_writer(move || SafeStderr(sink)).with_ansi(false);
    let registry = tracing_subscriber::registry();
    // A second subscriber in one process is a test's; the first one stays.
    let _ = match config.log_format {
        LogFormat::Text => registry.with(lines.with_filter(filter)).try_init(),
        LogFormat::Json => registry.with(lines.json().with_filter(filter)).try_init(),
    };
}

/// The server's log: one line for each event, in which nothing acts, whoever the text is from.
struct SafeStderr(Sink);

impl io::Write for SafeStderr {
    /// Gets an event whole.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let mut line = display_safe(text.trim_end_matches('\n'), self.0).into_owned();
        line.push('\n');
        io::stderr().write_all(line.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Everything that a server stands on.
struct Opened {
    listen: SocketAddr,
    listeners: Vec<Listener>,
    parts: Parts,
    why: String,
    bus_place: String,
}

/// The adapters, built.
struct Parts {
    stores: Stores,
    bus: Arc<dyn EventBus>,
    runtime: Arc<dyn ContainerRuntime>,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn IdSource>,
    installation: InstallationFile,
}

async fn open(config: &Config, data: &DataDir) -> Result<Opened, String> {
    let tcp = TcpListener::bind(config.listen)
        .map_err(|why| format!("cannot listen on {}: {why}", config.listen))?;
    tcp.set_nonblocking(true).map_err(|why| why.to_string())?;
    let listen = tcp.local_addr().map_err(|why| why.to_string())?;

    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let ids: Arc<dyn IdSource> = Arc::new(SystemIds);
    let given = config.key_file.as_deref().map(installation::read_key).transpose()?;
    let (bus, bus_place) = stores::bus(config.redis.as_ref())?;
    let stores = match &config.database_url {
        None => {
            installation::check_store_file(data, &data.db())?;
            Stores::sqlite(&data.db(), clock.clone())?
        }
        Some(url) => {
            installation::check_store_kind(data, StoreKind::Postgres)?;
            Stores::postgres(url, clock.clone()).await?
        }
    };
    let before = installation::runtime_of(data, &*stores.installation).await?;
    let Chosen { kind, why, engine_id } = runtimes::choose(config, before).await?;
    let proposal = Proposal {
        runtime: kind,
        engine_id: engine_id.clone(),
        store: stores.kind,
        socket_dir: config.socket_dir.clone(),
        given,
    };
    let installation = installation::settle(data, &*stores.installation, &*ids, proposal).await?;
    profiles::install(&data.profiles())?;
    let unix = sockets::bind(&installation.socket_dir, &sockets::name(data.path(), !stores.shared()))?;
    let runtime = runtimes::open(config, &installation, &data.agents(), &clock).await?;
    if kind == RuntimeKind::Process && !stores.shared() && engine_id != installation.engine_id {
        // The lock on the data directory is the guard: one server holds it, and processes of another machine
        // or of a time before a reboot are recognised as gone by their boot id.
        warn!(
            now = engine_id,
            first = installation.engine_id,
            "the data directory was moved to another machine; agents that should run are started here"
        );
    }
    let listeners = vec![Listener::Tcp(tcp), Listener::Unix(unix)];
    let parts = Parts { stores, bus, runtime, clock, ids, installation };
    Ok(Opened { listen, listeners, parts, why, bus_place })
}

async fn serve(config: &Config, data: &DataDir, opened: Opened, stop: Signals) -> Result<(), String> {
    let Opened { listen, listeners, parts, why, bus_place } = opened;
    let installation = parts.installation.clone();
    let mut greeting = greeting(config, data, &parts, listen, &why, &bus_place);
    let services = build(config, data, parts).await?;
    if let Some(path) = credentials::first(&services.state.tokens, &installation, data.path()).await? {
        greeting
            .push_str(&format!("token      the first one, for you alone, stands in {}\n", path.display()));
    }
    announce(greeting, &*services.runtime);
    run_until_stopped(config, services, listeners, stop).await
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

async fn build(config: &Config, data: &DataDir, parts: Parts) -> Result<Services, String> {
    let Parts { stores, bus, runtime, clock, ids, installation } = parts;
    let log = stores.log(installation.epoch.clone());
    let metrics = Arc::new(Metrics::new());
    let writer = Arc::new(Writer::new(
        stores.ledger.clone(),
        stores.agents.clone(),
        clock.clone(),
        ids.clone(),
        metrics.clone(),
    ));
    // A local process has no image, whatever the configuration says of containers.
    let specs = config.agents.iter().cloned().map(|spec| match installation.runtime {
        RuntimeKind::Docker => AgentSpec { limits: agents_config::container_limits(spec.limits), ..spec },
        RuntimeKind::Process => AgentSpec { image: None, ..spec },
    });
    let roster = Arc::new(Roster::new(specs));
    let feed = Feed::open(log.clone(), RING, aito_http::encode).await.map_err(|why| chain(&why))?;
    let feed = Arc::new(feed);
    let intervals = roster.all().map(|spec| (spec.agent_type.clone(), spec.loop_interval));
    let settings = Arc::new(SettingsService::new(
        stores.settings.clone(),
        writer.clone(),
        Registry::new(intervals),
        SettingsKey::new(&installation.key, installation.id),
        Arc::new(SystemRandomness),
    ));
    let mail = Arc::new(MailService::new(
        stores.mailbox.clone(),
        stores.agents.clone(),
        writer.clone(),
        settings.clone(),
        feed.news(),
    ));
    let tasks = Arc::new(TaskService::new(
        stores.tasks.clone(),
        stores.agents.clone(),
        writer.clone(),
        settings.clone(),
        mail.clone(),
    ));
    let domains = Arc::new(DomainService::new(stores.domains.clone(), writer.clone(), mail.clone()));
    let heartbeats = Arc::new(HeartbeatService::new(
        stores.heartbeats.clone(),
        writer.clone(),
        roster.clone(),
        settings.clone(),
        mail.clone(),
        metrics.clone(),
    ));
    let credentials = AgentCredentials::new(&installation.key, installation.id, &installation.epoch);
    let supervises = match (installation.runtime, stores.shared()) {
        (RuntimeKind::Process, false) => Supervises::Here,
        _ => Supervises::TheEngineOf(stores.installation.clone()),
    };
    let fleet = Arc::new(FleetService::new(FleetParts {
        agents: stores.agents.clone(),
        runtime: runtime.clone(),
        writer: writer.clone(),
        roster,
        heartbeats: heartbeats.clone(),
        settings: settings.clone(),
        secrets: Arc::new(SystemSecrets),
        credentials: credentials.clone(),
        installation: installation.id,
        socket_dir: installation.socket_dir.clone(),
        supervises,
        relayed: if stores.shared() { aito_application::heartbeat::RELAYED } else { Duration::ZERO },
        metrics: metrics.clone(),
    }));
    let tokens = Arc::new(TokenService::new(
        stores.tokens.clone(),
        stores.agents.clone(),
        writer.clone(),
        Arc::new(SystemRandomness),
    ));
    let vouches = config.guard.jwt.clone().map(|jwt| {
        let verifier = JwtVerifier::new(jwt).map_err(|why| format!("auth.jwt: {}", chain(&why)))?;
        Ok::<_, String>(Arc::new(Provider(verifier)) as Arc<dyn Vouches>)
    });
    let login = Arc::new(LoginService::new(
        stores.agents.clone(),
        tokens.clone(),
        credentials,
        Tickets::new(&installation.key, installation.id, &installation.epoch),
        vouches.transpose()?,
        writer.clone(),
    ));
    let audit = Arc::new(AuditService::new(
        stores.audit.clone(),
        writer.clone(),
        AuditKey::new(&installation.key),
        Arc::new(HeadFile(data.path().join(audit_cli::HEADS))),
        config.guard.keep_audit,
    ));
    let quotas = Arc::new(Quotas::new(
        stores.history.clone(),
        stores.quotas.clone(),
        clock.clone(),
        config.guard.allowance,
    ));
    let stop = CancellationToken::new();
    let state = web::Data::new(AppState {
        fleet: fleet.clone(),
        heartbeats: heartbeats.clone(),
        history: Arc::new(HistoryService::new(stores.history.clone(), writer.clone())),
        notes: Arc::new(StateService::new(stores.state.clone(), writer)),
        mail,
        tasks,
        domains,
        settings,
        events: Arc::new(EventService::new(log.clone())),
        feed: feed.clone(),
        health: Arc::new(HealthService::new(log, bus.clone(), runtime.clone(), clock.clone())),
        metrics,
        login,
        tokens,
        audit,
        quotas,
        rates: Rates::new(config.guard.limits),
        streams: Streams::new(config.guard.limits),
        clock: clock.clone(),
        ids,
        access: Access {
            open: config.no_auth,
            hosts: config.guard.hosts.clone(),
            origins: config.guard.origins.clone(),
            proxies: config.guard.proxies.clone(),
        },
        answers: Answers::default(),
        stop: stop.clone(),
    });
    Ok(Services { state, fleet, heartbeats, feed, runtime, bus, clock, stop })
}

async fn run_until_stopped(
    config: &Config,
    services: Services,
    listeners: Vec<Listener>,
    mut signals: Signals,
) -> Result<(), String> {
    let Services { state, fleet, heartbeats, feed, bus, clock, stop, .. } = services;
    let server = aito_http::serve(state.clone(), listeners, config.workers)
        .map_err(|why| format!("cannot serve: {why}"))?;
    let handle = server.handle();
    let mut server = tokio::spawn(server);

    let loops = TaskTracker::new();
    {
        let stop = stop.clone();
        loops.spawn(async move { feed.run(&*bus, &*clock, stop).await });
    }
    loops.spawn({
        let (fleet, heartbeats, stop) = (fleet.clone(), heartbeats.clone(), stop.clone());
        let domains = state.domains.clone();
        async move {
            recover(&fleet, &heartbeats, &domains, &stop).await;
            fleet.run(stop).await;
        }
    });
    {
        let (tasks, stop) = (state.tasks.clone(), stop.clone());
        loops.spawn(async move { tasks.run(stop).await });
    }
    {
        let (mail, stop) = (state.mail.clone(), stop.clone());
        loops.spawn(async move { mail.run(stop).await });
    }
    {
        let stop = stop.clone();
        loops.spawn(async move { heartbeats.run(stop).await });
    }
    // These take note of requests, and so end after the last one.
    let answered = CancellationToken::new();
    {
        let (tokens, stop) = (state.tokens.clone(), answered.clone());
        loops.spawn(async move { tokens.run(stop).await });
    }
    {
        let (audit, stop) = (state.audit.clone(), answered.clone());
        loops.spawn(async move { audit.run(stop).await });
    }
    loops.close();

    let ended = tokio::select! {
        () = signals.given() => None,
        ended = &mut server => Some(ended),
    };
    info!("stopping; agents go on running");
    stop.cancel();
    handle.stop(true).await;
    answered.cancel();
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
async fn recover(
    fleet: &FleetService,
    heartbeats: &HeartbeatService,
    list: &DomainService,
    stop: &CancellationToken,
) {
    let mut pause = Duration::from_millis(250);
    loop {
        let done = async {
            fleet.register_configured().await?;
            heartbeats.load().await?;
            install_domains(list).await
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

/// Puts the domains that ship on the list of a new installation.
async fn install_domains(list: &DomainService) -> Result<(), Error> {
    let shipped = match domains::shipped() {
        Ok(shipped) => shipped,
        Err(why) => {
            error!(why, "the list of domains begins empty");
            return Ok(());
        }
    };
    match list.install(&shipped).await {
        Ok(0) => Ok(()),
        Ok(count) => {
            info!(count, "the domains that ship are on the list");
            Ok(())
        }
        // Nothing that trying again would mend.
        Err(why @ Error::Invalid(_)) => {
            error!(%why, "the list of domains begins empty");
            Ok(())
        }
        Err(why) => Err(why),
    }
}

/// Says in a few lines where it listens, what it keeps where, and what must be known.
fn greeting(
    config: &Config,
    data: &DataDir,
    parts: &Parts,
    listen: SocketAddr,
    why: &str,
    bus_place: &str,
) -> String {
    let Parts { installation, stores, .. } = parts;
    let mut text = format!(
        "aito {version}, installation {id}\n\
         operators  http://{listen}, {asked}\n\
         agents     {sockets}, by their own credentials\n\
         state      {place}, profiles and logs in {dir}\n\
         bus        {bus_place}\n\
         runtime    {kind}, because {why}; {count} agents are configured\n",
        version = aito_application::VERSION,
        asked = match (config.no_auth, listen.ip().is_loopback()) {
            (true, _) => "no credentials asked (--no-auth), loopback only",
            (false, true) => "by token",
            (false, false) =>
                "by token; unencrypted, so only behind a proxy that speaks TLS or on a network you trust",
        },
        id = installation.id,
        sockets = installation.socket_dir.display(),
        place = stores.place,
        dir = data.path().display(),
        kind = installation.runtime,
        count = config.agents.len(),
    );
    if installation.runtime == RuntimeKind::Process {
        text.push_str(
            "note       local processes are trusted as you are; votes are not protected from them\n",
        );
    }
    text
}

fn announce(mut text: String, runtime: &dyn ContainerRuntime) {
    for line in runtime.unenforced() {
        text.push_str(&format!("note       {line}\n"));
    }
    // Nobody may be listening on the other end any more; serving goes on.
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
}
