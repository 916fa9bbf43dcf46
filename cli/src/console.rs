//! Where everything printed passes through: results to standard output, the rest to standard error.
//!
//! Invariant: standard output carries only what was asked for. A line is written whole or not at all, and never over a
//! progress bar.

use std::{
    fmt::Write as _,
    io::{self, BufWriter, IsTerminal as _, Write},
};

use serde::Serialize;

use crate::{failure::Failure, progress::Progress, record::ErrorRecord};

/// How results look.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Look {
    /// JSON, one object per line.
    pub(crate) json: bool,
    /// Results that were asked for and errors only.
    pub(crate) quiet: bool,
}

/// Both streams, and the bar that may stand on the second.
pub(crate) struct Console {
    look: Look,
    out: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
    progress: Progress,
}

impl Console {
    /// The streams of this process.
    pub(crate) fn standard(look: Look) -> Self {
        Self::new(look, Box::new(BufWriter::new(io::stdout())), Box::new(io::stderr()))
    }

    /// Streams of any kind.
    pub(crate) fn new(look: Look, out: Box<dyn Write + Send>, err: Box<dyn Write + Send>) -> Self {
        Self { look, out, err, progress: Progress::hidden() }
    }

    /// A bar for bytes that are about to move, hidden where it would be in the way.
    pub(crate) fn start_progress(&mut self, bytes_go_to_stdout: bool) -> Progress {
        let in_the_way =
            self.look.json || self.look.quiet || (bytes_go_to_stdout && io::stdout().is_terminal());
        if !in_the_way && io::stderr().is_terminal() {
            self.progress = Progress::on_stderr();
        }
        self.progress.clone()
    }

    /// Whether results are JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.look.json
    }

    /// Prints what was asked for.
    pub(crate) fn answer<R: Serialize>(
        &mut self,
        record: &R,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if self.look.json { self.json_line(record) } else { self.text(&text()) }
    }

    /// Takes the bar away for good.
    pub(crate) fn finish_progress(&mut self) {
        self.progress.finish();
    }

    /// Prints that something was done; people may not want to know.
    pub(crate) fn confirm<R: Serialize>(
        &mut self,
        record: &R,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if !self.look.json && self.look.quiet {
            return Ok(());
        }
        self.answer(record, text)?;
        self.flush()
    }

    /// Prints text whatever the look: scripts, for example.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        let out = &mut self.out;
        let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
        let written = self.progress.suspend(|| write!(out, "{text}{end}"));
        written.map_err(|error| Failure::stdout(&error))
    }

    /// Hands on what is still buffered.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        let out = &mut self.out;
        self.progress.suspend(|| out.flush()).map_err(|error| Failure::stdout(&error))
    }

    /// Tells why something was not done.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        if failure.is_silent() {
            return;
        }
        let mut text = String::new();
        if self.look.json {
            text = serde_json::to_string(&ErrorRecord::from(failure)).unwrap_or_default();
            text.push('\n');
        } else {
            // Writing to a string cannot fail.
            let _infallible = writeln!(text, "xdpfs-cli: {}", failure.message);
            if let Some(hint) = &failure.hint {
                let _infallible = writeln!(text, "  hint: {hint}");
            }
        }
        self.complain(&text);
    }

    /// Says something in passing, to people only.
    pub(crate) fn note(&mut self, note: &str) {
        if !self.look.json && !self.look.quiet {
            self.complain(&format!("xdpfs-cli: {note}\n"));
        }
    }

    fn complain(&mut self, text: &str) {
        let err = &mut self.err;
        // Nobody is left to be told if standard error is gone.
        let _gone = self.progress.suspend(|| err.write_all(text.as_bytes()).and_then(|()| err.flush()));
    }

    fn json_line<R: Serialize>(&mut self, record: &R) -> Result<(), Failure> {
        let line = serde_json::to_string(record)
            .map_err(|error| Failure::machine(format!("cannot write a result as JSON: {error}")))?;
        self.text(&line)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::{address::Address, failure::Exit};

    /// What a console in a test has printed.
    #[derive(Clone, Default)]
    pub(crate) struct Printed {
        out: Buffer,
        err: Buffer,
    }

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Printed {
        /// A console, and what it prints.
        pub(crate) fn console(look: Look) -> (Console, Self) {
            let printed = Self::default();
            let console = Console::new(look, Box::new(printed.out.clone()), Box::new(printed.err.clone()));
            (console, printed)
        }

        pub(crate) fn out(&self) -> String {
            String::from_utf8(self.out.0.lock().unwrap().clone()).unwrap()
        }

        pub(crate) fn err(&self) -> String {
            String::from_utf8(self.err.0.lock().unwrap().clone()).unwrap()
        }
    }

    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn errors_are_words_with_a_hint_or_one_json_object() {
        let failure = Failure::not_found("there is no \"x\"")
            .with_hint("look\nelsewhere")
            .about(&Address::new("b", "x"));
        let check = |json, expect: &str| {
            let (mut console, printed) = Printed::console(Look { json, quiet: true });
            console.failure(&failure);
            assert_eq!(printed.err(), expect);
            assert_eq!(printed.out(), "");
        };
        check(false, "xdpfs-cli: there is no \"x\"\n  hint: look\nelsewhere\n");
        check(
            true,
            concat!(
                r#"{"error":{"kind":"not_found","message":"there is no \"x\"","#,
                r#""hint":"look\nelsewhere","bucket":"b","key":"x"}}"#,
                "\n"
            ),
        );
    }

    #[test]
    fn quiet_drops_confirmations_but_never_answers_or_json() {
        let check = |look, expect: &str| {
            let (mut console, printed) = Printed::console(look);
            console.answer(&1, || "answer".into()).unwrap();
            console.confirm(&2, || "confirmation".into()).unwrap();
            console.note("by the way");
            assert_eq!(printed.out(), expect, "{look:?}");
            assert_eq!(printed.err().is_empty(), look != Look::default());
        };
        check(Look::default(), "answer\nconfirmation\n");
        check(Look { quiet: true, json: false }, "answer\n");
        check(Look { quiet: false, json: true }, "1\n2\n");
        check(Look { quiet: true, json: true }, "1\n2\n");
    }

    #[test]
    fn a_reader_that_left_ends_the_run_in_silence() {
        let printed = Printed::default();
        let mut console = Console::new(Look::default(), Box::new(Gone), Box::new(printed.err.clone()));
        let failure = console.text("text").unwrap_err();
        console.failure(&failure);
        assert_eq!((failure.exit, printed.err().as_str()), (Exit::BrokenPipe, ""));
    }
}
