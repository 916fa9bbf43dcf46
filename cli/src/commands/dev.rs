//! `dev`: three metadata servers and three data nodes in this process, for trying things out and for tests.
//!
//! Invariant: it listens on loopback addresses only, and one line on standard output says when a put would succeed.
//! What was acknowledged is there again when it is started on the same directory.

mod addresses;
mod cluster;
mod directory;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use xdpfs_gateway::{Gateway, GatewayConfig};

use self::{addresses::Bound, cluster::Cluster, directory::Directory};
use crate::{
    console::Console,
    failure::{Exit, Failure},
    signals::Signals,
};

/// What is logged unless `XDPFS_LOG` says otherwise: warnings, but not that leadership finds no heir when all stop.
pub(crate) const LOG_FILTER: &str = "warn,slog=error,xdpfs_meta_server::server=error";

/// Servers of each kind. Three is the least that outlives the loss of one.
const SERVERS: usize = 3;

/// Calls through the gateway have so long to end.
const GATEWAY_PATIENCE: Duration = Duration::from_secs(1);

/// Run a whole cluster in this process, for trying things out.
///
/// Runs three metadata servers and three data nodes on the loopback interface, without root, until it is interrupted.
/// Their data is kept in the directory: started again there, the cluster comes back with all of it, and at the same
/// addresses if these are free. Nobody has to log in: it is open to everybody on this machine.
#[derive(Debug, Args)]
#[command(after_help = "\
Prints one line when it is ready: ready XDPFS_ENDPOINT=HOST:PORT,HOST:PORT,HOST:PORT
Logs go to standard error; XDPFS_LOG=info shows more of them.

Examples:
  xdpfs-cli dev --data-dir /tmp/xdpfs
  xdpfs-cli dev --data-dir /tmp/xdpfs --listen 127.0.0.1:7001
  xdpfs-cli dev --data-dir /tmp/xdpfs --gateway-listen 127.0.0.1:7600      for programs in any language")]
pub(crate) struct DevArguments {
    /// The directory that keeps everything; made if it is not there.
    #[arg(long, value_name = "DIR", env = "XDPFS_DEV_DATA_DIR")]
    data_dir: PathBuf,
    /// The address of the first metadata server; the others are on the same interface.
    #[arg(long, value_name = "ADDRESS:PORT", env = "XDPFS_DEV_LISTEN")]
    listen: Option<SocketAddr>,
    /// Serve objects over gRPC here, too, as xdpfs-gateway does. By default nowhere.
    #[arg(long, value_name = "ADDRESS:PORT", env = "XDPFS_DEV_GATEWAY_LISTEN")]
    gateway_listen: Option<SocketAddr>,
}

/// Runs the cluster until a signal comes.
pub(crate) async fn run(arguments: &DevArguments, console: &mut Console) -> Result<Exit, Failure> {
    for listen in [arguments.listen, arguments.gateway_listen].into_iter().flatten() {
        check_loopback(listen)?;
    }
    let mut signals = Signals::listen()?;
    let directory = Directory::open(&arguments.data_dir)?;
    let bound = Bound::bind(arguments.listen, directory.memory())?;
    bound.moved.iter().for_each(|moved| console.note(moved));
    console.note(&format!(
        "starting a cluster in {}; it speaks plaintext on loopback only, and is open to everybody on this machine",
        arguments.data_dir.display()
    ));
    let cluster = tokio::select! {
        started = start(directory, bound) => started?,
        _ = signals.next() => return Ok(Exit::Done),
    };
    let gateway = start_gateway(arguments.gateway_listen, &cluster).await?;
    let outcome = tokio::select! {
        outcome = serve(&cluster, gateway.as_ref(), console) => outcome,
        _ = signals.next() => Ok(()),
    };
    if let Some(gateway) = gateway {
        // Whatever it had to say, it ends.
        let _ = gateway.shutdown().await;
    }
    cluster.stop().await;
    outcome.map(|()| Exit::Done)
}

/// Starts the cluster and waits until a put would succeed.
async fn start(mut directory: Directory, bound: Bound) -> Result<Cluster, Failure> {
    let is_new = directory.is_new()?;
    directory.remember(&bound.remembered())?;
    let cluster = Cluster::start(directory, bound, is_new).await?;
    cluster.ready().await?;
    Ok(cluster)
}

/// Lets programs in any language in, if that is asked for.
async fn start_gateway(listen: Option<SocketAddr>, cluster: &Cluster) -> Result<Option<Gateway>, Failure> {
    let Some(listen) = listen else { return Ok(None) };
    let meta = cluster.endpoints().parse().map_err(|error| Failure::machine(format!("{error}")))?;
    let config = GatewayConfig { listen, shutdown_timeout: GATEWAY_PATIENCE, ..GatewayConfig::new(meta) };
    let started = Gateway::start(config).await;
    started.map(Some).map_err(|error| Failure::caused("start the gateway", &error))
}

/// Tells where the cluster is, and waits until a part of it fails.
async fn serve(cluster: &Cluster, gateway: Option<&Gateway>, console: &mut Console) -> Result<(), Failure> {
    let endpoints = cluster.endpoints();
    console.text(&format!("ready XDPFS_ENDPOINT={endpoints}"))?;
    console.flush()?;
    console.note(&format!("try it in another shell: export XDPFS_ENDPOINT={endpoints}; xdpfs-cli mb demo"));
    if let Some(gateway) = gateway {
        console.note(&format!("objects are served over gRPC on {}", gateway.address()));
    }
    Err(cluster.failed().await)
}

/// Nothing here asks who is speaking, so nobody else may be able to.
fn check_loopback(listen: SocketAddr) -> Result<(), Failure> {
    if listen.ip().is_loopback() {
        return Ok(());
    }
    let failure =
        Failure::usage(format!("{listen} is not a loopback address: this cluster has no access control"));
    Err(failure
        .with_hint("listen on 127.0.0.1:PORT, or run xdpfs-meta-server and xdpfs-data-node for others"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_listened_on() {
        for good in ["127.0.0.1:7001", "127.9.9.9:0", "[::1]:7001"] {
            check_loopback(good.parse().unwrap()).unwrap();
        }
        for bad in ["0.0.0.0:7001", "192.168.0.1:7001", "[::]:7001"] {
            let failure = check_loopback(bad.parse().unwrap()).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{bad}");
            assert!(failure.hint.unwrap().contains("127.0.0.1"));
        }
    }
}
