//! etcd 3.4, by the few messages of its interface that the load needs. They are written from the numbers of the fields in
//! etcd's `rpc.proto` and `kv.proto`, and name what is used here only.

use std::time::Instant;

use anyhow::{Context as _, bail, ensure};
use prost::Message;
use tonic::{IntoRequest as _, Status, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use crate::{
    Operation,
    system::{Connections, PAGE_LEN, SERVES_WITHIN, System, VALUE_BYTES, filled, target},
    xdpfs::futures_join,
};

const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
const TXN: &str = "/etcdserverpb.KV/Txn";

/// What a transaction takes at most by default.
const KEYS_PER_TXN: u64 = 128;
const FILLERS: u64 = 4;
/// What a key holds that is filled in: about what a metadata server says of an object in a listing.
const FILLED_BYTES: usize = 64;
const MESSAGE_BYTES_MAX: usize = 64 << 20;

#[derive(Clone, PartialEq, Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

/// Of which nothing is needed.
#[derive(Clone, PartialEq, Message)]
struct Answer {}

/// A linearizable one, unless told otherwise.
#[derive(Clone, PartialEq, Message)]
struct Range {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    limit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Ranged {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
    #[prost(bool, tag = "3")]
    more: bool,
}

#[derive(Clone, PartialEq, Message)]
struct TxnPut {
    #[prost(message, optional, tag = "2")]
    put: Option<Put>,
}

#[derive(Clone, PartialEq, Message)]
struct Txn {
    #[prost(message, repeated, tag = "2")]
    success: Vec<TxnPut>,
}

#[derive(Clone, PartialEq, Message)]
struct ServerStatus {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Etcd {
    leader: usize,
    connections: Connections,
    grpc: Grpc<Channel>,
}

impl Etcd {
    /// Waits for the leader.
    pub(crate) async fn find(endpoints: &[String]) -> anyhow::Result<Self> {
        let give_up = Instant::now() + SERVES_WITHIN;
        loop {
            for (at, endpoint) in endpoints.iter().enumerate() {
                let connections = Connections::to(endpoint)?;
                let mut etcd = Self { leader: at, grpc: grpc(&connections, 0), connections };
                let Ok(status) = etcd.call::<_, ServerStatus>(STATUS, Answer {}).await else { continue };
                let own = status.header.unwrap_or_default().member_id;
                if own != 0 && own == status.leader && etcd.read(target(0)).await.is_ok() {
                    return Ok(etcd);
                }
            }
            if Instant::now() >= give_up {
                bail!("no server of etcd leads and serves");
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    async fn call<Q, A>(&mut self, path: &'static str, message: Q) -> Result<A, Status>
    where
        Q: Message + Default + 'static,
        A: Message + Default + 'static,
    {
        self.grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let (path, codec) = (PathAndQuery::from_static(path), ProstCodec::<Q, A>::default());
        Ok(self.grpc.unary(message.into_request(), path, codec).await?.into_inner())
    }

    async fn read(&mut self, key: String) -> Result<Ranged, Status> {
        self.call(RANGE, Range { key: key.into_bytes(), ..Range::default() }).await
    }
}

impl System for Etcd {
    fn leader(&self) -> usize {
        self.leader
    }

    fn client(&self, number: usize) -> Self {
        Self { grpc: grpc(&self.connections, number), ..self.clone() }
    }

    async fn once(&mut self, operation: Operation, key: u64) -> anyhow::Result<()> {
        match operation {
            // There is nothing in etcd that takes two.
            Operation::Put | Operation::PutObject => {
                let put = Put { key: target(key).into_bytes(), value: vec![b'x'; VALUE_BYTES] };
                self.call::<_, Answer>(PUT, put).await.with_context(|| format!("put of key {key}"))?;
            }
            Operation::Read => {
                let got = self.read(filled(key)).await.with_context(|| format!("read of key {key}"))?;
                ensure!(got.kvs.len() == 1, "key {key} is not there");
            }
        }
        Ok(())
    }

    async fn fill(&self, count: u64) -> anyhow::Result<()> {
        let filler = |first: u64| async move {
            let mut etcd = self.client(first as usize);
            let starts = (first * KEYS_PER_TXN..count).step_by((FILLERS * KEYS_PER_TXN) as usize);
            for start in starts {
                let put = |key| TxnPut {
                    put: Some(Put { key: filled(key).into_bytes(), value: vec![b'x'; FILLED_BYTES] }),
                };
                let success = (start..count.min(start + KEYS_PER_TXN)).map(put).collect();
                etcd.call::<_, Answer>(TXN, Txn { success }).await?;
            }
            anyhow::Ok(())
        };
        futures_join((0..FILLERS).map(filler)).await
    }

    async fn page(&mut self, after: Option<Vec<u8>>) -> anyhow::Result<(usize, Option<Vec<u8>>)> {
        let range = Range {
            key: after.unwrap_or_else(|| b"fill/".to_vec()),
            // The first text behind the prefix.
            range_end: b"fill0".to_vec(),
            limit: PAGE_LEN.into(),
        };
        let page: Ranged = self.call(RANGE, range).await?;
        let last = page.kvs.last().filter(|_| page.more);
        Ok((page.kvs.len(), last.map(|last| [last.key.as_slice(), &[0]].concat())))
    }
}

fn grpc(connections: &Connections, number: usize) -> Grpc<Channel> {
    Grpc::new(connections.of_client(number)).max_decoding_message_size(MESSAGE_BYTES_MAX)
}
