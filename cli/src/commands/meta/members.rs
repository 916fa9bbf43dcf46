//! `meta list`, `add` and the like: which metadata servers there are, and how they come and go.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde::Serialize;
use xdpfs_client::{Error, Membership, MetaMember, MetaMembers, Standing, WantedStanding};

use crate::{
    console::Console,
    failure::{Exit, Failure},
};

/// How often it is looked whether a change is done.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// What to do with metadata servers.
#[derive(Debug, Subcommand)]
pub(super) enum MembersCommand {
    Add(AddArguments),
    List(ListArguments),
    Remove(RemoveArguments),
    Replace(ReplaceArguments),
    Transfer(TransferArguments),
    Update(UpdateArguments),
}

/// How long to wait until a change is done.
#[derive(Clone, Copy, Debug, Args)]
struct Patience {
    /// Say that the change is decided, and don't wait until it is done.
    #[arg(long)]
    no_wait: bool,
    /// How long to wait until it is done. It goes on if that is not long enough.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    wait: Duration,
}

/// Let a server that has joined as a learner vote, once it has caught up.
#[derive(Debug, Args)]
pub(super) struct AddArguments {
    /// The server's id.
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    #[command(flatten)]
    patience: Patience,
}

/// List the metadata servers.
#[derive(Debug, Args)]
pub(super) struct ListArguments {}

/// Remove a server from the cluster, for good.
///
/// One that leads gives leadership away first. One that is dead can be removed as long as a majority of all servers is
/// there. Its id is never used again: a machine comes back by joining with an empty data directory.
#[derive(Debug, Args)]
pub(super) struct RemoveArguments {
    /// The server's id.
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Even if the leader has heard of too few of those that would be left: the cluster may then stand still.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    patience: Patience,
}

/// Let one server take the place of another, in one step.
///
/// The new one has joined before, as a learner. It votes as soon as it has caught up, and in the same step the old one
/// leaves, whether it is alive or not.
#[derive(Debug, Args)]
pub(super) struct ReplaceArguments {
    /// The id of the server that leaves.
    #[arg(value_name = "OLD", value_parser = clap::value_parser!(u64).range(1..))]
    old: u64,
    /// The id of the one that takes its place.
    #[arg(value_name = "NEW", value_parser = clap::value_parser!(u64).range(1..))]
    new: u64,
    #[command(flatten)]
    patience: Patience,
}

/// Let another server lead.
#[derive(Debug, Args)]
pub(super) struct TransferArguments {
    /// The server's id.
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
}

/// Write down that a server is reached at other addresses. Start it there, too.
#[derive(Debug, Args)]
pub(super) struct UpdateArguments {
    /// The server's id.
    #[arg(value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Its address for other servers.
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "client")]
    peer: Option<String>,
    /// Its address for clients and data nodes.
    #[arg(long, value_name = "HOST:PORT")]
    client: Option<String>,
}

/// A metadata server.
#[derive(Serialize)]
struct MemberRecord<'a> {
    id: u64,
    peer_address: &'a str,
    client_address: &'a str,
    standing: &'static str,
    wanted: &'static str,
    leader: bool,
    active: bool,
    /// Entries of the log that it lacks.
    lag: u64,
    version: &'a str,
    /// Null: it is not known.
    feature_level: Option<u32>,
}

/// A change that is decided or done.
#[derive(Serialize)]
struct ChangeRecord {
    id: u64,
    change: &'static str,
    done: bool,
}

