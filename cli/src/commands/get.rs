//! `get`: objects become files, or go to standard output.
//!
//! Invariant: a file appears whole and checked or not at all, and never outside the directory asked for.

use std::{
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use clap::Args;
use futures::StreamExt as _;
use xdpfs_client::{ByteRange, GetOptions, GetStream, Object, ObjectClient, objects};

use crate::{
    address::Address,
    arguments::{Conditions, Parallel, VersionChoice},
    batch::Batch,
    console::Console,
    draft::{Draft, create_directory, create_parent},
    failure::{Exit, Failure},
    local_path,
    pour::pour,
    progress::Progress,
    record::GetRecord,
    units::human_bytes,
};

/// Get objects as files.
#[derive(Debug, Args)]
#[command(after_help = "\
Without DST, a file is named like the last part of the key, and a directory like that of the prefix.
With -r, SRC is read as a directory, and the rest of each key is the path below DST.
Of an empty object whose key ends with a slash, a directory is made.

Examples:
  xdpfs-cli get photos/2026/cat.jpg                 ./cat.jpg
  xdpfs-cli get photos/2026/cat.jpg /tmp/           /tmp/cat.jpg
  xdpfs-cli get -r photos/2026/ ./album             ./album/cat.jpg, ...
  xdpfs-cli get backups/db.sql - | psql db
  xdpfs-cli get logs/today --range -1024 -          the last KiB
  xdpfs-cli get photos/cat.jpg --version-id 57      what it was, where versions are kept")]
pub(crate) struct GetArguments {
    /// What to get.
    #[arg(value_name = "SRC")]
    source: Address,
    /// The file or directory to write; - is standard output.
    #[arg(value_name = "DST")]
    target: Option<PathBuf>,
    /// Get all objects below SRC.
    #[arg(short, long)]
    recursive: bool,
    /// Only these bytes: START-END (END included), START-, or -LENGTH.
    #[arg(long, value_name = "RANGE", allow_hyphen_values = true, conflicts_with = "recursive")]
    range: Option<ByteRange>,
    #[command(flatten)]
    version: VersionChoice,
    #[command(flatten)]
    conditions: Conditions,
    #[command(flatten)]
    parallel: Parallel,
}

/// An object that was got.
struct Got {
    object: Object,
    target: PathBuf,
    bytes: u64,
}

/// Gets everything that is asked for.
pub(crate) async fn run<C: ObjectClient>(
    arguments: &GetArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let is_stdout = arguments.target.as_deref() == Some(Path::new("-"));
    if arguments.recursive {
        arguments.version.check(0)?;
    }
    match (arguments.recursive, is_stdout) {
        (true, true) => Err(Failure::usage("-r gets files: standard output takes only one object")),
        (true, false) => get_tree(arguments, client, console).await,
        (false, true) => get_to_stdout(arguments, client, console).await,
        (false, false) => {
            let progress = console.start_progress(false);
            let target = target_of(&arguments.source, arguments.target.as_deref())?;
            let got = get_file(&arguments.source, target, arguments.options(), client, &progress).await?;
            confirm(console, got)?;
            Ok(Exit::Done)
        }
    }
}

impl GetArguments {
    fn options(&self) -> GetOptions {
        GetOptions {
            range: self.range,
            precondition: self.conditions.precondition(),
            version: self.version.version_id,
        }
    }
}

async fn get_to_stdout<C: ObjectClient>(
    arguments: &GetArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let progress = console.start_progress(true);
    print(&arguments.source, arguments.options(), client, &progress).await?;
    Ok(Exit::Done)
}

/// Writes an object to standard output.
pub(super) async fn print<C: ObjectClient>(
    source: &Address,
    options: GetOptions,
    client: &C,
    progress: &Progress,
) -> Result<(), Failure> {
    let stream = open(source, options, client, progress).await?;
    let poured = pour(stream, tokio::io::stdout(), progress, Failure::stdout).await;
    poured.map(|_| ()).map_err(|failure| failure.about(source))
}

/// Everything below the source.
async fn get_tree<C: ObjectClient>(
    arguments: &GetArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let source = &arguments.source;
    let prefix = source.directory();
    let directory = match &arguments.target {
        Some(target) => target.clone(),
        None => default_directory(source)?,
    };
    let progress = console.start_progress(false);
    let jobs = objects(client, &source.bucket, &prefix).map(|object| {
        let (progress, prefix, directory) = (&progress, &prefix, &directory);
        async move {
            let object = object.map_err(|error| Failure::from(error).about(source))?;
            let address = source.with_key(&object.key);
            let below = object.key.strip_prefix(prefix).unwrap_or(&object.key).to_owned();
            if is_directory_marker(&object) {
                return make_directory(directory, &below, &address, object);
            }
            let target = path_below(directory, &below, &address)?;
            create_parent(&target)?;
            get_file(&address, target, arguments.options(), client, progress).await
        }
    });
    let mut batch = Batch::default();
    batch.run(arguments.parallel, jobs, console, confirm).await?;
    if !batch.is_empty() {
        return Ok(batch.finish(console));
    }
    if source.is_directory() {
        return Err(Failure::not_found(format!("there is nothing below {source}")).about(source));
    }
    // The source is no directory; it may still be an object.
    let target = target_of(source, arguments.target.as_deref())?;
    confirm(console, get_file(source, target, arguments.options(), client, &progress).await?)?;
    Ok(Exit::Done)
}

/// Other tools of object stores put an empty object whose key ends with a slash where an empty directory is to be.
fn is_directory_marker(object: &Object) -> bool {
    object.size == 0 && object.key.ends_with('/')
}

fn make_directory(directory: &Path, below: &str, source: &Address, object: Object) -> Result<Got, Failure> {
    let target = match below.strip_suffix('/') {
        Some(below) => path_below(directory, below, source)?,
        None => directory.to_owned(),
    };
    create_directory(&target, &target)?;
    Ok(Got { object, target, bytes: 0 })
}

/// Gets one object as a file.
async fn get_file<C: ObjectClient>(
    source: &Address,
    target: PathBuf,
    options: GetOptions,
    client: &C,
    progress: &Progress,
) -> Result<Got, Failure> {
    let stream = open(source, options, client, progress).await?;
    let object = stream.object().clone();
    let mut draft = Draft::create(&target).map_err(|failure| failure.about(source))?;
    let failed = |error: &_| Failure::local(format_args!("write {}", target.display()), error);
    let poured = pour(stream, &mut draft.file, progress, failed).await;
    let bytes = poured.map_err(|failure| failure.about(source))?;
    draft.publish().map_err(|failure| failure.about(source))?;
    Ok(Got { object, target, bytes })
}

async fn open<C: ObjectClient>(
    source: &Address,
    options: GetOptions,
    client: &C,
    progress: &Progress,
) -> Result<GetStream, Failure> {
    source.check_object()?;
    let opened = client.get(&source.bucket, &source.key, options).await;
    let stream = opened.map_err(|error| Failure::from(error).about(source))?;
    progress.expect(Some(stream.len()));
    Ok(stream)
}

fn confirm(console: &mut Console, got: Got) -> Result<(), Failure> {
    let target = got.target.display().to_string();
    console.confirm(&GetRecord::new(&got.object, got.bytes, &target), || {
        format!("got {}/{} as {target} ({})", got.object.bucket, got.object.key, human_bytes(got.bytes))
    })
}

/// The file that one object becomes.
fn target_of(source: &Address, target: Option<&Path>) -> Result<PathBuf, Failure> {
    source.check_object()?;
    match target {
        Some(target) if target.is_dir() => path_below(target, source.last_part(), source),
        Some(target) if target.as_os_str().as_bytes().ends_with(b"/") => {
            let path = path_below(target, source.last_part(), source)?;
            create_parent(&path)?;
            Ok(path)
        }
        Some(target) => Ok(target.to_owned()),
        None => path_below(Path::new(""), source.last_part(), source),
    }
    .map_err(Failure::into_usage)
}

/// The directory that a tree becomes if none is named.
fn default_directory(source: &Address) -> Result<PathBuf, Failure> {
    let name = source.key.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty());
    path_below(Path::new(""), name.unwrap_or(&source.bucket), source).map_err(Failure::into_usage)
}

