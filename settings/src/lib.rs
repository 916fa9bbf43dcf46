//! Options of a server from a file, beside its command line and its environment, and where each came from.
//!
//! A file is TOML: each key is a long option of the server without its dashes. Invariant: a file can say nothing that the
//! command line can't, and whatever it says passes the same checks, because its values are put among the words of the
//! command line before that is parsed. What the command line or the environment says wins. [`Reloader`] reads it all again
//! while the server runs.

mod file;
mod reload;
mod show;

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{Arg, ArgMatches, Command};

pub use self::{
    file::SettingsError,
    reload::{ReloadError, Reloader, Reread, mark_reloaded},
};

/// The option that names the file.
pub const CONFIG: &str = "config";

/// What a server was told, in all ways.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Settings {
    words: Vec<OsString>,
    file: Option<PathBuf>,
    /// Options that only the file gives.
    from_file: BTreeSet<String>,
}

impl Settings {
    /// Adds what a file says to the `words` of a command line, of which the first is the program. The file is the one
    /// that `--config` or its variable names; without it nothing is added. `command` has the options; if the first word
    /// behind the program is a subcommand, that one has.
    ///
    /// # Errors
    /// The file can't be read, or says something that makes no sense.
    pub fn read(command: &Command, words: impl IntoIterator<Item = OsString>) -> Result<Self, SettingsError> {
        Self::read_in(command, words, |name| std::env::var_os(name))
    }

    fn read_in(
        command: &Command,
        words: impl IntoIterator<Item = OsString>,
        variable: impl Fn(&OsStr) -> Option<OsString>,
    ) -> Result<Self, SettingsError> {
        let mut words: Vec<_> = words.into_iter().collect();
        let subcommand = words.get(1).and_then(|word| command.find_subcommand(word));
        let (command, start) = subcommand.map_or((command, 1), |subcommand| (subcommand, 2));
        let given = |name: &str| value_of(words.get(start..).unwrap_or_default(), name);
        let set = |arg: &Arg| arg.get_env().and_then(&variable);
        let named = given(CONFIG).flatten().or_else(|| option(command, CONFIG).and_then(set));
        let Some(path) = named.filter(|path| !path.is_empty()).map(PathBuf::from) else {
            return Ok(Self { words, file: None, from_file: BTreeSet::new() });
        };
        let (mut added, mut from_file) = (Vec::new(), BTreeSet::new());
        for (name, values) in file::read(&path, command)? {
            let is_overruled = given(&name).is_some() || option(command, &name).and_then(set).is_some();
            if !is_overruled && !values.is_empty() {
                added.extend(values);
                from_file.insert(name);
            }
        }
        let start = start.min(words.len());
        words.splice(start..start, added);
        Ok(Self { words, file: Some(path), from_file })
    }

    /// The words of a command line that says it all.
    #[must_use]
    pub fn words(&self) -> &[OsString] {
        &self.words
    }

    /// Every option of `command` with its value and where that came from, as a file that can be used for `--config`.
    #[must_use]
    pub fn show(&self, command: &Command, matches: &ArgMatches) -> String {
        show::show(command, matches, &|name| match &self.file {
            Some(file) if self.from_file.contains(name) => Some(file),
            Some(_) | None => None,
        })
    }
}

/// The option with this long name.
fn option<'c>(command: &'c Command, name: &str) -> Option<&'c Arg> {
    command.get_arguments().find(|arg| arg.get_long() == Some(name))
}

