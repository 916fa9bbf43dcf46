//! What a server was told is read again while it runs, and held against what it goes by.
//!
//! Invariant: what can't be used changes nothing: either all of it makes sense, or the server goes on as it was. What takes
//! a restart is named every time until there was one.

use std::{collections::BTreeMap, ffi::OsString};

use clap::{ArgMatches, Command};
use thiserror::Error;

use super::{Settings, SettingsError, option, show};

/// What the help says of an option that is read again.
const MARK: &str = "Read again on SIGHUP.";

/// Why what a server is told can't be used.
#[derive(Debug, Error)]
pub enum ReloadError {
    /// The file makes no sense.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// What it comes to makes no sense.
    #[error("{0}")]
    Arguments(String),
}

/// Reads again what a server was told at its start.
#[derive(Clone, Debug)]
pub struct Reloader {
    command: Command,
    words: Vec<OsString>,
    /// The options that can change while the server runs.
    reloaded: &'static [&'static str],
    /// What the server goes by.
    values: Values,
}

/// What was read again.
#[derive(Clone, Debug)]
pub struct Reread {
    /// All of it.
    pub matches: ArgMatches,
    values: Values,
    changed: Vec<String>,
}

/// Each option that has a value, in a canonical form.
type Values = BTreeMap<String, String>;

impl Reloader {
    /// Of a server that was told `matches` by these words and its environment. `reloaded` names the long options that can
    /// change while it runs.
    #[must_use]
    pub fn new(
        command: Command,
        words: impl IntoIterator<Item = OsString>,
        matches: &ArgMatches,
        reloaded: &'static [&'static str],
    ) -> Self {
        let values = values(&command, matches);
        Self { command, words: words.into_iter().collect(), reloaded, values }
    }

    /// Reads everything again. Nothing is in force by that.
    ///
    /// # Errors
    /// It makes no sense.
    pub fn read(&self) -> Result<Reread, ReloadError> {
        let settings = Settings::read(&self.command, self.words.iter().cloned())?;
        let matches = self.command.clone().try_get_matches_from(settings.words());
        let matches = matches.map_err(|error| ReloadError::Arguments(first_paragraph(&error)))?;
        let values = values(&self.command, &matches);
        let names: std::collections::BTreeSet<_> = values.keys().chain(self.values.keys()).collect();
        let is_changed = |name: &&&String| values.get(**name) != self.values.get(**name);
        let changed = names.iter().filter(is_changed).map(|name| (**name).clone()).collect();
        Ok(Reread { matches, changed, values })
    }

    /// The server goes by what was read again, as far as it can change; one line of the log for each option says so.
    pub fn accept(&mut self, reread: Reread) {
        for option in reread.changed {
            if !self.reloaded.contains(&option.as_str()) {
                tracing::warn!(option, "the option has changed, and takes a restart to be in force");
                continue;
            }
            tracing::info!(option, "the option has changed, and is in force");
            match reread.values.get(&option) {
                Some(value) => self.values.insert(option, value.clone()),
                None => self.values.remove(&option),
            };
        }
    }
}

/// The command with what can change while it runs marked as such in its help.
#[must_use]
pub fn mark_reloaded(mut command: Command, reloaded: &[&str]) -> Command {
    for name in reloaded {
        let Some(id) = option(&command, name).map(|arg| arg.get_id().clone()) else { continue };
        command = command.mut_arg(id, |arg| {
            let long = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string);
            arg.long_help(format!("{}\n\n{MARK}", long.unwrap_or_default()))
        });
    }
    command
}

/// Of the subcommand that was chosen, or else of the command.
fn values(command: &Command, matches: &ArgMatches) -> Values {
    let chosen =
        matches.subcommand().and_then(|(name, matches)| Some((command.find_subcommand(name)?, matches)));
    let (command, matches) = chosen.unwrap_or((command, matches));
    show::values(command, matches).map(|(name, value)| (name.to_owned(), value.to_string())).collect()
}

/// What clap has to say of an error, without its advice.
fn first_paragraph(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    lines.join(" ").trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use tempfile::TempDir;

    use super::*;
    use crate::tests::command;

    const RELOADED: &[&str] = &["listen", "open"];

    struct Scene {
        directory: TempDir,
        reloader: Reloader,
    }

    impl Scene {
        fn started_with(text: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("f.toml"), text).unwrap();
            let file = directory.path().join("f.toml").into_os_string();
            let words = ["server".into(), "--id=1".into(), "--config".into(), file];
            let settings = Settings::read(&command(), words.clone()).unwrap();
            let matches = command().try_get_matches_from(settings.words()).unwrap();
            Self { directory, reloader: Reloader::new(command(), words, &matches, RELOADED) }
        }

        fn file(&self) -> PathBuf {
            self.directory.path().join("f.toml")
        }

        fn reread(&self, text: &str) -> Result<Reread, ReloadError> {
            fs::write(self.file(), text).unwrap();
            self.reloader.read()
        }
    }

    #[test]
    fn what_has_changed_is_found_until_it_is_in_force() {
        let mut scene = Scene::started_with("listen = 'here'\nmember = ['a']\n");
        assert!(scene.reloader.read().unwrap().changed.is_empty());
        let text = "listen = 'there'\nmember = ['a', 'b']\nopen = true\n";
        let reread = scene.reread(text).unwrap();
        assert_eq!(reread.changed, ["listen", "member", "open"]);
        assert_eq!(reread.matches.get_one::<String>("listen").map(String::as_str), Some("there"));
        scene.reloader.accept(reread);
        assert_eq!(scene.reread(text).unwrap().changed, ["member"], "it takes a restart, and is named again");
        assert_eq!(
            scene.reread("member = ['a']").unwrap().changed,
            ["listen", "open"],
            "back to the defaults"
        );
    }

    #[test]
    fn what_the_command_line_says_still_wins() {
        let scene = Scene::started_with("");
        assert!(scene.reread("id = 7").unwrap().changed.is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused_whole() {
        let scene = Scene::started_with("listen = 'here'\n");
        for (text, expect) in [
            ("listen = 'there'\nlisten = 'elsewhere'", "duplicate"),
            ("listen = 'there'\nno-such = 1", "no-such"),
            ("listen = 'there'\nopen = 7", "open"),
            ("listen = ", "f.toml"),
        ] {
            let error = scene.reread(text).unwrap_err().to_string();
            assert!(error.contains(expect), "{text}: {error}");
        }
        fs::remove_file(scene.file()).unwrap();
        assert!(scene.reloader.read().is_err());
    }

    #[test]
    fn help_says_what_is_read_again() {
        let mut marked = mark_reloaded(command(), RELOADED);
        let help = marked.render_long_help().to_string();
        assert_eq!(help.matches(MARK).count(), RELOADED.len(), "{help}");
    }
}
