use xdpfs_proto::state::v1::{self as pb, command, outcome};
use xdpfs_wire::{NodeEpoch, Receipt, ReceiptKey, SipKey};

use super::*;
use crate::state_machine::{chunk_id_bytes, parse_chunk_id};

const TERM: u64 = 3;
const CRC: u32 = 5;
const LENGTH: u32 = 10;
const NODE: NodeId = NodeId(1);
const EPOCH: u32 = 1;

/// A state with three nodes and a bucket that wants two replicas.
struct Scene {
    state: State,
    index: u64,
}

impl Scene {
    fn new() -> Self {
        let mut scene = Self { state: State::default(), index: 0 };
        for uuid in ["u", "v", "w"] {
            scene.apply(command::Kind::RegisterNode(pb::RegisterNode {
                node_uuid: uuid.into(),
                receipt_key: vec![7; 16].into(),
                capacity_bytes: 1 << 20,
                ..Default::default()
            }));
        }
        scene.apply(command::Kind::CreateBucket(pb::CreateBucket {
            name: "abc".into(),
            chunk_size: LENGTH,
            replicas: 2,
            min_replicas: 1,
            ..Default::default()
        }));
        scene
    }

    fn apply(&mut self, kind: command::Kind) -> outcome::Kind {
        self.index += 1;
        let command =
            pb::Command { time_ms: 1, deletion_grace_ms: 1000, kind: Some(kind), ..Default::default() };
        self.state.apply(self.index, &command).kind.unwrap()
    }

    fn begin(&mut self, key: &str) -> (u64, ChunkId) {
        let begin = pb::BeginPut {
            bucket: "abc".into(),
            key: key.into(),
            placements: vec![pb::Placement { node_ids: vec![1, 2] }],
            lease_ms: 1000,
            ..Default::default()
        };
        let outcome::Kind::Begun(begun) = self.apply(command::Kind::BeginPut(begin)) else { panic!() };
        (begun.upload_id, parse_chunk_id(&begun.chunks[0].chunk_id).unwrap())
    }

    /// Puts an object of one chunk, which these nodes hold.
    fn put(&mut self, key: &str, nodes: &[u16]) -> ChunkId {
        let (upload_id, chunk) = self.begin(key);
        let receipts = nodes.iter().map(|node| {
            let receipt = Receipt {
                chunk,
                length: LENGTH,
                crc: CRC,
                node: NodeId(*node),
                node_epoch: NodeEpoch(1),
                mac: 0,
            };
            let mac = ReceiptKey(SipKey::from_bytes([7; 16])).sign(&receipt);
            pb::Receipt { node_id: (*node).into(), node_epoch: 1, mac }
        });
        let chunk_id = chunk_id_bytes(chunk);
        let written =
            pb::WrittenChunk { chunk_id, length: LENGTH, crc32c: CRC, receipts: receipts.collect() };
        let commit = pb::CommitPut { upload_id, chunks: vec![written], ..Default::default() };
        let done = self.apply(command::Kind::CommitPut(commit));
        assert!(matches!(done, outcome::Kind::Committed(_)), "{done:?}");
        chunk
    }

    fn delete(&mut self, key: &str) {
        let delete = pb::DeleteObject { bucket: "abc".into(), key: key.into(), ..Default::default() };
        self.apply(command::Kind::DeleteObject(delete));
    }

    fn look(&self, node: u16, list: &[Listed]) -> Vec<(Kind, ChunkId)> {
        let all = (ChunkId(0), ChunkId(u128::MAX));
        let sight = look(&self.state, NodeId(node), list, all, usize::MAX);
        assert_eq!((sight.chunks, sight.last), (list.len() as u64, ChunkId(u128::MAX)));
        // Small steps show the same.
        for looked_at_max in [1, 2, 3] {
            let mut stepwise = look(&self.state, NodeId(node), list, all, looked_at_max);
            while stepwise.last < all.1 {
                let rest = (ChunkId(stepwise.last.0 + 1), all.1);
                stepwise = stepwise.join(look(&self.state, NodeId(node), list, rest, looked_at_max));
            }
            assert_eq!(stepwise, sight, "{looked_at_max} at a time");
        }
        sight.wrong.into_iter().collect()
    }
}

const fn listed(chunk: ChunkId) -> Listed {
    Listed { chunk, length: LENGTH, crc32c: CRC }
}

fn wrong(found: &[(Kind, ChunkId)]) -> Sight {
    Sight { wrong: found.iter().copied().collect(), chunks: 4, last: ChunkId(u128::MAX) }
}

#[test]
fn what_a_node_holds_is_held_against_what_it_should() {
    let mut scene = Scene::new();
    let [a, b] = ["a", "b"].map(|key| scene.put(key, &[1, 2]));
    assert_eq!(scene.look(1, &[listed(a), listed(b)]), []);
    assert_eq!(scene.look(1, &[listed(b)]), [(Kind::Missing, a)]);
    assert_eq!(scene.look(3, &[]), [], "nobody says that it holds any");
    assert_eq!(scene.look(3, &[listed(a)]), [(Kind::Surplus, a)]);
    let shorter = Listed { length: LENGTH - 1, ..listed(a) };
    let other = Listed { crc32c: CRC + 1, ..listed(b) };
    assert_eq!(scene.look(2, &[shorter, other]), [(Kind::Different, a), (Kind::Different, b)]);
}

