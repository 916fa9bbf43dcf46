//! Which files to put, and under which keys.
//!
//! Invariant: a command line that makes no sense is refused before anything is put, and no two sources of it become
//! the same key. Files are found as they are put, so that a large tree takes no memory.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

use futures::{Stream, stream};
use tokio::sync::mpsc;
use walkdir::{DirEntry, WalkDir};

use crate::{address::Address, failure::Failure};

/// Files found and not yet begun.
const FOUND_MAX: usize = 64;

/// A source as it is typed, and where it goes.
#[derive(Debug)]
pub(super) enum Source {
    /// It cannot be put.
    Bad(Failure),
    /// One object.
    One(Found),
    /// The files of a directory, below a prefix.
    Tree {
        /// The directory.
        directory: PathBuf,
        /// What stands before each path.
        prefix: String,
    },
}

/// Something to put.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Found {
    /// What.
    pub(super) content: Content,
    /// Where.
    pub(super) key: String,
}

/// What an object is made of.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Content {
    /// A file; its size is known unless it is a device or a pipe.
    File {
        /// The file.
        path: PathBuf,
        /// Its bytes.
        size: Option<u64>,
    },
    /// Standard input.
    Stdin,
}

impl Content {
    /// Bytes, as far as known.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::File { size, .. } => *size,
            Self::Stdin => None,
        }
    }

    /// What to call it in output.
    pub(super) fn name(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Stdin => "-".to_owned(),
        }
    }
}

/// Decides what each source is and which key it gets.
pub(super) fn plan(sources: &[PathBuf], target: &Address, recursive: bool) -> Result<Vec<Source>, Failure> {
    if let [source] = sources {
        return Ok(vec![plan_only(source, target, recursive)?]);
    }
    if !target.is_directory() {
        let hint = format!("write {target}/");
        return Err(Failure::usage("several sources need a DST that ends with a slash").with_hint(hint));
    }
    let mut names = BTreeSet::new();
    let mut plan = Vec::with_capacity(sources.len());
    for source in sources {
        if is_stdin(source) {
            return Err(Failure::usage("standard input has no name: put it alone, to BUCKET/KEY"));
        }
        let name = file_name(source)?;
        if !names.insert(name.clone()) {
            return Err(Failure::usage(format!("two sources would become {}", target.with_key(name))));
        }
        let key = format!("{}{name}", target.key);
        plan.push(look_at(source, recursive, || Ok(key.clone()), || format!("{key}/"))?);
    }
    Ok(plan)
}

/// The only source: a directory's name does not matter, and the target may be a whole key.
fn plan_only(source: &Path, target: &Address, recursive: bool) -> Result<Source, Failure> {
    if is_stdin(source) {
        if target.is_directory() {
            let hint = format!("write {}KEY", target.with_key(&target.key));
            return Err(Failure::usage("standard input has no name: DST must be a whole key").with_hint(hint));
        }
        return Ok(Source::One(Found { content: Content::Stdin, key: target.key.clone() }));
    }
    let key = || match target.is_directory() {
        true => Ok(format!("{}{}", target.key, file_name(source)?)),
        false => Ok(target.key.clone()),
    };
    look_at(source, recursive, key, || target.directory())
}

fn look_at(
    source: &Path,
    recursive: bool,
    key: impl FnOnce() -> Result<String, Failure>,
    prefix: impl FnOnce() -> String,
) -> Result<Source, Failure> {
    let found = match std::fs::metadata(source) {
        Ok(found) => found,
        Err(error) => {
            return Ok(Source::Bad(Failure::local(format_args!("open {}", source.display()), &error)));
        }
    };
    if !found.is_dir() {
        let size = found.is_file().then_some(found.len());
        return Ok(Source::One(Found {
            content: Content::File { path: source.to_owned(), size },
            key: key()?,
        }));
    }
    if !recursive {
        let failure = Failure::usage(format!("{} is a directory", source.display()));
        return Err(failure.with_hint("put its files with -r"));
    }
    Ok(Source::Tree { directory: source.to_owned(), prefix: prefix() })
}

fn is_stdin(source: &Path) -> bool {
    source == Path::new("-")
}

