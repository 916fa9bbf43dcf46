//! `doctor`: what stands between this host and a fast, durable xdpfs, and the command that helps.
//!
//! Invariant: it changes nothing that stays. A program is put on an interface only if the user has named it and nobody's
//! program is there, and it is gone a moment later.

mod clock;
mod disk;
mod finding;
mod interface;
mod kernel;
mod udp;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use clap::Args;
use serde::Serialize;
use xdpfs_client::{Client, ObjectClient as _};

use self::{
    finding::{Finding, State},
    interface::Look,
};
use crate::{
    arguments::Common,
    console::Console,
    failure::{Exit, Failure},
    units::count,
};

/// Find out what this host lacks for xdpfs, and what helps.
///
/// Looks at the kernel, at what this process may do, at UDP sockets, at the clock, at network interfaces and at data
/// directories. Every finding that is not ok says what follows from it and which command helps; docs/doctor.md explains
/// each by its name. Without root it looks at what it can, and says what it could not.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 all is fine, or there are only warnings; 1 something does not work; 2 wrong usage.
With --endpoint it also compares this host's clock with the metadata server's.

Examples:
  xdpfs-cli doctor
  sudo xdpfs-cli doctor --interface eth0 --data-dir /var/lib/xdpfs
  xdpfs-cli doctor --json | jq 'select(.state != \"ok\")'")]
pub(crate) struct DoctorArguments {
    /// An interface that xdpfs shall use; may be given again. A program that passes everything is put on it for a
    /// moment. By default all interfaces with an address are looked at, and none is tried.
    #[arg(long = "interface", value_name = "INTERFACE")]
    interfaces: Vec<String>,
    /// A directory that a data node shall use; may be given again. A small file is written there and removed.
    #[arg(long = "data-dir", value_name = "DIR")]
    data_dirs: Vec<PathBuf>,
}

/// A finding as JSON.
#[derive(Debug, Serialize)]
struct FindingRecord<'a> {
    name: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    state: State,
    seen: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    consequence: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<&'a str>,
}

/// Prints findings as they come, and counts them.
struct Report<'a> {
    console: &'a mut Console,
    states: Vec<State>,
}

/// Looks at everything.
pub(crate) async fn run(
    arguments: &DoctorArguments,
    common: &Common,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let config = common.endpoint_config().transpose()?;
    let mut report = Report { console, states: Vec::new() };
    report.tell(&blocking(kernel::look).await?)?;
    report.tell(&[udp::buffers()])?;
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        if std::net::UdpSocket::bind((address, 0)).is_ok() {
            report.tell(&[udp::segments(address).await])?;
        }
    }
    report.tell(&clock::look())?;
    if let Some(config) = config {
        let client = Client::connect(config)?;
        report.tell(&[clock::ask(&client).await])?;
        client.close().await;
    }
    look_at_interfaces(arguments, &mut report).await?;
    for directory in arguments.data_dirs.clone() {
        report.tell(&blocking(move || disk::look(&directory)).await?)?;
    }
    report.finish()
}

async fn look_at_interfaces(arguments: &DoctorArguments, report: &mut Report<'_>) -> Result<(), Failure> {
    let how = if arguments.interfaces.is_empty() { Look::Only } else { Look::AndTry };
    let names = if arguments.interfaces.is_empty() { in_use() } else { arguments.interfaces.clone() };
    for name in names {
        let looked_at = name.clone();
        report.tell(&blocking(move || interface::look(&looked_at, how)).await?)?;
        if let Some(address) = address_of(&name) {
            report.tell(&[udp::segments(address).await])?;
        }
    }
    Ok(())
}

/// The interfaces with an address that others could reach.
fn in_use() -> Vec<String> {
    let addresses = xdpfs_host::addresses().unwrap_or_default();
    let has_address = |index| addresses.iter().any(|found| found.interface == index && !found.is_link_local);
    let interfaces = xdpfs_host::interfaces().unwrap_or_default().into_iter();
    let in_use = interfaces.filter(|interface| !interface.is_loopback && has_address(interface.index));
    in_use.map(|interface| interface.name).collect()
}

/// An address of the interface of this name.
fn address_of(name: &str) -> Option<IpAddr> {
    let interface = xdpfs_host::interface(name).ok()?;
    let addresses = xdpfs_host::addresses().ok()?;
    let found = addresses.iter().find(|found| found.interface == interface.index && !found.is_link_local);
    found.map(|found| found.address).filter(|address| !address.is_loopback())
}

