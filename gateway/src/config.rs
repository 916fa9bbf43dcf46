//! What a gateway is told at its start: as typed on the command line, and as checked.

use std::{
    collections::BTreeSet, env, io::Write as _, net::SocketAddr, path::PathBuf, process, time::Duration,
};

use bytesize::ByteSize;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, error::ErrorKind, value_parser};
use thiserror::Error;
use xdpfs_client::{Endpoints, Scheme};
use xdpfs_observe::LogFilter;
use xdpfs_settings::{Reloader, Settings, mark_reloaded};

use crate::link::exposed;

const AFTER_HELP: &str = "Callers show their own access keys; the gateway has none, and no rights of its own.\n\n\
    Prints one line `ready address=HOST:PORT` once it serves, with `web=HOST:PORT` and `http=HOST:PORT` if these are asked for. Logs go to stderr; SIGHUP has the configuration read again. \
    SIGINT and SIGTERM stop the gateway: calls under way may end. Exit codes: 0 stopped as told, 1 failed, 2 wrong usage.";

/// The options that are read again while the gateway runs. Certificates are followed all the time.
const RELOADED: &[&str] = &["log"];

/// The command line of `xdpfs-gateway`.
#[derive(Clone, Debug, Parser)]
#[command(name = "xdpfs-gateway", version, about = "Serves objects over gRPC, to programs in any language", after_help = AFTER_HELP)]
pub struct Arguments {
    /// The metadata servers, separated by commas. Any of them will do: the others are found from there.
    #[arg(long, value_name = "HOST:PORT", env = "XDPFS_GATEWAY_META")]
    meta: Endpoints,
    /// The directory with ca.pem, server.pem and server.key, as xdpfs-cli init or certify makes it for a gateway: TLS is
    /// spoken with callers and with metadata servers. The files are looked at every two seconds, and new ones are used.
    #[arg(long, value_name = "DIR", env = "XDPFS_GATEWAY_TLS")]
    tls: Option<PathBuf>,
    /// Speak plaintext with others than this host, too: everybody on the way sees access keys and objects.
    #[arg(long, env = "XDPFS_GATEWAY_INSECURE")]
    insecure: bool,
    /// The address to serve gRPC on. Port 0 takes any free one.
    #[arg(long, value_name = "IP:PORT", env = "XDPFS_GATEWAY_LISTEN", default_value = "127.0.0.1:7600")]
    listen: SocketAddr,
    /// The address to serve gRPC-Web on, over HTTP/1.1: for browsers, and for whoever has no HTTP/2. By default nowhere.
    #[arg(long, value_name = "IP:PORT", env = "XDPFS_GATEWAY_WEB_LISTEN")]
    web_listen: Option<SocketAddr>,
    /// Pages that may speak gRPC-Web, by their origin, separated by commas. By default none; whoever is no page may anyway.
    #[arg(
        long,
        value_name = "https://HOST",
        env = "XDPFS_GATEWAY_WEB_ORIGIN",
        value_delimiter = ',',
        requires = "web_listen"
    )]
    web_origin: Vec<String>,
    /// Connections of callers at once. When there are as many, those end that have been idle for longest.
    #[arg(long, value_name = "COUNT", env = "XDPFS_GATEWAY_CONNECTIONS_MAX", default_value_t = 1024)]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    connections_max: u32,
    /// Calls that are served at once; more are turned away with RESOURCE_EXHAUSTED. Each put or get may take a chunk of
    /// memory and 4 MiB, and each CommitBatch as much as four puts, besides what --memory says.
    #[arg(long, value_name = "COUNT", env = "XDPFS_GATEWAY_CALLS_MAX", default_value_t = 256)]
    #[arg(value_parser = value_parser!(u32).range(1..))]
    calls_max: u32,
    /// Memory for chunks that are read ahead or written at once, over all calls.
    #[arg(long, value_name = "SIZE", env = "XDPFS_GATEWAY_MEMORY", default_value = "256MiB")]
    memory: ByteSize,
    /// Seconds that a caller may keep a stream waiting for its next message, or take none, before it is given up.
    #[arg(long, value_name = "SECONDS", env = "XDPFS_GATEWAY_IDLE_S", default_value_t = 60)]
    #[arg(value_parser = value_parser!(u64).range(1..=86_400))]
    idle_s: u64,
    /// Seconds that calls under way may take to end once the gateway is told to stop.
    #[arg(long, value_name = "SECONDS", env = "XDPFS_GATEWAY_SHUTDOWN_S", default_value_t = 20)]
    #[arg(value_parser = value_parser!(u64).range(..=86_400))]
    shutdown_s: u64,
    /// Tell metrics and readiness over HTTP here. By default nowhere.
    #[arg(long, value_name = "IP:PORT", env = "XDPFS_GATEWAY_HTTP_LISTEN")]
    http_listen: Option<SocketAddr>,
    /// Which messages are logged: a level, such as `debug`, or MODULE=LEVEL, separated by commas.
    #[arg(long, env = "XDPFS_LOG", value_name = "FILTER", default_value = "info")]
    pub log: LogFilter,
    /// Log as JSON.
    #[arg(long, env = "XDPFS_LOG_JSON")]
    pub log_json: bool,
    /// A TOML file with options: each key is a long option without its dashes, and an unknown one is an error. What the
    /// command line or the environment says wins.
    #[arg(long, env = "XDPFS_GATEWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print every option with its value and where that came from, as such a file, and end.
    #[arg(long)]
    show_config: bool,
}