fn file_name(source: &Path) -> Result<String, Failure> {
    let name = source
        .file_name()
        .ok_or_else(|| Failure::usage(format!("{} has no name: put it alone", source.display())))?;
    utf8(source, name.as_ref())
}

fn utf8(source: &Path, path: &Path) -> Result<String, Failure> {
    let name = path.to_str().map(str::to_owned);
    name.ok_or_else(|| {
        Failure::refused(format!("skipped {}: its name is not UTF-8, as keys are", source.display()))
    })
}

/// All that there is to put, as it is found.
pub(super) fn find(sources: Vec<Source>) -> impl Stream<Item = Result<Found, Failure>> {
    let (sender, mut found) = mpsc::channel(FOUND_MAX);
    tokio::task::spawn_blocking(move || {
        for source in sources {
            if send_all(source, &sender).is_err() {
                return;
            }
        }
    });
    stream::poll_fn(move |cx| found.poll_recv(cx))
}

/// Nobody wants to know any more.
struct Unwanted;

fn send_all(source: Source, sender: &mpsc::Sender<Result<Found, Failure>>) -> Result<(), Unwanted> {
    let send = |found| sender.blocking_send(found).map_err(|_| Unwanted);
    match source {
        Source::Bad(failure) => send(Err(failure)),
        Source::One(found) => send(Ok(found)),
        Source::Tree { directory, prefix } => {
            // Sorted, so that two runs do the same. The directory itself may be a link, and is not asked about again.
            let walk = WalkDir::new(&directory).min_depth(1).sort_by_file_name();
            let mut found =
                walk.into_iter().filter_map(|entry| look_into(entry, &directory, &prefix).transpose());
            found.try_for_each(send)
        }
    }
}

/// What to do about one entry of a directory: nothing about directories, whose files come by themselves.
fn look_into(
    entry: Result<DirEntry, walkdir::Error>,
    directory: &Path,
    prefix: &str,
) -> Result<Option<Found>, Failure> {
    let entry = entry.map_err(unreadable)?;
    if entry.file_type().is_dir() {
        return Ok(None);
    }
    let path = entry.into_path();
    // Links are followed, but only to files: directories could lead back here.
    let found = std::fs::metadata(&path);
    let found = found.map_err(|error| Failure::local(format_args!("open {}", path.display()), &error))?;
    if !found.is_file() {
        let what = if found.is_dir() { "a link to a directory" } else { "not a file" };
        return Err(Failure::refused(format!("skipped {}: it is {what}", path.display())));
    }
    let below = path.strip_prefix(directory).unwrap_or(&path);
    let key = format!("{prefix}{}", utf8(&path, below)?);
    Ok(Some(Found { content: Content::File { path, size: Some(found.len()) }, key }))
}

