//! What a client is told in words: by the environment, as the command line tool reads it, or by a table of options, as
//! programs around the SDK have them.
//!
//! Invariant: what is said in words passes the same checks as what is said in types, and no error repeats a secret.

use std::{env, fs::File, io, io::Read as _, path::PathBuf, str::FromStr, time::Duration};

use xdpfs_trust::{TlsTrust, TrustError};

use crate::{AccessKey, ClientConfig, EndpointsError, ParseAccessKeyError};

/// An access key and white space around it are shorter.
const ACCESS_KEY_FILE_BYTES_MAX: u64 = 4096;

/// How to reach a cluster, as text says it. What is not said is as in [`ClientConfig::new`].
///
/// ```
/// use xdpfs_client::ClientOptions;
///
/// let mut options = ClientOptions::default();
/// options.set("endpoint", "127.0.0.1:7001,127.0.0.1:7002")?;
/// options.set("timeout", "5s")?;
/// let config = options.config()?;
/// assert_eq!(config.endpoints.iter().count(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClientOptions {
    /// The metadata servers, separated by commas.
    pub endpoint: Option<String>,
    /// The CA of the cluster (`ca.pem`).
    pub ca: Option<PathBuf>,
    /// What is shown to the metadata servers. It counts before `access_key_file`.
    pub access_key: Option<AccessKey>,
    /// A file with the access key.
    pub access_key_file: Option<PathBuf>,
    /// Whether the access key may leave this machine in plain text.
    pub insecure_key: bool,
    /// How long a request is retried before it fails.
    pub timeout: Option<Duration>,
}

