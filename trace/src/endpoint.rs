//! Where a collector is.

use std::{fmt, str::FromStr};

use thiserror::Error;

/// A collector's URL for OTLP over gRPC: `http://HOST:PORT`.
#[derive(Clone, Eq, PartialEq)]
pub struct Endpoint(String);

/// What is no such URL.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum EndpointError {
    /// It is something else.
    #[error("a collector is named as http://HOST:PORT, where it takes OTLP over gRPC")]
    Malformed,
    /// TLS would be needed.
    #[error(
        "traces go to a collector in plaintext only: let one run on this host, http://127.0.0.1:4317, and have that one \
         send them on by TLS"
    )]
    Tls,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if text.starts_with("https://") {
            return Err(EndpointError::Tls);
        }
        let uri: http::Uri = text.parse().map_err(|_| EndpointError::Malformed)?;
        let authority = uri.authority().ok_or(EndpointError::Malformed)?;
        let is_plain = uri.scheme_str() == Some("http")
            && matches!(uri.path(), "" | "/")
            && uri.query().is_none()
            && !authority.as_str().contains('@')
            && authority.port_u16().is_some();
        if is_plain { Ok(Self(text.trim_end_matches('/').to_owned())) } else { Err(EndpointError::Malformed) }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_has_a_host_and_a_port() {
        let check = |text: &str, expect: Option<EndpointError>| {
            assert_eq!(text.parse::<Endpoint>().err(), expect, "{text}");
        };
        check("http://127.0.0.1:4317", None);
        check("http://[::1]:4317/", None);
        check("http://collector:4317", None);
        check("https://collector:4317", Some(EndpointError::Tls));
        for bad in ["", "collector:4317", "http://collector", "http://u:p@h:1", "http://h:1/v1", "ftp://h:1"]
        {
            check(bad, Some(EndpointError::Malformed));
        }
    }
}