async fn blocking<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    let looked = tokio::task::spawn_blocking(look).await;
    looked.map_err(|error| Failure::caused("look at this host", &error))
}

impl Report<'_> {
    fn tell(&mut self, findings: &[Finding]) -> Result<(), Failure> {
        for finding in findings {
            if self.states.is_empty() && !self.console.is_json() {
                self.console.text(&row("STATE", "CHECK", "SEEN"))?;
            }
            self.states.push(finding.state);
            self.console.answer(&FindingRecord::from(finding), || text(finding))?;
        }
        self.console.flush()
    }

    fn finish(self) -> Result<Exit, Failure> {
        let of = |state| self.states.iter().filter(|found| **found == state).count() as u64;
        if !self.console.is_json() {
            self.console.text(&format!(
                "\n{} ok, {}, {}, {} skipped",
                of(State::Ok),
                count(of(State::Warn), "warning"),
                count(of(State::Fail), "failure"),
                of(State::Skipped)
            ))?;
        }
        Ok(if of(State::Fail) > 0 { Exit::Partial } else { Exit::Done })
    }
}

impl<'a> From<&'a Finding> for FindingRecord<'a> {
    fn from(finding: &'a Finding) -> Self {
        Self {
            name: finding.check.label(),
            subject: finding.subject.as_deref(),
            state: finding.state,
            seen: &finding.seen,
            consequence: finding.consequence.as_deref(),
            fix: finding.fix.as_deref(),
        }
    }
}

fn text(finding: &Finding) -> String {
    let Finding { check, subject, state, seen, consequence, fix } = finding;
    let seen = subject.as_ref().map_or_else(|| seen.clone(), |subject| format!("{subject}: {seen}"));
    let mut text = row(state.label(), check.label(), &seen);
    let more = [("so", consequence), ("fix", fix)];
    for (word, said) in more.iter().filter_map(|(word, said)| said.as_ref().map(|said| (word, said))) {
        text += &row("", "", &format!("  {word}: {said}"));
    }
    text
}

fn row(state: &str, check: &str, seen: &str) -> String {
    format!("{state:<8} {check:<16} {seen}\n")
}

#[cfg(test)]
mod tests {
    use super::{finding::Check, *};
    use crate::console::{Look as ConsoleLook, tests::Printed};

    fn findings() -> Vec<Finding> {
        let bad = Finding::fail(Check::Mtu, "1000 bytes", "nothing passes")
            .with_fix("ip link set dev eth0 mtu 1500");
        vec![Finding::ok(Check::Kernel, "6.18.44"), bad.about("eth0")]
    }

    fn told(look: ConsoleLook, findings: &[Finding]) -> (Exit, String) {
        let (mut console, printed) = Printed::console(look);
        let mut report = Report { console: &mut console, states: Vec::new() };
        report.tell(findings).unwrap();
        let exit = report.finish().unwrap();
        console.flush().unwrap();
        (exit, printed.out())
    }

    #[test]
    fn people_get_a_table_with_what_helps() {
        let expect = "\
STATE    CHECK            SEEN
ok       kernel           6.18.44
fail     mtu              eth0: 1000 bytes
                            so: nothing passes
                            fix: ip link set dev eth0 mtu 1500

1 ok, 0 warnings, 1 failure, 0 skipped
";
        assert_eq!(told(ConsoleLook::default(), &findings()), (Exit::Partial, expect.to_owned()));
    }

    #[test]
    fn scripts_get_one_line_for_each_finding() {
        let expect = concat!(
            r#"{"name":"kernel","state":"ok","seen":"6.18.44"}"#,
            "\n",
            r#"{"name":"mtu","subject":"eth0","state":"fail","seen":"1000 bytes","consequence":"nothing passes","#,
            r#""fix":"ip link set dev eth0 mtu 1500"}"#,
            "\n",
        );
        let look = ConsoleLook { json: true, quiet: false };
        assert_eq!(told(look, &findings()), (Exit::Partial, expect.to_owned()));
    }

    #[test]
    fn warnings_alone_are_no_failure() {
        let warning = Finding::warn(Check::Bpffs, "not mounted", "no pins").with_fix("mount it");
        let skipped = Finding::skipped(Check::NativeXdp, "not tried", "as root");
        assert_eq!(told(ConsoleLook::default(), &[warning, skipped]).0, Exit::Done);
    }
}
