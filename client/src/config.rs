//! How a client behaves: endpoints, deadlines and bounds.

use std::{fmt, net::SocketAddr, num::NonZeroUsize, str::FromStr, time::Duration};

use tonic::codegen::http::uri::Authority;
use xdpfs_transport::ChunkClientConfig;
use xdpfs_trust::TlsTrust;

use crate::access_key::AccessKey;

/// The most endpoints that one client keeps connections to.
pub(crate) const ENDPOINTS_MAX: usize = 16;

/// Where the metadata servers are: `host:port`, `https://host:port` or `http://host:port`, separated by commas.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Endpoints {
    list: Vec<String>,
    scheme: Scheme,
}

/// What endpoints say about TLS.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Scheme {
    /// Nothing: it is spoken if there is a CA to check servers against.
    #[default]
    Either,
    /// `http://`: it is not spoken.
    Plaintext,
    /// `https://`: it is spoken.
    Tls,
}

/// A list of endpoints that makes no sense.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EndpointsError {
    /// There is none.
    #[error("no endpoint is given")]
    Empty,
    /// One is of no form that there is.
    #[error("{0:?} is not an endpoint: write host:port or https://host:port")]
    Malformed(String),
    /// Some are to be spoken to with TLS, and some without.
    #[error("some endpoints are http:// and some https://: write all of them alike")]
    Mixed,
    /// TLS has been asked for, and nothing tells servers from impostors.
    #[error("the endpoints are https://, and there is no CA to check the servers against")]
    NoCa,
    /// Plaintext has been asked for, and TLS has been made ready.
    #[error("the endpoints are http://, and a CA is given to check the servers against")]
    UnusedCa,
    /// There are too many.
    #[error("more than {ENDPOINTS_MAX} endpoints are given")]
    TooMany,
}

impl Endpoints {
    /// The endpoints as `host:port`, in the order given.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.list.iter().map(String::as_str)
    }

    /// What they say about TLS.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether they can be spoken to with these authorities, or without any. Plaintext is never spoken where one of
    /// the two asks for TLS.
    ///
    /// # Errors
    /// They contradict each other.
    pub const fn check(&self, tls: Option<&TlsTrust>) -> Result<(), EndpointsError> {
        match (self.scheme, tls) {
            (Scheme::Tls, None) => Err(EndpointsError::NoCa),
            (Scheme::Plaintext, Some(_)) => Err(EndpointsError::UnusedCa),
            (Scheme::Either, _) | (Scheme::Plaintext, None) | (Scheme::Tls, Some(_)) => Ok(()),
        }
    }

    pub(crate) fn as_slice(&self) -> &[String] {
        &self.list
    }
}

impl From<SocketAddr> for Endpoints {
    fn from(address: SocketAddr) -> Self {
        Self { list: vec![address.to_string()], scheme: Scheme::Either }
    }
}

impl FromStr for Endpoints {
    type Err = EndpointsError;

    fn from_str(list: &str) -> Result<Self, EndpointsError> {
        let parts = list.split(',').map(str::trim).filter(|part| !part.is_empty());
        let parts: Vec<_> = parts.map(cut_scheme).collect();
        let list = parts.iter().map(|(_, rest)| parse_endpoint(rest)).collect::<Result<Vec<_>, _>>()?;
        let said = parts.into_iter().map(|(scheme, _)| scheme).filter(|scheme| *scheme != Scheme::Either);
        let said: Vec<_> = said.collect();
        if said.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(EndpointsError::Mixed);
        }
        let scheme = said.first().copied().unwrap_or_default();
        match list.len() {
            0 => Err(EndpointsError::Empty),
            1..=ENDPOINTS_MAX => Ok(Self { list, scheme }),
            _ => Err(EndpointsError::TooMany),
        }
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.list.join(","))
    }
}

