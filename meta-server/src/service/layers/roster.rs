//! Says with every answer where the metadata servers are, so that clients, data nodes and edges follow while servers come
//! and go (`docs/protocol.md §10`).
//!
//! Invariant: it says what the log says, and nothing before the log says anything.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{HeaderName, HeaderValue, Request, Response};
use tokio::sync::watch;
use tower::{Layer, Service};

use crate::state_machine::{Members, Wanted};

/// `host:port` of each, with commas between.
const HEADER: HeaderName = HeaderName::from_static("xdpfs-meta-servers");

/// Adds the header to every answer.
#[derive(Clone, Debug)]
pub(in crate::service) struct RosterLayer(pub(in crate::service) watch::Receiver<Arc<Members>>);

/// A service whose answers have the header.
#[derive(Clone, Debug)]
pub(in crate::service) struct Listed<S> {
    inner: S,
    members: watch::Receiver<Arc<Members>>,
}

impl<S> Layer<S> for RosterLayer {
    type Service = Listed<S>;

    fn layer(&self, inner: S) -> Listed<S> {
        Listed { inner, members: self.0.clone() }
    }
}

impl<S, B, R> Service<Request<B>> for Listed<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let members = self.members.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let mut answer = answer.await?;
            if let Some(value) = roster(&members.borrow()) {
                answer.headers_mut().insert(HEADER, value);
            }
            Ok(answer)
        })
    }
}

/// Those that are to stay. None: nobody has written them down.
fn roster(members: &Members) -> Option<HeaderValue> {
    let staying = members.iter().filter(|member| member.wanted != Wanted::Gone);
    let addresses: Vec<&str> = staying.map(|member| member.client_address.as_str()).collect();
    (!addresses.is_empty()).then(|| HeaderValue::from_str(&addresses.join(",")).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use xdpfs_proto::state::v1::{self as pb, command::Kind};

    use super::*;
    use crate::state_machine::State;

    #[test]
    fn list_has_those_that_stay() {
        let mut state = State::default();
        assert_eq!(roster(state.members()), None);
        let member = |id: u64| pb::MetaMember {
            id,
            peer_address: format!("p{id}:1"),
            client_address: format!("c{id}:1"),
            ..Default::default()
        };
        let seed = Kind::SeedMembers(pb::SeedMembers { members: (1..=3).map(member).collect() });
        for kind in [seed, Kind::RemoveMember(pb::RemoveMember { id: 2 })] {
            state.apply(1, &pb::Command { kind: Some(kind), ..Default::default() });
        }
        assert_eq!(roster(state.members()).unwrap(), "c1:1,c3:1");
    }
}
