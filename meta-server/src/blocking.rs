//! Work that takes so long that a runtime's other tasks must not wait for it.

use tokio::task::JoinError;

/// Does it on a thread for such work. In a simulated network, which has one thread, it is done at once.
///
/// # Errors
///
/// The runtime has ended.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    #[cfg(test)]
    if crate::simulated_network::is_simulated() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
