//! `key`: access keys: who may do what with which buckets.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use xdpfs_client::{AccessControl, AccessKeyId, AccessKeyInfo, Grant, RevokeOptions, Right};
use xdpfs_meta_server::Credential;

use super::capabilities::rotated;
use crate::{
    console::Console,
    failure::{Exit, Failure},
    record::{AccessKeyRecord, NewAccessKeyRecord},
    units,
};

/// Make, list and revoke access keys.
#[derive(Debug, Args)]
#[command(after_help = "\
A cluster is open to everybody who reaches it until its first key is made, or has a root key from
the start; from then on nobody is served without a key. Show yours by --access-key-file FILE, or
in the variable XDPFS_ACCESS_KEY.

Examples:
  xdpfs-cli key create --admin '*' --label me > me.key      the first key closes the cluster
  export XDPFS_ACCESS_KEY_FILE=me.key
  xdpfs-cli key create --read photos --list photos          one that reads a bucket
  xdpfs-cli key list
  xdpfs-cli key revoke XKABCDEFGHIJKLMNOP --now")]
pub(crate) struct KeyArguments {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    Create(CreateArguments),
    Generate(GenerateArguments),
    List(ListArguments),
    Revoke(RevokeArguments),
}

/// Make an access key and print it, once.
///
/// BUCKET is a bucket's name, the beginning of names with * behind it, such as 'logs-*', or '*' for all buckets. Each
/// option can be given several times. What a key may do can't be changed later: make another one, and revoke this one.
#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// May read objects.
    #[arg(long, value_name = "BUCKET")]
    read: Vec<String>,
    /// May put and delete objects.
    #[arg(long, value_name = "BUCKET")]
    write: Vec<String>,
    /// May list keys, and sees the bucket among others.
    #[arg(long, value_name = "BUCKET")]
    list: Vec<String>,
    /// May make and remove the bucket; with '*', also make and revoke access keys.
    #[arg(long, value_name = "BUCKET")]
    admin: Vec<String>,
    /// What the key is for; everybody who may list keys sees it.
    #[arg(long, value_name = "TEXT", default_value = "")]
    label: String,
    #[command(flatten)]
    destination: Destination,
}

/// Make a root key and print it, once; without a cluster.
///
/// It may do everything. Give it to every metadata server by --root-key-file, before the cluster is reached by anybody.
#[derive(Debug, Args)]
pub(crate) struct GenerateArguments {
    #[command(flatten)]
    destination: Destination,
}

/// Where a new key goes.
#[derive(Debug, Args)]
struct Destination {
    /// Write the key to this new file, which only its owner can read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Do nothing if the file is there already.
    #[arg(long, requires = "save")]
    if_missing: bool,
    /// Print the key besides, which is the only time that it is shown.
    #[arg(long, requires = "save")]
    print: bool,
}

/// List access keys, without their secrets.
#[derive(Debug, Args)]
pub(crate) struct ListArguments {}

/// Revoke an access key: nobody is served with it any more.
///
/// Capabilities that it was given, to read or write chunks, live on until they end, for two minutes at most.
#[derive(Debug, Args)]
pub(crate) struct RevokeArguments {
    /// The key's id.
    #[arg(value_name = "ID")]
    id: AccessKeyId,
    /// End its capabilities at once too, and with them those of everybody: who may gets new ones, and transfers that are
    /// under way go on after a few seconds.
    #[arg(long)]
    now: bool,
    /// Even if no other key can make keys: then only a root key can.
    #[arg(long)]
    force: bool,
}

/// Does what was asked for.
pub(crate) async fn run<C: AccessControl>(
    arguments: &KeyArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    match &arguments.command {
        KeyCommand::Create(arguments) => create(arguments, client, console).await,
        KeyCommand::Generate(arguments) => generate(arguments, console),
        KeyCommand::List(_) => list(client, console).await,
        KeyCommand::Revoke(arguments) => revoke(arguments, client, console).await,
    }
}

/// Makes a root key, which needs no cluster.
pub(crate) fn generate(arguments: &GenerateArguments, console: &mut Console) -> Result<Exit, Failure> {
    let Some(saved) = arguments.destination.open(console)? else { return Ok(Exit::Done) };
    let key = Credential::generate()
        .map_err(|error| Failure::machine(format!("this machine has no random numbers: {error}")))?;
    let record = NewAccessKeyRecord { key: None, id: key.id().as_str(), access_key: &key.to_text() };
    saved.hand_over(&record, console)
}

async fn create<C: AccessControl>(
    arguments: &CreateArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let grants = arguments.grants()?;
    // Before the key is made: its secret must not be lost for want of a file.
    let Some(saved) = arguments.destination.open(console)? else { return Ok(Exit::Done) };
    let made = client.create_access_key(grants, arguments.label.clone()).await?;
    let id = made.info.id.to_string();
    let record =
        NewAccessKeyRecord { key: Some((&made.info).into()), id: &id, access_key: &made.key.to_text() };
    saved.hand_over(&record, console)
}

