//! `init`: makes the certificates of a cluster.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use xdpfs_trust::Role;

use super::certify::{DAYS_DEFAULT, DAYS_MAX, days};
use crate::{
    authority_directory::{AuthorityDirectory, MemberName},
    console::Console,
    failure::{Exit, Failure},
    record::CertificateRecord,
};

/// Make a CA for a cluster, and the certificates of its members.
#[derive(Debug, Args)]
#[command(after_help = "\
Makes, in DIR:
  ca.pem                    the CA: clients need it (--ca), and nothing else
  ca.key                    its key: makes members of the cluster, so keep it where no server is
  meta-1/, node/, ...       one directory for each member: ca.pem, server.pem and server.key

Give each member its own directory, with --tls. A metadata server's certificate names its hosts, and localhost.

Examples:
  xdpfs-cli init tls --meta 1=meta-1 --meta 2=meta-2 --meta 3=meta-3
  xdpfs-cli init tls --cluster prod --meta 1=meta-1.example,10.0.0.1 --node a --node b --edge e
  xdpfs-cli init tls --meta 1=meta-1 --if-missing      what is there stays as it is")]
pub(crate) struct InitArguments {
    /// Where everything goes; made if it is not there.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The cluster's name: certificates of one cluster are of no use in another.
    #[arg(long, value_name = "NAME", default_value = "xdpfs", value_parser = parse_cluster)]
    cluster: String,
    /// A metadata server: its id, and the names and addresses at which others reach it.
    #[arg(long, value_name = "ID=HOST[,HOST...]", required = true, value_parser = parse_meta)]
    meta: Vec<Member>,
    /// A data node with a certificate of its own. By default all data nodes and edges share one, in DIR/node.
    #[arg(long, value_name = "NAME", value_parser = parse_node)]
    node: Vec<MemberName>,
    /// An edge with a certificate of its own.
    #[arg(long, value_name = "NAME", value_parser = parse_edge)]
    edge: Vec<MemberName>,
    /// A gateway: its name, and the names and addresses at which clients reach it.
    #[arg(long, value_name = "NAME=HOST[,HOST...]", value_parser = parse_gateway)]
    gateway: Vec<Member>,
    /// How long certificates last.
    #[arg(long, value_name = "DAYS", default_value_t = DAYS_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(DAYS_MAX)))]
    days: u32,
    /// Make only what is missing. Without it, nothing is made where there is a CA.
    #[arg(long)]
    if_missing: bool,
}

/// A member and where it is reached.
#[derive(Clone, Debug)]
struct Member {
    name: MemberName,
    hosts: Vec<String>,
}

/// Makes them.
pub(crate) fn run(arguments: &InitArguments, console: &mut Console) -> Result<Exit, Failure> {
    let root = &arguments.directory;
    let is_there = AuthorityDirectory::is_there(root)?;
    if is_there && !arguments.if_missing {
        return Err(Failure::usage(format!("there is a CA in {} already", root.display())).with_hint(
            "give --if-missing to make what is missing; xdpfs-cli certify renews one certificate",
        ));
    }
    let directory = if is_there {
        AuthorityDirectory::open(root)?
    } else {
        AuthorityDirectory::make(root, &arguments.cluster)?
    };
    if directory.cluster() != arguments.cluster {
        let message = format!("the CA in {} is of the cluster {:?}", root.display(), directory.cluster());
        return Err(Failure::usage(message).with_hint(format!("give --cluster {}", directory.cluster())));
    }
    for Member { name, hosts } in arguments.members()? {
        let is_made = directory.certificate_of(&name)?.is_none();
        if is_made {
            directory.certify(&name, &hosts, days(arguments.days))?;
        }
        tell(&directory, &name, is_made, console)?;
    }
    if !is_there {
        console.note(&format!(
            "clients need {0}/ca.pem only; each member gets its own directory; keep {0}/ca.key where no server is",
            root.display()
        ));
    }
    Ok(Exit::Done)
}

impl InitArguments {
    fn members(&self) -> Result<Vec<Member>, Failure> {
        let of = |name: &MemberName| Member { name: name.clone(), hosts: Vec::new() };
        let mut members = self.meta.clone();
        members.extend(self.node.iter().chain(&self.edge).map(of));
        members.extend(self.gateway.iter().cloned());
        if self.node.is_empty() && self.edge.is_empty() {
            let all = MemberName::new(Role::Node, None);
            members.push(of(&all.map_err(|error| Failure::usage(error.to_string()))?));
        }
        let mut names: Vec<_> = members.iter().map(|member| member.name.to_string()).collect();
        names.sort_unstable();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(Failure::usage(format!("{} is there twice", pair[0]))),
            None => Ok(members),
        }
    }
}

/// Says what a member has now.
pub(super) fn tell(
    directory: &AuthorityDirectory,
    member: &MemberName,
    is_made: bool,
    console: &mut Console,
) -> Result<(), Failure> {
    let path = directory.directory_of(member).display().to_string();
    let Some(certificate) = directory.certificate_of(member)? else {
        return Err(Failure::machine(format!("there is no certificate in {path}")));
    };
    let addresses = certificate.addresses.iter().map(ToString::to_string);
    let hosts: Vec<String> = certificate.dns_names.iter().cloned().chain(addresses).collect();
    let until = std::time::UNIX_EPOCH + Duration::from_secs(certificate.not_after);
    let until = humantime::format_rfc3339_seconds(until).to_string();
    let member = member.to_string();
    let record =
        CertificateRecord { member: &member, directory: &path, hosts: &hosts, until: &until, made: is_made };
    console.confirm(&record, || {
        let made = if is_made { "made" } else { "there already:" };
        let at = if hosts.is_empty() { String::new() } else { format!(" for {}", hosts.join(", ")) };
        format!("{made} {path}{at}, until {until}")
    })
}

