//! `man`: manual pages of all commands.

use std::path::PathBuf;

use clap::{Args, CommandFactory as _};

use crate::{
    arguments::Arguments,
    console::Console,
    failure::{Exit, Failure},
};

/// Write manual pages of all commands to a directory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xdpfs-cli man ~/.local/share/man/man1")]
pub(crate) struct ManArguments {
    /// The directory; made if it is not there.
    directory: PathBuf,
}

/// Writes the pages.
pub(crate) fn run(arguments: &ManArguments, console: &mut Console) -> Result<Exit, Failure> {
    let directory = &arguments.directory;
    let failed =
        |error: &_| Failure::local(format_args!("write manual pages to {}", directory.display()), error);
    std::fs::create_dir_all(directory).map_err(|error| failed(&error))?;
    clap_mangen::generate_to(Arguments::command(), directory).map_err(|error| failed(&error))?;
    console.note(&format!("wrote manual pages to {}", directory.display()));
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{Look, tests::Printed};

    #[test]
    fn every_command_gets_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = ManArguments { directory: directory.path().join("new/man1") };
        run(&arguments, &mut Printed::console(Look::default()).0).unwrap();
        let commands = Arguments::command();
        let mut pages = vec!["xdpfs-cli.1".to_owned()];
        pages.extend(commands.get_subcommands().map(|command| format!("xdpfs-cli-{}.1", command.get_name())));
        for page in pages {
            let text = std::fs::read_to_string(arguments.directory.join(&page)).expect(&page);
            assert!(text.contains(".SH SYNOPSIS"), "{page}");
        }
    }
}
