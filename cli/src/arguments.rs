//! The command line: what all commands share. The arguments of each command are in its own file.

use std::{
    collections::BTreeMap,
    env,
    ffi::OsString,
    fs::File,
    io::Read as _,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use xdpfs_client::{AccessKey, ClientConfig, Endpoints, EndpointsError, Precondition, TlsTrust};
use xdpfs_trace::{Endpoint, Ratio};

use crate::{
    commands::{
        bucket, capabilities, cat, certify, completions, cp, debug, dev, doctor, du, fsck, get, health, init,
        key, ls, man, mb, meta, mv, node, placement, put, rb, rebalance, repair, rm, stat, status, top, xdp,
    },
    failure::{EXIT_CODES_HELP, Failure, message_of},
};

/// The most transfers at once: more only wait for each other.
const PARALLEL_MAX: usize = 256;

/// The access key itself. There is no option for it: everybody on a machine can read the command lines of its processes.
const ACCESS_KEY_VARIABLE: &str = "XDPFS_ACCESS_KEY";
/// An access key and white space around it are shorter.
const ACCESS_KEY_FILE_BYTES_MAX: u64 = 4096;

const EXAMPLES: &str = "\
Addresses: BUCKET/KEY, xdp://BUCKET/KEY or s3://BUCKET/KEY

Examples:
  xdpfs-cli dev --data-dir /tmp/xdpfs            start a cluster on this machine
  export XDPFS_ENDPOINT=...                      as the line above printed it
  xdpfs-cli mb photos                            make a bucket
  xdpfs-cli put cat.jpg photos/2026/             put a file
  xdpfs-cli put -r ./album photos/album/         put a tree of files
  xdpfs-cli ls photos                            list
  xdpfs-cli get photos/2026/cat.jpg              get a file
  xdpfs-cli mv photos/2026/cat.jpg photos/tom    rename; cp copies, and moves no byte either
  tar c . | xdpfs-cli put - photos/all.tar       put a stream
  xdpfs-cli cat photos/all.tar | tar t           read a stream";

/// Objects of an xdpfs cluster from the command line.
#[derive(Debug, Parser)]
#[command(
    name = "xdpfs-cli",
    version,
    max_term_width = 100,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES_HELP}"),
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Common {
    /// The metadata servers, separated by commas.
    #[arg(long, global = true, env = "XDPFS_ENDPOINT", value_name = "HOST:PORT,...")]
    endpoint: Option<String>,
    /// The CA of the cluster (ca.pem): TLS is spoken, and only servers with a certificate of it are.
    #[arg(long, global = true, env = "XDPFS_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// A file with the access key, as `key create` prints it. Without it, the variable XDPFS_ACCESS_KEY may hold the key
    /// itself. No option does: everybody on a machine can read the command lines of its processes.
    #[arg(long, global = true, env = "XDPFS_ACCESS_KEY_FILE", value_name = "FILE")]
    access_key_file: Option<PathBuf>,
    /// Send the access key to servers on other machines in plain text: whoever can read that network then has it.
    #[arg(long, global = true, env = "XDPFS_INSECURE_KEY")]
    insecure_key: bool,
    /// How long one request is retried before it fails.
    #[arg(
        long,
        global = true,
        env = "XDPFS_TIMEOUT",
        value_name = "DURATION",
        default_value = "30s",
        value_parser = parse_timeout
    )]
    pub(crate) timeout: Duration,
    /// Send a trace of what is done to this OpenTelemetry collector, by OTLP over gRPC: it goes on in the metadata servers.
    #[arg(long, global = true, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "http://HOST:PORT")]
    pub(crate) otlp_endpoint: Option<Endpoint>,
    /// The share of runs that a trace is taken of, from 0 to 1.
    #[arg(long, global = true, env = "XDPFS_TRACE_SAMPLE", value_name = "RATIO", default_value = "1")]
    pub(crate) trace_sample: Ratio,
    /// Print results as JSON, one object per line; errors too, on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say nothing but what was asked for, and errors.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Bucket(bucket::BucketArguments),
    Capabilities(capabilities::CapabilitiesArguments),
    Cat(cat::CatArguments),
    Certify(certify::CertifyArguments),
    Completions(completions::CompletionsArguments),
    Cp(cp::CpArguments),
    Debug(debug::DebugArguments),
    Dev(dev::DevArguments),
    Doctor(doctor::DoctorArguments),
    Du(du::DuArguments),
    Fsck(fsck::FsckArguments),
    Get(get::GetArguments),
    Health(health::HealthArguments),
    Init(init::InitArguments),
    Key(key::KeyArguments),
    Ls(ls::LsArguments),
    Man(man::ManArguments),
    Mb(mb::MbArguments),
    Meta(meta::MetaArguments),
    Mv(mv::MvArguments),
    Node(node::NodeArguments),
    Placement(placement::PlacementArguments),
    Put(put::PutArguments),
    Rb(rb::RbArguments),
    Rebalance(rebalance::RebalanceArguments),
    Repair(repair::RepairArguments),
    Rm(rm::RmArguments),
    Stat(stat::StatArguments),
    Status(status::StatusArguments),
    Top(top::TopArguments),
    Xdp(xdp::XdpArguments),
}