fn parse_cluster(text: &str) -> Result<String, String> {
    let name: Result<xdpfs_trust::ClusterName, _> = text.parse();
    name.map(|name| name.as_str().to_owned()).map_err(|error| error.to_string())
}

fn parse_meta(text: &str) -> Result<Member, String> {
    let shape = || "write ID=HOST or ID=HOST,HOST".to_owned();
    let (id, hosts) = text.split_once('=').ok_or_else(shape)?;
    if !id.parse::<u64>().is_ok_and(|number| number > 0 && number.to_string() == id) {
        return Err(format!("{id:?} is no server id: write a number from 1 on"));
    }
    Ok(Member { name: named(Role::Meta, id)?, hosts: parse_hosts(hosts).ok_or_else(shape)? })
}

fn parse_gateway(text: &str) -> Result<Member, String> {
    let shape = || "write NAME=HOST or NAME=HOST,HOST".to_owned();
    let (name, hosts) = text.split_once('=').ok_or_else(shape)?;
    Ok(Member { name: named(Role::Gateway, name)?, hosts: parse_hosts(hosts).ok_or_else(shape)? })
}

fn parse_hosts(text: &str) -> Option<Vec<String>> {
    let hosts: Vec<String> = text.split(',').map(|host| host.trim().to_owned()).collect();
    hosts.iter().all(|host| !host.is_empty()).then_some(hosts)
}

fn parse_node(text: &str) -> Result<MemberName, String> {
    named(Role::Node, text)
}

fn parse_edge(text: &str) -> Result<MemberName, String> {
    named(Role::Edge, text)
}

fn named(role: Role, name: &str) -> Result<MemberName, String> {
    MemberName::new(role, Some(name)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::console::{Look, tests::Printed};

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        init: InitArguments,
    }

    fn init(root: &Path, line: &str) -> Result<String, Failure> {
        let words = ["init", root.to_str().unwrap()].into_iter().chain(line.split_whitespace());
        let (mut console, printed) = Printed::console(Look::default());
        run(&Line::parse_from(words).init, &mut console).map(|_| printed.out())
    }

    fn names(root: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(root).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn every_member_gets_a_directory_of_its_own() {
        let root = tempfile::tempdir().unwrap();
        let printed = init(root.path(), "--meta 1=m1,10.0.0.1 --meta 2=m2 --node a --edge b").unwrap();
        assert_eq!(names(root.path()), ["ca.key", "ca.pem", "edge-b", "meta-1", "meta-2", "node-a"]);
        assert_eq!(names(&root.path().join("meta-1")), ["ca.pem", "server.key", "server.pem"]);
        assert!(printed.lines().next().unwrap().contains("m1, localhost, 10.0.0.1"), "{printed}");
    }

    #[test]
    fn gateway_is_called_by_its_hosts() {
        let root = tempfile::tempdir().unwrap();
        let printed = init(root.path(), "--meta 1=m1 --gateway web=gw.example,10.0.0.9").unwrap();
        assert_eq!(names(root.path()), ["ca.key", "ca.pem", "gateway-web", "meta-1", "node"]);
        assert!(printed.contains("gw.example, localhost, 10.0.0.9"), "{printed}");
    }

    #[test]
    fn without_nodes_there_is_one_certificate_for_all() {
        let root = tempfile::tempdir().unwrap();
        init(root.path(), "--meta 1=m1").unwrap();
        assert_eq!(names(root.path()), ["ca.key", "ca.pem", "meta-1", "node"]);
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        init(root.path(), "--meta 1=m1").unwrap();
        let read = |name: &str| std::fs::read(root.path().join(name)).unwrap();
        let files = ["ca.key", "ca.pem", "meta-1/server.pem", "meta-1/server.key"];
        let before = files.map(read);
        let again = init(root.path(), "--meta 1=m1").unwrap_err();
        assert_eq!(again.exit, Exit::Usage);
        assert!(again.hint.unwrap().contains("--if-missing"));
        let printed = init(root.path(), "--meta 1=m1 --meta 2=m2 --if-missing").unwrap();
        assert!(printed.contains("there already: ") && printed.contains("made "), "{printed}");
        assert_eq!(files.map(read), before);
        assert_eq!(names(root.path()), ["ca.key", "ca.pem", "meta-1", "meta-2", "node"]);
        let other = init(root.path(), "--cluster other --meta 1=m1 --if-missing").unwrap_err();
        assert!(other.message.contains("xdpfs"), "{other:?}");
    }

    #[test]
    fn a_member_is_named_once() {
        let root = tempfile::tempdir().unwrap();
        let failure = init(root.path(), "--meta 1=m1 --meta 1=m2").unwrap_err();
        assert!(failure.message.contains("meta-1"), "{failure:?}");
    }
}
