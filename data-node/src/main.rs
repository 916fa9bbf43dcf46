//! The data node program: arguments, logs, signals and exit codes around [`DataNode`] and
//! [`Edge`](xdpfs_data_node::Edge).

use std::{io, net::SocketAddr, process::ExitCode};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use xdpfs_data_node::{
    CheckArguments, CheckEnd, CommandLine, Config, DataNode, EdgeConfig, PlaneThread, PreparedEdge, run_check,
};
use xdpfs_observe::{Log, LogFilter};
use xdpfs_settings::Reloader;

const EXIT_FAILURE: u8 = 1;
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let (line, reloader) = CommandLine::of_process();
    match line {
        CommandLine::Check(arguments) => check(&arguments),
        CommandLine::Edge(arguments) => {
            let log = (arguments.log.clone(), arguments.log_json);
            start(log, reloader, EdgeConfig::try_from(arguments), run_edge)
        }
        CommandLine::Node(arguments) => {
            let log = (arguments.log.clone(), arguments.log_json);
            start(log, reloader, Config::try_from(arguments), run_node)
        }
    }
}

fn check(arguments: &CheckArguments) -> ExitCode {
    match run_check(arguments, &mut io::stdout()) {
        Ok(CheckEnd::Whole) => ExitCode::SUCCESS,
        Ok(CheckEnd::Damaged) => ExitCode::from(EXIT_FAILURE),
        Ok(CheckEnd::Usage) => ExitCode::from(EXIT_USAGE),
        Err(error) => end(EXIT_FAILURE, &error.into()),
    }
}

fn start<C, E: Into<anyhow::Error>>(
    (filter, json): (LogFilter, bool),
    reloader: Reloader,
    config: Result<C, E>,
    run: fn(C, Reloading) -> anyhow::Result<()>,
) -> ExitCode {
    let config = match config {
        Ok(config) => config,
        Err(error) => return end(EXIT_USAGE, &error.into()),
    };
    let log = Log::start(&filter, json, Vec::new());
    match run(config, Reloading { log, reloader }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(EXIT_FAILURE, &error),
    }
}

/// What needs privileges is left to one thread before there are others.
fn run_node(config: Config, reloading: Reloading) -> anyhow::Result<()> {
    let thread = PlaneThread::start_alone(&config.xdp, config.user);
    serve_node(thread.context("privileges can't be given up")?, config, reloading)
}

#[tokio::main]
async fn serve_node(thread: PlaneThread, config: Config, mut reloading: Reloading) -> anyhow::Result<()> {
    let mut stop = StopSignals::listen()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let node = tokio::select! {
        started = DataNode::start_by(thread, config) => started?,
        () = stop.received() => return Ok(()),
    };
    let (id, address, http) = (node.node_id(), node.address(), http_word(node.http_address()));
    announce(&format!("ready id={id} address={address}{http}"))?;
    let failure = tokio::select! {
        failure = node.failed() => Some(failure),
        () = reloading.at_each(&mut hangup, |config| {
            if let Some(config) = config {
                node.configure_scrub(config.scrub);
            }
            node.look_at_certificates();
        }) => None,
        () = stop.received() => None,
    };
    node.shutdown().await;
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// What needs privileges is done before there is a second thread.
fn run_edge(config: EdgeConfig, reloading: Reloading) -> anyhow::Result<()> {
    serve_edge(PreparedEdge::new(config)?, reloading)
}

#[tokio::main]
async fn serve_edge(prepared: PreparedEdge, mut reloading: Reloading) -> anyhow::Result<()> {
    let mut stop = StopSignals::listen()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let Some(edge) = prepared.start(stop.received()).await? else { return Ok(()) };
    announce(&format!(
        "ready address={} xdp={} replies={}{}",
        edge.address(),
        edge.xdp_mode(),
        edge.replies(),
        http_word(edge.http_address())
    ))?;
    let failure = tokio::select! {
        failure = edge.failed() => Some(failure),
        () = reloading.at_each(&mut hangup, |_| edge.look_at_certificates()) => None,
        () = stop.received() => None,
    };
    edge.shutdown().await;
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// Where metrics are told, as a word of that line.
fn http_word(address: Option<SocketAddr>) -> String {
    address.map(|address| format!(" http={address}")).unwrap_or_default()
}

/// The one line that whoever started this program may wait for.
fn announce(line: &str) -> anyhow::Result<()> {
    use io::Write as _;
    let mut out = io::stdout();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("nobody reads the output")
}

/// What is needed to read the configuration again.
struct Reloading {
    log: Log,
    reloader: Reloader,
}

impl Reloading {
    /// Reads the configuration again at each of these signals, and then gives it to `apply`: that of a node, if it is one.
    async fn at_each(&mut self, signal: &mut Signal, apply: impl Fn(Option<Config>)) {
        while signal.recv().await.is_some() {
            // The files are small, and nothing else runs on this thread.
            match self.reload() {
                Ok(config) => {
                    apply(config);
                    tracing::info!("the configuration was read again");
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(error, "the configuration can't be used: all goes on as it was");
                }
            }
        }
        std::future::pending().await
    }

    fn reload(&mut self) -> anyhow::Result<Option<Config>> {
        let reread = self.reloader.read()?;
        let (filter, config) = match CommandLine::from_matches(&reread.matches)? {
            CommandLine::Check(_) => anyhow::bail!("a check has no configuration"),
            CommandLine::Edge(arguments) => {
                let filter = arguments.log.clone();
                EdgeConfig::try_from(arguments).map(|_| (filter, None))?
            }
            CommandLine::Node(arguments) => {
                let filter = arguments.log.clone();
                Config::try_from(arguments).map(|config| (filter, Some(config)))?
            }
        };
        self.log.set_filter(&filter);
        self.reloader.accept(reread);
        Ok(config)
    }
}

struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    fn listen() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[expect(clippy::print_stderr, reason = "the one sentence that says why the program ends")]
fn end(code: u8, error: &anyhow::Error) -> ExitCode {
    eprintln!("xdpfs-data-node: {error:#}");
    ExitCode::from(code)
}
