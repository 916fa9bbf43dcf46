//! The process around a metadata server: arguments, logs, signals and exit codes.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use xdpfs_meta_server::{Arguments, Config, Server, ServerError};

/// Which messages are logged, as `tracing_subscriber` reads it.
const LOG_FILTER: &str = "XDPFS_LOG";
/// raft-rs, whose words come by slog, speaks at length; what matters of it is logged by consensus itself.
const LOG_FILTER_DEFAULT: &str = "info,slog=warn";

fn main() -> ExitCode {
    let arguments = Arguments::of_process();
    start_logging(arguments.log_json);
    let config = match arguments.into_config() {
        Ok(config) => config,
        Err(error) => return fail(2, &error.into()),
    };
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if matches!(error.downcast_ref(), Some(ServerError::Config(_))) => fail(2, &error),
        Err(error) => fail(1, &error),
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be received")?;
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be received")?;
    let id = config.id;
    xdpfs_trust::allow_connections(config.connections_max);
    let server = Server::start(config).await?;
    let work = async {
        server.ready().await;
        let http = server.http_address().map(|address| format!(" http={address}")).unwrap_or_default();
        let console =
            server.console_address().map(|address| format!(" console={address}")).unwrap_or_default();
        let (client, peer) = (server.client_address(), server.peer_address());
        let ready = format!("ready id={id} client={client} peer={peer}{http}{console}\n");
        // Whoever has closed the other end does not want to know.
        let _ = io::stdout().write_all(ready.as_bytes());
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    server.shutdown().await;
    Ok(())
}

fn start_logging(json: bool) {
    let filter = EnvFilter::try_from_env(LOG_FILTER).unwrap_or_else(|_| EnvFilter::new(LOG_FILTER_DEFAULT));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal());
    if json { logs.json().init() } else { logs.init() }
}

fn fail(code: u8, error: &anyhow::Error) -> ExitCode {
    // There is nobody left to tell if this fails.
    let _ = writeln!(io::stderr(), "xdpfs-meta-server: {error:#}");
    ExitCode::from(code)
}
