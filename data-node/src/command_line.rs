//! What the program is told to be: a data node, or, as `edge`, the host before some, or, as `check`, one that looks at their
//! directories.

use std::{
    env,
    io::{self, Write as _},
    process,
};

use clap::{ArgMatches, Args as _, CommandFactory as _, Error, FromArgMatches as _, error::ErrorKind};
use xdpfs_settings::{Reloader, Settings, mark_reloaded};

use crate::{check::CheckArguments, config::Arguments, edge::EdgeArguments};

const CHECK: &str = "check";
const EDGE: &str = "edge";
/// The options of nodes and edges that are read again while they run. Certificates are followed all the time.
const RELOADED: &[&str] = &["log", "scrub-rate", "scrub-interval"];

/// The parsed command line.
#[derive(Clone, Debug)]
pub enum CommandLine {
    /// Look at directories that no node uses.
    Check(CheckArguments),
    /// Stand before data nodes.
    Edge(EdgeArguments),
    /// Be one.
    Node(Arguments),
}

impl CommandLine {
    /// The program's own, with what its environment and its file say, and what reads them again. Ends the process with a
    /// word about it if it makes no sense, and if it was only to be shown.
    #[must_use]
    pub fn of_process() -> (Self, Reloader) {
        let command = command();
        let settings = Settings::read(&command, env::args_os())
            .unwrap_or_else(|error| command.clone().error(ErrorKind::InvalidValue, error).exit());
        let matches = command.clone().get_matches_from(settings.words());
        let line = Self::from_matches(&matches).unwrap_or_else(|error| error.exit());
        if line.is_question() {
            let shown = match matches.subcommand().zip(command.find_subcommand(EDGE)) {
                Some(((_, matches), edge)) => settings.show(edge, matches),
                None => settings.show(&command, &matches),
            };
            // Whoever has closed the other end does not want to know.
            let _ = io::stdout().write_all(shown.as_bytes());
            process::exit(0);
        }
        let reloader = Reloader::new(command, env::args_os(), &matches, RELOADED);
        (line, reloader)
    }

    /// Whether somebody only wants to know what it comes to.
    const fn is_question(&self) -> bool {
        match self {
            Self::Check(_) => false,
            Self::Edge(arguments) => arguments.show_config,
            Self::Node(arguments) => arguments.show_config,
        }
    }

    /// What was parsed already.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_matches(matches: &ArgMatches) -> Result<Self, Error> {
        match matches.subcommand() {
            Some((CHECK, matches)) => CheckArguments::from_arg_matches(matches).map(Self::Check),
            Some((EDGE, matches)) => EdgeArguments::from_arg_matches(matches).map(Self::Edge),
            _ => Arguments::from_arg_matches(matches).map(Self::Node),
        }
    }
}

/// The node's arguments, as they are without any subcommand. They are looked at only if there is none, so that an
/// environment made for a node doesn't get in an edge's way.
fn command() -> clap::Command {
    mark_reloaded(Arguments::command(), RELOADED)
        .subcommand(mark_reloaded(EdgeArguments::command().name(EDGE), RELOADED))
        .subcommand(CheckArguments::augment_args(clap::Command::new(CHECK)))
        .args_conflicts_with_subcommands(true)
        .subcommand_negates_reqs(true)
        .disable_help_subcommand(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<CommandLine, Error> {
        let matches = command().try_get_matches_from(line.split_whitespace())?;
        CommandLine::from_matches(&matches)
    }

    #[test]
    fn first_word_decides_what_the_program_is() {
        assert!(matches!(parsed("node --data-dir /d --meta a:1"), Ok(CommandLine::Node(_))));
        assert!(matches!(parsed("node edge --meta a:1"), Ok(CommandLine::Edge(_))));
        assert!(parsed("node --data-dir /d --meta a:1 edge --meta a:1").is_err());
        assert!(matches!(parsed("node check /d /e --json"), Ok(CommandLine::Check(_))));
        assert!(parsed("node check").is_err() && parsed("node check --data-dir /d").is_err());
        assert!(parsed("node edge --data-dir /d --meta a:1").is_err());
        assert!(parsed("node --meta a:1").is_err(), "a node needs its directory all the same");
    }

    #[test]
    fn every_argument_is_well_formed() {
        command().debug_assert();
    }
}