/// What the object must be for the command to take effect.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Conditions {
    /// Only if the key holds the object with this etag.
    #[arg(long, value_name = "ETAG", value_parser = parse_if_match)]
    if_match: Option<Precondition>,
    /// Only if the key does not hold the object with this etag; with *, only if it holds nothing.
    #[arg(long, value_name = "ETAG|*", conflicts_with = "if_match", value_parser = parse_if_none_match)]
    if_none_match: Option<Precondition>,
}

/// Which version of an object.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(crate) struct VersionChoice {
    /// This version, as `ls --versions` shows it, rather than what the key holds.
    #[arg(long, value_name = "VERSION", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) version_id: Option<u64>,
}

/// How much is done at once.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Parallel {
    /// How many objects are worked on at once.
    #[arg(short = 'j', long, value_name = "COUNT", default_value = "4", value_parser = parse_parallel)]
    pub(crate) parallel: NonZeroUsize,
}

impl Common {
    /// How the client is to behave.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, Failure> {
        let hint = "give --endpoint HOST:PORT or set XDPFS_ENDPOINT; \
            xdpfs-cli dev --data-dir DIR starts a cluster on this machine";
        let endpoint = self.endpoint.as_deref();
        let endpoint =
            endpoint.ok_or_else(|| Failure::usage("no metadata server is named").with_hint(hint))?;
        let endpoints: Endpoints =
            endpoint.parse().map_err(|error| Failure::usage(format!("{error}")).with_hint(hint))?;
        let config = ClientConfig::new(endpoints);
        let tls = self.tls()?;
        config.endpoints.check(tls.as_ref()).map_err(|error| {
            let hint = match error {
                EndpointsError::UnusedCa => "leave --ca (XDPFS_CA) away, or write https://",
                _ => "give the cluster's ca.pem with --ca FILE, or set XDPFS_CA",
            };
            Failure::usage(error.to_string()).with_hint(hint)
        })?;
        Ok(ClientConfig {
            tls,
            deadline: self.timeout,
            first_contact: config.first_contact.min(self.timeout),
            attempt_timeout: config.attempt_timeout.min(self.timeout),
            access_key: access_key(self.access_key_file.as_deref(), env::var(ACCESS_KEY_VARIABLE).ok())?,
            insecure_key: self.insecure_key,
            ..config
        })
    }

    /// What another run of this program finds in its environment, so that it asks the same cluster.
    pub(crate) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let endpoint = self.endpoint.iter().map(|endpoint| ("XDPFS_ENDPOINT", endpoint.into()));
        let timeout = humantime::format_duration(self.timeout).to_string().replace(' ', "");
        let ca = self.ca.iter().map(|ca| ("XDPFS_CA", ca.into()));
        let key = self.access_key_file.iter().map(|file| ("XDPFS_ACCESS_KEY_FILE", file.into()));
        let trusting = self.insecure_key.then(|| ("XDPFS_INSECURE_KEY", "true".into()));
        endpoint.chain([("XDPFS_TIMEOUT", timeout.into())]).chain(ca).chain(key).chain(trusting).collect()
    }

    /// Who must have made the servers' certificates.
    pub(crate) fn tls(&self) -> Result<Option<TlsTrust>, Failure> {
        let trust = self.ca.as_deref().map(TlsTrust::from_ca_file).transpose();
        trust.map_err(|error| {
            Failure::usage(message_of(&error))
                .with_hint("--ca (XDPFS_CA) names the ca.pem that xdpfs-cli init made")
        })
    }

    /// How the client is to behave, if a metadata server is named.
    pub(crate) fn endpoint_config(&self) -> Option<Result<ClientConfig, Failure>> {
        self.endpoint.is_some().then(|| self.client_config())
    }
}

