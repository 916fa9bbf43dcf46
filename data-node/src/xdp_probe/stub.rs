//! Where there is no loader: nothing can be tried, and that is said.

use super::NativeError;

/// Fails.
///
/// # Errors
/// Always.
pub fn try_native(_: u32) -> Result<(), NativeError> {
    Err(NativeError::Other("this binary can't use XDP; build it for Linux with the feature `xdp`".to_owned()))
}

/// Nothing.
#[must_use]
pub fn program_name(_: u32) -> Option<String> {
    None
}
