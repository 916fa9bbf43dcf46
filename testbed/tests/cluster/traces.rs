//! Traces of requests at a collector that is one, that is deaf, and that is not there.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value,
    trace::v1::Span,
};
use tokio::{runtime::Runtime, sync::oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};
use xdpfs_testbed::{Cli, Cluster, ClusterOptions, Content};

use crate::support::done;

const WITHIN: Duration = Duration::from_secs(30);
const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// A collector, until it is dropped.
struct Collector {
    address: SocketAddr,
    heard: Heard,
    _runtime: Runtime,
    _stop: oneshot::Sender<()>,
}

/// Spans with the service that they are of.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Heard {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for of_one in request.into_inner().resource_spans {
            let attributes = of_one.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = attributes.into_iter().find(|attribute| attribute.key == "service.name");
            let service = match service.and_then(|service| service.value).and_then(|value| value.value) {
                Some(any_value::Value::StringValue(name)) => name,
                other => panic!("a service without a name: {other:?}"),
            };
            let spans = of_one.scope_spans.into_iter().flat_map(|scope| scope.spans);
            heard.extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse { partial_success: None }))
    }
}

impl Collector {
    fn start() -> Self {
        let runtime = Runtime::new().expect("threads");
        let heard = Heard::default();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let service = TraceServiceServer::new(heard.clone());
        let serving = Server::builder().add_service(service);
        runtime.spawn(serving.serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
            let _ = stopped.await;
        }));
        Self { address, heard, _runtime: runtime, _stop: stop }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn spans(&self) -> Vec<(String, Span)> {
        self.heard.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until there is what is wanted of it.
    #[track_caller]
    fn await_spans<T>(&self, wanted: impl Fn(&[(String, Span)]) -> Option<T>) -> T {
        let deadline = Instant::now() + WITHIN;
        loop {
            let spans = self.spans();
            if let Some(found) = wanted(&spans) {
                return found;
            }
            assert!(Instant::now() < deadline, "only these have come: {:#?}", names(&spans));
            // Servers send when they think fit.
            thread::sleep(Duration::from_millis(50));
        }
    }
}

fn names(spans: &[(String, Span)]) -> Vec<String> {
    spans.iter().map(|(service, span)| format!("{service}: {}", span.name)).collect()
}

