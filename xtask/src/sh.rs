//! Runs other programs in the repository's root and says so.

use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, ensure};

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let here = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or(here.clone(), PathBuf::from)
}

/// Where cargo puts what it builds with this profile.
pub(crate) fn target_dir(profile: &str) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
        .join(profile)
}

/// A program with its arguments, to be run in the root.
pub(crate) fn command(words: &[&str]) -> Command {
    let (program, args) = words.split_first().unwrap_or((&"true", &[]));
    let program = match *program {
        // The one that runs us, so that all steps share a toolchain.
        "cargo" => env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
        other => other.into(),
    };
    let mut command = Command::new(program);
    command.args(args).current_dir(root()).stdin(Stdio::null());
    command
}

/// Runs it, with its output where ours goes.
pub(crate) fn run(words: &[&str]) -> anyhow::Result<()> {
    run_with(words, &[])
}

/// Runs it with more environment.
pub(crate) fn run_with(words: &[&str], env: &[(&str, &str)]) -> anyhow::Result<()> {
    let line = words.join(" ");
    eprintln!("\x1b[1m$ {line}\x1b[0m");
    let status =
        command(words).envs(env.iter().copied()).status().with_context(|| format!("cannot run `{line}`"))?;
    ensure!(status.success(), "`{line}` failed ({status})");
    Ok(())
}

/// Runs it and returns what it printed.
pub(crate) fn output(words: &[&str]) -> anyhow::Result<String> {
    let line = words.join(" ");
    let output = command(words).output().with_context(|| format!("cannot run `{line}`"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{line}` failed ({})\n{errors}", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed something that is not text"))
}

/// Whether it can be run and succeeds; nothing is printed.
pub(crate) fn succeeds(words: &[&str]) -> bool {
    command(words).output().is_ok_and(|output| output.status.success())
}

/// Whether we may do everything.
pub(crate) fn is_root() -> bool {
    output(&["id", "-u"]).is_ok_and(|id| id.trim() == "0")
}
