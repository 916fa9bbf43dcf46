//! Bounds the requests that are served at once, over all connections, and refuses the rest at once.
//!
//! This is load shedding over a global concurrency limit in one step: tower's own pair knows neither kinds of requests
//! nor how to answer in gRPC.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::Status;
use tower::{Layer, Service};

use super::Kind;
use crate::{service::Refusal, state_machine::Reason};

/// Requests that ask how the server is.
const OBSERVATIONS_MAX: usize = 64;

/// Room for requests, shared by all connections.
#[derive(Clone, Debug)]
pub(in crate::service) struct Admission {
    clients: Room,
    nodes: Room,
    observations: Room,
}

/// Room for requests of one kind. How much there is may change at any time; when it becomes less, nobody has to go.
#[derive(Clone, Debug)]
struct Room {
    max: Arc<AtomicUsize>,
    taken: Arc<AtomicUsize>,
}

/// A request's place, free again once this is dropped.
#[derive(Debug)]
struct Place {
    taken: Arc<AtomicUsize>,
}

impl Room {
    fn new(max: Arc<AtomicUsize>) -> Self {
        Self { max, taken: Arc::default() }
    }

    fn take(&self) -> Option<Place> {
        let max = self.max.load(Ordering::Relaxed);
        let add = |taken| if taken < max { Some(taken + 1) } else { None };
        let taken = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        taken.ok().map(|_| Place { taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds [`Admission`] to a service.
#[derive(Clone, Debug)]
pub(in crate::service) struct AdmissionLayer(pub(in crate::service) Admission);

/// A service behind [`Admission`].
#[derive(Clone, Debug)]
pub(in crate::service) struct Admitted<S> {
    admission: Admission,
    inner: S,
}

impl Admission {
    /// Room for `requests_max` requests of clients and as many of data nodes.
    pub(in crate::service) fn new(requests_max: Arc<AtomicUsize>) -> Self {
        Self {
            clients: Room::new(Arc::clone(&requests_max)),
            nodes: Room::new(requests_max),
            observations: Room::new(Arc::new(OBSERVATIONS_MAX.into())),
        }
    }

    fn admit(&self, kind: Kind) -> Result<Place, Refusal> {
        let room = match kind {
            Kind::Client => &self.clients,
            Kind::Node => &self.nodes,
            Kind::Observation => &self.observations,
        };
        let full = || Refusal::new(Reason::Overloaded, "the server has as many requests as it can serve");
        room.take().ok_or_else(full)
    }
}

impl<S> Layer<S> for AdmissionLayer {
    type Service = Admitted<S>;

    fn layer(&self, inner: S) -> Admitted<S> {
        Admitted { admission: self.0.clone(), inner }
    }
}

impl<S, B, R> Service<Request<B>> for Admitted<S>
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
        match self.admission.admit(Kind::of(&request)) {
            Ok(permit) => {
                let answer = self.inner.call(request);
                Box::pin(async move {
                    let _permit = permit;
                    answer.await
                })
            }
            Err(refusal) => Box::pin(async move { Ok(Status::from(refusal).into_http()) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::sync::Notify;
    use tower::ServiceExt as _;

    use super::*;

    fn request(path: &str) -> Request<()> {
        Request::builder().uri(path).body(()).unwrap()
    }

    fn is_shed(response: &Response<()>) -> bool {
        Status::from_header_map(response.headers())
            .is_some_and(|status| status.code() == tonic::Code::ResourceExhausted)
    }

    #[tokio::test]
    async fn request_beyond_the_limit_is_refused_until_another_ends() {
        let gate = Arc::new(Notify::new());
        let max = Arc::new(AtomicUsize::new(1));
        let inner = tower::service_fn({
            let gate = Arc::clone(&gate);
            move |request: Request<()>| {
                let gate = Arc::clone(&gate);
                async move {
                    if request.uri().path().ends_with("Slow") {
                        gate.notified().await;
                    }
                    Ok::<_, Infallible>(Response::new(()))
                }
            }
        });
        let service = AdmissionLayer(Admission::new(Arc::clone(&max))).layer(inner);
        let slow = tokio::spawn(service.clone().oneshot(request("/xdpfs.meta.v1.MetaService/Slow")));
        while service.admission.clients.taken.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let ask = async |path| is_shed(&service.clone().oneshot(request(path)).await.unwrap());
        assert!(ask("/xdpfs.meta.v1.MetaService/HeadObject").await);
        assert!(!ask("/xdpfs.meta.v1.MetaService/GetClusterStatus").await);
        assert!(!ask("/xdpfs.node.v1.NodeService/Heartbeat").await);
        assert!(!ask("/grpc.health.v1.Health/Check").await);
        max.store(2, Ordering::Relaxed);
        assert!(!ask("/xdpfs.meta.v1.MetaService/HeadObject").await, "there is more room at once");
        max.store(1, Ordering::Relaxed);
        assert!(ask("/xdpfs.meta.v1.MetaService/HeadObject").await, "and less, too");
        gate.notify_one();
        assert!(!is_shed(&slow.await.unwrap().unwrap()));
        assert!(!ask("/xdpfs.meta.v1.MetaService/HeadObject").await);
    }
}