fn path_below(directory: &Path, key: &str, source: &Address) -> Result<PathBuf, Failure> {
    local_path::join(directory, key).map_err(|no_path| {
        let message = format!("the key of {source} makes no file name: {}", no_path.reason());
        let hint = format!("name the file: xdpfs-cli get {source} FILE");
        Failure::refused(message).with_hint(hint).about(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn a_file_is_named_as_asked_or_like_the_key() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let check = |source: &str, target: Option<&Path>, expect: &Path| {
            assert_eq!(target_of(&address(source), target).unwrap(), expect, "{source} {target:?}");
        };
        check("b/k", None, Path::new("k"));
        check("b/a/k", None, Path::new("k"));
        check("b/a/k", Some(Path::new("x")), Path::new("x"));
        check("b/a/", Some(Path::new("x")), Path::new("x"));
        check("b/a/k", Some(path), &path.join("k"));
        check("b/a/k", Some(&path.join("new/")), &path.join("new/k"));
        assert!(path.join("new").is_dir());
    }

    #[test]
    fn a_key_without_a_name_needs_a_target() {
        for source in ["b/a/", "b/..", "b/a/.", "b", "b//"] {
            assert_eq!(target_of(&address(source), None).unwrap_err().exit, Exit::Usage, "{source}");
        }
    }

    #[test]
    fn a_tree_is_named_like_its_last_part() {
        let check = |source: &str, expect: &str| {
            assert_eq!(default_directory(&address(source)).unwrap(), Path::new(expect), "{source}");
        };
        check("bucket", "bucket");
        check("bucket/", "bucket");
        check("bucket/a/b/", "b");
        check("bucket/a", "a");
        assert!(default_directory(&address("bucket/a/../")).is_err());
    }
}
