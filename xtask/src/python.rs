//! The Python package: a wheel by one command, and its tests in an environment of their own under `target/`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};

use crate::{setup, sh};

/// What is installed for the tests.
const REQUIREMENTS: &str = "python/requirements-test.txt";
/// What fsspec's own tests and the tables' tests need is in there; the package is tested from here.
const TESTS: &str = "python/tests";

/// The interpreter that environments are made by: the first that is new enough.
const INTERPRETERS: &[&str] = &["python3", "python3.14", "python3.13", "python3.12", "python3.11"];
const IS_NEW_ENOUGH: &str = "import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))";

/// Whether there is an interpreter for it.
pub(crate) fn has_interpreter() -> bool {
    interpreter().is_some()
}

fn interpreter() -> Option<&'static str> {
    INTERPRETERS.iter().copied().find(|name| sh::succeeds(&[name, "-c", IS_NEW_ENOUGH]))
}

/// An environment with everything that the package is built and tested with.
#[derive(Debug)]
pub(crate) struct Environment {
    dir: PathBuf,
}

impl Environment {
    /// Makes it, or brings it up to date.
    ///
    /// # Errors
    /// There is no interpreter, or no package index can be reached.
    pub(crate) fn bring() -> anyhow::Result<Self> {
        setup::for_python()?;
        let this = Self { dir: sh::target_dir("python").join("venv") };
        // Left behind by a run that succeeded, so that the next one asks nobody.
        let (wanted, mark) =
            (fs::read_to_string(sh::root().join(REQUIREMENTS))?, this.dir.join("requirements"));
        if fs::read_to_string(&mark).is_ok_and(|brought| brought == wanted) {
            return Ok(this);
        }
        let interpreter = interpreter().context("there is no Python 3.11 or later with venv")?;
        sh::run(&[interpreter, "-m", "venv", text(&this.dir)?])?;
        this.pip(&["--requirement", REQUIREMENTS])?;
        fs::write(mark, wanted)?;
        Ok(this)
    }

    pub(crate) fn python(&self) -> PathBuf {
        self.dir.join("bin/python")
    }

    /// Installs packages.
    pub(crate) fn pip(&self, words: &[&str]) -> anyhow::Result<()> {
        let python = self.python();
        let install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
        sh::run(&[&[text(&python)?], &install[..], words].concat())
    }

    /// Installs the package itself, as its users do.
    pub(crate) fn install(&self, wheel: &Path) -> anyhow::Result<()> {
        self.pip(&["--force-reinstall", "--no-deps", text(wheel)?])
    }

    fn run(&self, words: &[&str], settings: &[(&str, &str)]) -> anyhow::Result<()> {
        let python = self.python();
        sh::run_with(&[&[text(&python)?], words].concat(), settings)
    }
}

/// Builds the wheel; where it is.
pub(crate) fn wheel(environment: &Environment) -> anyhow::Result<PathBuf> {
    let out = sh::target_dir("wheels");
    if out.exists() {
        // Whatever lies there is of another time.
        fs::remove_dir_all(&out)?;
    }
    let words = ["-m", "maturin", "build", "--locked", "--manifest-path", "python/Cargo.toml"];
    let python = environment.python();
    let places = ["--interpreter", text(&python)?, "--out", text(&out)?];
    let target = sh::target_dir("");
    environment.run(&[&words[..], &places].concat(), &[("CARGO_TARGET_DIR", text(&target)?)])?;
    let wheels = fs::read_dir(&out)?.map(|entry| Ok(entry?.path())).collect::<anyhow::Result<Vec<_>>>()?;
    let [wheel] = &wheels[..] else { anyhow::bail!("{} holds {} files", out.display(), wheels.len()) };
    Ok(wheel.clone())
}

/// `cargo xtask python`: the wheel and, if asked for, its tests.
pub(crate) fn run(with_tests: bool) -> anyhow::Result<()> {
    let environment = Environment::bring()?;
    if with_tests {
        crate::test::build_binaries()?;
        return test(&environment);
    }
    let wheel = wheel(&environment)?;
    eprintln!("pip install {}", wheel.display());
    Ok(())
}

/// Builds and installs the wheel, and runs its tests on the binaries that cargo has built for tests.
pub(crate) fn test(environment: &Environment) -> anyhow::Result<()> {
    lint()?;
    environment.install(&wheel(environment)?)?;
    let binaries = sh::target_dir("debug");
    ensure!(binaries.join("xdpfs-meta-server").is_file(), "the binaries are not built: cargo build --bins");
    // Stubs and annotations are a promise, too.
    environment.run(&["-m", "mypy", "--config-file", "python/pyproject.toml", "-p", "xdpfs"], &[])?;
    environment.run(&["-m", "mypy.stubtest", "xdpfs._native"], &[])?;
    let settings = [("XDPFS_BIN_DIR", text(&binaries)?)];
    environment.run(&["-m", "pytest", "-q", "-p", "no:cacheprovider", TESTS], &settings)
}

/// The native half is a workspace of its own, which the checks of the other one do not see.
fn lint() -> anyhow::Result<()> {
    let manifest = ["--manifest-path", "python/Cargo.toml"];
    sh::run(&[&["cargo", "fmt"], &manifest[..], &["--check"]].concat())?;
    let checks = ["--config", "python/deny.toml", "check", "licenses", "bans", "sources"];
    sh::run(&[&["cargo", "deny", "--locked"], &manifest[..], &checks].concat())?;
    let target = sh::target_dir("");
    let words = ["cargo", "clippy", "--locked", "--profile", "wheel"];
    let settings = [("CARGO_TARGET_DIR", text(&target)?)];
    sh::run_with(&[&words[..], &manifest, &["--", "-D", "warnings"]].concat(), &settings)
}

/// How many tests there are in the files, fsspec's own not among them.
pub(crate) fn count_tests() -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(sh::root().join(TESTS))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "py") {
            let text = fs::read_to_string(path)?;
            count += text.lines().filter(|line| line.starts_with("def test_")).count();
        }
    }
    Ok(count)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().with_context(|| format!("{} is not text", path.display()))
}
