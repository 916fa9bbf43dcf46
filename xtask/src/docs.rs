//! The pages that are made from what the programs say of themselves, so that they cannot be out of date.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use anyhow::{Context as _, ensure};

use crate::{sh, test};

/// A page that is made: where it is, from the root, and what makes it.
pub(crate) type Page = (&'static str, fn() -> anyhow::Result<String>);

/// All of them.
pub(crate) const PAGES: &[Page] = &[("docs/CONFIGURATION.md", configuration), ("docs/metrics.md", metrics)];

const BINARIES: &[&str] = &["xdpfs-meta-server", "xdpfs-data-node", "xdpfs-gateway", "xdpfs-cli"];

const HEAD: &str = "\
# Configuration

Every option of every binary, as the binary itself explains it. An option that names an environment variable can be
given by it instead; the command line wins. This page is written by `cargo xtask docs` and checked by
`cargo xtask tidy`: change the binaries' `config.rs`, not this page.

A server also takes a TOML file (`--config FILE`): each key is a long option without its dashes, flags are `true` or `false`,
options that can be given several times are lists. The command line and the environment win over it, and an unknown key is an
error. `--show-config` prints what it all comes to, and where each value came from.

Options that are marked \"Read again on SIGHUP\" change while a server runs, when it gets that signal (`systemctl reload`); for all others it
says in its log that they take a restart. The files with certificates and with the root key are read again then, too.
";

/// Writes all pages anew.
pub(crate) fn write() -> anyhow::Result<()> {
    for (page, text) in PAGES {
        let path = sh::root().join(page);
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        fs::write(&path, text()?).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("wrote {page}");
    }
    Ok(())
}

/// Every metric of every process.
fn metrics() -> anyhow::Result<String> {
    sh::output(&["cargo", "run", "--locked", "--quiet", "-p", "xdpfs-observe", "--example", "metrics_page"])
}

/// Every option of every binary.
fn configuration() -> anyhow::Result<String> {
    test::build_binaries()?;
    let mut page = HEAD.to_owned();
    let mut variables = BTreeMap::new();
    for binary in BINARIES {
        page += &sections(binary, &[], &mut variables)?;
    }
    page += "\n## Environment variables\n\n| Variable | Read by | In place of |\n|---|---|---|\n";
    for (variable, (command, option)) in variables {
        page += &format!("| `{variable}` | `{command}` | `{option}` |\n");
    }
    Ok(page)
}

/// The binary's help, or that of a subcommand, and then those of the subcommands below.
fn sections(
    binary: &str,
    words: &[&str],
    variables: &mut BTreeMap<String, (String, String)>,
) -> anyhow::Result<String> {
    let (help, name) = (help(binary, words)?, [&[binary], words].concat().join(" "));
    note_variables(&name, &help, variables);
    let mut page = section(2 + words.len(), &name, &help);
    for subcommand in subcommands(&help) {
        page += &sections(binary, &[words, &[subcommand]].concat(), variables)?;
    }
    Ok(page)
}

fn section(level: usize, name: &str, help: &str) -> String {
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    format!("\n{} {name}\n\n```text\n{}\n```\n", "#".repeat(level), lines.join("\n").trim_end())
}

/// The long help, the same on every machine: without this machine's settings, and a hundred columns wide.
fn help(binary: &str, subcommand: &[&str]) -> anyhow::Result<String> {
    let program: PathBuf = sh::target_dir("debug").join(binary);
    let program = program.to_str().context("the path of the target directory is not text")?;
    let mut command = sh::command(&[&[program], subcommand, &["--help"]].concat());
    for (name, _) in env::vars_os().filter(|(name, _)| is_ours(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    let output = command.env("COLUMNS", "100").env_remove("CLICOLOR_FORCE").output();
    let output = output.with_context(|| format!("cannot run `{binary} --help`"))?;
    ensure!(output.status.success(), "`{binary} --help` failed ({})", output.status);
    String::from_utf8(output.stdout).with_context(|| format!("the help of {binary} is not text"))
}

fn is_ours(variable: &str) -> bool {
    ["XDPFS_", "OTEL_"].iter().any(|prefix| variable.starts_with(prefix))
}

/// The names in the section `Commands:`.
fn subcommands(help: &str) -> Vec<&str> {
    let section = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = section.take_while(|line| !line.is_empty()).filter_map(|line| {
        let name = line.strip_prefix("  ")?;
        // Lines that go on with an explanation are indented further.
        (!name.starts_with(' ')).then(|| name.split(' ').next()).flatten()
    });
    names.filter(|name| *name != "help").collect()
}

/// Which variables stand for which options: each is named in the paragraph below its option. An option that a
/// subcommand takes from its program is the program's.
fn note_variables(command: &str, help: &str, variables: &mut BTreeMap<String, (String, String)>) {
    let (mut option, mut is_name) = ("", false);
    for line in help.lines() {
        let line = line.trim_start();
        // A value of an option is `- value: what it means`.
        if line.starts_with('-') && !line.starts_with("- ") {
            option = line.split("  ").next().unwrap_or(line);
        }
        // Word by word, since a line may break in the middle of the note.
        for word in line.split_whitespace() {
            if let (true, Some((name, _))) = (is_name, word.split_once('=')) {
                let read = || (command.to_owned(), option.to_owned());
                variables.entry(name.to_owned()).or_insert_with(read);
            }
            is_name = word == "[env:";
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELP: &str = "\
Does things

Usage: tool <COMMAND>

Commands:
  put   Put
          and more of it
  get   Get
  help  Print this

Options:
      --endpoint <LIST>
          Where

          Possible values:
          - here:  On this host
          - there: On another

          [env: XDPFS_ENDPOINT=]

      --timeout <T>  How long [env:
                     XDPFS_TIMEOUT=] [default: 30s]
  -j, --parallel <N>  How many [env: XDPFS_PARALLEL=] [default: 4]
";

    #[test]
    fn subcommands_are_found_in_the_help() {
        assert_eq!(subcommands(HELP), ["put", "get"]);
    }

    #[test]
    fn variables_are_found_with_their_options() {
        let mut variables = BTreeMap::new();
        note_variables("tool", HELP, &mut variables);
        let of_put = HELP.to_owned() + "\n  --force  [env: XDPFS_FORCE=]\n";
        note_variables("tool put", &of_put, &mut variables);
        let found: Vec<_> = variables
            .iter()
            .map(|(name, (command, option))| (name.as_str(), command.as_str(), option.as_str()))
            .collect();
        let expected = [
            ("XDPFS_ENDPOINT", "tool", "--endpoint <LIST>"),
            ("XDPFS_FORCE", "tool put", "--force"),
            ("XDPFS_PARALLEL", "tool", "-j, --parallel <N>"),
            ("XDPFS_TIMEOUT", "tool", "--timeout <T>"),
        ];
        assert_eq!(found, expected);
    }
}
