//! What a server was told, as a file.

use std::{fmt::Write as _, path::Path};

use clap::{Arg, ArgAction, ArgMatches, Command, parser::ValueSource};
use toml::Value;

use super::CONFIG;

/// Options that end the program instead of telling it something.
const QUESTIONS: &[&str] = &[CONFIG, "show-config", "help", "version"];
/// Where the origins stand, unless a value is longer.
const COLUMN: usize = 48;

/// Every option, with where it came from; `file` knows those that a file gave.
pub(crate) fn show<'p>(
    command: &Command,
    matches: &ArgMatches,
    file: &dyn Fn(&str) -> Option<&'p std::path::PathBuf>,
) -> String {
    let mut text = String::new();
    for arg in command.get_arguments() {
        let Some(name) = arg.get_long().filter(|name| !QUESTIONS.contains(name)) else { continue };
        let line = match value(arg, matches) {
            Some(value) => {
                let origin = origin(arg, matches, file(name).map(std::path::PathBuf::as_path));
                format!("{:<COLUMN$} # {origin}", format!("{name} = {value}"))
            }
            None => format!("# {name} is not set"),
        };
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "{line}");
    }
    text
}

/// Every option that has a value, with it.
pub(crate) fn values<'c>(
    command: &'c Command,
    matches: &'c ArgMatches,
) -> impl Iterator<Item = (&'c str, Value)> {
    let named = command.get_arguments().filter_map(|arg| Some((arg, arg.get_long()?)));
    let named = named.filter(|(_, name)| !QUESTIONS.contains(name));
    named.filter_map(|(arg, name)| Some((name, value(arg, matches)?)))
}

/// As TOML has it.
fn value(arg: &Arg, matches: &ArgMatches) -> Option<Value> {
    let name = arg.get_id().as_str();
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return Some(Value::Boolean(matches.get_flag(name)));
    }
    let mut values: Vec<_> =
        matches.get_raw(name)?.map(|raw| text_or_number(&raw.to_string_lossy())).collect();
    match arg.get_action() {
        ArgAction::Append => Some(Value::Array(values)),
        _ => values.pop(),
    }
}

fn text_or_number(text: &str) -> Value {
    // Only what looks the same again: a leading zero or a sign may mean something.
    let number = text.parse::<i64>().ok().filter(|number| number.to_string() == text);
    number.map_or_else(|| Value::String(text.to_owned()), Value::Integer)
}

fn origin(arg: &Arg, matches: &ArgMatches, file: Option<&Path>) -> String {
    match (matches.value_source(arg.get_id().as_str()), file) {
        (Some(ValueSource::EnvVariable), _) => {
            let name = arg.get_env().unwrap_or_default().to_string_lossy().into_owned();
            format!("environment {name}")
        }
        (Some(ValueSource::CommandLine), Some(file)) => format!("file {}", file.display()),
        (Some(ValueSource::CommandLine), None) => "command line".to_owned(),
        (_, _) => "default".to_owned(),
    }
}
