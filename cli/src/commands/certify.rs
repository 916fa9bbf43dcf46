//! `certify`: makes one member's certificate anew.

use std::{path::PathBuf, time::Duration};

use super::init::tell;
use crate::{
    authority_directory::{AuthorityDirectory, MemberName, is_called},
    console::Console,
    failure::{Exit, Failure},
};
use clap::Args;

/// How long certificates last.
pub(super) const DAYS_DEFAULT: u32 = 365;
pub(super) const DAYS_MAX: u32 = 3650;

/// Make the certificate of one member of a cluster: a new member's, or a new one in place of an old one.
#[derive(Debug, Args)]
#[command(after_help = "\
Takes the CA that xdpfs-cli init made in DIR. A server that is given the new files uses them within seconds, without a
restart; connections that are open stay open.

Examples:
  xdpfs-cli certify tls meta-1                          renew: for the same hosts, with a new key
  xdpfs-cli certify tls meta-1 --host meta-1.example    the same, and one more host
  xdpfs-cli certify tls node-c                          a new data node
  xdpfs-cli certify tls gateway --host gw.example       a gateway that clients call gw.example")]
pub(crate) struct CertifyArguments {
    /// The directory of the CA.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The member: meta-ID, node, node-NAME, edge, edge-NAME, gateway or gateway-NAME.
    #[arg(value_name = "MEMBER")]
    member: MemberName,
    /// A name or an address at which others reach it, besides those that its present certificate names.
    #[arg(long = "host", value_name = "HOST", value_delimiter = ',')]
    hosts: Vec<String>,
    /// How long the certificate lasts.
    #[arg(long, value_name = "DAYS", default_value_t = DAYS_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(DAYS_MAX)))]
    days: u32,
}

/// Makes it.
pub(crate) fn run(arguments: &CertifyArguments, console: &mut Console) -> Result<Exit, Failure> {
    let CertifyArguments { directory: root, member, hosts: more, .. } = arguments;
    if !AuthorityDirectory::is_there(root)? {
        return Err(Failure::not_found(format!("there is no CA in {}", root.display()))
            .with_hint("make one with: xdpfs-cli init"));
    }
    let directory = AuthorityDirectory::open(root)?;
    let present = directory.certificate_of(member)?;
    if present.is_none() && more.is_empty() && is_called(member.role()) {
        return Err(Failure::usage(format!("nobody has said where {member} is reached"))
            .with_hint("give its names and addresses with --host"));
    }
    let present = present.unwrap_or_default();
    let addresses = present.addresses.iter().map(ToString::to_string);
    let hosts: Vec<String> =
        present.dns_names.iter().cloned().chain(addresses).chain(more.iter().cloned()).collect();
    directory.certify(member, &hosts, days(arguments.days))?;
    tell(&directory, member, true, console)?;
    Ok(Exit::Done)
}

/// A lifetime.
pub(super) fn days(days: u32) -> Duration {
    Duration::from_secs(u64::from(days) * 24 * 3600)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{Look, tests::Printed};

    fn certify(directory: &std::path::Path, member: &str, hosts: &[&str]) -> Result<String, Failure> {
        let (mut console, printed) = Printed::console(Look::default());
        let arguments = CertifyArguments {
            directory: directory.to_owned(),
            member: member.parse().unwrap(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            days: 1,
        };
        run(&arguments, &mut console).map(|_| printed.out())
    }

    #[test]
    fn a_renewed_certificate_names_the_hosts_of_the_old_one() {
        let root = tempfile::tempdir().unwrap();
        AuthorityDirectory::make(root.path(), "red").unwrap();
        certify(root.path(), "meta-1", &["m1", "10.0.0.1"]).unwrap();
        let key = || std::fs::read(root.path().join("meta-1/server.key")).unwrap();
        let before = key();
        let printed = certify(root.path(), "meta-1", &["m1.example"]).unwrap();
        assert!(printed.contains("m1, localhost, m1.example, 10.0.0.1"), "{printed}");
        assert_ne!(key(), before);
    }

    #[test]
    fn what_is_missing_is_said() {
        let root = tempfile::tempdir().unwrap();
        let failure = certify(root.path(), "node", &[]).unwrap_err();
        assert_eq!(failure.exit, Exit::NotFound, "{failure:?}");
        AuthorityDirectory::make(root.path(), "red").unwrap();
        let failure = certify(root.path(), "meta-9", &[]).unwrap_err();
        assert!(failure.hint.unwrap().contains("--host"));
        let failure = certify(root.path(), "gateway", &[]).unwrap_err();
        assert!(failure.hint.unwrap().contains("--host"));
        certify(root.path(), "edge-a", &[]).unwrap();
    }
}