impl VersionChoice {
    /// A version belongs to one key.
    pub(crate) fn check(self, addresses: usize) -> Result<(), Failure> {
        if self.version_id.is_some() && addresses != 1 {
            return Err(Failure::usage("--version-id is about one object").with_hint("run it once for each"));
        }
        Ok(())
    }
}

impl Conditions {
    /// What they come to.
    pub(crate) fn precondition(&self) -> Option<Precondition> {
        self.if_match.clone().or_else(|| self.if_none_match.clone())
    }
}

/// The access key in the file, or else in the variable.
fn access_key(file: Option<&Path>, variable: Option<String>) -> Result<Option<AccessKey>, Failure> {
    let (place, text) = match (file, variable.filter(|text| !text.is_empty())) {
        (Some(file), _) => (file.display().to_string(), read_key_file(file)?),
        (None, Some(text)) => (ACCESS_KEY_VARIABLE.to_owned(), text),
        (None, None) => return Ok(None),
    };
    let key = text.parse::<AccessKey>().map_err(|error| Failure::usage(format!("{place}: {error}")))?;
    Ok(Some(key))
}

fn read_key_file(file: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read =
        File::open(file).and_then(|file| file.take(ACCESS_KEY_FILE_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| Failure::local(format_args!("read the access key in {}", file.display()), &error))?;
    Ok(text)
}

/// The words about an object, from `key=value` each.
pub(crate) fn user_metadata(pairs: &[(String, String)]) -> BTreeMap<String, String> {
    pairs.iter().cloned().collect()
}

/// Reads `key=value`.
pub(crate) fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout =
        humantime::parse_duration(text).map_err(|error| format!("{error}: write 30s, 500ms or 2m"))?;
    if timeout.is_zero() { Err("it must be longer than nothing".to_owned()) } else { Ok(timeout) }
}

fn parse_parallel(text: &str) -> Result<NonZeroUsize, String> {
    let parallel = text.parse().ok().filter(|parallel: &NonZeroUsize| parallel.get() <= PARALLEL_MAX);
    parallel.ok_or_else(|| format!("write a number from 1 to {PARALLEL_MAX}"))
}

pub(crate) fn parse_if_match(text: &str) -> Result<Precondition, String> {
    Precondition::if_match(text).map_err(|error| error.to_string())
}