/// Why a configuration can't work.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum GatewayConfigError {
    /// No page has such an origin.
    #[error("{0:?} is not the origin of a page: write https://HOST or https://HOST:PORT")]
    Origin(String),
    /// Keys and objects would be seen on the way to callers.
    #[error(
        "listening on {0} without TLS would show access keys and objects to everybody on the way: give --tls DIR \
         (xdpfs-cli certify makes the certificate), or --insecure if everybody on that network is trusted"
    )]
    Insecure(SocketAddr),
    /// Keys would be seen on the way to a metadata server.
    #[error(
        "access keys would go to {0} in plaintext: give --tls DIR (xdpfs-cli certify makes the certificate), or \
         --insecure if everybody on that network is trusted"
    )]
    InsecureMeta(String),
    /// TLS and plaintext are asked for.
    #[error("--tls and --insecure contradict each other: give one of them")]
    InsecureTls,
    /// The metadata servers are named by other words than --tls.
    #[error("the metadata servers are {0}, and --tls says otherwise")]
    Scheme(&'static str),
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// The metadata servers.
    pub meta: Endpoints,
    /// The directory with the gateway's certificate and key and the authorities that it trusts. None: plaintext.
    pub tls: Option<PathBuf>,
    /// Whether plaintext is spoken with other hosts.
    pub insecure: bool,
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where gRPC-Web is served. None: nowhere.
    pub listen_web: Option<SocketAddr>,
    /// Pages that may speak it.
    pub web_origins: BTreeSet<String>,
    /// Connections of callers at once.
    pub connections_max: usize,
    /// Calls at once.
    pub calls_max: usize,
    /// Memory for chunks in flight, over all calls.
    pub memory_bytes: u32,
    /// How long a caller may keep a stream waiting.
    pub idle_max: Duration,
    /// How long a graceful end may take.
    pub shutdown_timeout: Duration,
    /// Where metrics and readiness are told over HTTP. None: nowhere.
    pub listen_http: Option<SocketAddr>,
}

impl GatewayConfig {
    /// The usual values, on any free port of the loopback interface.
    #[must_use]
    pub fn new(meta: Endpoints) -> Self {
        Self {
            meta,
            tls: None,
            insecure: false,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            listen_web: None,
            web_origins: BTreeSet::new(),
            connections_max: 1024,
            calls_max: 256,
            memory_bytes: 256 << 20,
            idle_max: Duration::from_secs(60),
            shutdown_timeout: Duration::from_secs(20),
            listen_http: None,
        }
    }

    /// Whether the parts fit each other.
    ///
    /// # Errors
    /// See [`GatewayConfigError`].
    pub fn check(&self) -> Result<(), GatewayConfigError> {
        if let Some(bad) = self.web_origins.iter().find(|origin| !is_origin(origin)) {
            return Err(GatewayConfigError::Origin(bad.clone()));
        }
        match (self.tls.is_some(), self.meta.scheme()) {
            (true, _) if self.insecure => return Err(GatewayConfigError::InsecureTls),
            (true, Scheme::Plaintext) => return Err(GatewayConfigError::Scheme("http://")),
            (false, Scheme::Tls) => return Err(GatewayConfigError::Scheme("https://")),
            (true, Scheme::Either | Scheme::Tls) => return Ok(()),
            (false, Scheme::Either | Scheme::Plaintext) if self.insecure => return Ok(()),
            (false, Scheme::Either | Scheme::Plaintext) => {}
        }
        let mut listens = [self.listen].into_iter().chain(self.listen_web);
        if let Some(open) = listens.find(|listen| !listen.ip().is_loopback()) {
            return Err(GatewayConfigError::Insecure(open));
        }
        match exposed(&self.meta) {
            Some(endpoint) => Err(GatewayConfigError::InsecureMeta(endpoint.to_owned())),
            None => Ok(()),
        }
    }
}

