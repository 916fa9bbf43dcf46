//! The process around a metadata server: arguments, logs, signals and exit codes.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::FromArgMatches as _;
use tokio::signal::unix::{SignalKind, signal};
use xdpfs_meta_server::{Arguments, Config, Server, ServerError};
use xdpfs_observe::Log;
use xdpfs_settings::Reloader;
use xdpfs_trace::{TraceConfig, Tracing};

fn main() -> ExitCode {
    let (arguments, reloader) = Arguments::of_process();
    let service = ("xdpfs-meta-server", env!("CARGO_PKG_VERSION"));
    let tracing = arguments.otlp_endpoint.clone().map(|endpoint| {
        Tracing::new(&TraceConfig {
            endpoint,
            ratio: arguments.trace_sample,
            service: service.0,
            version: service.1,
        })
    });
    let layers = tracing.iter().map(Tracing::layer).collect();
    let log = Log::start(&arguments.log, arguments.log_json, layers);
    let config = match arguments.into_config() {
        Ok(config) => config,
        Err(error) => return fail(2, &error.into()),
    };
    match run(config, Reloading { log, reloader, tracing }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if matches!(error.downcast_ref(), Some(ServerError::Config(_))) => fail(2, &error),
        Err(error) => fail(1, &error),
    }
}

#[tokio::main]
async fn run(config: Config, mut reloading: Reloading) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be received")?;
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be received")?;
    let mut hangup = signal(SignalKind::hangup()).context("signals cannot be received")?;
    xdpfs_trust::allow_connections(config.connections_max);
    if let Some(tracing) = &mut reloading.tracing {
        tracing.start().context("traces cannot be sent")?;
    }
    let server = Server::start(config).await?;
    let announce = async {
        server.ready().await;
        let http = server.http_address().map(|address| format!(" http={address}")).unwrap_or_default();
        let console =
            server.console_address().map(|address| format!(" console={address}")).unwrap_or_default();
        let admin = server.admin_address().map(|address| format!(" admin={address}")).unwrap_or_default();
        let (client, peer) = (server.client_address(), server.peer_address());
        let id = server.id();
        let ready = format!("ready id={id} client={client} peer={peer}{admin}{http}{console}\n");
        // Whoever has closed the other end does not want to know.
        let _ = io::stdout().write_all(ready.as_bytes());
        std::future::pending::<()>().await;
    };
    let reload = async {
        while hangup.recv().await.is_some() {
            reloading.reload(&server);
        }
        std::future::pending::<()>().await;
    };
    let (is_removed, halt) = tokio::select! {
        () = announce => (false, None),
        () = reload => (false, None),
        () = server.removed() => (true, None),
        halt = server.halted() => (false, Some(halt)),
        _ = interrupt.recv() => (false, None),
        _ = terminate.recv() => (false, None),
    };
    let id = server.id();
    server.shutdown().await;
    if let Some(tracing) = reloading.tracing {
        tracing.shutdown();
    }
    if let Some(halt) = halt {
        return Err(anyhow::Error::new(halt).context(format!("server {id} has stopped")));
    }
    anyhow::ensure!(
        !is_removed,
        "server {id} was removed from the cluster and has stopped: its data directory is of no use any more; to bring this \
         machine back, start it with --join and an empty data directory"
    );
    Ok(())
}

/// What is needed to read the configuration again.
struct Reloading {
    log: Log,
    reloader: Reloader,
    tracing: Option<Tracing>,
}

impl Reloading {
    /// All that was read is in force, as far as it takes no restart, or nothing of it. The files are small, and nothing
    /// else runs on this thread.
    fn reload(&mut self, server: &Server) {
        match self.try_reload(server) {
            Ok(()) => tracing::info!("the configuration was read again"),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the configuration cannot be used: the server goes on as it was");
            }
        }
    }

    fn try_reload(&mut self, server: &Server) -> anyhow::Result<()> {
        let reread = self.reloader.read()?;
        let arguments = Arguments::from_arg_matches(&reread.matches)?;
        let (filter, ratio) = (arguments.log.clone(), arguments.trace_sample);
        server.reload(&arguments.into_config()?)?;
        self.log.set_filter(&filter);
        if let Some(tracing) = &self.tracing {
            tracing.set_ratio(ratio);
        }
        self.reloader.accept(reread);
        Ok(())
    }
}

fn fail(code: u8, error: &anyhow::Error) -> ExitCode {
    // There is nobody left to tell if this fails.
    let _ = writeln!(io::stderr(), "xdpfs-meta-server: {error:#}");
    ExitCode::from(code)
}
