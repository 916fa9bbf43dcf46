//! The status page in a real browser: headless Chromium, which the feature `browser` says is there.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod browser;
mod certificate;
mod page;
