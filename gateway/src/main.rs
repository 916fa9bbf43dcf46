//! The process around a gateway: arguments, logs, signals and exit codes.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::FromArgMatches as _;
use tokio::signal::unix::{SignalKind, signal};
use xdpfs_gateway::{Arguments, Gateway, GatewayConfig};
use xdpfs_observe::Log;
use xdpfs_settings::Reloader;

fn main() -> ExitCode {
    let (arguments, reloader) = Arguments::of_process();
    let log = Log::start(&arguments.log, arguments.log_json, Vec::new());
    let config = match arguments.into_config() {
        Ok(config) => config,
        Err(error) => return fail(2, &error.into()),
    };
    match run(config, Reloading { log, reloader }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &error),
    }
}

#[tokio::main]
async fn run(config: GatewayConfig, mut reloading: Reloading) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("signals cannot be received")?;
    let mut terminate = signal(SignalKind::terminate()).context("signals cannot be received")?;
    let mut hangup = signal(SignalKind::hangup()).context("signals cannot be received")?;
    xdpfs_trust::allow_connections(config.connections_max);
    let gateway = Gateway::start(config).await?;
    let http = gateway.http_address().map(|address| format!(" http={address}")).unwrap_or_default();
    let web = gateway.web_address().map(|address| format!(" web={address}")).unwrap_or_default();
    let ready = format!("ready address={}{web}{http}\n", gateway.address());
    // Whoever has closed the other end does not want to know.
    let _ = io::stdout().write_all(ready.as_bytes());
    let reload = async {
        while hangup.recv().await.is_some() {
            reloading.reload(&gateway);
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = reload => {}
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(gateway.shutdown().await?)
}

/// What is needed to read the configuration again.
struct Reloading {
    log: Log,
    reloader: Reloader,
}

impl Reloading {
    /// The files are small, and nothing else runs on this thread.
    fn reload(&mut self, gateway: &Gateway) {
        gateway.look_at_certificates();
        match self.try_reload() {
            Ok(()) => tracing::info!("the configuration was read again"),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the configuration cannot be used: the gateway goes on as it was");
            }
        }
    }

    fn try_reload(&mut self) -> anyhow::Result<()> {
        let reread = self.reloader.read()?;
        let arguments = Arguments::from_arg_matches(&reread.matches)?;
        let filter = arguments.log.clone();
        arguments.into_config()?;
        self.log.set_filter(&filter);
        self.reloader.accept(reread);
        Ok(())
    }
}

fn fail(code: u8, error: &anyhow::Error) -> ExitCode {
    // There is nobody left to tell if this fails.
    let _ = writeln!(io::stderr(), "xdpfs-gateway: {error:#}");
    ExitCode::from(code)
}
