use std::{fs, path::Path};

use tempfile::TempDir;

use super::{latch::Latches, *};
use crate::page_buffer::PageBuffer;

const WAYS: [IoWanted; 4] = [
    IoWanted { direct: true, ring: true },
    IoWanted { direct: true, ring: false },
    IoWanted { direct: false, ring: true },
    IoWanted { direct: false, ring: false },
];

/// Runs a test by every way to the disk, each in a directory of its own.
fn by_every_way(test: impl Fn(&DiskMedium, &Path)) {
    for wanted in WAYS {
        let directory = TempDir::new().unwrap();
        let medium = DiskMedium::open(directory.path(), wanted).unwrap();
        println!("{wanted:?}: {}", medium.about());
        test(&medium, directory.path());
    }
}

fn pattern(pages: usize, seed: u8) -> PageBuffer {
    let mut buffer = PageBuffer::new(pages);
    for (index, byte) in buffer.iter_mut().enumerate() {
        *byte = (index / 7) as u8 ^ (index / PAGE_LEN) as u8 ^ seed;
    }
    buffer
}

fn contents(file: &dyn SegmentFile, pages: usize) -> PageBuffer {
    let mut out = PageBuffer::new(pages);
    out.fill(0xee);
    file.read(&mut out, 0).unwrap();
    out
}

/// Reads the pages at each position, all at once, and returns them in the order of the positions.
fn read_all(
    reader: &mut dyn PageReader,
    file: &Arc<dyn SegmentFile>,
    positions: &[u64],
    pages: usize,
) -> Vec<io::Result<Vec<u8>>> {
    let mut found: Vec<_> = positions.iter().map(|_| None).collect();
    for (token, position) in positions.iter().enumerate() {
        reader.submit(Arc::clone(file), *position, pages, token as u64);
    }
    while found.iter().any(Option::is_none) {
        reader.complete(true, &mut |token, result| {
            let before = found[token as usize].replace(result.map(<[u8]>::to_vec));
            assert!(before.is_none(), "each completes once");
        });
    }
    found.into_iter().flatten().collect()
}

fn write(
    writer: &mut dyn DurableWriter,
    file: &Arc<dyn SegmentFile>,
    bytes: &[u8],
    position: u64,
) -> io::Result<()> {
    let mut buffer = writer.buffer(bytes.len());
    buffer[..bytes.len()].copy_from_slice(bytes);
    writer.begin(file, buffer, bytes.len(), position);
    assert!(writer.is_busy());
    let (result, buffer) = writer.finish();
    assert!(!writer.is_busy());
    if result.is_ok() {
        assert!(buffer[..bytes.len()] == *bytes, "the buffer still holds what was written");
    }
    result
}

