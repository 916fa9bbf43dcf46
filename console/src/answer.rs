//! What is answered: JSON, errors by kind, and what every answer tells the browser to keep to.
//!
//! Invariant: nothing that comes from the cluster is ever shown as a page of its own, or run.

use axum::{
    body::Body,
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, RETRY_AFTER,
            WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;
use xdpfs_client::{Error, ErrorKind};

use crate::{
    credential::Malformed,
    gate::Unheard,
    query::QueryError,
    record::{ErrorBody, ErrorRecord},
    visitors::EntryError,
};

/// The page is its own files and nothing else, and no text becomes markup or script.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
    trusted-types 'none'";
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
/// What the browser asks its user for.
const CHALLENGE: &str =
    r#"Basic realm="xdpfs: an access key's id, and its secret as the password", charset="UTF-8""#;
/// Seconds.
const RETRY_AFTER_S: &str = "2";

/// Why there is nothing better to answer.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) status: StatusCode,
    kind: &'static str,
    message: String,
}

impl Trouble {
    /// Something may be done again later.
    pub(crate) fn busy(message: &str) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            kind: ErrorKind::Unavailable.label(),
            message: message.to_owned(),
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        let kind = error.kind();
        let status = match kind {
            _ if matches!(error, Error::RangeNotSatisfiable { .. }) => StatusCode::RANGE_NOT_SATISFIABLE,
            ErrorKind::AlreadyExists | ErrorKind::NotEmpty => StatusCode::CONFLICT,
            ErrorKind::InvalidArgument => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::PermissionDenied => StatusCode::FORBIDDEN,
            ErrorKind::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
            ErrorKind::NoSpace | ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::QuotaExceeded => StatusCode::INSUFFICIENT_STORAGE,
            ErrorKind::Integrity | ErrorKind::Io | ErrorKind::Protocol | ErrorKind::Trust => {
                StatusCode::BAD_GATEWAY
            }
        };
        Self { status, kind: kind.label(), message: error.to_string() }
    }
}

impl From<EntryError> for Trouble {
    fn from(error: EntryError) -> Self {
        match error {
            EntryError::Client(error) => error.into(),
            EntryError::TooMany => Self::busy(&error.to_string()),
        }
    }
}

impl From<Malformed> for Trouble {
    fn from(_: Malformed) -> Self {
        Self {
            status: StatusCode::UNAUTHORIZED,
            kind: ErrorKind::Unauthenticated.label(),
            message: "this is no access key: the user is its id, the password its secret".to_owned(),
        }
    }
}

impl From<QueryError> for Trouble {
    fn from(error: QueryError) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            kind: ErrorKind::InvalidArgument.label(),
            message: error.to_string(),
        }
    }
}

impl From<Unheard> for Trouble {
    fn from(unheard: Unheard) -> Self {
        let status = match unheard {
            Unheard::CrossSite => StatusCode::FORBIDDEN,
            Unheard::WrongName => StatusCode::MISDIRECTED_REQUEST,
        };
        Self { status, kind: ErrorKind::PermissionDenied.label(), message: unheard.to_string() }
    }
}

impl IntoResponse for Trouble {
    fn into_response(self) -> Response {
        let error = ErrorBody { kind: self.kind, message: &self.message };
        let mut response = json(&ErrorRecord { error });
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
        }
        response
    }
}

/// A record.
pub(crate) fn json<T: Serialize>(record: &T) -> Response {
    let text = serde_json::to_vec(record).expect("a record has no maps with keys other than texts");
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

/// What every answer says, whatever else.
pub(crate) async fn guard(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (OPENER_POLICY, "same-origin"),
        (RESOURCE_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // A download has a stricter one.
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    response
}
