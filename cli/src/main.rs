//! `xdpfs-cli`: objects from the command line, and a whole cluster in one process for trying things out.
//!
//! Here is the frame of every run: arguments in, one command, exit code out. Invariant: whatever ends a run, puts that
//! were not finished are given up, drafts of files are gone, and the exit code says how it went.

mod address;
mod arguments;
mod authority_directory;
mod batch;
mod commands;
mod console;
mod draft;
mod failure;
mod local_path;
mod pour;
mod progress;
mod record;
mod signals;
mod units;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::{Parser as _, error::ErrorKind};
use tokio::runtime::Runtime;
use tracing_subscriber::{EnvFilter, Layer as _, layer::SubscriberExt as _, util::SubscriberInitExt as _};
use xdpfs_client::{Client, ObjectClient as _};
use xdpfs_trace::{TraceConfig, Tracing};

use crate::{
    arguments::{Arguments, Command, Common},
    commands::{
        certify, completions, debug, dev, doctor, health, init,
        key::{self, KeyArguments, KeyCommand},
        man, meta, xdp,
    },
    console::{Console, Look},
    failure::{Exit, Failure},
    signals::Signals,
};

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return tell_usage(&error).into(),
    };
    let mut console = Console::standard(Look { json: arguments.common.json, quiet: arguments.common.quiet });
    let outcome = start_runtime().and_then(|runtime| {
        let outcome = runtime.block_on(run(&arguments, &mut console));
        // A thread may wait for standard input for ever.
        runtime.shutdown_background();
        outcome
    });
    let outcome = outcome.and_then(|exit| console.flush().map(|()| exit));
    console.finish_progress();
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            console.failure(&failure);
            failure.exit.into()
        }
    }
}

async fn run(arguments: &Arguments, console: &mut Console) -> Result<Exit, Failure> {
    let mut tracing = tracing_of(&arguments.common);
    start_log(matches!(arguments.command, Command::Dev(_)), tracing.as_ref());
    if let Some(tracing) = &mut tracing {
        tracing.start().map_err(|error| Failure::local("start threads", &error))?;
    }
    let outcome = run_command(arguments, console).await;
    if let Some(tracing) = tracing {
        // Its time is bounded, and nothing else is left to be done.
        tracing.shutdown();
    }
    outcome
}

async fn run_command(arguments: &Arguments, console: &mut Console) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::Certify(arguments) => certify::run(arguments, console),
        Command::Completions(arguments) => completions::run(*arguments, console),
        Command::Debug(debug) => debug::run(debug, &arguments.common, console).await,
        Command::Dev(arguments) => dev::run(arguments, console).await,
        Command::Doctor(doctor) => doctor::run(doctor, &arguments.common, console).await,
        Command::Health(health) => health::run(health, &arguments.common, console).await,
        Command::Init(arguments) => init::run(arguments, console),
        Command::Key(KeyArguments { command: KeyCommand::Generate(arguments) }) => {
            key::generate(arguments, console)
        }
        Command::Man(arguments) => man::run(arguments, console),
        Command::Meta(meta) => meta::run(meta, &arguments.common, console).await,
        Command::Xdp(arguments) => xdp::run(arguments, console).await,
        command => {
            with_client(&arguments.common, async |client| commands::run(command, client, console).await).await
        }
    }
}

/// Does something that takes a cluster, until it ends or a signal ends it.
async fn with_client<T>(
    common: &Common,
    work: impl AsyncFnOnce(&Client) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let config = common.client_config()?;
    let mut signals = Signals::listen()?;
    let client = Client::connect(config)?;
    let outcome = tokio::select! {
        outcome = work(&client) => outcome,
        exit = signals.next() => Err(Failure::signal(exit)),
    };
    client.close().await;
    outcome
}

fn start_runtime() -> Result<Runtime, Failure> {
    Runtime::new().map_err(|error| Failure::local("start threads", &error))
}

fn tracing_of(common: &Common) -> Option<Tracing> {
    let endpoint = common.otlp_endpoint.clone()?;
    let (service, version) = ("xdpfs-cli", env!("CARGO_PKG_VERSION"));
    Some(Tracing::new(&TraceConfig { endpoint, ratio: common.trace_sample, service, version }))
}

/// Logs go to standard error. A cluster in this process may warn; a client's failures are told by the command.
fn start_log(is_cluster: bool, tracing: Option<&Tracing>) {
    let default = if is_cluster { dev::LOG_FILTER } else { "off" };
    let filter = EnvFilter::try_from_env("XDPFS_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let stderr = std::io::stderr;
    let log = tracing_subscriber::fmt::layer().with_ansi(stderr().is_terminal()).with_writer(stderr);
    // Not a list of layers: an empty one switches the log off, too.
    let traces = tracing.map(Tracing::layer);
    tracing_subscriber::registry().with(traces).with(log.with_filter(filter)).init();
}

/// Tells what clap has to say, which may be the help that was asked for.
fn tell_usage(error: &clap::Error) -> Exit {
    let is_json = std::env::args_os().any(|argument| argument == "--json");
    if is_json && error.use_stderr() && error.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let failure = Failure::usage(usage_message(error)).with_hint("see xdpfs-cli --help");
        Console::standard(Look { json: true, quiet: false }).failure(&failure);
        return Exit::Usage;
    }
    // Nobody is left to be told if the stream is gone.
    let _gone = error.print();
    if error.use_stderr() { Exit::Usage } else { Exit::Done }
}

/// The first paragraph of what clap has to say, as one line: what is wrong, and which arguments it is about.
fn usage_message(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines: Vec<_> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let message = lines.join(" ");
    message.strip_prefix("error: ").unwrap_or(&message).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usage_error_names_the_arguments_that_it_is_about() {
        let check = |line: &str, expect: &str| {
            let words = ["xdpfs-cli"].into_iter().chain(line.split_whitespace());
            assert_eq!(usage_message(&Arguments::try_parse_from(words).unwrap_err()), expect);
        };
        check("put", "the following required arguments were not provided: <SRC>... <DST>");
        check("ls --no", "unexpected argument '--no' found");
        check(
            "completions tcl",
            "invalid value 'tcl' for '<SHELL>' [possible values: bash, elvish, fish, powershell, zsh]",
        );
    }
}