impl CreateArguments {
    /// One grant for each bucket that is named.
    fn grants(&self) -> Result<Vec<Grant>, Failure> {
        let named = [
            (Right::Read, &self.read),
            (Right::Write, &self.write),
            (Right::List, &self.list),
            (Right::Admin, &self.admin),
        ];
        let mut by_bucket: BTreeMap<&str, BTreeSet<Right>> = BTreeMap::new();
        for (right, buckets) in named {
            for bucket in buckets {
                by_bucket.entry(bucket).or_default().insert(right);
            }
        }
        if by_bucket.is_empty() {
            let failure = Failure::usage("a key without any right is of no use");
            return Err(failure.with_hint(
                "give --read BUCKET, --write, --list or --admin; see xdpfs-cli key create --help",
            ));
        }
        let grant = |(buckets, rights): (&str, BTreeSet<Right>)| Grant {
            buckets: buckets.to_owned(),
            rights: rights.into_iter().collect(),
        };
        Ok(by_bucket.into_iter().map(grant).collect())
    }
}

/// A file that is there and empty, or standard output. Unless a key is handed over, the file goes again.
struct Open<'a> {
    file: Option<(File, &'a Path)>,
    /// Whether it is printed, too.
    print: bool,
}

impl Destination {
    /// `None` if there is nothing to do.
    fn open(&self, console: &mut Console) -> Result<Option<Open<'_>>, Failure> {
        let Some(path) = &self.save else { return Ok(Some(Open { file: None, print: true })) };
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        match file {
            Ok(file) => Ok(Some(Open { file: Some((file, path)), print: self.print })),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.if_missing => {
                console.note(&format!("{} is there already", path.display()));
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let failure = Failure::exists(format!("{} is there already", path.display()));
                Err(failure.with_hint("name another file, or leave it as it is with --if-missing"))
            }
            Err(error) => Err(Failure::local(format_args!("make the file {}", path.display()), &error)),
        }
    }
}

impl Open<'_> {
    fn hand_over(mut self, record: &NewAccessKeyRecord<'_>, console: &mut Console) -> Result<Exit, Failure> {
        let Some((mut file, path)) = self.file.take() else {
            console.answer(record, || record.access_key.to_owned())?;
            console.flush()?;
            console.note("keep it: it is not shown again, and whoever has it has its rights");
            return Ok(Exit::Done);
        };
        let written = writeln!(file, "{}", record.access_key).and_then(|()| file.sync_all());
        written.map_err(|error| {
            Failure::local(format_args!("write {}; revoke the key {}", path.display(), record.id), &error)
        })?;
        if self.print {
            console.answer(record, || record.access_key.to_owned())?;
        }
        let saved = SavedRecord { id: record.id, saved: &path.display().to_string() };
        console.confirm(&saved, || format!("saved access key {} in {}", record.id, path.display()))?;
        Ok(Exit::Done)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if let Some((_, path)) = self.file.take() {
            // It is empty. Nobody is harmed if it stays.
            let _stays = std::fs::remove_file(path);
        }
    }
}

/// A key that went into a file.
#[derive(serde::Serialize)]
struct SavedRecord<'a> {
    id: &'a str,
    saved: &'a str,
}

async fn list<C: AccessControl>(client: &C, console: &mut Console) -> Result<Exit, Failure> {
    let mut page = None;
    loop {
        let keys = client.access_keys(page).await?;
        for key in &keys.keys {
            console.answer(&AccessKeyRecord::from(key), || line(key))?;
        }
        console.flush()?;
        page = match keys.next {
            Some(next) => Some(next),
            None => return Ok(Exit::Done),
        };
    }
}

fn line(key: &AccessKeyInfo) -> String {
    let rights = |grant: &Grant| grant.rights.iter().map(|right| right.label()).collect::<Vec<_>>().join(",");
    let grants: Vec<_> =
        key.grants.iter().map(|grant| format!("{}:{}", rights(grant), grant.buckets)).collect();
    let state =
        key.revoked.map_or_else(|| "live".to_owned(), |revoked| format!("revoked {}", units::date(revoked)));
    let line =
        format!("{} {} {state:<27} {} {}", key.id, units::date(key.created), grants.join(" "), key.label);
    line.trim_end().to_owned()
}

async fn revoke<C: AccessControl>(
    arguments: &RevokeArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let options = RevokeOptions { end_capabilities: arguments.now, force: arguments.force };
    let (key, rotation) = client.revoke_access_key(&arguments.id, options).await?;
    console.confirm(&AccessKeyRecord::from(&key), || format!("revoked access key {}", key.id))?;
    match rotation {
        Some(rotation) => console.note(&rotated(&rotation)),
        None => console.note("its capabilities end by themselves; --now ends them at once"),
    }
    Ok(Exit::Done)
}
