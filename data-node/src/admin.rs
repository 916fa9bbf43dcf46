//! What operators may ask a running node or edge about its kernel program, on a unix socket.
//!
//! Invariant: it tells and changes nothing, but that the program samples while somebody traces. The socket is the
//! user's alone, and no answer holds a key, a tag or an object's name.

mod message;
mod socket;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Server};
use xdpfs_proto::admin::v1::{
    StatsRequest, StatsResponse, StatusRequest, StatusResponse, TraceEvent, TraceRequest,
    xdp_service_server::{XdpService, XdpServiceServer},
};

use self::message::{Names, counters, duration_ms, trace_event};
pub use self::socket::AdminError;
pub(crate) use self::socket::{AdminSocket, SocketPlace};
use crate::{
    event_tap::{EventReader, EventTap, Sample},
    xdp::PlaneCounts,
};

/// How long clients have to go when the server ends.
const FAREWELL: Duration = Duration::from_millis(300);

/// What a role shows of its kernel program.
pub(crate) trait PlaneView: Send + Sync + 'static {
    /// What is in force. The version, the process and the time since the start are filled in by the caller.
    fn report(&self) -> StatusResponse;
    /// What has been counted.
    fn stats(&self) -> PlaneCounts;
    /// Where the program's events pass through; `None` without a program.
    fn events(&self) -> Option<Arc<EventTap>>;
}

/// Answers on `socket` until `stop`; the socket is gone then.
pub(crate) async fn serve(socket: AdminSocket, view: impl PlaneView, stop: CancellationToken) {
    let AdminSocket { listener, file } = socket;
    let admin = Admin { view: Arc::new(view), started: Instant::now(), stop: stop.clone() };
    let stopped = stop.clone().cancelled_owned();
    let served = Server::builder()
        .add_service(XdpServiceServer::new(admin))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped);
    let enough = async {
        stop.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::warn!(%error, "operators can't ask about the kernel program any more");
        },
        // A client that was suspended says nothing, and must not hold up the role.
        () = enough => {}
    }
    drop(file);
}

struct Admin<V> {
    view: Arc<V>,
    started: Instant,
    /// Traces end with the server, which would wait for them.
    stop: CancellationToken,
}

impl<V> Admin<V> {
    fn uptime_ms(&self) -> u64 {
        duration_ms(self.started.elapsed())
    }
}

#[tonic::async_trait]
impl<V: PlaneView> XdpService for Admin<V> {
    type TraceStream = BoxStream<'static, Result<TraceEvent, Status>>;

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        // It asks the kernel about interfaces, which takes a lock that others may hold for long.
        let view = Arc::clone(&self.view);
        let report = tokio::task::spawn_blocking(move || view.report()).await;
        Ok(Response::new(StatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process_id: std::process::id(),
            uptime_ms: self.uptime_ms(),
            ..report.map_err(|_| Status::internal("the report has failed"))?
        }))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        let (fates, rejects) = counters(&self.view.stats());
        Ok(Response::new(StatsResponse { uptime_ms: self.uptime_ms(), fates, rejects }))
    }

    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<Self::TraceStream>, Status> {
        let Some(events) = self.view.events() else {
            return Err(Status::failed_precondition(
                "no kernel program is in force, so there is nothing to trace",
            ));
        };
        let reader = events.read(Sample::one_of(request.get_ref().sample));
        let reader = reader.ok_or_else(|| Status::resource_exhausted("enough others trace at the moment"))?;
        let events = traced(reader).take_until(self.stop.clone().cancelled_owned());
        Ok(Response::new(events.boxed()))
    }
}

fn traced(reader: EventReader) -> impl futures::Stream<Item = Result<TraceEvent, Status>> + Send + 'static {
    stream::unfold((reader, Names::default()), |(mut reader, mut names)| async move {
        let (event, lost) = reader.next().await?;
        let event = trace_event(&event, lost, names.of(event.interface));
        Some((Ok(event), (reader, names)))
    })
}

#[cfg(test)]
mod tests;
