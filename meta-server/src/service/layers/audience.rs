//! Which requests a listener takes, where administration has one of its own.
//!
//! Invariant: what a listener does not take costs next to nothing there, and nobody's room. An administrator's client is
//! led nowhere else: what would name another server by its address for clients is left out.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::Status;
use tonic_types::StatusExt as _;
use tower::{Layer, Service};

use crate::{
    service::{
        Refusal,
        rights::{Method, Need},
    },
    state_machine::{Reason, Right},
};

/// Whom a listener is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::service) enum Audience {
    /// Administrators, of the cluster or of a bucket. Whoever wants objects is refused.
    Administrators,
    /// Clients and data nodes. Whoever administers the cluster is refused.
    Clients,
    /// All of them.
    Everybody,
}

/// Refuses what is not for an [`Audience`].
#[derive(Clone, Copy, Debug)]
pub(in crate::service) struct AudienceLayer(pub(in crate::service) Audience);

/// A service for an [`Audience`].
#[derive(Clone, Debug)]
pub(in crate::service) struct ForAudience<S> {
    audience: Audience,
    inner: S,
}

impl Audience {
    /// A method that is in no table of rights is no client's, or there is none.
    fn check(self, path: &str) -> Result<(), Refusal> {
        if self == Self::Everybody {
            return Ok(());
        }
        let Some(method) = Method::of_path(path) else { return Ok(()) };
        let (is_for_clients, is_for_administrators) = match method.need() {
            Need::AdminOfAll => (false, true),
            Need::AnyRight | Need::Key | Need::Right(Right::Admin) => (true, true),
            Need::ReadAndWrite | Need::Right(Right::List | Right::Read | Right::Write) => (true, false),
        };
        match self {
            Self::Administrators if !is_for_administrators => Err(Refusal::new(
                Reason::WrongListener,
                "this address is for administration: ask for objects at the servers' addresses for clients",
            )),
            Self::Clients if !is_for_clients => Err(Refusal::new(
                Reason::WrongListener,
                "administration has addresses of its own here: ask at those that the servers have by --listen-admin",
            )),
            _ => Ok(()),
        }
    }

    /// The answer as it leaves.
    fn tell<B: Default>(self, answer: Response<B>) -> Response<B> {
        if self != Self::Administrators {
            return answer;
        }
        let refused = Status::from_header_map(answer.headers());
        let info = refused.as_ref().and_then(Status::get_details_error_info);
        match (refused, info) {
            (Some(status), Some(info)) if info.reason == Reason::NotLeader.as_str() => {
                let refusal = Refusal::new(Reason::NotLeader, status.message().to_owned());
                Status::from(refusal).into_http()
            }
            _ => answer,
        }
    }
}

impl<S> Layer<S> for AudienceLayer {
    type Service = ForAudience<S>;

    fn layer(&self, inner: S) -> ForAudience<S> {
        ForAudience { audience: self.0, inner }
    }
}

impl<S, B, R> Service<Request<B>> for ForAudience<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let audience = self.audience;
        match audience.check(request.uri().path()) {
            Ok(()) => {
                let answer = self.inner.call(request);
                Box::pin(async move { Ok(audience.tell(answer.await?)) })
            }
            Err(refusal) => Box::pin(async move { Ok(Status::from(refusal).into_http()) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_is_for_somebody() {
        let check = |path: &str, clients, administrators| {
            let is_for = |audience: Audience| audience.check(path).is_ok();
            assert_eq!(
                (is_for(Audience::Clients), is_for(Audience::Administrators)),
                (clients, administrators),
                "{path}"
            );
            assert!(is_for(Audience::Everybody), "{path}");
        };
        check("/xdpfs.access.v1.AccessService/CreateAccessKey", false, true);
        check("/xdpfs.backup.v1.BackupService/CreateBackup", false, true);
        check("/xdpfs.members.v1.MembersService/AddMember", false, true);
        check("/xdpfs.members.v1.MembersService/ListMembers", true, true);
        check("/xdpfs.meta.v1.MetaService/LabelNode", false, true);
        check("/xdpfs.meta.v1.MetaService/GetClusterStatus", true, true);
        check("/xdpfs.meta.v1.MetaService/UpdateBucket", true, true);
        check("/xdpfs.meta.v1.MetaService/GetBucket", true, true);
        check("/xdpfs.meta.v1.MetaService/BeginPut", true, false);
        check("/xdpfs.meta.v1.MetaService/ListObjects", true, false);
        check("/xdpfs.meta.v1.MetaService/CopyObject", true, false);
        check("/grpc.health.v1.Health/Check", true, true);
        check("/xdpfs.node.v1.NodeService/Heartbeat", true, true);
        check("/made.up/AddMember", true, true);
    }

    #[test]
    fn administrators_are_not_led_to_addresses_for_clients() {
        let leader_in = |audience: Audience| {
            let answer: Response<()> = Status::from(Refusal::not_leader("meta-2:7001")).into_http();
            let status = Status::from_header_map(audience.tell(answer).headers()).unwrap();
            let info = status.get_details_error_info().unwrap();
            assert_eq!(info.reason, "NOT_LEADER");
            info.metadata.get("leaderEndpoint").cloned()
        };
        assert_eq!(leader_in(Audience::Everybody).as_deref(), Some("meta-2:7001"));
        assert_eq!(leader_in(Audience::Administrators), None);
        let other: Response<()> = Status::from(Refusal::new(Reason::NoLeader, "words")).into_http();
        let status = Status::from_header_map(Audience::Administrators.tell(other).headers()).unwrap();
        assert_eq!(status.get_details_error_info().unwrap().reason, "NO_LEADER");
    }
}