/// Does what was asked for.
pub(super) async fn run<C: Membership>(
    command: &MembersCommand,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    match command {
        MembersCommand::Add(AddArguments { id, patience }) => {
            client.promote_meta_member(*id).await.map_err(explain)?;
            let done = settle(client, *patience, |members| is_voter(members, *id)).await?;
            confirm(console, *id, "add", done, || format!("server {id} votes"))
        }
        MembersCommand::List(ListArguments {}) => {
            let members = client.meta_members().await.map_err(explain)?;
            list(&members, console)
        }
        MembersCommand::Remove(RemoveArguments { id, force, patience }) => {
            client.remove_meta_member(*id, *force).await.map_err(explain)?;
            let done = settle(client, *patience, |members| is_gone(members, *id)).await?;
            confirm(console, *id, "remove", done, || format!("server {id} is no member any more"))
        }
        MembersCommand::Replace(ReplaceArguments { old, new, patience }) => {
            client.replace_meta_member(*old, *new).await.map_err(explain)?;
            let is_done = |members: &MetaMembers| is_gone(members, *old) && is_voter(members, *new);
            let done = settle(client, *patience, is_done).await?;
            confirm(console, *new, "replace", done, || format!("server {new} votes in place of server {old}"))
        }
        MembersCommand::Transfer(TransferArguments { id }) => {
            client.transfer_leadership(*id).await.map_err(explain)?;
            confirm(console, *id, "transfer", true, || format!("server {id} leads"))
        }
        MembersCommand::Update(UpdateArguments { id, peer, client: address }) => {
            client.update_meta_member(*id, peer.clone(), address.clone()).await.map_err(explain)?;
            confirm(console, *id, "update", true, || format!("wrote down where server {id} is"))
        }
    }
}

fn is_voter(members: &MetaMembers, id: u64) -> bool {
    let is_settled = |member: &MetaMember| member.is_settled() && member.wanted == WantedStanding::Voter;
    !members.joint && members.members.iter().any(|member| member.id == id && is_settled(member))
}

fn is_gone(members: &MetaMembers, id: u64) -> bool {
    !members.joint && !members.members.iter().any(|member| member.id == id)
}