#[test]
fn what_nothing_refers_to_is_not_what_somebody_is_about_to_write_or_remove() {
    let mut scene = Scene::new();
    let gone = scene.put("gone", &[1, 2]);
    let (_, open) = scene.begin("open");
    scene.delete("gone");
    let never = ChunkId(open.0 + 1000);
    let list = [gone, open, never].map(listed);
    assert_eq!(scene.look(1, &list), [(Kind::Foreign, never)], "node 1 is to remove one, and may write one");
    assert_eq!(
        scene.look(3, &list),
        [(Kind::Unreferenced, gone), (Kind::Foreign, never)],
        "nobody will ever tell node 3 to remove it"
    );
    let collect = |chunk| pb::CollectReplicas { node_id: 3, chunk_ids: vec![chunk_id_bytes(chunk)] };
    for chunk in [gone, open, never] {
        scene.apply(command::Kind::CollectReplicas(collect(chunk)));
    }
    assert_eq!(scene.look(3, &list), [(Kind::Foreign, never)], "what may yet be given out stays");
}

#[test]
fn manifests_are_searched_for_nodes_that_are_not_there() {
    let mut scene = Scene::new();
    let [both, one] = [("both", &[1, 2][..]), ("one", &[2])].map(|(key, nodes)| scene.put(key, nodes));
    let walk = |state: &State, heard: &[u16]| {
        let mut walk = Walk::default();
        let heard = heard.iter().copied().map(NodeId).collect();
        while !walk.is_complete() {
            walk.look_on(state, &heard);
        }
        assert_eq!((walk.objects, walk.chunks), (2, 2));
        walk.findings.kept().collect::<Vec<_>>()
    };
    let too_few = (Kind::TooFew, one, None);
    assert_eq!(walk(&scene.state, &[1, 2, 3]), [too_few]);
    assert_eq!(walk(&scene.state, &[1]), [(Kind::OutOfReach, one, None), too_few]);
    scene.apply(command::Kind::FenceNode(pb::FenceNode { node_id: 2, epoch: 1 }));
    let epoch = scene.state.node(NodeId(2)).unwrap().epoch;
    scene.apply(command::Kind::RemoveNode(pb::RemoveNode { node_id: 2, epoch }));
    let gone = |chunk| (Kind::NodeGone, chunk, Some(NodeId(2)));
    let expect = [(Kind::OutOfReach, one, None), too_few, gone(both), gone(one)];
    assert_eq!(walk(&scene.state, &[1, 3]), expect);
}

#[test]
fn finding_is_what_two_looks_show() {
    let (inventories, now) = (Inventories::default(), Instant::now());
    let nodes = [(NODE, Standing::Telling), (NodeId(2), Standing::Silent)];
    let number = inventories.join(TERM, 0, false, now, nodes).unwrap();
    let node = (NODE, EPOCH);
    assert_eq!((inventories.wanted(TERM, NODE), inventories.wanted(TERM, NodeId(2))), (number, 0));
    let see = |after: Duration, sight| inventories.see(TERM, number, node, now + after, sight);
    let again = Step::Go { next: ChunkId(0), wait: SECOND_LOOK_AFTER };
    let [kept, mended, late] = [7, 8, 9].map(|chunk| (Kind::Missing, ChunkId(chunk)));
    assert_eq!(inventories.place(TERM, number, node), Some((ChunkId(0), None)));
    let part = Sight { last: ChunkId(50), ..wrong(&[kept, mended]) };
    assert_eq!(see(Duration::ZERO, part), (BTreeSet::new(), again));
    assert_eq!(inventories.place(TERM, number, node), Some((ChunkId(0), Some(ChunkId(50)))));
    let part = Sight { last: ChunkId(50), ..wrong(&[kept, late]) };
    assert_eq!(see(SECOND_LOOK_AFTER / 2, part.clone()).1, again, "it was not given time");
    let (found, step) = see(SECOND_LOOK_AFTER, part);
    assert_eq!(found, [kept].into(), "one was mended, and one was late");
    assert_eq!(step, Step::Go { next: ChunkId(51), wait: PART_PAUSE });
    assert!(!inventories.picture(TERM, number).unwrap().is_complete);
    assert_eq!(see(SECOND_LOOK_AFTER * 2, wrong(&[])), (BTreeSet::new(), Step::Done));
    let picture = inventories.picture(TERM, number).unwrap();
    assert_eq!(picture.nodes[&NODE], (Standing::Told, 8, 0));
    assert_eq!(picture.findings.kept().collect::<Vec<_>>(), [(Kind::Missing, ChunkId(7), Some(NODE))]);
    assert!(!picture.is_complete, "no manifest was looked at");
    assert!(!inventories.look_on(TERM, number, &State::default(), &BTreeSet::new()));
    assert!(inventories.picture(TERM, number).unwrap().is_complete);
}