/// What the words say of an option: nothing, that it is there, or what it is.
fn value_of(words: &[OsString], name: &str) -> Option<Option<OsString>> {
    let long = format!("--{name}");
    let at = words.iter().position(|word| {
        let rest = word.to_str().and_then(|word| word.strip_prefix(&long));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })?;
    let inline = words[at].to_str().and_then(|word| word.split_once('=')).map(|(_, value)| value.into());
    Some(inline.or_else(|| words.get(at + 1).cloned()))
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use clap::ArgAction;
    use tempfile::TempDir;

    use super::*;

    pub(crate) fn command() -> Command {
        let edge =
            Command::new("edge").arg(Arg::new("uplink").long("uplink")).arg(Arg::new(CONFIG).long(CONFIG));
        Command::new("server")
            .arg(Arg::new(CONFIG).long(CONFIG).env("TEST_CONFIG"))
            .arg(Arg::new("id").long("id").env("TEST_ID").required(true))
            .arg(Arg::new("member").long("member").action(ArgAction::Append))
            .arg(Arg::new("listen").long("listen").default_value("here"))
            .arg(Arg::new("open").long("open").action(ArgAction::SetTrue))
            .arg(Arg::new("log_json").long("log-json").action(ArgAction::SetTrue))
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true)
            .subcommand(edge)
    }

    struct Scene(TempDir);

    impl Scene {
        fn with(text: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            fs::write(directory.path().join("f.toml"), text).unwrap();
            Self(directory)
        }

        fn file(&self) -> PathBuf {
            self.0.path().join("f.toml")
        }

        fn read(&self, line: &str, variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
            let words = line.split_whitespace().map(OsString::from);
            let config = if line.contains("--config") { None } else { Some(self.file().into_os_string()) };
            Settings::read_in(&command(), words, |name| {
                let found = variables.iter().find(|(variable, _)| name == OsStr::new(variable));
                let found = found.map(|(_, value)| OsString::from(value));
                found.or_else(|| (name == OsStr::new("TEST_CONFIG")).then(|| config.clone()).flatten())
            })
        }

        fn line(&self, line: &str, variables: &[(&str, &str)]) -> String {
            let words = self.read(line, variables).unwrap().words;
            let words: Vec<_> = words.iter().map(|word| word.to_str().unwrap()).collect();
            words.join(" ")
        }
    }

    #[test]
    fn file_adds_what_nobody_else_says() {
        let scene = Scene::with("id = 7\nmember = ['a', 'b']\nopen = true\nlog-json = false\n");
        assert_eq!(scene.line("server", &[]), "server --id=7 --member=a --member=b --open");
        assert_eq!(scene.line("server --id 1", &[]), "server --member=a --member=b --open --id 1");
        assert_eq!(scene.line("server --id=1 --open", &[]), "server --member=a --member=b --id=1 --open");
        assert_eq!(scene.line("server --member c", &[("TEST_ID", "9")]), "server --open --member c");
    }

    #[test]
    fn file_of_a_subcommand_has_its_options() {
        let scene = Scene::with("uplink = 'eth0'\n");
        let line = format!("server edge --config {}", scene.file().display());
        assert_eq!(
            scene.line(&line, &[]),
            format!("server edge --uplink=eth0 --config {}", scene.file().display())
        );
        let named_inline = format!("server edge --config={}", scene.file().display());
        assert!(scene.line(&named_inline, &[]).contains("--uplink=eth0"));
    }

    #[test]
    fn without_a_file_nothing_is_added() {
        let words = ["server", "--id", "1"].map(OsString::from);
        let settings = Settings::read_in(&command(), words.clone(), |_| None).unwrap();
        assert_eq!((settings.words, settings.file), (words.to_vec(), None));
    }

    #[test]
    fn what_makes_no_sense_is_named_with_the_file() {
        let check = |text: &str, expect: &str| {
            let scene = Scene::with(text);
            let error = scene.read("server", &[]).unwrap_err().to_string();
            assert!(error.contains(expect) && error.contains("f.toml"), "{text}: {error}");
        };
        check("idd = 1", "idd");
        check("id = 1\nid = 2", "duplicate");
        check("[server]\nid = 1", "server");
        check("open = 'yes'", "open");
        check("id = [", "f.toml");
        check("config = 'other.toml'", "config");
        check("id = true", "id");
        check("help = true", "help");
        let missing =
            Settings::read_in(&command(), ["s", "--config", "/nowhere"].map(OsString::from), |_| None);
        assert!(missing.unwrap_err().to_string().contains("/nowhere"));
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        let scene = Scene::with("member = ['a,b', 'c\"d']\nopen = true\n");
        let settings = scene.read("server --id 7", &[]).unwrap();
        let matches = command().try_get_matches_from(settings.words()).unwrap();
        let shown = settings.show(&command(), &matches);
        for line in ["id = 7", "# command line", "listen = \"here\"", "# default", "open = true"] {
            assert!(shown.contains(line), "{line} is missing in\n{shown}");
        }
        assert!(shown.contains(&format!("# file {}", scene.file().display())), "{shown}");
        let again = Scene::with(&shown).read("server", &[]).unwrap();
        let same = command().try_get_matches_from(again.words()).unwrap();
        let members = |matches: &ArgMatches| -> Vec<String> {
            matches.get_many::<String>("member").unwrap().cloned().collect()
        };
        assert_eq!(members(&same), members(&matches));
        assert_eq!(same.get_one::<String>("id"), matches.get_one::<String>("id"));
        assert!(Path::new(&scene.file()).exists());
    }
}
