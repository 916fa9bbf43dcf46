//! Which files are sent.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use crate::sh;

/// A folder and the sizes of all files below it, by their path from it.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) root: PathBuf,
    pub(super) files: BTreeMap<String, u64>,
    what: String,
}

/// Fewer files than these are no tree worth showing.
const FILES_MIN: usize = 50;
/// More than these take longer than anyone watches. A folder that is asked for by name is sent whole.
const FILES_MAX: usize = 8000;
/// Where the toolchain has many files: its documentation, or what a minimal installation has.
const IN_THE_TOOLCHAIN: &[&str] = &["share/doc", "lib/rustlib"];
/// Of the second, files beyond this size are left out, so that it stays a tree of many files.
const FILE_BYTES_MAX: u64 = 16 << 20;

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.bytes() as f64 / f64::from(1 << 20);
        write!(f, "{} ({} files, {mib:.1} MiB)", self.what, self.files.len())
    }
}

impl Tree {
    /// `wanted`, or else some of the toolchain's own files, laid out anew in `stage`.
    pub(super) fn choose(wanted: Option<PathBuf>, stage: &Path) -> anyhow::Result<Self> {
        if let Some(wanted) = wanted {
            let tree = Self::read(&wanted)?;
            ensure!(!tree.files.is_empty(), "there is no file in {}", wanted.display());
            return Ok(tree);
        }
        let sysroot = PathBuf::from(sh::output(&["rustc", "--print", "sysroot"])?.trim());
        for folder in IN_THE_TOOLCHAIN {
            let folder = sysroot.join(folder);
            match Self::read(&folder) {
                Ok(tree) if tree.files.len() >= FILES_MIN => return tree.sample(stage),
                Ok(tree) => eprintln!("{} has only {} files", folder.display(), tree.files.len()),
                Err(_) => eprintln!("this toolchain has no {}", folder.display()),
            }
        }
        // Always there, and a tree of files too.
        Self::read(&sh::root().join("meta-server"))
    }

    /// All files below `root`, without symbolic links and whatever else is no file.
    pub(super) fn read(root: &Path) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            let entries =
                fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
            for entry in entries {
                let entry = entry?;
                let (kind, path) = (entry.file_type()?, entry.path());
                if kind.is_dir() {
                    directories.push(path);
                } else if kind.is_file() {
                    let name = path
                        .strip_prefix(root)?
                        .to_str()
                        .with_context(|| format!("{} is not text", path.display()))?;
                    files.insert(name.to_owned(), entry.metadata()?.len());
                }
            }
        }
        Ok(Self { root: root.to_owned(), files, what: root.display().to_string() })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.files.values().sum()
    }

    /// Every n-th file, so that about [`FILES_MAX`] remain.
    fn sample(self, stage: &Path) -> anyhow::Result<Self> {
        let fitting: Vec<&String> =
            self.files.iter().filter(|(_, len)| **len <= FILE_BYTES_MAX).map(|(name, _)| name).collect();
        let step = fitting.len().div_ceil(FILES_MAX).max(1);
        for name in fitting.into_iter().step_by(step) {
            let (from, to) = (self.root.join(name), stage.join(name));
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder)?;
            }
            // The toolchain may be on another file system.
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop))?;
        }
        let part = if step == 1 { String::new() } else { format!("every {step}th file of ") };
        Ok(Self { what: format!("{part}{}", self.root.display()), ..Self::read(stage)? })
    }
}
