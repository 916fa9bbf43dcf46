//! The rules that no compiler knows. Every check names all that it finds, with its place.

mod links;
mod purity;
mod sources;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use crate::{docs, sh};

/// Returns what is wrong.
type Check = fn(&Repository) -> anyhow::Result<Vec<String>>;

const CHECKS: &[(&str, Check)] = &[
    ("the pure cores depend on nothing impure", |_| purity::dependencies()),
    ("the pure cores ask for no time and no chance", |repository| Ok(purity::calls(repository))),
    ("nothing is unfinished", |repository| Ok(sources::unfinished(repository))),
    ("every module says what it is", |repository| Ok(sources::without_head(repository))),
    ("every crate takes the lints of the workspace", |repository| Ok(sources::without_lints(repository))),
    ("no line ends in white space", |repository| Ok(sources::white_space(repository))),
    ("links lead somewhere", |repository| Ok(links::broken(repository))),
    ("every crate is on the map", |repository| Ok(sources::crates_not_on_the_map(repository))),
    ("the licences are there", |repository| Ok(sources::missing_licences(repository))),
    ("generated pages are up to date", generated_pages),
];

/// All checks; fails after the last one if any found anything.
pub(crate) fn run() -> anyhow::Result<()> {
    let repository = Repository::read()?;
    let mut count = 0;
    for (rule, check) in CHECKS {
        let found = check(&repository).unwrap_or_else(|error| vec![format!("{error:#}")]);
        eprintln!("{} {rule}", if found.is_empty() { "ok " } else { "BAD" });
        found.iter().for_each(|complaint| eprintln!("    {complaint}"));
        count += found.len();
    }
    ensure!(count == 0, "tidy found {count} things");
    Ok(())
}

/// All text of the repository.
#[derive(Debug)]
struct Repository {
    files: Vec<File>,
}

#[derive(Debug)]
struct File {
    /// From the root, with slashes.
    path: String,
    text: String,
}

/// Holds nothing that belongs to the repository.
const NOT_OURS: &[&str] = &[".git", "target"];

impl Repository {
    fn read() -> anyhow::Result<Self> {
        let root = sh::root();
        let mut files = Vec::new();
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            let entries =
                fs::read_dir(&directory).with_context(|| format!("cannot read {}", directory.display()))?;
            for entry in entries {
                let path = entry?.path();
                let name = path.strip_prefix(&root).unwrap_or(&path).to_string_lossy().into_owned();
                if NOT_OURS.contains(&name.as_str()) || path.is_symlink() {
                    continue;
                }
                if path.is_dir() {
                    directories.push(path);
                } else if let Ok(text) = String::from_utf8(fs::read(&path)?) {
                    files.push(File { path: name, text });
                }
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { files })
    }

    fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    fn with_extension(&self, extension: &str) -> impl Iterator<Item = &File> {
        self.files.iter().filter(move |file| {
            let has = Path::new(&file.path).extension().and_then(|extension| extension.to_str());
            has == Some(extension)
        })
    }

    /// The folders of the workspace's crates.
    fn crates(&self) -> Vec<&str> {
        let manifests = self.files.iter().filter_map(|file| file.path.strip_suffix("/Cargo.toml"));
        manifests.collect()
    }
}

impl File {
    /// Numbered from one.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }
}

fn generated_pages(repository: &Repository) -> anyhow::Result<Vec<String>> {
    let mut stale = Vec::new();
    for (page, text) in docs::PAGES {
        let is = repository.file(page).map(|file| file.text.as_str());
        if is != Some(text()?.as_str()) {
            stale.push(format!("{page} is not what the programs say: run `cargo xtask docs`"));
        }
    }
    Ok(stale)
}

/// A path without `.` and `..`; `None` if it leads out of the root.
fn normalize(path: &Path) -> Option<PathBuf> {
    use std::path::Component;
    let mut whole = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => whole.push(part),
            Component::CurDir => {}
            Component::ParentDir => {
                if !whole.pop() {
                    return None;
                }
            }
            Component::Prefix(_) | Component::RootDir => return None,
        }
    }
    Some(whole)
}
