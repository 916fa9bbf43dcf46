//! The file that a bundle is: a compressed tar archive that only its user may read.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use tar::{Builder, Header};

use super::part::Part;
use crate::failure::Failure;

/// An archive that is open, and gone again if it is not written.
#[derive(Debug)]
pub(super) struct Archive {
    file: File,
    path: PathBuf,
    /// The directory that all its files are in.
    root: String,
    is_whole: bool,
}

impl Archive {
    /// Makes the file. One that is there is left alone.
    ///
    /// # Errors
    /// It can't be made.
    pub(super) fn create(path: &Path, root: &str) -> Result<Self, Failure> {
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = opened.map_err(|error| {
            let failure = Failure::local(format_args!("make {}", path.display()), &error);
            failure.with_hint("give another file by --output")
        })?;
        Ok(Self { file, path: path.to_owned(), root: root.to_owned(), is_whole: false })
    }

    /// Writes all parts.
    ///
    /// # Errors
    /// The file can't be written.
    pub(super) fn write<'p>(mut self, parts: impl Iterator<Item = &'p Part>) -> Result<(), Failure> {
        let written = self.try_write(parts);
        self.is_whole = written.is_ok();
        written.map_err(|error| Failure::local(format_args!("write {}", self.path.display()), &error))
    }

    fn try_write<'p>(&self, parts: impl Iterator<Item = &'p Part>) -> io::Result<()> {
        let mut archive = Builder::new(GzEncoder::new(&self.file, Compression::default()));
        for part in parts {
            let mut header = Header::new_gnu();
            header.set_size(part.content.len() as u64);
            header.set_mode(0o600);
            archive.append_data(&mut header, format!("{}/{}", self.root, part.name), &part.content[..])?;
        }
        archive.into_inner()?.finish()?.sync_all()
    }
}

impl Drop for Archive {
    fn drop(&mut self) {
        if !self.is_whole {
            // Nobody can use it, and nobody is left to be told.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::fs::PermissionsExt as _};

    use flate2::read::GzDecoder;

    use super::*;

    #[test]
    fn archive_holds_its_parts_and_is_nobody_elses() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x.tar.gz");
        let part = Part { name: "a.json".into(), content: b"{}".to_vec() };
        Archive::create(&path, "root").unwrap().write([&part].into_iter()).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut archive = tar::Archive::new(GzDecoder::new(File::open(&path).unwrap()));
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            found.push((entry.path().unwrap().display().to_string(), content));
        }
        assert_eq!(found, [("root/a.json".to_owned(), "{}".to_owned())]);
        assert!(Archive::create(&path, "root").is_err(), "a file that is there is not replaced");
        assert!(path.exists());
    }

    #[test]
    fn archive_that_is_not_written_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("x.tar.gz");
        drop(Archive::create(&path, "root").unwrap());
        assert!(!path.exists());
    }
}