#[test]
fn files_come_and_go_by_their_slots() {
    by_every_way(|medium, directory| {
        for slot in [7, 1, 0xabc] {
            assert!(medium.create(Slot(slot)).unwrap().is_empty().unwrap());
        }
        for other in ["0000000g.segment", "1.segment", "00000001.other", "0000000A.segment", "lock"] {
            fs::write(directory.join(other), "").unwrap();
        }
        assert!(directory.join("00000abc.segment").exists());
        assert_eq!(medium.slots().unwrap(), [Slot(1), Slot(7), Slot(0xabc)]);
        assert_eq!(medium.create(Slot(7)).unwrap_err().kind(), io::ErrorKind::AlreadyExists);

        let open = medium.open(Slot(7), Access::ReadWrite).unwrap();
        open.write_durably(&pattern(1, 3), 0).unwrap();
        medium.remove(Slot(7)).unwrap();
        assert_eq!(medium.slots().unwrap(), [Slot(1), Slot(0xabc)]);
        assert!(*contents(&*open, 1) == *pattern(1, 3), "who has it open goes on reading");
        assert_eq!(medium.open(Slot(7), Access::ReadOnly).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(medium.remove(Slot(7)).unwrap_err().kind(), io::ErrorKind::NotFound);
    });
}

#[test]
fn a_directory_is_made_and_nothing_is_left_in_it() {
    let parent = TempDir::new().unwrap();
    let path = parent.path().join("chunks");
    let medium = DiskMedium::open(&path, IoWanted::default()).unwrap();
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
    assert_eq!(medium.directory(), path);
    assert!(DiskMedium::open(&path.join("a/b"), IoWanted::default()).is_err());
    let room = medium.room().unwrap();
    assert!(room.available <= room.total);
}

#[test]
fn looking_at_a_directory_makes_none() {
    let parent = TempDir::new().unwrap();
    assert!(DiskMedium::open_existing(&parent.path().join("none")).is_err());
    let medium = DiskMedium::open_existing(parent.path()).unwrap();
    assert!(!medium.about().direct.is_in_use() && !medium.about().ring.is_in_use());
}

#[test]
fn what_is_written_is_read_back_by_another_descriptor() {
    by_every_way(|medium, _| {
        let file = medium.create(Slot(1)).unwrap();
        file.allocate(0, 16 * PAGE_LEN as u64).unwrap();
        assert_eq!(file.len().unwrap(), 0);
        file.write_durably(&pattern(3, 1), 0).unwrap();
        file.write_durably(&pattern(2, 9), 5 * PAGE_LEN as u64).unwrap();
        assert_eq!(file.len().unwrap(), 7 * PAGE_LEN as u64);
        file.forget_cached().unwrap();

        let again = medium.open(Slot(1), Access::ReadOnly).unwrap();
        let found = contents(&*again, 7);
        assert!(found[..3 * PAGE_LEN] == *pattern(3, 1));
        assert!(found[3 * PAGE_LEN..5 * PAGE_LEN].iter().all(|byte| *byte == 0));
        assert!(found[5 * PAGE_LEN..] == *pattern(2, 9));
    });
}

#[test]
fn beyond_the_end_there_are_zeros() {
    by_every_way(|medium, _| {
        let file = medium.create(Slot(1)).unwrap();
        file.write_durably(&pattern(4, 1), 0).unwrap();
        for length in [2 * PAGE_LEN, 2 * PAGE_LEN + 1, 2 * PAGE_LEN + 512, 3 * PAGE_LEN - 1] {
            file.set_len(4 * PAGE_LEN as u64).unwrap();
            file.write_durably(&pattern(4, 1), 0).unwrap();
            file.set_len(length as u64).unwrap();
            let mut expect = pattern(4, 1);
            expect[length..].fill(0);

            assert!(*contents(&*file, 4) == *expect, "{length}");
            let mut reader = medium.reader(3, 4);
            let positions = [0, 2 * PAGE_LEN as u64, 100 * PAGE_LEN as u64];
            let found = read_all(&mut *reader, &file, &positions, 4);
            assert!(found[0].as_ref().unwrap()[..] == *expect);
            assert!(found[1].as_ref().unwrap()[..2 * PAGE_LEN] == expect[2 * PAGE_LEN..]);
            assert!(found[2].as_ref().unwrap().iter().all(|byte| *byte == 0));
        }
    });
}

#[test]
fn batches_are_written_while_the_next_is_put_together() {
    by_every_way(|medium, _| {
        let file = medium.create(Slot(1)).unwrap();
        let mut writer = medium.writer(4);
        let mut next = writer.buffer(4 * PAGE_LEN);
        for round in 0..16 {
            next.copy_from_slice(&pattern(4, round));
            writer.begin(&file, next, 4 * PAGE_LEN, u64::from(round) * 4 * PAGE_LEN as u64);
            next = writer.buffer(4 * PAGE_LEN);
            let (result, _) = writer.finish();
            result.unwrap();
        }
        let found = contents(&*file, 64);
        for round in 0..16 {
            let from = usize::from(round) * 4 * PAGE_LEN;
            assert!(found[from..from + 4 * PAGE_LEN] == *pattern(4, round));
        }
    });
}

#[test]
fn buffers_come_back_and_larger_ones_are_made() {
    by_every_way(|medium, _| {
        let file = medium.create(Slot(1)).unwrap();
        let mut writer = medium.writer(2);
        let own = [writer.buffer(PAGE_LEN), writer.buffer(2 * PAGE_LEN)].map(|buffer| buffer.as_ptr().addr());
        let mut addresses =
            [writer.buffer(1), writer.buffer(1), writer.buffer(1)].map(|buffer| buffer.as_ptr().addr());
        addresses[..2].sort_unstable();
        let mut sorted = own;
        sorted.sort_unstable();
        assert_eq!(addresses[..2], sorted);
        assert!(!own.contains(&addresses[2]));

        let large = pattern(600, 5);
        assert_eq!(writer.buffer(large.len()).len(), large.len());
        write(&mut *writer, &file, &large, 0).unwrap();
        assert!(*contents(&*file, 600) == *large);
        write(&mut *writer, &file, &pattern(1, 6), 8 * PAGE_LEN as u64).unwrap();
        assert!(contents(&*file, 600)[8 * PAGE_LEN..9 * PAGE_LEN] == *pattern(1, 6));
    });
}

#[test]
fn many_reads_at_once_come_back_by_their_tokens() {
    by_every_way(|medium, _| {
        let file = medium.create(Slot(1)).unwrap();
        let data = pattern(256, 1);
        file.write_durably(&data, 0).unwrap();
        let mut reader = medium.reader(16, 8);
        assert_eq!(reader.free(), 16);
        for round in 0..4 {
            let positions: Vec<_> = (0..16).map(|n| (n * 11 + round) % 248 * PAGE_LEN as u64).collect();
            let found = read_all(&mut *reader, &file, &positions, 8);
            for (position, bytes) in positions.iter().zip(found) {
                let from = *position as usize;
                assert!(bytes.unwrap() == data[from..from + 8 * PAGE_LEN]);
            }
            assert_eq!(reader.free(), 16);
        }
        reader.complete(true, &mut |_, _| panic!("nothing is under way"));
    });
}

#[test]
fn a_reader_is_full_until_something_completes() {
    by_every_way(|medium, _| {
        let file = medium.create(Slot(1)).unwrap();
        file.write_durably(&pattern(8, 1), 0).unwrap();
        let mut reader = medium.reader(2, 1);
        reader.submit(Arc::clone(&file), 0, 1, 10);
        reader.submit(Arc::clone(&file), PAGE_LEN as u64, 1, 11);
        assert_eq!(reader.free(), 0);
        let mut tokens = Vec::new();
        while tokens.len() < 2 {
            reader.complete(tokens.is_empty(), &mut |token, result| {
                result.unwrap();
                tokens.push(token);
            });
        }
        tokens.sort_unstable();
        assert_eq!(tokens, [10, 11]);
        assert_eq!(reader.free(), 2);
    });
}

#[test]
fn dropping_waits_for_what_is_under_way() {
    by_every_way(|medium, _| {
        for _ in 0..8 {
            let file = medium.create(Slot(1)).unwrap();
            file.set_len(64 * PAGE_LEN as u64).unwrap();
            let mut reader = medium.reader(32, 2);
            for n in 0..32 {
                reader.submit(Arc::clone(&file), n * PAGE_LEN as u64, 2, n);
                if n == 16 {
                    reader.complete(false, &mut |_, result| assert_eq!(result.unwrap().len(), 2 * PAGE_LEN));
                }
            }
            drop(reader);
            let mut writer = medium.writer(32);
            let mut buffer = writer.buffer(32 * PAGE_LEN);
            buffer.copy_from_slice(&pattern(32, 3));
            writer.begin(&file, buffer, 32 * PAGE_LEN, 0);
            drop(writer);
            assert!(contents(&*file, 32)[..] == *pattern(32, 3));
            assert_eq!(Arc::strong_count(&file), 1, "nothing holds on to the file");
            medium.remove(Slot(1)).unwrap();
        }
    });
}

#[test]
fn a_buffer_may_outlive_its_writer() {
    by_every_way(|medium, _| {
        let mut writer = medium.writer(1);
        let mut buffer = writer.buffer(1);
        drop(writer);
        buffer.fill(1);
    });
}

#[test]
fn writes_to_a_file_that_is_only_looked_at_fail() {
    by_every_way(|medium, _| {
        medium.create(Slot(1)).unwrap().write_durably(&pattern(1, 1), 0).unwrap();
        let file = medium.open(Slot(1), Access::ReadOnly).unwrap();
        assert!(file.write_durably(&pattern(1, 2), 0).is_err());
        assert!(file.set_len(0).is_err());
        assert!(file.allocate(0, PAGE_LEN as u64).is_err());
        let mut writer = medium.writer(1);
        assert!(write(&mut *writer, &file, &pattern(1, 2), 0).is_err());
        assert!(*contents(&*file, 1) == *pattern(1, 1));
        assert!(medium.about().dsync.is_in_use(), "it was not the flag that was refused");

        let writable = medium.open(Slot(1), Access::ReadWrite).unwrap();
        write(&mut *writer, &writable, &pattern(1, 2), 0).unwrap();
    });
}

#[test]
fn a_file_that_can_not_be_read_says_so() {
    by_every_way(|medium, directory| {
        // A directory by the name of a segment can be opened, and not read.
        fs::create_dir(directory.join("00000001.segment")).unwrap();
        let file = medium.open(Slot(1), Access::ReadOnly).unwrap();
        assert!(file.read(&mut PageBuffer::new(1), 0).is_err());
        let found = read_all(&mut *medium.reader(2, 1), &file, &[0, PAGE_LEN as u64], 1);
        assert!(found.iter().all(Result::is_err));
    });
}

#[test]
fn without_dsync_a_second_call_makes_durable() {
    by_every_way(|medium, _| {
        medium.latches().dsync.turn_off("the test says so");
        let file = medium.create(Slot(1)).unwrap();
        file.write_durably(&pattern(2, 1), 0).unwrap();
        write(&mut *medium.writer(2), &file, &pattern(2, 4), 2 * PAGE_LEN as u64).unwrap();
        let found = contents(&*file, 4);
        assert!(found[..2 * PAGE_LEN] == *pattern(2, 1) && found[2 * PAGE_LEN..] == *pattern(2, 4));
        assert!(medium.about().to_string().ends_with("no RWF_DSYNC: the test says so"));
    });
}

#[test]
fn what_has_failed_once_is_not_tried_again() {
    let directory = TempDir::new().unwrap();
    let medium = DiskMedium::open(directory.path(), IoWanted::default()).unwrap();
    let about = medium.about();
    if !about.direct.is_in_use() || !about.ring.is_in_use() {
        println!("skipped: {about}");
        return;
    }
    let file = medium.create(Slot(1)).unwrap();
    file.write_durably(&pattern(4, 1), 0).unwrap();
    let mut early = medium.writer(2);
    medium.latches().direct.turn_off("first");
    medium.latches().direct.turn_off("second");
    medium.latches().ring.turn_off("first");
    let about = medium.about();
    assert_eq!(about.direct, Facility::Off("first".to_owned()));
    assert_eq!(about.to_string(), "buffered, plain calls; no direct: first; no io_uring: first");

    let buffered = medium.open(Slot(1), Access::ReadWrite).unwrap();
    write(&mut *early, &file, &pattern(1, 2), 0).unwrap();
    write(&mut *medium.writer(2), &buffered, &pattern(1, 3), PAGE_LEN as u64).unwrap();
    let found = read_all(&mut *medium.reader(2, 1), &buffered, &[0, PAGE_LEN as u64], 1);
    assert!(found[0].as_ref().unwrap()[..] == *pattern(1, 2));
    assert!(found[1].as_ref().unwrap()[..] == *pattern(1, 3));
    assert_eq!(medium.about(), about);
}

#[test]
fn a_kernel_that_registers_no_buffers_maps_them_each_time() {
    let directory = TempDir::new().unwrap();
    let medium = DiskMedium::open(directory.path(), IoWanted { direct: true, ring: true }).unwrap();
    if !medium.about().ring.is_in_use() {
        println!("skipped: {}", medium.about());
        return;
    }
    let file = medium.create(Slot(1)).unwrap();
    file.write_durably(&pattern(4, 1), 0).unwrap();
    // More buffers than may be registered with a ring.
    let mut reader = medium.reader(20_000, 1);
    let about = medium.about();
    // Who may lock little memory gets no ring of this size to begin with.
    assert!(!about.registered.is_in_use() || !about.ring.is_in_use());
    let found = read_all(&mut *reader, &file, &[0, 2 * PAGE_LEN as u64], 1);
    assert!(found[1].as_ref().unwrap()[..] == pattern(4, 1)[2 * PAGE_LEN..3 * PAGE_LEN]);
    write(&mut *medium.writer(2), &file, &pattern(2, 7), 0).unwrap();
    assert!(contents(&*file, 2)[..] == *pattern(2, 7));
    // More operations than a ring can have.
    let mut reader = medium.reader(100_000, 1);
    assert!(!medium.about().ring.is_in_use());
    let found = read_all(&mut *reader, &file, &[0], 1);
    assert!(found[0].as_ref().unwrap()[..] == pattern(2, 7)[..PAGE_LEN]);
}

#[test]
fn a_ring_that_fails_is_replaced_by_plain_calls() {
    let directory = TempDir::new().unwrap();
    let medium = DiskMedium::open(directory.path(), IoWanted::default()).unwrap();
    let file = medium.create(Slot(1)).unwrap();
    file.write_durably(&pattern(4, 1), 0).unwrap();
    let latches = Arc::new(Latches::default());
    let Ok(mut reader) = ring_io::reader(4, 1, &latches) else {
        println!("skipped: no io_uring");
        return;
    };
    for token in 0..3 {
        reader.submit(Arc::clone(&file), 0, 1, token);
    }
    let mut failed = Vec::new();
    reader.abandon(io::Error::other("the test says so"), &mut |token, result| {
        assert!(result.is_err());
        failed.push(token);
    });
    failed.sort_unstable();
    assert_eq!(failed, [0, 1, 2]);
    assert!(!latches.ring.is_on());
    assert_eq!(reader.free(), 4);
    let found = read_all(&mut reader, &file, &[0, PAGE_LEN as u64], 1);
    assert!(found[1].as_ref().unwrap()[..] == pattern(4, 1)[PAGE_LEN..2 * PAGE_LEN]);
}
