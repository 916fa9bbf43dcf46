//! Whole command lines against a server that is made up.

use std::sync::Arc;

use clap::Parser as _;
use futures::{StreamExt as _, stream};
use tempfile::TempDir;
use tokio::{net::UnixListener, sync::Notify};
use tonic::{Request, Response, Status, transport::Server};
use xdpfs_proto::admin::v1::{
    Counter, InterfaceStatus, NodeRouteStatus, StatsRequest, StatsResponse, StatusRequest, StatusResponse,
    TraceEvent, TraceRequest,
    xdp_service_server::{XdpService, XdpServiceServer},
};

use crate::{
    arguments::{Arguments, Command},
    console::{Look, tests::Printed},
    failure::Exit,
};

/// An edge with two nodes, one of them relayed; a flood of events, but none if one of seven is asked for.
struct MadeUp;

#[tonic::async_trait]
impl XdpService for MadeUp {
    type TraceStream = stream::BoxStream<'static, Result<TraceEvent, Status>>;

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let node = |node_id, interface: &str, replies: &str, reason: &str| NodeRouteStatus {
            node_id,
            direct_address: format!("10.0.0.{node_id}:7400"),
            interface: interface.into(),
            replies: replies.into(),
            reason: reason.into(),
        };
        Ok(Response::new(StatusResponse {
            role: "edge".into(),
            version: "1.2.3".into(),
            process_id: 99,
            address: "192.0.2.1:7400".into(),
            mode: "native".into(),
            reason: "the driver can".into(),
            interfaces: vec![
                InterfaceStatus { name: "eth0".into(), program_id: 7 },
                InterfaceStatus { name: "eth1".into(), program_id: 0 },
            ],
            replies: "kernel".into(),
            nodes: vec![node(1, "veth1", "kernel", "a veth"), node(2, "", "relay", "no neighbour answers")],
            uptime_ms: 61_000,
        }))
    }

    async fn stats(&self, _: Request<StatsRequest>) -> Result<Response<StatsResponse>, Status> {
        let counter = |name: &str, packets| Counter { name: name.into(), packets };
        Ok(Response::new(StatsResponse {
            uptime_ms: 61_000,
            fates: vec![counter("local", 10), counter("refused", 3)],
            rejects: vec![counter("bad_tag", 3)],
        }))
    }

    async fn trace(&self, request: Request<TraceRequest>) -> Result<Response<Self::TraceStream>, Status> {
        if request.get_ref().sample == 7 {
            return Err(Status::failed_precondition("no kernel program is in force"));
        }
        let event =
            TraceEvent { counter: "bad_tag".into(), source: "10.0.0.9".into(), ..TraceEvent::default() };
        Ok(Response::new(stream::repeat_with(move || Ok(event.clone())).boxed()))
    }
}

/// Runs a command line; `@` is the socket.
async fn run(line: &str) -> (Exit, String, String) {
    let home = TempDir::new().unwrap();
    let socket = home.path().join("xdp.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let incoming = stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    let stop = Arc::new(Notify::new());
    let stopped = Arc::clone(&stop);
    let server = Server::builder().add_service(XdpServiceServer::new(MadeUp));
    let server =
        tokio::spawn(server.serve_with_incoming_shutdown(incoming, async move { stopped.notified().await }));
    let line = line.replace('@', socket.to_str().unwrap());
    let arguments = Arguments::try_parse_from(["xdpfs-cli"].into_iter().chain(line.split(' '))).unwrap();
    let Command::Xdp(xdp) = &arguments.command else { panic!("{line}") };
    let (mut console, printed) = Printed::console(Look { json: arguments.common.json, quiet: false });
    let exit = super::run(xdp, &mut console).await.unwrap_or_else(|failure| {
        console.failure(&failure);
        failure.exit
    });
    stop.notify_one();
    server.abort();
    (exit, printed.out(), printed.err())
}

#[tokio::test]
async fn status_tells_where_and_why() {
    let expect = "\
edge at 192.0.2.1:7400 (process 99, version 1.2.3, up 1m 1s)
XDP native: the driver can
  eth0: program 7
  eth1: no program at the moment
replies: kernel
  node 1 at 10.0.0.1:7400: in the kernel by veth1, replies by kernel: a veth
  node 2 at 10.0.0.2:7400: relayed by user space: no neighbour answers
";
    assert_eq!(run("xdp status --socket @").await, (Exit::Done, expect.into(), String::new()));
    let expect = concat!(
        r#"{"role":"edge","version":"1.2.3","process_id":99,"address":"192.0.2.1:7400","mode":"native","#,
        r#""reason":"the driver can","interfaces":[{"name":"eth0","program_id":7},{"name":"eth1","program_id":null}],"#,
        r#""replies":"kernel","nodes":[{"node_id":1,"direct_address":"10.0.0.1:7400","interface":"veth1","#,
        r#""replies":"kernel","reason":"a veth"},{"node_id":2,"#,
        r#""direct_address":"10.0.0.2:7400","interface":null,"replies":"relay","reason":"no neighbour answers"}],"uptime_ms":61000}"#,
        "\n"
    );
    assert_eq!(run("--json xdp --socket @ status").await, (Exit::Done, expect.into(), String::new()));
}

#[tokio::test]
async fn stats_are_asked_for_once_unless_watched() {
    let (exit, out, _) = run("xdp stats --json --socket @").await;
    let expect = r#"{"uptime_ms":61000,"fates":{"local":10,"refused":3},"rejects":{"bad_tag":3}}"#;
    assert_eq!((exit, out.trim_end()), (Exit::Done, expect));
}

#[tokio::test]
async fn a_trace_ends_after_its_count() {
    let (exit, out, _) = run("xdp trace --count 3 --socket @").await;
    assert_eq!((exit, out.lines().count()), (Exit::Done, 3), "{out}");
    assert!(out.lines().all(|line| line.contains("bad_tag") && line.contains("10.0.0.9")), "{out}");
}

#[tokio::test]
async fn what_can_not_be_answered_has_a_hint() {
    let check = async |line: &str, exit, said: &str| {
        let (code, out, err) = run(line).await;
        assert_eq!((code, out.as_str()), (exit, ""), "{line}: {err}");
        assert!(err.contains(said) && err.contains("hint:"), "{line}: {err}");
    };
    check("xdp trace --sample 7 --socket @", Exit::Partial, "no kernel program is in force").await;
    check("xdp status --socket @.none", Exit::NotFound, "--socket").await;
}
