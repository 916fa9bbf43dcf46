//! What operators see on the admin socket of a node whose kernel program refuses datagrams.

use std::{collections::BTreeMap, net::UdpSocket, path::Path, time::Duration};

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};
use xdpfs_proto::admin::v1::{
    Counter, StatsRequest, StatusRequest, TraceEvent, TraceRequest, xdp_service_client::XdpServiceClient,
};
use xdpfs_wire::Reject;

use crate::{
    KERNEL_MODES, PATIENCE,
    foreign::{Foreign, PASSER},
    lab::{CLIENT_DEVICE, Lab, NODE_DEVICE},
    program::Program,
    refused::cases,
    writer::{Datagram, chunk},
};

/// How long an event may take before another datagram is sent.
const EVENT_PATIENCE: Duration = Duration::from_millis(100);

/// A client of the socket.
struct Operator {
    runtime: Runtime,
    service: XdpServiceClient<Channel>,
}

impl Operator {
    fn at(socket: &Path) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
        let service = XdpServiceClient::new(runtime.block_on(endpoint.connect()).unwrap());
        Self { runtime, service }
    }

    /// Counters by name: fates, then reasons.
    fn stats(&mut self) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
        let by_name = |counters: Vec<Counter>| {
            counters.into_iter().map(|counter| (counter.name, counter.packets)).collect()
        };
        let stats = self.runtime.block_on(self.service.stats(StatsRequest {})).unwrap().into_inner();
        (by_name(stats.fates), by_name(stats.rejects))
    }

    /// The first event after a datagram that `send` sends again and again, since a program learns only soon that
    /// somebody traces.
    fn trace(&mut self, send: impl Fn()) -> TraceEvent {
        let Self { runtime, service } = self;
        runtime.block_on(async {
            let mut events = service.trace(TraceRequest { sample: 1 }).await.unwrap().into_inner();
            for _ in 0..PATIENCE.as_millis() / EVENT_PATIENCE.as_millis() {
                send();
                if let Ok(event) = tokio::time::timeout(EVENT_PATIENCE, events.message()).await {
                    return event.unwrap().expect("the trace goes on");
                }
            }
            panic!("no event came");
        })
    }
}

fn start(lab: &Lab, mode: &str, socket: &Path) -> Program {
    lab.start(&["--xdp", mode, "--admin-socket", socket.to_str().unwrap()])
}

fn sender(lab: &Lab, node: &Program) -> UdpSocket {
    lab.client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(node.address).unwrap();
        socket
    })
}

#[test]
fn trace_shows_why_a_forged_datagram_is_refused() {
    let Some(lab) = Lab::open() else { return };
    let home = TempDir::new().unwrap();
    let socket = home.path().join("xdp.sock");
    for mode in KERNEL_MODES {
        let node = start(&lab, mode, &socket);
        let sender = sender(&lab, &node);
        let epoch = lab.meta.heard().epoch();
        let mut forged = Datagram::put_whole(epoch, chunk(0x0000_00aa_dead_beef), vec![7; 100]);
        forged.tag_flip = 1;
        let bytes = forged.encode();
        let event = Operator::at(&socket).trace(|| assert!(sender.send(&bytes).is_ok()));
        assert_eq!(event.counter, Reject::BadTag.label(), "{mode}");
        assert_eq!((event.interface.as_str(), event.source.as_str()), (NODE_DEVICE, "10.77.0.1"), "{mode}");
        let header = event.header.unwrap();
        assert_eq!((header.opcode.as_str(), header.node_id), ("PutWhole", u32::from(forged.header.node.0)));
        assert_eq!((header.node_epoch, header.bucket), (epoch.into(), forged.header.bucket.0));
        assert_eq!(header.chunk_high, 0xaa, "{mode}");
        node.terminate();
    }
}

#[test]
fn stats_add_up_and_status_names_the_program() {
    const TIMES: u64 = 5;
    let Some(lab) = Lab::open() else { return };
    let home = TempDir::new().unwrap();
    let socket = home.path().join("xdp.sock");
    // With a receiver on the other side of the pair, nothing is amiss.
    let _receiver = Foreign::on(&lab.client, CLIENT_DEVICE, PASSER);
    for mode in KERNEL_MODES {
        let node = start(&lab, mode, &socket);
        let mut operator = Operator::at(&socket);
        let status =
            operator.runtime.block_on(operator.service.status(StatusRequest {})).unwrap().into_inner();
        assert_eq!((status.role.as_str(), status.mode.as_str()), ("node", mode));
        assert_eq!((status.address, status.reason.as_str()), (node.address.to_string(), "asked for"));
        let interfaces: Vec<_> =
            status.interfaces.iter().map(|found| (&*found.name, found.program_id)).collect();
        assert_eq!(interfaces, [(NODE_DEVICE, lab.program().unwrap())], "{mode}");

        let (sender, cases) = (sender(&lab, &node), cases(lab.meta.heard().epoch()));
        for case in &cases {
            (0..TIMES).for_each(|_| assert!(sender.send(&case.bytes).is_ok()));
        }
        // In generic mode a length that does not fit is left to user space.
        let passes = |reject| mode == "generic" && reject == Reject::BadLength;
        let refused = TIMES * cases.iter().filter(|case| !passes(case.reject)).count() as u64;
        lab.until("all refusals to be counted", |beat| {
            let fates = ["refused", "answered", "answer_withheld"];
            fates.iter().filter_map(|fate| beat.xdp_packets.get(*fate)).sum::<u64>() == refused
        });
        let (fates, rejects) = operator.stats();
        let of = |fate: &str| fates.get(fate).copied().unwrap_or(0);
        assert_eq!(rejects.values().sum::<u64>(), refused, "{mode}: {rejects:?}");
        assert_eq!(of("refused") + of("answered") + of("answer_withheld"), refused, "{mode}: {fates:?}");
        for reject in Reject::ALL.iter().filter(|reject| !passes(**reject)) {
            let expect = TIMES * cases.iter().filter(|case| case.reject == *reject).count() as u64;
            assert_eq!(
                rejects.get(reject.label()).copied().unwrap_or(0),
                expect,
                "{mode} {}",
                reject.label()
            );
        }
        node.terminate();
        assert!(!socket.exists(), "{mode}");
    }
}

#[test]
fn a_killed_nodes_socket_is_taken_over_and_a_living_ones_is_not() {
    let Some(lab) = Lab::open() else { return };
    let home = TempDir::new().unwrap();
    let socket = home.path().join("xdp.sock");
    start(&lab, "native", &socket).kill();
    assert!(socket.exists(), "a killed node leaves its socket behind");
    let node = start(&lab, "native", &socket);
    Operator::at(&socket).stats();
    // Not on the interface of the first, which would be refused before.
    let other = home.path().join("other");
    let (code, said) = lab.fail(&[
        "--xdp",
        "off",
        "--admin-socket",
        socket.to_str().unwrap(),
        "--data-dir",
        other.to_str().unwrap(),
    ]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in use") && said.contains("--admin-socket"), "{said}");
    Operator::at(&socket).stats();
    node.terminate();
}
