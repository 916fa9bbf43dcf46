//! Whether one server serves, by grpc.health.v1. Unlike everything else here, it is asked of that server only.

use std::time::Duration;

use tonic::{Code, Request, Status, transport::Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use xdpfs_trust::{DialError, Dialer, Mismatch, TlsTrust};

use crate::{
    config::{Endpoints, EndpointsError, parse_endpoint},
    control::describe,
};

/// What a server says of a service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    /// It is served.
    Serving,
    /// It isn't, for the time being.
    NotServing,
}

/// Why health isn't known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HealthError {
    /// The endpoint makes no sense.
    #[error(transparent)]
    Endpoint(#[from] EndpointsError),
    /// The server and this end do not agree on TLS, or on whom to trust.
    #[error("cannot speak to {endpoint}: {mismatch}")]
    Mismatch {
        /// Where.
        endpoint: String,
        /// On what.
        mismatch: Mismatch,
    },
    /// Nobody answers there.
    #[error("{endpoint} does not answer: {}", describe(.source))]
    NoAnswer {
        /// Where.
        endpoint: String,
        /// What the connection says.
        source: Box<Status>,
    },
    /// The server offers no such service.
    #[error("{endpoint} offers no service {service:?}")]
    UnknownService {
        /// Where.
        endpoint: String,
        /// Which service.
        service: String,
    },
}

/// Asks the server at `endpoint` about `service`; the empty name is the server as a whole. Speaks TLS if there is
/// somebody to trust.
///
/// # Errors
/// See [`HealthError`].
pub async fn check_health(
    endpoint: &str,
    service: &str,
    timeout: Duration,
    tls: Option<&TlsTrust>,
) -> Result<Health, HealthError> {
    endpoint.parse::<Endpoints>()?.check(tls)?;
    let endpoint = parse_endpoint(endpoint)?;
    let dialer = Dialer::new(tls.cloned(), timeout);
    match ask(&endpoint, dialer, service, timeout).await {
        Ok(ServingStatus::Serving) => Ok(Health::Serving),
        Ok(ServingStatus::NotServing | ServingStatus::Unknown) => Ok(Health::NotServing),
        Ok(ServingStatus::ServiceUnknown) => {
            Err(HealthError::UnknownService { endpoint, service: service.to_owned() })
        }
        Err(status) if status.code() == Code::NotFound => {
            Err(HealthError::UnknownService { endpoint, service: service.to_owned() })
        }
        Err(status) => Err(match DialError::mismatch_in(&status).cloned() {
            Some(mismatch) => HealthError::Mismatch { endpoint, mismatch },
            None => HealthError::NoAnswer { endpoint, source: Box::new(status) },
        }),
    }
}

async fn ask(
    endpoint: &str,
    dialer: Dialer,
    service: &str,
    timeout: Duration,
) -> Result<ServingStatus, Status> {
    let endpoint = Endpoint::from_shared(dialer.uri(endpoint))
        .map_err(|_| Status::unavailable("the endpoint is malformed"))?;
    let mut client = HealthClient::new(endpoint.connect_with_connector_lazy(dialer));
    let request = Request::new(HealthCheckRequest { service: service.to_owned() });
    let answer = tokio::time::timeout(timeout, client.check(request)).await;
    Ok(answer.map_err(|_| Status::deadline_exceeded("no answer in time"))??.into_inner().status())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::Server;
    use tonic_health::server::{HealthReporter, HealthService};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    async fn server(statuses: &[(&str, tonic_health::ServingStatus)]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let reporter = HealthReporter::new();
        for (service, status) in statuses {
            reporter.set_service_status(*service, *status).await;
        }
        let health = HealthService::from_health_reporter(reporter);
        let service = tonic_health::pb::health_server::HealthServer::new(health);
        let serve = Server::builder().add_service(service);
        tokio::spawn(serve.serve_with_incoming(TcpListenerStream::new(listener)));
        endpoint
    }

    #[tokio::test]
    async fn health_is_that_of_the_service_asked_for() {
        let statuses =
            [("up", tonic_health::ServingStatus::Serving), ("down", tonic_health::ServingStatus::NotServing)];
        let endpoint = server(&statuses).await;
        assert_eq!(check_health(&endpoint, "", LONG, None).await.unwrap(), Health::Serving);
        assert_eq!(check_health(&endpoint, "up", LONG, None).await.unwrap(), Health::Serving);
        assert_eq!(check_health(&endpoint, "down", LONG, None).await.unwrap(), Health::NotServing);
        let unknown = check_health(&endpoint, "other", LONG, None).await.unwrap_err();
        assert!(matches!(unknown, HealthError::UnknownService { .. }), "{unknown:?}");
    }

    #[tokio::test]
    async fn nobody_there_is_told_from_not_serving() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
        let absent = check_health(&free, "", LONG, None).await.unwrap_err();
        assert!(matches!(absent, HealthError::NoAnswer { .. }), "{absent:?}");
        let malformed = check_health("nowhere", "", LONG, None).await.unwrap_err();
        assert!(matches!(malformed, HealthError::Endpoint(_)), "{malformed:?}");
    }
}