fn cluster(collector: &str) -> Cluster {
    let env = vec![
        (COLLECTOR.to_owned(), collector.to_owned()),
        ("XDPFS_META_HTTP_LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
    ];
    Cluster::start(ClusterOptions { env, ..ClusterOptions::default() }).expect("the cluster starts")
}

/// The tool with arguments for a collector before the others.
fn put(cli: &Cli, collector: &str, address: &str, content: &Content) -> Duration {
    let args = ["--otlp-endpoint", collector, "put", "-", address];
    let output = cli.invoke(args).stdin(content.clone()).run();
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    output.took
}

#[test]
fn one_put_is_one_trace_of_client_and_server_without_any_secret() {
    let collector = Collector::start();
    let mut cluster = cluster(&collector.url());
    let rights = ["--admin", "*", "--read", "*", "--write", "*", "--list", "*"];
    let key = done(&cluster, &[&["key", "create"][..], &rights].concat()).text().trim().to_owned();
    cluster.show_access_key(&key);
    done(&cluster, &["mb", "secretive-bucket", "--chunk-size", "64KiB"]);
    put(cluster.cli(), &collector.url(), "secretive-bucket/secret-object", &Content::new(1, 100_000));

    let trace = collector.await_spans(|spans| {
        let root = spans.iter().find(|(service, span)| service == "xdpfs-cli" && span.name == "put")?;
        let trace: Vec<_> =
            spans.iter().filter(|(_, span)| span.trace_id == root.1.trace_id).cloned().collect();
        let committed =
            |(service, span): &&(String, Span)| service == "xdpfs-meta-server" && span.name == "CommitPut";
        trace.iter().find(committed).is_some().then_some(trace)
    });
    let by_id: BTreeMap<&[u8], &(String, Span)> =
        trace.iter().map(|spans| (spans.1.span_id.as_slice(), spans)).collect();
    assert_eq!(by_id.len(), trace.len(), "each span has an id of its own");
    let parent_of = |span: &Span| by_id.get(span.parent_span_id.as_slice()).copied();
    let root = trace.iter().find(|(_, span)| span.name == "put").expect("it was found");
    assert!(root.1.parent_span_id.is_empty(), "it begins the trace");
    for method in ["BeginPut", "CommitPut"] {
        let is_served = |(who, span): &&(String, Span)| who == "xdpfs-meta-server" && span.name == method;
        let served: Vec<_> = trace.iter().filter(is_served).collect();
        for (_, span) in &served {
            let (who, asked) = parent_of(span).expect("its parent is there");
            assert_eq!((who.as_str(), asked.name.as_str()), ("xdpfs-cli", method));
            assert_eq!(asked.parent_span_id, root.1.span_id, "{method} belongs to the put");
        }
        // Others than the leader have only said who leads.
        let proposed = |(_, served): &&&(String, Span)| {
            trace.iter().any(|(_, span)| span.name == "propose" && span.parent_span_id == served.span_id)
        };
        assert!(served.iter().any(|span| proposed(&span)), "{method}: {:?}", names(&trace));
    }
    let writes: Vec<_> = trace.iter().filter(|(_, span)| span.name == "write chunk").collect();
    assert!(writes.len() >= 6, "two chunks, three replicas: {:?}", names(&trace));
    assert!(writes.iter().all(|(_, span)| span.parent_span_id == root.1.span_id));

    let told = format!("{:?}", collector.spans());
    let secret = key.split('.').nth(1).expect("a key has two parts");
    for hidden in ["secretive-bucket", "secret-object", secret, &key] {
        assert!(!told.contains(hidden), "{hidden} is in a trace");
    }
    assert!(!told.contains("Heartbeat") && !told.contains("Register"), "nodes are in no trace");
}

#[test]
fn a_collector_that_is_deaf_or_gone_costs_no_request_and_no_end() {
    let deaf = TcpListener::bind("127.0.0.1:0").expect("a port");
    let deaf = format!("http://{}", deaf.local_addr().expect("it is bound"));
    let gone = {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("it is bound");
        format!("http://{port}")
    };
    for collector in [&deaf, &gone] {
        let mut cluster = cluster(collector);
        done(&cluster, &["mb", "data"]);
        for round in 0..10 {
            let took = put(cluster.cli(), collector, &format!("data/{round}"), &Content::new(round, 1000));
            // Two seconds are for the tool's last spans.
            assert!(took < Duration::from_secs(6), "{collector}: {took:?}");
        }
        let leader = cluster.leader(WITHIN).expect("somebody leads");
        let http = cluster.ready_line(leader).split("http=").nth(1).expect("it has told where").to_owned();
        let lost = || lost_at(&http);
        let deadline = Instant::now() + WITHIN;
        while lost() == 0 {
            assert!(Instant::now() < deadline, "{collector}: spans that are gone are not counted");
            thread::sleep(Duration::from_millis(50));
        }
        for server in cluster.all_meta_servers() {
            let began = Instant::now();
            assert!(cluster.stop(server).expect("it runs"), "{server} ends well");
            assert!(began.elapsed() < Duration::from_secs(15), "{server}: {:?}", began.elapsed());
        }
    }
}

/// `xdpfs_trace_spans_total{outcome="lost"}` there.
fn lost_at(address: &str) -> u64 {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address.trim()).expect("it listens");
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("it answers");
    let line = page.lines().find(|line| line.starts_with("xdpfs_trace_spans_total{outcome=\"lost\"}"));
    line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).map_or(0, |count| count as u64)
}

#[test]
fn what_is_no_collector_is_refused_at_the_start() {
    let tool = Cluster::tool().expect("it is built");
    for (url, word) in [("https://collector:4317", "plaintext"), ("collector:4317", "http://HOST:PORT")] {
        let output = tool.run(["--otlp-endpoint", url, "ls"]);
        assert_eq!(output.code, Some(2), "{}", output.stderr);
        assert!(output.stderr.contains(word), "{}", output.stderr);
    }
}