fn unreadable(error: walkdir::Error) -> Failure {
    let path = error.path().unwrap_or(Path::new("")).display().to_string();
    let error = error.into_io_error().unwrap_or_else(|| io::Error::other("it leads back to itself"));
    Failure::local(format_args!("read {path}"), &error)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{ffi::OsStringExt as _, fs::symlink, net::UnixListener},
    };

    use futures::StreamExt as _;

    use super::*;
    use crate::failure::Exit;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a/empty")).unwrap();
        fs::create_dir(root.path().join("b")).unwrap();
        for (path, bytes) in [("a/1", "1"), ("a/2", "22"), ("b/1", ""), ("file", "333")] {
            fs::write(root.path().join(path), bytes).unwrap();
        }
        root
    }

    fn check_plan(
        root: &Path,
        sources: &[&str],
        target: &str,
        recursive: bool,
    ) -> Result<Vec<Source>, Failure> {
        let sources: Vec<_> = sources
            .iter()
            .map(|source| if *source == "-" { "-".into() } else { root.join(source) })
            .collect();
        plan(&sources, &target.parse().unwrap(), recursive)
    }

    async fn keys(root: &Path, sources: &[&str], target: &str) -> Vec<String> {
        let plan = check_plan(root, sources, target, true).unwrap();
        let found: Vec<_> = find(plan).collect().await;
        found.into_iter().map(|found| found.unwrap().key).collect()
    }

    #[tokio::test]
    async fn keys_follow_the_target_and_the_names() {
        let root = tree();
        let check = async |sources: &[&str], target: &str, expect: &[&str]| {
            assert_eq!(keys(root.path(), sources, target).await, expect, "{sources:?} {target}");
        };
        check(&["file"], "bucket", &["file"]).await;
        check(&["file"], "bucket/", &["file"]).await;
        check(&["file"], "bucket/p/", &["p/file"]).await;
        check(&["file"], "bucket/p", &["p"]).await;
        check(&["-"], "bucket/p", &["p"]).await;
        check(&["file", "a/1"], "bucket", &["file", "1"]).await;
        check(&["a"], "bucket", &["1", "2"]).await;
        check(&["a"], "bucket/p", &["p/1", "p/2"]).await;
        check(&["a/"], "bucket/p/", &["p/1", "p/2"]).await;
        check(&["."], "bucket/p/", &["p/a/1", "p/a/2", "p/b/1", "p/file"]).await;
        check(&["a", "b", "file"], "bucket/p/", &["p/a/1", "p/a/2", "p/b/1", "p/file"]).await;
        check(&["a/empty"], "bucket/p/", &[]).await;
    }

    #[test]
    fn nonsense_is_refused_before_anything_is_put() {
        let root = tree();
        let check = |sources: &[&str], target: &str, expect: &str| {
            let failure = check_plan(root.path(), sources, target, false).unwrap_err();
            assert_eq!(failure.exit, Exit::Usage);
            let text = format!("{} {}", failure.message, failure.hint.unwrap_or_default());
            assert!(text.contains(expect), "{text}");
        };
        check(&["a"], "bucket", "with -r");
        check(&["file", "a"], "bucket/", "with -r");
        check(&["file", "a/1"], "bucket/key", "ends with a slash");
        check(&["-"], "bucket", "whole key");
        check(&["-"], "bucket/p/", "whole key");
        check(&["-", "file"], "bucket/", "alone");
        check(&["a/1", "b/1"], "bucket/", "would become bucket/1");
    }

    #[test]
    fn a_missing_file_is_the_failure_of_that_file() {
        let root = tree();
        let plan = check_plan(root.path(), &["file", "missing"], "bucket", false).unwrap();
        match &plan[..] {
            [Source::One(_), Source::Bad(failure)] => assert_eq!(failure.exit, Exit::NotFound),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn links_to_files_are_followed_and_other_kinds_are_skipped() {
        let root = tree();
        let odd = root.path().join("odd");
        fs::create_dir(&odd).unwrap();
        symlink(root.path().join("file"), odd.join("to-file")).unwrap();
        symlink(root.path(), odd.join("to-directory")).unwrap();
        symlink("nowhere", odd.join("to-nothing")).unwrap();
        let _socket = UnixListener::bind(odd.join("socket")).unwrap();
        fs::write(odd.join(std::ffi::OsString::from_vec(vec![b'x', 0xff])), "").unwrap();
        let found: Vec<_> = find(check_plan(root.path(), &["odd"], "bucket", true).unwrap()).collect().await;
        let (good, bad): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
        let content = Content::File { path: odd.join("to-file"), size: Some(3) };
        assert_eq!(good, [Ok(Found { content, key: "to-file".into() })]);
        assert_eq!(bad.len(), 4, "{bad:?}");
    }
    #[tokio::test]
    async fn a_link_to_a_directory_is_one_if_it_is_named() {
        let root = tree();
        symlink(root.path().join("a"), root.path().join("link")).unwrap();
        assert_eq!(keys(root.path(), &["link"], "bucket/p").await, ["p/1", "p/2"]);
        assert_eq!(keys(root.path(), &["link", "file"], "bucket").await, ["link/1", "link/2", "file"]);
    }

    #[tokio::test]
    async fn a_directory_that_has_gone_is_a_failure() {
        let root = tree();
        let plan = check_plan(root.path(), &["a"], "bucket", true).unwrap();
        fs::remove_dir_all(root.path().join("a")).unwrap();
        let found: Vec<_> = find(plan).collect().await;
        assert!(matches!(&found[..], [Err(failure)] if failure.exit == Exit::NotFound), "{found:?}");
    }
}
