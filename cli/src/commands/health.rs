//! `health`: whether one server serves; made for whoever watches it, such as a container engine.

use clap::Args;
use xdpfs_client::{Health, HealthError, check_health};

use crate::{
    arguments::Common,
    console::Console,
    failure::{Exit, Failure},
    record::HealthRecord,
};

/// Ask one server whether it serves.
#[derive(Debug, Args)]
#[command(after_help = "\
Speaks grpc.health.v1. The exit code is 0 if the service is served, 5 if it isn't or nobody answers.

Services:
  xdpfs.meta.v1.MetaService    a metadata server that knows a leader
  xdpfs.DataNode               a data node that is registered and has a sound store
  xdpfs.Edge                   an edge that knows which nodes are behind it
  xdpfs.object.v1.ObjectService
                               a gateway without TLS, before a cluster that serves
The second and the third answer where --health-listen says.

Examples:
  xdpfs-cli health 127.0.0.1:7001                              the process answers
  xdpfs-cli health 127.0.0.1:7001 xdpfs.meta.v1.MetaService    and can serve
  xdpfs-cli health 127.0.0.1:7501 xdpfs.DataNode               so can a data node
  xdpfs-cli --ca ca.pem health meta-1:7001                     with TLS")]
pub(crate) struct HealthArguments {
    /// The server.
    #[arg(value_name = "HOST:PORT")]
    server: String,
    /// The service; the server as a whole if none is given.
    #[arg(default_value = "", hide_default_value = true)]
    service: String,
}

/// Asks the server.
pub(crate) async fn run(
    arguments: &HealthArguments,
    common: &Common,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let tls = common.tls()?;
    let health = check_health(&arguments.server, &arguments.service, common.timeout, tls.as_ref()).await;
    show(arguments, health, console)
}

fn show(
    arguments: &HealthArguments,
    health: Result<Health, HealthError>,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let is_serving = match health {
        Ok(health) => health == Health::Serving,
        Err(error @ HealthError::NoAnswer { .. }) => return Err(Failure::unavailable(error.to_string())),
        Err(HealthError::Mismatch { endpoint, mismatch }) => {
            return Err(Failure::mismatch(format!("cannot speak to {endpoint}: {mismatch}"), &mismatch));
        }
        Err(error) => return Err(Failure::usage(error.to_string())),
    };
    let HealthArguments { server, service } = arguments;
    let record = HealthRecord { server, service, serving: is_serving };
    console
        .answer(&record, || if is_serving { "serving\n".to_owned() } else { "not serving\n".to_owned() })?;
    Ok(if is_serving { Exit::Done } else { Exit::Unavailable })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{Look, tests::Printed};

    #[test]
    fn exit_code_says_whether_it_serves() {
        let arguments = HealthArguments { server: "m1:1".into(), service: "s".into() };
        let check = |health, json, expect: (Exit, &str)| {
            let (mut console, printed) = Printed::console(Look { json, quiet: false });
            let exit = show(&arguments, health, &mut console).unwrap_or_else(|failure| failure.exit);
            console.flush().unwrap();
            assert_eq!((exit, printed.out().as_str()), expect);
        };
        check(Ok(Health::Serving), false, (Exit::Done, "serving\n"));
        check(Ok(Health::NotServing), false, (Exit::Unavailable, "not serving\n"));
        let line = "{\"server\":\"m1:1\",\"service\":\"s\",\"serving\":true}\n";
        check(Ok(Health::Serving), true, (Exit::Done, line));
        let unknown = HealthError::UnknownService { endpoint: "m1:1".into(), service: "s".into() };
        check(Err(unknown), false, (Exit::Usage, ""));
        let mismatch =
            HealthError::Mismatch { endpoint: "m1:1".into(), mismatch: xdpfs_client::Mismatch::SpeaksTls };
        check(Err(mismatch), false, (Exit::Usage, ""));
    }
}