#[test]
fn inventory_is_complete_only_when_something_was_done_about_what_was_found() {
    let (inventories, now) = (Inventories::default(), Instant::now());
    let number = inventories.join(TERM, 0, true, now, [(NODE, Standing::Telling)]).unwrap();
    inventories.look_on(TERM, number, &State::default(), &BTreeSet::new());
    let sight = wrong(&[(Kind::Unreferenced, ChunkId(7))]);
    for after in [Duration::ZERO, SECOND_LOOK_AFTER] {
        inventories.see(TERM, number, (NODE, EPOCH), now + after, sight.clone());
    }
    assert!(!inventories.picture(TERM, number).unwrap().is_complete, "it is being collected");
    inventories.note_collected(TERM, number, NODE, 1);
    inventories.settle(TERM, number, NODE);
    let picture = inventories.picture(TERM, number).unwrap();
    assert_eq!((picture.is_complete, picture.nodes[&NODE]), (true, (Standing::Told, 4, 1)));
}

#[test]
fn second_look_that_comes_too_late_is_a_first_one() {
    let (inventories, now) = (Inventories::default(), Instant::now());
    let number = inventories.join(TERM, 0, false, now, [(NODE, Standing::Telling)]).unwrap();
    let see = |after| {
        let sight = wrong(&[(Kind::Unreferenced, ChunkId(7))]);
        inventories.see(TERM, number, (NODE, EPOCH), now + after, sight).0.len()
    };
    assert_eq!([Duration::ZERO, SECOND_LOOK_BY, SECOND_LOOK_BY + SECOND_LOOK_AFTER].map(see), [0, 0, 1]);
}

#[test]
fn node_that_registers_anew_tells_anew_and_is_counted_once() {
    let (inventories, now) = (Inventories::default(), Instant::now());
    let number = inventories.join(TERM, 0, true, now, [(NODE, Standing::Telling)]).unwrap();
    let found = |epoch, sight: &Sight| {
        inventories.see(TERM, number, (NODE, epoch), now, sight.clone());
        inventories.see(TERM, number, (NODE, epoch), now + SECOND_LOOK_AFTER, sight.clone());
        let picture = inventories.picture(TERM, number).unwrap();
        (picture.findings.counts().get(&Kind::Missing).copied(), picture.nodes[&NODE].1)
    };
    let part = Sight { last: ChunkId(50), ..wrong(&[(Kind::Missing, ChunkId(7))]) };
    assert_eq!(found(1, &part), (Some(1), 4));
    assert_eq!(found(2, &part), (Some(1), 4));
    assert_eq!(inventories.step(TERM, number + 1, (NODE, 2)), Step::Done, "nobody waits for that one");
    inventories.give_up(TERM, |_| Standing::Silent);
    assert_eq!(inventories.place(TERM, number, (NODE, 2)), None);
    assert_eq!(inventories.picture(TERM, number).unwrap().nodes[&NODE].0, Standing::Silent);
}

#[test]
fn one_is_taken_at_a_time_for_all_who_ask() {
    let (inventories, now) = (Inventories::default(), Instant::now());
    let join = |number, collects, after| {
        inventories.join(TERM, number, collects, now + after, [(NODE, Standing::Telling)])
    };
    let first = join(0, false, Duration::ZERO).unwrap();
    assert_eq!(join(0, false, Duration::ZERO), Ok(first));
    assert_eq!(join(0, true, FORGOTTEN_AFTER / 2), Err(Busy));
    let second = join(0, true, FORGOTTEN_AFTER).unwrap();
    assert_ne!(first, second, "whoever wanted the first is gone");
    assert!(inventories.collects(TERM, second) && !inventories.collects(TERM, first));
    inventories.give_up(TERM, |_| Standing::Unable);
    inventories.look_on(TERM, second, &State::default(), &BTreeSet::new());
    assert_eq!(join(second, true, FORGOTTEN_AFTER), Ok(second), "what it has shown can be seen once more");
    assert_ne!(join(0, true, FORGOTTEN_AFTER).unwrap(), second, "one that is over is not joined");
    assert!(inventories.picture(TERM + 1, second).is_none(), "the next leader knows nothing of it");
}

#[test]
fn findings_are_counted_all_and_kept_in_part() {
    let mut findings = Findings::default();
    let mut other = Findings::default();
    for chunk in 0..KEPT_MAX as u128 * 3 {
        findings.note(Kind::Unreferenced, ChunkId(chunk), Some(NODE));
        other.note(Kind::Missing, ChunkId(chunk), Some(NodeId(2)));
    }
    findings.add(&other);
    let counts = [(Kind::Missing, KEPT_MAX as u64 * 3), (Kind::Unreferenced, KEPT_MAX as u64 * 3)];
    assert_eq!(*findings.counts(), counts.into());
    assert_eq!(findings.kept().count(), 2 * KEPT_MAX);
    assert!(findings.is_against(ChunkId(5), NodeId(2)) && !findings.is_against(ChunkId(5), NODE));
}
