//! The store against a map, by any sequence of what can be asked of it, and by any power loss on the way.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LENGTHS: [usize; 8] = [1, 64, 4095, 4096, 4097, 20_000, 65_536, 70_001];

#[derive(Clone, Debug)]
enum Step {
    Delete(Vec<u64>),
    Put(u64),
    PutOther(u64),
    ReadRange(u64, u16, u16),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let number = || 0..16_u64;
    let step = prop_oneof![
        6 => number().prop_map(Step::Put),
        1 => number().prop_map(Step::PutOther),
        3 => prop::collection::vec(number(), 1..4).prop_map(Step::Delete),
        2 => (number(), any::<u16>(), any::<u16>()).prop_map(|(n, from, to)| Step::ReadRange(n, from, to)),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..80)
}

/// Chunks never change: a number has one length and one content.
fn data(number: u64) -> Bytes {
    bytes_of(chunk(number), LENGTHS[number as usize % LENGTHS.len()])
}

#[derive(Debug, Default)]
struct Model(BTreeMap<ChunkId, Bytes>);

impl Model {
    fn check(&self, store: &Store) {
        assert_eq!(store.chunk_ids(ChunkId(0), 100), self.0.keys().copied().collect::<Vec<_>>());
        assert_eq!(store.usage().chunks, self.0.len() as u64);
        for (id, data) in &self.0 {
            assert!(read(store, *id).unwrap() == *data, "{id}");
        }
    }

    fn put_other(&mut self, store: &Store, number: u64) {
        let other = bytes_of(chunk(number + 100), 333);
        let result = put_patiently(store, chunk(number), &other);
        match self.0.get(&chunk(number)) {
            Some(there) if *there == other => assert_eq!(result, Ok(())),
            Some(_) => assert_eq!(result, Err(PutError::Conflict)),
            None => {
                assert_eq!(result, Ok(()));
                self.0.insert(chunk(number), other);
            }
        }
    }

    fn put(&mut self, store: &Store, number: u64) {
        let data = data(number);
        let result = put_patiently(store, chunk(number), &data);
        match self.0.get(&chunk(number)) {
            Some(there) if *there != data => assert_eq!(result, Err(PutError::Conflict)),
            _ => {
                assert_eq!(result, Ok(()));
                self.0.insert(chunk(number), data);
            }
        }
    }

    fn read_range(&self, store: &Store, number: u64, from: u16, to: u16) {
        let (from, to) = (usize::from(from.min(to)), usize::from(from.max(to)));
        let found = read_range(store, chunk(number), from as u32, to - from);
        match self.0.get(&chunk(number)) {
            None => assert_eq!(found, Err(ReadError::NotFound)),
            Some(data) if to > data.len() => assert_eq!(found, Err(ReadError::Range)),
            Some(data) => assert!(found.unwrap() == data[from..to], "{from}..{to} of {number}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn store_does_what_a_map_does(steps in steps()) {
        let disk = SimDisk::new();
        let mut store = open(&disk);
        let mut model = Model::default();
        for step in steps {
            match step {
                Step::Delete(numbers) => {
                    let ids: Vec<_> = numbers.into_iter().map(chunk).collect();
                    delete(&store, &ids).unwrap();
                    model.0.retain(|id, _| !ids.contains(id));
                }
                Step::Put(number) => model.put(&store, number),
                Step::PutOther(number) => model.put_other(&store, number),
                Step::ReadRange(number, from, to) => model.read_range(&store, number, from, to),
                Step::Reopen => {
                    store.close();
                    let (opened, recovery) = Store::open_on(&config(), disk.clone(), None).unwrap();
                    prop_assert_eq!((recovery.torn_bytes, recovery.quarantined), (0, 0));
                    store = opened;
                    model.check(&store);
                }
            }
        }
        model.check(&store);
    }
}
