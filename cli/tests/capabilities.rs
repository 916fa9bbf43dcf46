//! A capability that was stolen: good until the next key epoch, and no longer. The thief speaks the chunk protocol itself,
//! to nodes of a cluster that runs in a process of its own.

#![expect(clippy::unwrap_used, reason = "the helpers belong to the tests, which panic when they fail")]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use tonic::transport::Channel;
use xdpfs_proto::meta::v1::{GetObjectRequest, GetObjectResponse, meta_service_client::MetaServiceClient};
use xdpfs_transport::{ChunkClient, ChunkClientConfig, SessionKey, Target, TransferError};
use xdpfs_wire::{
    BucketId, Capability, CapabilityKey, ChunkId, ClientId, Expiry, KeyEpoch, NodeEpoch, NodeId, Rights,
    SipKey,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_xdpfs-cli");
/// Data nodes hear of a new key epoch with the answer to their next heartbeat, of which there is one a second. Twice that,
/// and a second for a heartbeat that is under way.
const OBEYED_WITHIN: Duration = Duration::from_secs(3);

struct Cluster {
    child: Child,
    endpoints: String,
}

impl Cluster {
    fn start(data_dir: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["dev", "--data-dir"])
            .arg(data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        let endpoints = ready.trim().strip_prefix("ready XDPFS_ENDPOINT=").expect(&ready).to_owned();
        Self { child, endpoints }
    }

    fn command(&self, key: Option<&str>) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .env("XDPFS_ENDPOINT", &self.endpoints)
            .env_remove("XDPFS_ACCESS_KEY_FILE")
            .stdin(Stdio::null());
        match key {
            Some(key) => command.env("XDPFS_ACCESS_KEY", key),
            None => command.env_remove("XDPFS_ACCESS_KEY"),
        };
        command
    }

    fn run(&self, key: Option<&str>, line: &str, code: i32) -> Output {
        let output = self.command(key).args(line.split(' ')).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{line}: {output:?}");
        output
    }

    fn text(&self, key: Option<&str>, line: &str) -> String {
        String::from_utf8(self.run(key, line, 0).stdout).unwrap().trim().to_owned()
    }

    /// What the leader answers to whoever may read the object.
    async fn ask(&self, key: &str, name: &str) -> GetObjectResponse {
        let mut last = None;
        for endpoint in self.endpoints.split(',') {
            let channel = Channel::from_shared(format!("http://{endpoint}")).unwrap().connect_lazy();
            let mut request =
                tonic::Request::new(GetObjectRequest { name: name.to_owned(), ..Default::default() });
            request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
            match MetaServiceClient::new(channel).get_object(request).await {
                Ok(answer) => return answer.into_inner(),
                Err(status) => last = Some(status),
            }
        }
        panic!("nobody leads: {last:?}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// All that it takes to read a chunk from one node.
struct Loot {
    target: Target,
    session: SessionKey,
    chunk: ChunkId,
    length: u32,
}

/// The first chunk, from each node that holds it.
fn loot(answer: &GetObjectResponse) -> Vec<Loot> {
    let capability = answer.capability.as_ref().unwrap();
    let session = SessionKey {
        capability: Capability {
            client: ClientId(capability.client_id),
            bucket: BucketId(capability.bucket_id),
            rights: Rights(capability.rights as u8),
            expiry: Expiry(capability.expiry_s),
            key_epoch: KeyEpoch(capability.key_epoch as u8),
        },
        key: CapabilityKey(SipKey::from_bytes(capability.key.as_slice().try_into().unwrap())),
    };
    let chunk = &answer.chunks[0];
    let id = ChunkId(u128::from_be_bytes(chunk.chunk_id.as_slice().try_into().unwrap()));
    let target = |node: &xdpfs_proto::meta::v1::NodeAddress| Target {
        address: node.address.parse().unwrap(),
        node: NodeId(node.node_id as u16),
        node_epoch: NodeEpoch(node.node_epoch as u16),
    };
    let nodes = answer.nodes.iter().filter(|node| chunk.node_ids.contains(&node.node_id));
    nodes.map(|node| Loot { target: target(node), session, chunk: id, length: chunk.length }).collect()
}

async fn read(thief: &ChunkClient, loot: &Loot) -> Result<Vec<u8>, TransferError> {
    let read = thief.read(loot.target, loot.session, loot.chunk, 0..loot.length).await;
    read.map(|bytes| bytes.to_vec())
}

/// Reads until the node does not answer any more; how long after `since` it answered last.
async fn last_answer(thief: &ChunkClient, loot: &Loot, since: Instant) -> Duration {
    let mut last = Duration::ZERO;
    while since.elapsed() < 4 * OBEYED_WITHIN {
        match read(thief, loot).await {
            Ok(_) => last = since.elapsed(),
            // In silence, as to everything that nobody proves.
            Err(TransferError::Unreachable) => return last,
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("node {} obeys a stolen capability for ever", loot.target.node);
}

#[tokio::test]
async fn stolen_capability_dies_with_its_key_epoch() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(&directory.path().join("data"));
    let file = directory.path().join("file");
    std::fs::write(&file, "what the thief is after").unwrap();
    let admin = cluster.text(None, "key create --admin * --label admin");
    let admin = Some(admin.as_str());
    let owner = cluster.text(admin, "key create --read demo --write demo --list demo --label owner");
    cluster.run(admin, "mb demo", 0);
    cluster.run(Some(&owner), &format!("put {} demo/file", file.display()), 0);
    let victim = cluster.text(admin, "key create --read demo --label victim");

    let stolen = loot(&cluster.ask(&victim, "buckets/demo/objects/file").await);
    assert_eq!(stolen.len(), 3);
    let thief = ChunkClient::bind(ChunkClientConfig::default()).unwrap();
    for loot in &stolen {
        assert_eq!(read(&thief, loot).await.unwrap(), b"what the thief is after");
    }

    // The key alone: no new capability, but the one that is out there lives on, as is documented.
    let id = victim.split('.').next().unwrap();
    cluster.run(admin, &format!("key revoke {id}"), 0);
    let refused = cluster.run(Some(&victim), "cat demo/file", 6);
    assert!(!String::from_utf8_lossy(&refused.stderr).contains(&victim), "{refused:?}");
    for loot in &stolen {
        assert!(read(&thief, loot).await.is_ok());
    }

    let rotated: serde_json::Value =
        serde_json::from_str(&cluster.text(admin, "--json capabilities revoke")).unwrap();
    let since = Instant::now();
    assert!(rotated["key_epoch"].as_u64() > Some(1), "{rotated}");
    let ends = futures::future::join_all(stolen.iter().map(|loot| last_answer(&thief, loot, since))).await;
    assert!(ends.iter().all(|end| *end < OBEYED_WITHIN), "{ends:?}");
    // Whoever may goes on as before.
    assert_eq!(cluster.text(Some(&owner), "cat demo/file"), "what the thief is after");
    let fresh = loot(&cluster.ask(&owner, "buckets/demo/objects/file").await);
    for loot in &fresh {
        assert!(read(&thief, loot).await.is_ok(), "a fresh capability is good");
    }

    // Revoked with its capabilities, in one step.
    let second = cluster.text(admin, "key create --read demo");
    let stolen = loot(&cluster.ask(&second, "buckets/demo/objects/file").await);
    cluster.run(admin, &format!("key revoke --now {}", second.split('.').next().unwrap()), 0);
    let since = Instant::now();
    let ends = futures::future::join_all(stolen.iter().map(|loot| last_answer(&thief, loot, since))).await;
    assert!(ends.iter().all(|end| *end < OBEYED_WITHIN), "{ends:?}");
}
