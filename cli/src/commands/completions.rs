//! `completions`: a script that completes command lines.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::{
    arguments::Arguments,
    console::Console,
    failure::{Exit, Failure},
};

/// Print a script that completes command lines in a shell.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
Examples:
  xdpfs-cli completions bash > ~/.local/share/bash-completion/completions/xdpfs-cli
  xdpfs-cli completions zsh > ~/.zfunc/_xdpfs-cli
  xdpfs-cli completions fish > ~/.config/fish/completions/xdpfs-cli.fish")]
pub(crate) struct CompletionsArguments {
    /// The shell.
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(arguments: CompletionsArguments, console: &mut Console) -> Result<Exit, Failure> {
    console.text(&script(arguments.shell))?;
    Ok(Exit::Done)
}

fn script(shell: Shell) -> String {
    let mut script = vec![];
    clap_complete::generate(shell, &mut Arguments::command(), "xdpfs-cli", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    // clap_complete 4.6 writes the dash of a program's name in two ways, and bash then finds none of its commands.
    if shell == Shell::Bash { script.replace("xdpfs__subcmd__cli", "xdpfs__cli") } else { script }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for word in ["xdpfs-cli", "put", "status", "if-none-match"] {
                assert!(script.contains(word), "{shell} {word}");
            }
        }
    }

    #[test]
    fn bash_finds_the_options_of_every_command() {
        let script = script(Shell::Bash);
        let labels: Vec<_> =
            script.lines().filter_map(|line| line.trim().strip_prefix("cmd=\"xdpfs")).collect();
        assert!(labels.len() > Arguments::command().get_subcommands().count());
        for label in labels {
            let case = format!("\n        xdpfs{})\n", label.trim_end_matches('"'));
            assert!(script.contains(&case), "{label}");
        }
    }
}