/// Waits until it is so. False: nobody wants to wait.
async fn settle<C: Membership>(
    client: &C,
    patience: Patience,
    is_so: impl Fn(&MetaMembers) -> bool,
) -> Result<bool, Failure> {
    if patience.no_wait {
        return Ok(false);
    }
    let started = Instant::now();
    loop {
        let members = client.meta_members().await.map_err(explain)?;
        if is_so(&members) {
            return Ok(true);
        }
        if started.elapsed() >= patience.wait {
            let failure = Failure::unavailable(format!(
                "the change is decided, and not done after {}",
                humantime::format_duration(patience.wait)
            ));
            return Err(failure.with_hint("it goes on: see xdpfs-cli meta list for what it waits for"));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn confirm(
    console: &mut Console,
    id: u64,
    change: &'static str,
    done: bool,
    words: impl FnOnce() -> String,
) -> Result<Exit, Failure> {
    let record = ChangeRecord { id, change, done };
    let decided = || "decided: it is done as soon as it can be, see xdpfs-cli meta list".to_owned();
    console.confirm(&record, || if done { words() } else { decided() })?;
    Ok(Exit::Done)
}

fn list(members: &MetaMembers, console: &mut Console) -> Result<Exit, Failure> {
    for member in &members.members {
        let lag = members.last_index.saturating_sub(member.matched_index);
        let record = MemberRecord {
            id: member.id,
            peer_address: &member.peer_address,
            client_address: &member.client_address,
            standing: member.standing.label(),
            wanted: member.wanted.label(),
            leader: member.leads,
            active: member.active,
            lag,
            version: &member.version,
            feature_level: member.feature_level,
        };
        console.answer(&record, || line(member, lag))?;
    }
    if let Some(below) = waits_below(members) {
        console.note(&below);
    }
    if members.joint {
        console.note("one set of voters is taking over from another");
    }
    Ok(Exit::Done)
}

/// What the cluster does not use though a server could, and whose fault that is.
fn waits_below(members: &MetaMembers) -> Option<String> {
    let highest = members.members.iter().filter_map(|member| member.feature_level).max()?;
    let old =
        members.members.iter().filter(|member| member.feature_level.is_none_or(|level| level < highest));
    let old: Vec<String> = old.map(|member| member.id.to_string()).collect();
    let is_below = highest > members.feature_level;
    is_below.then(|| {
        let why = match old.is_empty() {
            true => "it rises in a moment".to_owned(),
            false => format!("it rises when these are of the present release: {}", old.join(", ")),
        };
        format!("the cluster is at feature level {}: {why}", members.feature_level)
    })
}

fn line(member: &MetaMember, lag: u64) -> String {
    let does = match (member.standing, member.wanted) {
        _ if member.leads && member.wanted == WantedStanding::Gone => "leader, leaving",
        _ if member.leads => "leader",
        (_, WantedStanding::Gone) => "leaving",
        (Standing::Joining, _) => "joining",
        (Standing::Learner, WantedStanding::Learner) => "learner",
        (Standing::Learner, WantedStanding::Voter) => "learner, to vote",
        (Standing::Voter, _) => "voter",
    };
    let heard = match (member.active, lag) {
        (false, _) => "unreachable".to_owned(),
        (true, 0) => "up to date".to_owned(),
        (true, lag) => format!("lacks {lag} entries"),
    };
    let MetaMember { id, client_address, peer_address, .. } = member;
    let release = if member.version.is_empty() { "-" } else { &member.version };
    format!("{id:>4} {does:<16} {client_address:<22} {peer_address:<22} {release:<8} {heard}")
}

/// Says what to do about a refusal.
fn explain(error: Error) -> Failure {
    let Error::Refused { reason, message, .. } = &error else { return Failure::from(error) };
    let message = message.clone();
    match reason.as_str() {
        "LAST_VOTER" => Failure::precondition(message)
            .with_hint("let another server join first: xdpfs-meta-server --join"),
        "MEMBERSHIP_BUSY" => Failure::unavailable(message),
        "MEMBER_NOT_FOUND" => {
            Failure::not_found(message).with_hint("see xdpfs-cli meta list for the servers that there are")
        }
        "MEMBER_REMOVED" => Failure::not_found(message),
        "QUORUM_AT_RISK" => {
            Failure::precondition(message).with_hint("see xdpfs-cli meta list; --force does it all the same")
        }
        _ => Failure::from(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, standing: Standing, wanted: WantedStanding) -> MetaMember {
        MetaMember {
            id,
            peer_address: "a:1".into(),
            client_address: "a:2".into(),
            standing,
            wanted,
            leads: id == 1,
            active: id != 3,
            matched_index: 10,
            version: "1.2.3".into(),
            feature_level: (id != 3).then_some(2),
        }
    }

    #[test]
    fn line_says_what_a_server_is_and_what_it_lacks() {
        let check = |id, standing, wanted, lag, expect: &str| {
            let line = line(&member(id, standing, wanted), lag);
            assert!(line.contains(expect), "{line}: {expect}");
        };
        check(1, Standing::Voter, WantedStanding::Voter, 0, "leader ");
        check(1, Standing::Voter, WantedStanding::Gone, 0, "leader, leaving");
        check(2, Standing::Learner, WantedStanding::Voter, 7, "learner, to vote");
        check(2, Standing::Learner, WantedStanding::Voter, 7, "lacks 7 entries");
        check(3, Standing::Voter, WantedStanding::Voter, 0, "unreachable");
    }

    #[test]
    fn list_says_which_servers_keep_the_cluster_below_what_others_can_do() {
        let servers =
            |ids: &[u64]| ids.iter().map(|id| member(*id, Standing::Voter, WantedStanding::Voter)).collect();
        let note = |ids: &[u64], feature_level| {
            waits_below(&MetaMembers { members: servers(ids), last_index: 1, joint: false, feature_level })
        };
        assert_eq!(note(&[1, 2, 3], 2), None);
        let words = note(&[1, 2, 3], 1).unwrap();
        assert!(words.ends_with("of the present release: 3"), "{words}");
        assert!(note(&[1, 2], 1).unwrap().ends_with("in a moment"));
    }

    #[test]
    fn change_is_done_when_there_is_one_set_of_voters() {
        let voter = member(4, Standing::Voter, WantedStanding::Voter);
        let members =
            |joint| MetaMembers { members: vec![voter.clone()], last_index: 1, joint, feature_level: 1 };
        assert!(is_voter(&members(false), 4) && is_gone(&members(false), 2));
        assert!(!is_voter(&members(true), 4) && !is_gone(&members(true), 2));
    }
}
