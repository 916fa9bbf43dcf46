//! A bar on standard error for bytes that move. Hidden, it costs nothing and everything may still talk to it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::io::AsyncRead;

const DRAWN_PER_SECOND: u8 = 10;
const STEADY_TICK: Duration = Duration::from_millis(200);
const TEMPLATE: &str = "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
/// For bytes whose number nobody knows.
const ENDLESS_TEMPLATE: &str = "{spinner} {binary_bytes} {binary_bytes_per_sec}";

/// Clones move the same bar.
#[derive(Clone, Debug)]
pub(crate) struct Progress(ProgressBar);

impl Progress {
    /// A bar that nobody sees.
    pub(crate) fn hidden() -> Self {
        Self(ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden()))
    }

    /// A bar for people.
    pub(crate) fn on_stderr() -> Self {
        let bar =
            ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr_with_hz(DRAWN_PER_SECOND));
        set_style(&bar, TEMPLATE);
        bar.enable_steady_tick(STEADY_TICK);
        Self(bar)
    }

    /// So many more bytes will move, if anybody knows.
    pub(crate) fn expect(&self, bytes: Option<u64>) {
        match bytes {
            Some(bytes) => self.0.inc_length(bytes),
            None => set_style(&self.0, ENDLESS_TEMPLATE),
        }
    }

    /// So many bytes have moved.
    pub(crate) fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Counts what is read through it.
    pub(crate) fn reader<R: AsyncRead + Unpin>(&self, reader: R) -> impl AsyncRead + Unpin + use<R> {
        self.0.wrap_async_read(reader)
    }

    /// Takes the bar away while `print` prints.
    pub(crate) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }

    /// Takes the bar away for good.
    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    // A template that is not understood leaves the usual style, and a test finds it.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[test]
    fn the_templates_are_understood() {
        for template in [TEMPLATE, ENDLESS_TEMPLATE] {
            assert!(ProgressStyle::with_template(template).is_ok(), "{template}");
        }
    }

    #[tokio::test]
    async fn what_is_read_is_counted() {
        let progress = Progress::hidden();
        progress.expect(Some(5));
        let mut text = String::new();
        progress.reader(&b"hello"[..]).read_to_string(&mut text).await.unwrap();
        progress.advance(2);
        assert_eq!((progress.0.position(), progress.0.length()), (7, Some(5)));
    }
}