/// Why a client can't be made of what it was told.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// An option is not of the form that it has.
    #[error("{value:?} is not a value of {name}: {expected}")]
    BadValue {
        /// The option.
        name: &'static str,
        /// What was said.
        value: String,
        /// What can be said.
        expected: &'static str,
    },
    /// The CA can't be used.
    #[error("the CA can't be used")]
    Ca(#[source] TrustError),
    /// The endpoints make no sense, alone or beside the CA.
    #[error(transparent)]
    Endpoints(#[from] EndpointsError),
    /// The access key is not one.
    #[error("{place}: {source}")]
    Key {
        /// Where it was found.
        place: String,
        /// What is wrong.
        #[source]
        source: ParseAccessKeyError,
    },
    /// The file with the access key can't be read.
    #[error("cannot read the access key in {path}")]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No metadata server is named.
    #[error("no metadata server is named: say `endpoint`, or set XDPFS_ENDPOINT")]
    NoEndpoint,
    /// There is no such option.
    #[error("there is no option {0:?}")]
    Unknown(String),
}

/// An option's name in tables, and the variable of the environment that says it.
const NAMES: [(&str, &str); 6] = [
    ("endpoint", "XDPFS_ENDPOINT"),
    ("ca", "XDPFS_CA"),
    ("access_key", "XDPFS_ACCESS_KEY"),
    ("access_key_file", "XDPFS_ACCESS_KEY_FILE"),
    ("insecure_key", "XDPFS_INSECURE_KEY"),
    ("timeout", "XDPFS_TIMEOUT"),
];

impl ClientOptions {
    /// What the environment says, by the variables that the command line tool reads: `XDPFS_ENDPOINT`, `XDPFS_CA`,
    /// `XDPFS_ACCESS_KEY`, `XDPFS_ACCESS_KEY_FILE`, `XDPFS_INSECURE_KEY` and `XDPFS_TIMEOUT`. Empty ones count for nothing.
    ///
    /// # Errors
    /// [`OptionsError::BadValue`] or [`OptionsError::Key`] for the first that makes no sense.
    pub fn from_env() -> Result<Self, OptionsError> {
        Self::from_variables(|name| env::var(name).ok())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, OptionsError> {
        let mut options = Self::default();
        for (name, variable_name) in NAMES {
            if let Some(value) = variable(variable_name).filter(|value| !value.is_empty()) {
                options.set(name, &value)?;
            }
        }
        // As the command line tool has it: a file that is named counts before a key in the environment.
        if options.access_key_file.is_some() {
            options.access_key = None;
        }
        Ok(options)
    }

    /// Says one option: `endpoint`, `ca`, `access_key`, `access_key_file`, `insecure_key` or `timeout`.
    ///
    /// # Errors
    /// There is no such option, or it has no such value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), OptionsError> {
        match name {
            "access_key" => {
                let key = value.parse::<AccessKey>();
                let key = key.map_err(|source| OptionsError::Key { place: name.to_owned(), source })?;
                self.access_key = Some(key);
            }
            "access_key_file" => self.access_key_file = Some(value.into()),
            "ca" => self.ca = Some(value.into()),
            "endpoint" => self.endpoint = Some(value.to_owned()),
            "insecure_key" => self.insecure_key = parse("insecure_key", value, "true or false")?,
            "timeout" => {
                let expected = "a time with its unit, such as 30s or 500ms, and not zero";
                let bad = || OptionsError::BadValue { name: "timeout", value: value.to_owned(), expected };
                let timeout = humantime::parse_duration(value).map_err(|_unit| bad())?;
                self.timeout = Some(Some(timeout).filter(|timeout| !timeout.is_zero()).ok_or_else(bad)?);
            }
            unknown => return Err(OptionsError::Unknown(unknown.to_owned())),
        }
        Ok(())
    }

    /// Whether there is an option of this name.
    #[must_use]
    pub fn is_option(name: &str) -> bool {
        NAMES.iter().any(|(known, _)| *known == name)
    }

    /// What a client is made of. Reads the files that are named.
    ///
    /// # Errors
    /// What makes no sense, or can't be read.
    pub fn config(&self) -> Result<ClientConfig, OptionsError> {
        let endpoint = self.endpoint.as_deref().ok_or(OptionsError::NoEndpoint)?;
        let defaults = ClientConfig::new(endpoint.parse()?);
        let tls = self.ca.as_deref().map(TlsTrust::from_ca_file).transpose().map_err(OptionsError::Ca)?;
        defaults.endpoints.check(tls.as_ref())?;
        let deadline = self.timeout.unwrap_or(defaults.deadline);
        Ok(ClientConfig {
            tls,
            deadline,
            first_contact: defaults.first_contact.min(deadline),
            attempt_timeout: defaults.attempt_timeout.min(deadline),
            access_key: self.key()?,
            insecure_key: self.insecure_key,
            ..defaults
        })
    }

    fn key(&self) -> Result<Option<AccessKey>, OptionsError> {
        let (None, Some(path)) = (&self.access_key, &self.access_key_file) else {
            return Ok(self.access_key.clone());
        };
        let mut text = String::new();
        let read =
            File::open(path).and_then(|file| file.take(ACCESS_KEY_FILE_BYTES_MAX).read_to_string(&mut text));
        read.map_err(|source| OptionsError::KeyFile { path: path.clone(), source })?;
        let key = text.parse::<AccessKey>();
        key.map(Some).map_err(|source| OptionsError::Key { place: path.display().to_string(), source })
    }
}

fn parse<T: FromStr>(name: &'static str, value: &str, expected: &'static str) -> Result<T, OptionsError> {
    let bad = |_error| OptionsError::BadValue { name, value: value.to_owned(), expected };
    value.parse::<T>().map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Result<ClientOptions, OptionsError> {
        ClientOptions::from_variables(|name| {
            pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn environment_says_what_the_command_line_tool_understands_by_it() {
        let options = variables(&[
            ("XDPFS_ENDPOINT", "a:1,b:2"),
            ("XDPFS_TIMEOUT", "1500ms"),
            ("XDPFS_ACCESS_KEY", "XKABC.SECRET"),
            ("XDPFS_CA", ""),
        ]);
        let config = options.unwrap().config().unwrap();
        assert_eq!(config.endpoints.iter().collect::<Vec<_>>(), ["a:1", "b:2"]);
        assert_eq!(
            (config.deadline, config.attempt_timeout),
            (Duration::from_millis(1500), Duration::from_millis(1500))
        );
        assert_eq!(config.access_key.map(|key| key.id().to_owned()).as_deref(), Some("XKABC"));
    }

    #[test]
    fn key_in_a_file_counts_before_one_in_the_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "XKFILE.SECRET\n").unwrap();
        let path = file.path().to_str().unwrap();
        let pairs =
            [("XDPFS_ENDPOINT", "a:1"), ("XDPFS_ACCESS_KEY", "XKENV.S"), ("XDPFS_ACCESS_KEY_FILE", path)];
        let options = variables(&pairs).unwrap();
        assert_eq!(options.config().unwrap().access_key.unwrap().id(), "XKFILE");
    }

    #[test]
    fn what_makes_no_sense_is_named_and_no_secret_repeated() {
        let check = |name: &str, value: &str| {
            let error = ClientOptions::default().set(name, value).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
            assert!(!error.to_string().contains("SECRET"), "{error}");
        };
        check("timeout", "soon");
        check("timeout", "0s");
        check("insecure_key", "perhaps");
        check("access_key", "XK ABC.SECRET");
        check("endpiont", "a:1");
        assert!(matches!(ClientOptions::default().config(), Err(OptionsError::NoEndpoint)));
        let tls = ClientOptions { endpoint: Some("https://a:1".to_owned()), ..ClientOptions::default() };
        assert!(matches!(tls.config(), Err(OptionsError::Endpoints(EndpointsError::NoCa))));
    }
}
