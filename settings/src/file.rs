//! The file: its values as words of a command line.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Arg, ArgAction, Command};
use thiserror::Error;
use toml::{Table, Value};

use super::{CONFIG, option};

/// Options of a file that is being read, in its order, each as words.
type Options = Vec<(String, Vec<OsString>)>;

/// Why a file can't be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The file can't be read.
    #[error("the configuration file {} can't be read: {source}", .path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is no TOML.
    #[error("the configuration file {} is no TOML: {source}", .path.display())]
    Malformed {
        /// Which one.
        path: PathBuf,
        /// What is wrong, and where.
        source: Box<toml::de::Error>,
    },
    /// There is no such option.
    #[error("the configuration file {} has the unknown key {key:?}: keys are the long options in --help", .path.display())]
    UnknownKey {
        /// Which one.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// The option can't have such a value.
    #[error("the configuration file {} has a value for {key:?} that is not {wanted}", .path.display())]
    WrongKind {
        /// Which one.
        path: PathBuf,
        /// The key.
        key: String,
        /// What it should be.
        wanted: &'static str,
    },
}

/// All options of the file at `path`, which must be those of `command`.
pub(crate) fn read(path: &Path, command: &Command) -> Result<Options, SettingsError> {
    let text = fs::read_to_string(path)
        .map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
    let table: Table = toml::from_str(&text)
        .map_err(|source| SettingsError::Malformed { path: path.to_owned(), source: Box::new(source) })?;
    let mut options = Options::new();
    for (key, value) in table {
        let arg = option(command, &key).filter(|_| key != CONFIG);
        let arg = arg.ok_or_else(|| SettingsError::UnknownKey { path: path.to_owned(), key: key.clone() })?;
        let words = words(arg, &key, &value);
        let words = words.map_err(|wanted| SettingsError::WrongKind {
            path: path.to_owned(),
            key: key.clone(),
            wanted,
        })?;
        options.push((key, words));
    }
    Ok(options)
}

/// The value as words, or what it should have been.
fn words(arg: &Arg, key: &str, value: &Value) -> Result<Vec<OsString>, &'static str> {
    let word = |value: &Value| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Array(_) | Value::Boolean(_) | Value::Datetime(_) | Value::Table(_) => {
                return Err("text or a number");
            }
        };
        Ok(OsString::from(format!("--{key}={text}")))
    };
    match (arg.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(is_set)) => {
            Ok(if *is_set { vec![format!("--{key}").into()] } else { Vec::new() })
        }
        (ArgAction::SetTrue, _) => Err("true or false"),
        (ArgAction::Append, Value::Array(values)) => values.iter().map(word).collect(),
        (ArgAction::Append | ArgAction::Set, value) => word(value).map(|word| vec![word]),
        (_, _) => Err("of use in a file"),
    }
}
