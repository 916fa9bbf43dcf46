//! The data node program: arguments, logs, signals and exit codes around [`DataNode`] and
//! [`Edge`](xdpfs_data_node::Edge).

use std::{
    io::{self, IsTerminal as _},
    net::SocketAddr,
    process::ExitCode,
};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};
use xdpfs_data_node::{CommandLine, Config, DataNode, EdgeConfig, PlaneThread, PreparedEdge};

/// The log filter's variable.
const LOG_VARIABLE: &str = "XDPFS_LOG";
const EXIT_FAILURE: u8 = 1;
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    match CommandLine::of_process() {
        CommandLine::Edge(arguments) => start(arguments.log_json, EdgeConfig::try_from(arguments), run_edge),
        CommandLine::Node(arguments) => start(arguments.log_json, Config::try_from(arguments), run_node),
    }
}

fn start<C, E: Into<anyhow::Error>>(
    log_json: bool,
    config: Result<C, E>,
    run: fn(C) -> anyhow::Result<()>,
) -> ExitCode {
    let config = match config {
        Ok(config) => config,
        Err(error) => return end(EXIT_USAGE, &error.into()),
    };
    start_logging(log_json);
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(EXIT_FAILURE, &error),
    }
}

fn start_logging(json: bool) {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var(LOG_VARIABLE)
        .from_env_lossy();
    let ansi = io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(ansi).with_writer(io::stderr);
    if json { logs.json().init() } else { logs.init() }
}

/// What needs privileges is left to one thread before there are others.
fn run_node(config: Config) -> anyhow::Result<()> {
    let thread = PlaneThread::start_alone(&config.xdp, config.user);
    serve_node(thread.context("privileges can't be given up")?, config)
}

#[tokio::main]
async fn serve_node(thread: PlaneThread, config: Config) -> anyhow::Result<()> {
    let mut stop = StopSignals::listen()?;
    let node = tokio::select! {
        started = DataNode::start_by(thread, config) => started?,
        () = stop.received() => return Ok(()),
    };
    let (id, address, http) = (node.node_id(), node.address(), http_word(node.http_address()));
    announce(&format!("ready id={id} address={address}{http}"))?;
    let failure = tokio::select! {
        failure = node.failed() => Some(failure),
        () = stop.received() => None,
    };
    node.shutdown().await;
    failure.map_or(Ok(()), |failure| Err(failure.into()))
}

/// What needs privileges is done before there is a second thread.
fn run_edge(config: EdgeConfig) -> anyhow::Result<()> {
    serve_edge(PreparedEdge::new(config)?)
}

#[tokio::main]
async fn serve_edge(prepared: PreparedEdge) -> anyhow::Result<()> {
    let mut stop = StopSignals::listen()?;
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
