//! How a client behaves: endpoints, deadlines and bounds.

use std::{fmt, net::SocketAddr, num::NonZeroUsize, str::FromStr, time::Duration};

use tonic::codegen::http::uri::Authority;
use xdpfs_transport::ChunkClientConfig;

/// The most endpoints that one client keeps connections to.
pub(crate) const ENDPOINTS_MAX: usize = 16;

/// Where the metadata servers are: `host:port` or `http://host:port`, separated by commas.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoints(Vec<String>);

/// A list of endpoints that makes no sense.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EndpointsError {
    /// There is none.
    #[error("no endpoint is given")]
    Empty,
    /// One is neither `host:port` nor `http://host:port`.
    #[error("{0:?} is not an endpoint: write host:port or http://host:port")]
    Malformed(String),
    /// There are too many.
    #[error("more than {ENDPOINTS_MAX} endpoints are given")]
    TooMany,
}

impl Endpoints {
    /// The endpoints as `host:port`, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    pub(crate) fn as_slice(&self) -> &[String] {
        &self.0
    }
}

impl From<SocketAddr> for Endpoints {
    fn from(address: SocketAddr) -> Self {
        Self(vec![address.to_string()])
    }
}

impl FromStr for Endpoints {
    type Err = EndpointsError;

    fn from_str(list: &str) -> Result<Self, EndpointsError> {
        let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
        let endpoints = parts.map(parse_endpoint).collect::<Result<Vec<_>, _>>()?;
        match endpoints.len() {
            0 => Err(EndpointsError::Empty),
            1..=ENDPOINTS_MAX => Ok(Self(endpoints)),
            _ => Err(EndpointsError::TooMany),
        }
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// `host:port` of an endpoint in either form.
pub(crate) fn parse_endpoint(text: &str) -> Result<String, EndpointsError> {
    let malformed = || EndpointsError::Malformed(text.to_owned());
    let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':').ok_or_else(malformed)?;
    let good_host =
        !host.is_empty() && !host.contains(['/', '@', ' ']) && authority.parse::<Authority>().is_ok();
    match port.parse::<u16>() {
        Ok(1..) if good_host => Ok(authority.to_owned()),
        _ => Err(malformed()),
    }
}

/// How a client behaves. [`ClientConfig::new`] gives what suits most.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The metadata servers that are asked first.
    pub endpoints: Endpoints,
    /// How long an operation of the control plane, or one chunk, is retried before it fails.
    pub deadline: Duration,
    /// How long to try before the very first answer of any metadata server: a wrong endpoint should not cost the
    /// whole deadline.
    pub first_contact: Duration,
    /// How long one request may take before another server is asked.
    pub attempt_timeout: Duration,
    /// How many chunks one put or one get has in flight at once.
    pub chunks_in_flight_max: NonZeroUsize,
    /// Bytes of chunks in flight over all puts and gets of the client. Each open put or get may hold one chunk more.
    pub buffered_bytes_max: u32,
    /// How long a put waits for the replicas that are still missing once enough are durable.
    pub straggler_wait: Duration,
    /// How long a get waits for one replica of a chunk before it asks another one as well.
    pub hedge_after: Duration,
    /// How long a node that failed is passed over while others will do.
    pub suspect_for: Duration,
    /// The chunk protocol.
    pub chunk_client: ChunkClientConfig,
}

impl ClientConfig {
    /// The defaults, for the cluster at `endpoints`.
    #[must_use]
    pub fn new(endpoints: Endpoints) -> Self {
        Self {
            endpoints,
            deadline: Duration::from_secs(30),
            first_contact: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(2),
            chunks_in_flight_max: const { NonZeroUsize::new(4).expect("four is not zero") },
            buffered_bytes_max: 64 << 20,
            straggler_wait: Duration::from_millis(1500),
            hedge_after: Duration::from_secs(1),
            suspect_for: Duration::from_secs(10),
            chunk_client: ChunkClientConfig::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_an_endpoint_are_understood() {
        let check = |text: &str, expect: &[&str]| {
            let endpoints: Endpoints = text.parse().unwrap();
            assert_eq!(endpoints.iter().collect::<Vec<_>>(), expect, "{text}");
        };
        check("127.0.0.1:7001", &["127.0.0.1:7001"]);
        check("http://meta-1:7001/, meta-2:7001,", &["meta-1:7001", "meta-2:7001"]);
        check("[::1]:7001", &["[::1]:7001"]);
    }

    #[test]
    fn nonsense_is_named() {
        for bad in ["localhost", "a:b", "a:0", "a:99999", ":7001", "https://a:1", "a/b:1", "::1:1", "ü:1"] {
            assert_eq!(bad.parse::<Endpoints>(), Err(EndpointsError::Malformed(bad.to_owned())));
        }
        assert_eq!(" , ".parse::<Endpoints>(), Err(EndpointsError::Empty));
        assert_eq!(["a:1"; 17].join(",").parse::<Endpoints>(), Err(EndpointsError::TooMany));
    }
}
