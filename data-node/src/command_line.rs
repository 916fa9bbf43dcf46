//! What the program is told to be: a data node, or, as `edge`, the host before some.

use clap::{ArgMatches, CommandFactory as _, Error, FromArgMatches as _};

use crate::{config::Arguments, edge::EdgeArguments};

const EDGE: &str = "edge";

/// The parsed command line.
#[derive(Clone, Debug)]
pub enum CommandLine {
    /// Stand before data nodes.
    Edge(EdgeArguments),
    /// Be one.
    Node(Arguments),
}

impl CommandLine {
    /// The program's own. Ends the process with a word about it if it makes no sense.
    #[must_use]
    pub fn parse() -> Self {
        let matches = command().get_matches();
        Self::from_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    fn from_matches(matches: &ArgMatches) -> Result<Self, Error> {
        match matches.subcommand() {
            Some((EDGE, matches)) => EdgeArguments::from_arg_matches(matches).map(Self::Edge),
            _ => Arguments::from_arg_matches(matches).map(Self::Node),
        }
    }
}

/// The node's arguments, as they are without any subcommand. They are looked at only if there is none, so that an
/// environment made for a node doesn't get in an edge's way.
fn command() -> clap::Command {
    Arguments::command()
        .subcommand(EdgeArguments::command().name(EDGE))
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
        assert!(parsed("node edge --data-dir /d --meta a:1").is_err());
        assert!(parsed("node --meta a:1").is_err(), "a node needs its directory all the same");
    }

    #[test]
    fn every_argument_is_well_formed() {
        command().debug_assert();
    }
}
