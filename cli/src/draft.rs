//! A file that appears whole or not at all.
//!
//! Invariant: nothing stands under the target's name before [`Draft::publish`], and no draft outlives its run.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::TempPath;
use tokio::fs::File;

use crate::failure::Failure;

/// Permissions before the umask takes from them.
const MODE: u32 = 0o666;
/// File systems allow 255 bytes in a name; the rest is for what a draft's name has more.
const NAME_BYTES_MAX: usize = 200;

/// Where bytes go until they are known to be good. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Draft {
    /// The file to write to.
    pub(crate) file: File,
    target: PathBuf,
    /// `None` if the bytes go straight to a device or a pipe.
    path: Option<TempPath>,
}

impl Draft {
    /// A draft of `target`, in the same directory. What is no regular file, such as a device, is written directly.
    pub(crate) fn create(target: &Path) -> Result<Self, Failure> {
        let found = match std::fs::metadata(target) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::beside(target.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                return Err(file_in_the_way(target));
            }
            Err(error) => return Err(Failure::local(format_args!("write {}", target.display()), &error)),
        };
        if found.is_dir() {
            return Err(directory_in_the_way(target));
        }
        if found.is_file() {
            // A link stays a link.
            return Self::beside(target.canonicalize().unwrap_or_else(|_| target.to_owned()));
        }
        let file = std::fs::OpenOptions::new().write(true).open(target);
        let file = file.map_err(|error| Failure::local(format_args!("open {}", target.display()), &error))?;
        Ok(Self { file: File::from_std(file), target: target.to_owned(), path: None })
    }

    fn beside(target: PathBuf) -> Result<Self, Failure> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let name = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let draft = tempfile::Builder::new()
            .prefix(&format!(".{name}.xdpfs-"))
            .permissions(Permissions::from_mode(MODE))
            .tempfile_in(directory)
            .map_err(|error| Failure::local(format_args!("write in {}", directory.display()), &error))?;
        let (file, path) = draft.into_parts();
        Ok(Self { file: File::from_std(file), target, path: Some(path) })
    }

    /// Lets the file appear under its name, in the place of what stood there.
    pub(crate) fn publish(self) -> Result<(), Failure> {
        let Some(path) = self.path else { return Ok(()) };
        path.persist(&self.target).map_err(|error| match error.error.kind() {
            io::ErrorKind::IsADirectory | io::ErrorKind::DirectoryNotEmpty => {
                directory_in_the_way(&self.target)
            }
            _ => Failure::local(format_args!("write {}", self.target.display()), &error.error),
        })
    }
}

/// Makes the directory that `target` is to lie in.
pub(crate) fn create_parent(target: &Path) -> Result<(), Failure> {
    target.parent().map_or(Ok(()), |parent| create_directory(parent, target))
}

/// Makes `directory`, and those that it is to lie in, for the sake of `target`.
pub(crate) fn create_directory(directory: &Path, target: &Path) -> Result<(), Failure> {
    match std::fs::create_dir_all(directory) {
        Ok(()) => Ok(()),
        Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory) => {
            Err(file_in_the_way(target))
        }
        Err(error) => Err(Failure::local(format_args!("make the directory {}", directory.display()), &error)),
    }
}

fn directory_in_the_way(target: &Path) -> Failure {
    Failure::refused(format!("cannot write the file {}: there is a directory of that name", target.display()))
}

fn file_in_the_way(target: &Path) -> Failure {
    Failure::refused(format!(
        "cannot write {}: a part of that path is a file, not a directory",
        target.display()
    ))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn a_file_appears_when_it_is_published() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("file");
        std::fs::write(&target, "old").unwrap();
        let mut draft = Draft::create(&target).unwrap();
        draft.file.write_all(b"new").await.unwrap();
        draft.file.flush().await.unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        assert!(names(directory.path())[0].starts_with(".file.xdpfs-"));
        draft.publish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"new");
        assert_eq!(names(directory.path()), ["file"]);
    }

    #[tokio::test]
    async fn a_dropped_draft_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        drop(Draft::create(&directory.path().join("ü".repeat(127))).unwrap());
        assert!(names(directory.path()).is_empty());
    }

    #[tokio::test]
    async fn a_link_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        std::fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let mut draft = Draft::create(&link).unwrap();
        draft.file.write_all(b"new").await.unwrap();
        draft.file.flush().await.unwrap();
        draft.publish().unwrap();
        assert!(link.is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
    }

    #[tokio::test]
    async fn a_device_is_written_and_stays() {
        let mut draft = Draft::create(Path::new("/dev/null")).unwrap();
        draft.file.write_all(b"gone").await.unwrap();
        draft.file.flush().await.unwrap();
        draft.publish().unwrap();
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    }

    #[tokio::test]
    async fn what_is_in_the_way_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        std::fs::create_dir(directory.path().join("late")).unwrap();
        let check = |failure: Failure, expect: &str| assert!(failure.message.contains(expect), "{failure:?}");
        check(Draft::create(directory.path()).unwrap_err(), "there is a directory");
        check(create_parent(&directory.path().join("file/below")).unwrap_err(), "is a file");
        check(create_parent(&directory.path().join("file/below/x")).unwrap_err(), "is a file");
        check(Draft::create(&directory.path().join("file/below")).unwrap_err(), "is a file");

        let target = directory.path().join("became");
        let draft = Draft::create(&target).unwrap();
        std::fs::create_dir(&target).unwrap();
        check(draft.publish().unwrap_err(), "there is a directory");
        assert_eq!(names(directory.path()), ["became", "file", "late"]);
    }
}