/// What an endpoint says about TLS, and the rest of it.
fn cut_scheme(text: &str) -> (Scheme, &str) {
    let cut = |scheme, prefix: &str| text.strip_prefix(prefix).map(|rest| (scheme, rest));
    let cut = cut(Scheme::Plaintext, "http://").or_else(|| cut(Scheme::Tls, "https://"));
    cut.unwrap_or((Scheme::Either, text))
}

/// `host:port` of an endpoint in any form. Of servers that others name, what they say about TLS counts for nothing.
pub(crate) fn parse_endpoint(text: &str) -> Result<String, EndpointsError> {
    let malformed = || EndpointsError::Malformed(text.to_owned());
    let authority = cut_scheme(text).1.trim_end_matches('/');
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
    /// Who must have made the servers' certificates. None: plaintext, for loopback and networks that are trusted.
    pub tls: Option<TlsTrust>,
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
    /// How long a get waits at most for one replica of a chunk before it asks another one as well. It asks sooner, and not often,
    /// if a read takes longer than nineteen of twenty did.
    pub hedge_after: Duration,
    /// How long a node that failed is passed over while others will do.
    pub suspect_for: Duration,
    /// The chunk protocol.
    pub chunk_client: ChunkClientConfig,
    /// What the client shows to the metadata servers; a cluster that is open asks for none.
    pub access_key: Option<AccessKey>,
    /// Whether the access key may be sent in plain text to servers on other machines: whoever can read the network then
    /// has it.
    pub insecure_key: bool,
}

impl ClientConfig {
    /// The defaults, for the cluster at `endpoints`.
    #[must_use]
    pub fn new(endpoints: Endpoints) -> Self {
        Self {
            endpoints,
            tls: None,
            deadline: Duration::from_secs(30),
            first_contact: Duration::from_secs(5),
            attempt_timeout: Duration::from_secs(2),
            chunks_in_flight_max: const { NonZeroUsize::new(4).expect("four is not zero") },
            buffered_bytes_max: 64 << 20,
            straggler_wait: Duration::from_millis(1500),
            hedge_after: Duration::from_secs(1),
            suspect_for: Duration::from_secs(10),
            chunk_client: ChunkClientConfig::default(),
            access_key: None,
            insecure_key: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_an_endpoint_are_understood() {
        let check = |text: &str, expect: &[&str], scheme| {
            let endpoints: Endpoints = text.parse().unwrap();
            assert_eq!(endpoints.iter().collect::<Vec<_>>(), expect, "{text}");
            assert_eq!(endpoints.scheme(), scheme, "{text}");
        };
        check("127.0.0.1:7001", &["127.0.0.1:7001"], Scheme::Either);
        check("http://meta-1:7001/, meta-2:7001,", &["meta-1:7001", "meta-2:7001"], Scheme::Plaintext);
        check("a:1,https://b:2/", &["a:1", "b:2"], Scheme::Tls);
        check("[::1]:7001", &["[::1]:7001"], Scheme::Either);
    }

    #[test]
    fn tls_is_not_left_to_chance() {
        let check = |text: &str, expect| {
            assert_eq!(text.parse::<Endpoints>().unwrap().check(None), expect, "{text}");
        };
        check("a:1", Ok(()));
        check("http://a:1", Ok(()));
        check("https://a:1", Err(EndpointsError::NoCa));
        assert_eq!("http://a:1,https://b:1".parse::<Endpoints>(), Err(EndpointsError::Mixed));
    }

    #[test]
    fn nonsense_is_named() {
        for bad in ["localhost", "a:b", "a:0", "a:99999", ":7001", "ftp://a:1", "a/b:1", "::1:1", "ü:1"] {
            assert_eq!(bad.parse::<Endpoints>(), Err(EndpointsError::Malformed(bad.to_owned())));
        }
        assert_eq!(" , ".parse::<Endpoints>(), Err(EndpointsError::Empty));
        assert_eq!(["a:1"; 17].join(",").parse::<Endpoints>(), Err(EndpointsError::TooMany));
    }
}
