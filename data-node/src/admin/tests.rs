//! A client on the socket of a role that is made up.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::SystemTime,
};

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use xdpfs_proto::admin::v1::{InterfaceStatus, xdp_service_client::XdpServiceClient};
use xdpfs_wire::Reject;

use super::*;
use crate::event_tap::PacketEvent;

struct MadeUp(Option<Arc<EventTap>>);

impl PlaneView for MadeUp {
    fn report(&self) -> StatusResponse {
        let interfaces = vec![InterfaceStatus { name: "eth0".into(), program_id: 7 }];
        StatusResponse { role: "node".into(), mode: "native".into(), interfaces, ..StatusResponse::default() }
    }

    fn stats(&self) -> PlaneCounts {
        let mut counts = PlaneCounts::default();
        counts.fates.insert("local", 5);
        counts.rejects[Reject::BadTag as usize] = 3;
        counts
    }

    fn events(&self) -> Option<Arc<EventTap>> {
        self.0.clone()
    }
}

struct Served {
    path: PathBuf,
    stop: CancellationToken,
    server: JoinHandle<()>,
    _home: TempDir,
}

impl Served {
    fn start(view: MadeUp) -> Self {
        let home = TempDir::new().unwrap();
        let path = home.path().join("xdp.sock");
        let socket = AdminSocket::open(&SocketPlace::Named(path.clone())).unwrap();
        let stop = CancellationToken::new();
        let server = tokio::spawn(serve(socket, view, stop.clone()));
        Self { path, stop, server, _home: home }
    }

    async fn client(&self) -> XdpServiceClient<Channel> {
        client(&self.path).await
    }
}

async fn client(path: &Path) -> XdpServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("unix://{}", path.display())).unwrap();
    XdpServiceClient::new(endpoint.connect().await.unwrap())
}

#[tokio::test]
async fn report_and_counters_are_told() {
    let served = Served::start(MadeUp(None));
    let mut client = served.client().await;
    let status = client.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.role.as_str(), status.mode.as_str(), status.interfaces.len()), ("node", "native", 1));
    assert_eq!((status.process_id, status.version.as_str()), (std::process::id(), env!("CARGO_PKG_VERSION")));
    let stats = client.stats(StatsRequest {}).await.unwrap().into_inner();
    let said = |counters: &[xdpfs_proto::admin::v1::Counter]| {
        counters.iter().map(|counter| (counter.name.clone(), counter.packets)).collect::<Vec<_>>()
    };
    assert_eq!(said(&stats.fates), [("local".to_owned(), 5)]);
    assert_eq!(said(&stats.rejects), [("bad_tag".to_owned(), 3)]);
}

#[tokio::test]
async fn a_trace_samples_while_it_is_read_and_ends_with_the_server() {
    let tap = Arc::new(EventTap::new());
    let served = Served::start(MadeUp(Some(Arc::clone(&tap))));
    let mut trace = served.client().await.trace(TraceRequest { sample: 3 }).await.unwrap().into_inner();
    assert_eq!(tap.mask(), 3);
    tap.publish(PacketEvent {
        at: SystemTime::now(),
        counter: "bad_tag",
        interface: 1,
        source: Ipv4Addr::LOCALHOST.into(),
        header: [0; 64],
    });
    let event = trace.message().await.unwrap().unwrap();
    assert_eq!((event.counter.as_str(), event.source.as_str()), ("bad_tag", "127.0.0.1"));
    served.stop.cancel();
    assert_eq!(trace.message().await.unwrap(), None);
    drop(trace);
    served.server.await.unwrap();
    assert_eq!(tap.mask(), u64::MAX);
    assert!(!served.path.exists());
}

#[tokio::test]
async fn without_a_program_there_is_nothing_to_trace() {
    let served = Served::start(MadeUp(None));
    let refused = served.client().await.trace(TraceRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_client_that_stays_does_not_hold_up_the_end() {
    let served = Served::start(MadeUp(None));
    let silent = tokio::net::UnixStream::connect(&served.path).await.unwrap();
    served.client().await.stats(StatsRequest {}).await.unwrap();
    served.stop.cancel();
    served.server.await.unwrap();
    assert!(!served.path.exists());
    drop(silent);
}
