//! A cluster with a gateway before it, and a caller with generated code.

use std::{future::Future, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use futures::{Stream, StreamExt as _, stream};
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;
use xdpfs_proto::object::v1::{
    self as proto, get_object_response, object_service_client::ObjectServiceClient, put_object_request,
};
use xdpfs_testbed::{Cluster, ClusterOptions, Process, ProcessSpec};

pub(crate) const MIB: usize = 1 << 20;
pub(crate) const BUCKET: &str = "data";
/// Longer than anything takes that ends at all.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) type Caller = ObjectServiceClient<Channel>;

/// Dropped in this order.
pub(crate) struct Scene {
    pub(crate) caller: Caller,
    pub(crate) gateway: Option<Process>,
    /// What the gateway said when it was ready.
    pub(crate) ready: String,
    pub(crate) cluster: Cluster,
}

impl Scene {
    /// One metadata server, three data nodes and a gateway that is told this besides; with a bucket.
    pub(crate) async fn with(args: &[&str]) -> Self {
        let options = ClusterOptions { meta_servers: 1, ..ClusterOptions::default() };
        let mut scene = Self::of(Cluster::start(options).unwrap(), args).await;
        let request = proto::CreateBucketRequest { bucket: BUCKET.into(), ..Default::default() };
        scene.caller.create_bucket(request).await.unwrap();
        scene
    }

    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A gateway before this cluster.
    pub(crate) async fn of(cluster: Cluster, args: &[&str]) -> Self {
        let (gateway, ready) = start_gateway(&cluster, args);
        let caller = ObjectServiceClient::new(connect(address(&ready)).await);
        Self { caller, gateway: Some(gateway), ready, cluster }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(log_path(&self.cluster)).unwrap()
    }
}

pub(crate) fn start_gateway(cluster: &Cluster, args: &[&str]) -> (Process, String) {
    let usual = ["--meta", cluster.endpoint(), "--listen", "127.0.0.1:0"];
    let spec = ProcessSpec {
        name: "gateway".to_owned(),
        program: PathBuf::from(env!("CARGO_BIN_EXE_xdpfs-gateway")),
        args: usual.iter().chain(args).map(Into::into).collect(),
        env: Vec::new(),
        log: log_path(cluster),
        namespace: None,
    };
    let mut gateway = Process::spawn(&spec).unwrap();
    let ready = gateway.await_ready(LONG).unwrap();
    (gateway, ready)
}

fn log_path(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("gateway.log")
}

/// A word of the line that says that a gateway is ready.
pub(crate) fn word(ready: &str, name: &str) -> SocketAddr {
    let word = ready.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    word.unwrap_or_else(|| panic!("no {name} in {ready}")).parse().unwrap()
}

pub(crate) fn address(ready: &str) -> SocketAddr {
    word(ready, "address")
}

pub(crate) async fn connect(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

/// Bytes that are told apart by their place.
pub(crate) fn content(len: usize) -> Bytes {
    (0..len).map(|at| (at % 251) as u8 ^ (at / 251 % 256) as u8).collect::<Vec<_>>().into()
}

pub(crate) fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(Crc32Iscsi, bytes) as u32
}

pub(crate) fn header(key: &str) -> proto::PutObjectHeader {
    proto::PutObjectHeader { bucket: BUCKET.into(), key: key.into(), ..Default::default() }
}

pub(crate) fn step(step: put_object_request::Step) -> proto::PutObjectRequest {
    proto::PutObjectRequest { step: Some(step) }
}

/// All messages of a put.
pub(crate) fn steps(header: proto::PutObjectHeader, bytes: &Bytes) -> Vec<proto::PutObjectRequest> {
    use put_object_request::Step;
    let parts = (0..bytes.len()).step_by(MIB).map(|at| bytes.slice(at..bytes.len().min(at + MIB)));
    let trailer = proto::Trailer { crc32c: crc32c(bytes) };
    let all = [Step::Header(header)].into_iter().chain(parts.map(Step::Part)).chain([Step::Trailer(trailer)]);
    all.map(step).collect()
}

pub(crate) async fn put_with(
    caller: &mut Caller,
    header: proto::PutObjectHeader,
    bytes: &Bytes,
) -> Result<proto::Object, Status> {
    let messages = stream::iter(steps(header, bytes));
    caller.put_object(messages).await.map(|answer| answer.into_inner().object.unwrap())
}

pub(crate) async fn put(caller: &mut Caller, key: &str, bytes: &Bytes) -> proto::Object {
    put_with(caller, header(key), bytes).await.unwrap()
}

pub(crate) fn get_request(key: &str) -> proto::GetObjectRequest {
    proto::GetObjectRequest { bucket: BUCKET.into(), key: key.into(), ..Default::default() }
}

/// What a get gives: its header and all bytes, which have the checksum of their trailer.
pub(crate) async fn get_with(
    caller: &mut Caller,
    request: impl tonic::IntoRequest<proto::GetObjectRequest>,
) -> Result<(proto::GetObjectHeader, Bytes), Status> {
    use get_object_response::Step;
    let mut stream = caller.get_object(request).await?.into_inner();
    let Some(Step::Header(header)) = next(&mut stream).await? else { panic!("a header comes first") };
    let mut bytes = Vec::new();
    loop {
        match next(&mut stream).await? {
            Some(Step::Part(part)) => {
                assert!(part.len() <= MIB);
                bytes.extend_from_slice(&part);
            }
            Some(Step::Trailer(trailer)) => {
                assert_eq!(trailer.crc32c, crc32c(&bytes));
                assert!(stream.message().await.unwrap().is_none(), "nothing follows a trailer");
                assert_eq!(header.length, bytes.len() as u64);
                return Ok((header, bytes.into()));
            }
            other => panic!("neither a part nor a trailer: {other:?}"),
        }
    }
}

pub(crate) async fn get(caller: &mut Caller, key: &str) -> Bytes {
    get_with(caller, get_request(key)).await.unwrap().1
}

pub(crate) async fn next(
    stream: &mut Streaming<proto::GetObjectResponse>,
) -> Result<Option<get_object_response::Step>, Status> {
    Ok(stream.message().await?.and_then(|message| message.step))
}

pub(crate) async fn head(caller: &mut Caller, key: &str) -> Result<proto::Object, Status> {
    let request = proto::HeadObjectRequest { bucket: BUCKET.into(), key: key.into(), ..Default::default() };
    caller.head_object(request).await.map(|answer| answer.into_inner().object.unwrap())
}

pub(crate) async fn is_there(caller: &mut Caller, key: &str) -> bool {
    match head(caller, key).await {
        Ok(_) => true,
        Err(status) => {
            refused(&status, Code::NotFound, "OBJECT_NOT_FOUND");
            false
        }
    }
}

/// The status has this code, and details that say why.
#[track_caller]
pub(crate) fn refused(status: &Status, code: Code, reason: &str) {
    let info = status.get_details_error_info().unwrap_or_else(|| panic!("no details: {status:?}"));
    assert_eq!((status.code(), info.reason.as_str()), (code, reason), "{status:?}");
    assert_eq!(info.domain, "xdpfs");
}

pub(crate) fn if_match(etag: &str) -> Option<proto::Precondition> {
    Some(proto::Precondition { kind: Some(proto::precondition::Kind::IfMatch(etag.to_owned())) })
}

pub(crate) fn if_none_match_any() -> Option<proto::Precondition> {
    Some(proto::Precondition { kind: Some(proto::precondition::Kind::IfNoneMatchAny(true)) })
}

/// The same request with an access key.
pub(crate) fn showing<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    request
}

/// Asks until it is so.
pub(crate) async fn becomes<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let asked = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LONG, asked).await.unwrap_or_else(|_| panic!("it never becomes so: {what}"));
}

/// These messages, and then nothing more until whoever reads them goes.
pub(crate) fn unfinished<T>(messages: Vec<T>) -> impl Stream<Item = T> + Send + use<T>
where
    T: Send + 'static,
{
    stream::iter(messages).chain(stream::pending())
}
