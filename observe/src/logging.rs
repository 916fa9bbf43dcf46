//! A process's log on standard error, whose filter can be changed while it runs.

use std::{
    fmt,
    io::{self, IsTerminal as _},
    str::FromStr,
};

use thiserror::Error;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

/// Which messages are logged, as `tracing_subscriber` reads it: `debug`, or by module,
/// `info,xdpfs_meta_server::consensus=debug`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogFilter(String);

/// What is no filter.
#[derive(Debug, Error)]
#[error("it is no filter of log messages: write a level, such as debug, or MODULE=LEVEL,...: {0}")]
pub struct LogFilterError(String);

/// Stands for the log of this process.
#[derive(Clone, Debug)]
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
}

/// Layers besides the log itself.
pub type MoreLayers = Vec<Box<dyn Layer<Registry> + Send + Sync>>;

impl FromStr for LogFilter {
    type Err = LogFilterError;

    fn from_str(text: &str) -> Result<Self, LogFilterError> {
        EnvFilter::try_new(text).map_err(|error| LogFilterError(error.to_string()))?;
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for LogFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl LogFilter {
    fn parsed(&self) -> EnvFilter {
        EnvFilter::new(&self.0)
    }
}

impl Log {
    /// From here on this process logs, as lines or as JSON, and into these layers besides.
    #[must_use]
    pub fn start(filter: &LogFilter, json: bool, mut layers: MoreLayers) -> Self {
        let (reloaded, handle) = reload::Layer::new(filter.parsed());
        let lines =
            tracing_subscriber::fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(io::stderr);
        let lines = if json { lines.json().boxed() } else { lines.boxed() };
        layers.push(lines.with_filter(reloaded).boxed());
        tracing_subscriber::registry().with(layers).init();
        Self { filter: handle }
    }

    /// Logs by another filter.
    pub fn set_filter(&self, filter: &LogFilter) {
        if self.filter.reload(filter.parsed()).is_err() {
            tracing::warn!("the log goes on by its old filter: it is not there any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_levels_and_modules() {
        let check = |text: &str, expect: bool| {
            assert_eq!(text.parse::<LogFilter>().is_ok(), expect, "{text}");
        };
        check("info", true);
        check("info,slog=warn", true);
        check("xdpfs_meta_server::consensus=debug", true);
        check("info,xdpfs=loud", false);
        check("a=b=c", false);
    }
}