impl Arguments {
    /// Those of this process, from its command line, its environment and its file, and what reads them again. Ends the
    /// process if they make no sense, or if they were only to be shown.
    #[must_use]
    pub fn of_process() -> (Self, Reloader) {
        let command = mark_reloaded(Self::command(), RELOADED);
        let settings = Settings::read(&command, env::args_os())
            .unwrap_or_else(|error| command.clone().error(ErrorKind::InvalidValue, error).exit());
        let matches = command.clone().get_matches_from(settings.words());
        let arguments = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        if arguments.show_config {
            // Whoever has closed the other end does not want to know.
            let _ = std::io::stdout().write_all(settings.show(&command, &matches).as_bytes());
            process::exit(0);
        }
        let reloader = Reloader::new(command, env::args_os(), &matches, RELOADED);
        (arguments, reloader)
    }

    /// The configuration that these arguments stand for.
    ///
    /// # Errors
    /// They contradict each other.
    pub fn into_config(self) -> Result<GatewayConfig, GatewayConfigError> {
        let config = GatewayConfig {
            meta: self.meta,
            tls: self.tls,
            insecure: self.insecure,
            listen: self.listen,
            listen_web: self.web_listen,
            web_origins: self.web_origin.into_iter().collect(),
            connections_max: self.connections_max as usize,
            calls_max: self.calls_max as usize,
            memory_bytes: u32::try_from(self.memory.as_u64()).unwrap_or(u32::MAX),
            idle_max: Duration::from_secs(self.idle_s),
            shutdown_timeout: Duration::from_secs(self.shutdown_s),
            listen_http: self.http_listen,
        };
        config.check().map(|()| config)
    }
}

/// Whether a browser could send it: scheme, host and perhaps port, and nothing behind.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    host.is_some_and(|host| !host.is_empty() && !host.contains(['/', '@', ' ', '*', ',']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<GatewayConfig, GatewayConfigError> {
        let line = format!("gateway {line}");
        Arguments::try_parse_from(line.split_whitespace()).unwrap().into_config()
    }

    #[test]
    fn command_line_becomes_a_configuration() {
        let config = parsed("--meta localhost:1,localhost:2 --calls-max 7 --memory 1GiB --idle-s 5").unwrap();
        assert_eq!((config.listen.port(), config.calls_max, config.memory_bytes), (7600, 7, 1 << 30));
        assert_eq!((config.idle_max, config.meta.iter().count()), (Duration::from_secs(5), 2));
        assert_eq!(parsed("--meta localhost:1 --memory 100GiB").unwrap().memory_bytes, u32::MAX);
        Arguments::command().debug_assert();
    }

    #[test]
    fn plaintext_leaves_the_host_only_if_that_is_asked_for() {
        let check = |line: &str, expect: Option<GatewayConfigError>| {
            assert_eq!(parsed(line).err(), expect, "{line}");
        };
        let everywhere: SocketAddr = "0.0.0.0:7600".parse().unwrap();
        check("--meta localhost:1", None);
        check("--meta localhost:1 --listen 0.0.0.0:7600", Some(GatewayConfigError::Insecure(everywhere)));
        check("--meta m:1", Some(GatewayConfigError::InsecureMeta("m:1".into())));
        check("--meta m:1 --listen 0.0.0.0:7600 --insecure", None);
        check("--meta https://m:1 --listen 0.0.0.0:7600 --tls d", None);
        check("--meta localhost:1 --web-listen 0.0.0.0:7600", Some(GatewayConfigError::Insecure(everywhere)));
        let slash = "https://app.example/".to_owned();
        let line = format!("--meta localhost:1 --web-listen 127.0.0.1:1 --web-origin {slash}");
        check(&line, Some(GatewayConfigError::Origin(slash)));
        check("--meta localhost:1 --web-listen 127.0.0.1:1 --web-origin https://a.example,http://b:1", None);
        check("--meta m:1 --tls d --insecure", Some(GatewayConfigError::InsecureTls));
        check("--meta http://m:1 --tls d", Some(GatewayConfigError::Scheme("http://")));
        check("--meta https://m:1 --insecure", Some(GatewayConfigError::Scheme("https://")));
    }
}
