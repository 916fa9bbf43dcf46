//! What the node refuses, whom it tells, and how it is counted.

use tempfile::TempDir;
use xdpfs_wire::{Capability, KeyEpoch, Reject, RequestId, Rights, Status};

use crate::{
    fake_meta::FakeMeta,
    refused::cases,
    start,
    writer::{Datagram, Probe, capability, chunk},
};

#[tokio::test(flavor = "multi_thread")]
async fn refused_datagrams_change_nothing_and_are_counted_by_reason() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let epoch = meta.heard().epoch();
    let probe = Probe::to(node.address());
    for case in cases(epoch) {
        let label = case.reject.label();
        let before = meta.next_heartbeat().await.rejects.get(label).copied().unwrap_or(0);
        probe.send(&case.bytes);
        if let Some(status) = case.told {
            assert_eq!(probe.status(), (status, RequestId(1)), "{label}");
        }
        let counted = meta.until(label, |heard| {
            let count = heard.heartbeats.last()?.rejects.get(label).copied();
            count.filter(|count| *count > before)
        });
        assert_eq!(counted.await, before + 1, "{label}");
    }
    let beat = meta.next_heartbeat().await;
    assert_eq!(beat.chunks, 0);
    assert_eq!(beat.rejects.values().sum::<u64>(), cases(epoch).len() as u64, "{:?}", beat.rejects);

    // Whoever was told nothing so far gets no late answer either: the first reply is the one to this.
    let mut sound = Datagram::put_whole(epoch, chunk(1), vec![7; 100]);
    sound.header.request = RequestId(99);
    probe.send(&sound.encode());
    assert_eq!(probe.status(), (Status::Ok, RequestId(99)));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn payload_that_fails_its_checksum_is_counted_and_not_answered() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let mut datagram = Datagram::put_whole(1, chunk(1), vec![7; 100]);
    datagram.payload[50] ^= 1;
    Probe::to(node.address()).send(&datagram.encode());
    let counted = |heard: &crate::fake_meta::Heard| heard.heartbeats.last()?.rejects.get("corrupt").copied();
    assert_eq!(meta.until("the count", counted).await, 1);
    assert_eq!(meta.next_heartbeat().await.chunks, 0);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn capabilities_live_and_die_with_their_key_epoch() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let probe = Probe::to(node.address());
    let write = |number: u64, epoch: u8| {
        let capability = Capability { key_epoch: KeyEpoch(epoch), ..capability(Rights::ALL) };
        let mut datagram = Datagram::put_whole(1, chunk(number), vec![7; 100]).with_capability(capability);
        datagram.header.request = RequestId(number as u32);
        probe.send(&datagram.encode());
    };
    write(1, 1);
    assert_eq!(probe.status(), (Status::Ok, RequestId(1)));
    {
        let mut heard = meta.heard();
        heard.key_epochs.remove(&1);
        heard.key_epochs.insert(3, crate::fake_meta::secret(3));
    }
    meta.next_heartbeat().await;
    meta.next_heartbeat().await;
    write(2, 1);
    write(3, 3);
    assert_eq!(probe.status(), (Status::Ok, RequestId(3)), "the old epoch's request is not answered");
    let beat = meta.next_heartbeat().await;
    assert_eq!(beat.rejects.get(Reject::UnknownKeyEpoch.label()), Some(&1));
    node.shutdown().await;
}