fn parse_if_none_match(text: &str) -> Result<Precondition, String> {
    Precondition::if_none_match(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::failure::Exit;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(["xdpfs-cli"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_holds_together() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_and_behind_the_command() {
        for line in ["--endpoint a:1 --timeout 2m --json -q ls", "ls --json -q --timeout 2m --endpoint a:1"] {
            let common = parse(line).unwrap().common;
            assert!(common.json && common.quiet, "{line}");
            let config = common.client_config().unwrap();
            assert_eq!(config.deadline, Duration::from_secs(120));
            assert_eq!(config.endpoints.to_string(), "a:1");
        }
    }

    #[test]
    fn a_short_timeout_bounds_everything() {
        let config = parse("--endpoint a:1 --timeout 1s ls").unwrap().common.client_config().unwrap();
        assert_eq!(
            (config.first_contact, config.attempt_timeout),
            (Duration::from_secs(1), Duration::from_secs(1))
        );
    }

    #[test]
    fn a_missing_or_bad_endpoint_is_a_usage_error_with_a_hint() {
        for endpoint in [None, Some("localhost"), Some("")] {
            let common = Common {
                endpoint: endpoint.map(str::to_owned),
                ca: None,
                timeout: Duration::from_secs(1),
                otlp_endpoint: None,
                trace_sample: "1".parse().unwrap(),
                json: false,
                quiet: false,
                access_key_file: None,
                insecure_key: false,
            };
            let failure = common.client_config().unwrap_err();
            assert!(failure.hint.unwrap().contains("XDPFS_ENDPOINT"), "{endpoint:?}");
        }
    }

    #[test]
    fn a_ca_that_is_missing_or_of_no_use_is_named() {
        let check = |line: &str, expect: &str| {
            let failure = parse(line).unwrap().common.client_config().unwrap_err();
            assert_eq!(failure.exit, Exit::Usage, "{failure:?}");
            assert!(failure.message.contains(expect) && failure.hint.is_some(), "{failure:?}");
        };
        check("--endpoint https://a:1 ls", "https://");
        check("--endpoint a:1 --ca /nonexistent/ca.pem ls", "/nonexistent/ca.pem");
        check("--endpoint a:1 --ca /dev/null ls", "/dev/null");
    }

    #[test]
    fn the_access_key_is_in_a_file_or_in_the_environment() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("key");
        std::fs::write(&file, "XKFILE.SECRET\n").unwrap();
        let check = |file: Option<&Path>, variable: Option<&str>, expect: Option<&str>| {
            let key = access_key(file, variable.map(str::to_owned)).unwrap();
            assert_eq!(key.as_ref().map(AccessKey::id), expect, "{file:?} {variable:?}");
        };
        check(None, None, None);
        check(None, Some(""), None);
        check(None, Some("XKVARIABLE.SECRET"), Some("XKVARIABLE"));
        check(Some(&file), Some("XKVARIABLE.SECRET"), Some("XKFILE"));
        let bad = access_key(None, Some("XK SECRET".to_owned())).unwrap_err();
        assert_eq!(bad.exit, Exit::Usage);
        assert!(bad.message.contains(ACCESS_KEY_VARIABLE) && !bad.message.contains("SECRET"), "{bad:?}");
        let missing = access_key(Some(&directory.path().join("none")), None).unwrap_err();
        assert_eq!(missing.exit, Exit::NotFound, "{missing:?}");
    }

    #[test]
    fn nonsense_on_the_command_line_is_refused() {
        for bad in [
            "",
            "frobnicate",
            "ls --timeout 0s",
            "ls --timeout fast",
            "put a b/c -j 0",
            "put a b/c -j 257",
            "put a b/c --metadata novalue",
            "put a b/c --if-match x,y",
            "put a b/c --if-match 1f --if-none-match *",
            "get b/c --range 5",
            "get b/c --range 5-3",
            "get -r b/c --range 5-",
            "put b/c",
            "stat",
            "rm",
            "cp b/c",
            "bucket",
            "bucket update b",
            "bucket update b --quota lots",
            "bucket update b --max-objects 1.5",
            "mv",
            "cp -r b/c b/d --source-if-match 1f-2a",
            "rm -r b/c --if-match 1f-2a",
            "rm --if-none-match 1f-2a -r b/c",
            "cat",
            "mb b --chunk-size lots",
            "dev",
            "init",
            "init d",
            "init d --meta 1",
            "init d --meta one=a",
            "init d --meta 0=a",
            "init d --meta 1=",
            "init d --meta 1=a --cluster Red",
            "init d --meta 1=a --node ..",
            "init d --meta 1=a --days 0",
            "certify d",
            "certify d root",
            "certify d meta-",
            "completions tcl",
            "key",
            "key create --read",
            "key create --read b --if-missing",
            "key revoke",
            "key revoke XKABC",
            "key revoke XKAAAAAAAAAAAAAAAA.SECRET",
            "capabilities",
            "ls --access-key XKAAAAAAAAAAAAAAAA.SECRET",
            "doctor eth0",
            "xdp",
            "xdp stats --watch 0",
            "xdp trace --sample 0",
            "xdp trace --count 0",
        ] {
            let error = parse(bad).expect_err(bad);
            assert_eq!(error.exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn ranges_of_all_forms_pass_the_command_line() {
        for good in ["get b/c --range 0-4", "get b/c --range 5-", "get b/c --range -5", "cat b/c --range=-5"]
        {
            parse(good).expect(good);
        }
    }

    #[test]
    fn conditions_become_a_precondition() {
        let check = |line: &str, expect| match parse(line).unwrap().command {
            Command::Put(put) => assert_eq!(put.conditions.precondition(), expect, "{line}"),
            other => panic!("{other:?}"),
        };
        check("put a b/c", None);
        check("put a b/c --if-none-match *", Some(Precondition::IfNoneMatchAny));
        check("put a b/c --if-match 1f-0a", Some(Precondition::IfMatch("1f-0a".into())));
    }

    #[test]
    fn pairs_are_cut_at_the_first_equals_sign() {
        assert_eq!(parse_pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_pair("a="), Ok(("a".into(), String::new())));
        assert!(parse_pair("=b").is_err());
    }
}
