//! What the loop needs of a system.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::Operation;

/// Bytes of what a put says besides its key.
pub(crate) const VALUE_BYTES: usize = 256;
/// Lines of one page.
pub(crate) const PAGE_LEN: u32 = 1000;
/// Connections to the leader at most; clients share them evenly.
const CONNECTIONS_MAX: usize = 8;
/// How long a system may take until it serves.
pub(crate) const SERVES_WITHIN: Duration = Duration::from_secs(120);

/// A system under load. Clients are clones, each with a connection out of those that there are.
pub(crate) trait System: Clone + 'static {
    /// Which of the endpoints leads, from zero on.
    fn leader(&self) -> usize;
    /// The one of the client of this number.
    fn client(&self, number: usize) -> Self;
    /// Does it once, with the key of this number.
    async fn once(&mut self, operation: Operation, key: u64) -> anyhow::Result<()>;
    /// Makes so many keys under one prefix.
    async fn fill(&self, count: u64) -> anyhow::Result<()>;
    /// A page of them behind what the page before has given; none behind the last one. Gives how many it has.
    async fn page(&mut self, after: Option<Vec<u8>>) -> anyhow::Result<(usize, Option<Vec<u8>>)>;
}

/// Connections to one server.
#[derive(Clone, Debug)]
pub(crate) struct Connections(Vec<Channel>);

impl Connections {
    pub(crate) fn to(endpoint: &str) -> anyhow::Result<Self> {
        let channel = |_| {
            let endpoint = Endpoint::from_shared(format!("http://{endpoint}"))?;
            Ok(endpoint.tcp_nodelay(true).connect_lazy())
        };
        Ok(Self((0..CONNECTIONS_MAX).map(channel).collect::<Result<_, tonic::transport::Error>>()?))
    }

    pub(crate) fn of_client(&self, number: usize) -> Channel {
        self.0[number % CONNECTIONS_MAX].clone()
    }
}

/// The name of a key that was filled in.
pub(crate) fn filled(key: u64) -> String {
    format!("fill/{key:010}")
}

/// The name of a key that puts go to.
pub(crate) fn target(key: u64) -> String {
    format!("put/{key:010}")
}
