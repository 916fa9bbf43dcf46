//! Any sequence of puts and deletions, cut off at every change of the disk, in many ways each.

use std::{collections::BTreeMap, sync::Mutex};

use proptest::prelude::*;

use super::{sim_disk::Image, *};

const LENGTHS: [usize; 8] = [1, 64, 4095, 4096, 4097, 20_000, 33_000, 70_001];
/// Ways in which one change is cut off: nothing of it, all of it, and by chance.
const CUTS: u64 = 5;

#[derive(Clone, Debug)]
enum Step {
    /// Several at once, so that batches hold several.
    Put(Vec<u64>),
    Delete(Vec<u64>),
    Reopen,
}

/// What is known of a chunk by what the store has answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Known {
    /// It was asked for, or its deletion was.
    Either,
    There,
}

#[derive(Clone, Debug)]
struct Cut {
    image: Image,
    known: BTreeMap<u64, Known>,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let numbers = || prop::collection::vec(0..24_u64, 1..6);
    let step = prop_oneof![
        6 => numbers().prop_map(Step::Put),
        4 => numbers().prop_map(Step::Delete),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 4..40)
}

fn data(number: u64) -> Bytes {
    bytes_of(chunk(number), LENGTHS[number as usize % LENGTHS.len()])
}

/// Has every change of the disk leave what a power loss in it would.
fn watch(disk: &SimDisk, known: &Arc<Mutex<BTreeMap<u64, Known>>>, cuts: &Arc<Mutex<Vec<Cut>>>, seed: u64) {
    let (known, cuts) = (Arc::clone(known), Arc::clone(cuts));
    let mut chance = fastrand::Rng::with_seed(seed);
    disk.watch(Box::new(move |image, change| {
        let known = known.lock().unwrap().clone();
        for cut in 0..CUTS {
            let mut image = image.clone();
            match cut {
                0 => {}
                1 => change.leave(&mut image, || true),
                _ => change.leave(&mut image, || chance.bool()),
            }
            cuts.lock().unwrap().push(Cut { image, known: known.clone() });
        }
    }));
}

fn check(cut: &Cut, context: &str) {
    let disk = SimDisk::holding(cut.image.clone());
    let (store, recovery) = open_as(&disk, &config());
    assert_eq!((recovery.quarantined, recovery.unreadable_segments), (0, 0), "{context}");
    let held = |store: &Store| {
        for (number, known) in &cut.known {
            let found = read(store, chunk(*number));
            match known {
                Known::There => assert!(found.is_ok(), "{context}: {number} is lost"),
                Known::Either => {}
            }
        }
        for id in store.chunk_ids(ChunkId(0), 1000) {
            let number = id.0 as u64;
            assert!(cut.known.contains_key(&number), "{context}: {number} has come back");
            assert!(read(store, id).unwrap() == data(number), "{context}: {number} is wrong");
        }
        store.chunk_ids(ChunkId(0), 1000)
    };
    let before = held(&store);
    // The store goes on, and nothing that was cut off comes back with it.
    let (id, more) = (chunk(1000), bytes_of(chunk(1000), 3000));
    put(&store, id, &more).unwrap();
    store.close();
    let (store, again) = open_as(&disk, &config());
    assert_eq!((again.torn_bytes, again.quarantined), (0, 0), "{context}");
    assert!(read(&store, id).unwrap() == more, "{context}");
    delete(&store, &[id]).unwrap();
    assert_eq!(held(&store), before, "{context}");
}

fn run(steps: &[Step], seed: u64) -> Vec<Cut> {
    let disk = SimDisk::new();
    let known: Arc<Mutex<BTreeMap<u64, Known>>> = Arc::default();
    let cuts = Arc::default();
    watch(&disk, &known, &cuts, seed);
    let mut store = open(&disk);
    for step in steps {
        match step {
            Step::Put(numbers) => {
                for number in numbers {
                    known.lock().unwrap().entry(*number).or_insert(Known::Either);
                }
                let puts: Vec<_> = numbers
                    .iter()
                    .map(|number| store.put(chunk(*number), crc32c(&data(*number)), data(*number)))
                    .collect();
                for (number, put) in numbers.iter().zip(puts) {
                    wait(put).unwrap();
                    known.lock().unwrap().insert(*number, Known::There);
                }
            }
            Step::Delete(numbers) => {
                for number in numbers {
                    known.lock().unwrap().entry(*number).and_modify(|known| *known = Known::Either);
                }
                delete(&store, &numbers.iter().copied().map(chunk).collect::<Vec<_>>()).unwrap();
                known.lock().unwrap().retain(|number, _| !numbers.contains(number));
            }
            Step::Reopen => {
                store.close();
                store = open(&disk);
            }
        }
    }
    store.close();
    Arc::try_unwrap(cuts).map_or_else(|cuts| cuts.lock().unwrap().clone(), |cuts| cuts.into_inner().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_state_survives_a_power_loss_at_every_change(steps in steps(), seed in any::<u64>()) {
        for (number, cut) in run(&steps, seed).iter().enumerate() {
            check(cut, &format!("cut {number}"));
        }
    }
}
