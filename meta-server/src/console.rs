//! Shows the cluster to browsers, which reach it as clients do: by the addresses of all members, with what the visitor
//! has to show.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use xdpfs_client::{ClientConfig, Endpoints, EndpointsError};
use xdpfs_console::{ClusterEntrance, Console, Names};
use xdpfs_trust::Trust;

use crate::config::Config;

/// How long the cluster may take to serve a visitor before he is told that it does not.
const DEADLINE: Duration = Duration::from_secs(10);
/// Bytes of chunks that are on their way to one visitor's downloads.
const BUFFERED_BYTES_MAX: u32 = 16 << 20;

/// Serves the page on `console` until `stop`.
///
/// # Errors
///
/// The members' addresses make no endpoints.
pub(crate) fn serve(
    console: Console,
    config: &Config,
    own: SocketAddr,
    trust: Option<&Arc<Trust>>,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + Send + use<>, EndpointsError> {
    let mut client = ClientConfig::new(endpoints(config, own).parse::<Endpoints>()?);
    client.tls = trust.map(Trust::dialing_as_client);
    client.deadline = DEADLINE;
    client.buffered_bytes_max = BUFFERED_BYTES_MAX;
    // Whoever trusts the network with everything trusts it with keys.
    client.insecure_key = config.insecure;
    let names = if trust.is_some() { Names::OfCertificate } else { Names::These(hosts(config)) };
    Ok(console.serve(ClusterEntrance(client), trust.map(Arc::clone), names, stop))
}

/// This server first, since it surely runs, and knows who leads. One that listens everywhere is asked on loopback, by the
/// name that every certificate has: whether it reaches itself by the address that others know, depends on the network.
fn endpoints(config: &Config, own: SocketAddr) -> String {
    let near = own.ip().is_unspecified().then(|| format!("localhost:{}", own.port()));
    let (ours, others): (Vec<_>, Vec<_>) = config.members.iter().partition(|member| member.id == config.id);
    let members = ours.into_iter().chain(others).map(|member| member.client_address.clone());
    near.into_iter().chain(members).collect::<Vec<_>>().join(",")
}

/// The names of members, by which a browser may reach them.
fn hosts(config: &Config) -> BTreeSet<String> {
    let hosts = config.members.iter().filter_map(|member| member.client_address.rsplit_once(':'));
    hosts.map(|(host, _)| host.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        let members = ["1,p:1,Meta-1:7001", "2,p:2,meta-2:7001"];
        Config::new(2, members.iter().map(|member| member.parse().unwrap()).collect(), "d".into())
    }

    #[test]
    fn own_server_is_asked_first() {
        let check = |own: &str, expect: &str| {
            assert_eq!(endpoints(&config(), own.parse().unwrap()), expect, "{own}");
            expect.parse::<Endpoints>().unwrap();
        };
        check("10.0.0.2:7001", "meta-2:7001,Meta-1:7001");
        check("0.0.0.0:7001", "localhost:7001,meta-2:7001,Meta-1:7001");
        check("[::]:7001", "localhost:7001,meta-2:7001,Meta-1:7001");
    }

    #[test]
    fn browsers_may_use_the_names_of_members() {
        assert_eq!(hosts(&config()), ["meta-1".to_owned(), "meta-2".to_owned()].into());
    }
}
