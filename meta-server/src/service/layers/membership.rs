//! Keeps what only members of the cluster may ask from those who have shown no certificate of one.
//!
//! Invariant: where TLS is spoken, the secrets that data nodes and edges are told go to those alone.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::Status;
use tower::{Layer, Service};
use xdpfs_trust::{Caller, Role};

use super::Kind;
use crate::{service::Refusal, state_machine::Reason};

/// Asks for a certificate where one is needed.
#[derive(Clone, Copy, Debug)]
pub(in crate::service) struct MembershipLayer;

/// A service that members only have all of.
#[derive(Clone, Debug)]
pub(in crate::service) struct ForMembers<S>(S);

impl<S> Layer<S> for MembershipLayer {
    type Service = ForMembers<S>;

    fn layer(&self, inner: S) -> ForMembers<S> {
        ForMembers(inner)
    }
}

impl<S, B, R> Service<Request<B>> for ForMembers<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: Default,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let caller = request.extensions().get::<Caller>();
        let role = caller.and_then(|caller| caller.principal.as_ref()).map(|principal| principal.role);
        let is_secured = caller.is_some_and(|caller| caller.is_secured);
        match check(Kind::of(&request), is_secured, role) {
            Ok(()) => Box::pin(self.0.call(request)),
            Err(refusal) => Box::pin(async move { Ok(Status::from(refusal).into_http()) }),
        }
    }
}

/// In plaintext nobody can show who it is; whoever has it spoken trusts the network.
fn check(kind: Kind, is_secured: bool, role: Option<Role>) -> Result<(), Refusal> {
    match (kind, role) {
        (Kind::Client | Kind::Observation, _) | (Kind::Node, Some(Role::Edge | Role::Meta | Role::Node)) => {
            Ok(())
        }
        (Kind::Node, None) if !is_secured => Ok(()),
        // A gateway has the rights of its callers, who are clients.
        (Kind::Node, None | Some(Role::Gateway)) => Err(Refusal::new(
            Reason::CertificateRequired,
            "this takes the certificate of a data node or an edge: start it with --tls",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_nodes_show_a_certificate_and_clients_do_not() {
        let check = |kind, is_secured, role| check(kind, is_secured, role).is_ok();
        for role in Role::ALL.iter().copied().map(Some).chain([None]) {
            assert!(check(Kind::Client, true, role) && check(Kind::Observation, true, role), "{role:?}");
            let is_member = role.is_some_and(|role| role != Role::Gateway);
            assert_eq!(check(Kind::Node, true, role), is_member, "{role:?}");
        }
        for role in [None, Some(Role::Edge), Some(Role::Meta), Some(Role::Node)] {
            assert!(check(Kind::Node, false, role), "{role:?}");
        }
    }
}
