use proptest::prelude::*;
use xdpfs_wire::{BucketId, CHUNK_LEN_MAX};

use super::*;

const SUPERBLOCK: Superblock = Superblock {
    node_uuid: [7; 16],
    segment: SegmentId(3),
    nonce: 0x1234_5678_9abc_def0,
    class: Class::Cold,
    is_free: false,
};

fn page_of(superblock: &Superblock) -> Vec<u8> {
    let mut page = vec![0xdb; PAGE_LEN];
    superblock.encode(&mut page);
    page
}

#[test]
fn superblock_survives_the_loss_of_either_copy() {
    let whole = page_of(&SUPERBLOCK);
    for at in 0..whole.len() {
        let mut page = whole.clone();
        page[at] ^= 0x10;
        assert_eq!(Superblock::parse(&page), Ok(SUPERBLOCK), "byte {at}");
    }
    assert_eq!(Superblock::parse(&[0; PAGE_LEN]), Err(SuperblockError::Damaged));
}

#[test]
fn segment_is_free_if_a_change_of_that_was_cut_off() {
    let free = Superblock { is_free: true, ..SUPERBLOCK };
    for (first, second) in [(free, SUPERBLOCK), (SUPERBLOCK, free)] {
        let mut page = page_of(&first);
        page[PAGE_LEN / 2..].copy_from_slice(&page_of(&second)[PAGE_LEN / 2..]);
        assert!(Superblock::parse(&page).is_ok_and(|found| found.is_free));
    }
}

#[test]
fn superblock_of_another_version_is_named_so() {
    let mut page = page_of(&SUPERBLOCK);
    page[8] = 9;
    let copy: &mut [u8; BLOCK_LEN] = page.first_chunk_mut().expect("a page is longer than a block");
    seal(copy);
    page[PAGE_LEN / 2] ^= 1;
    assert_eq!(Superblock::parse(&page), Err(SuperblockError::Version(9)));
}

fn header() -> BatchHeader {
    BatchHeader { kind: BatchKind::Records, number: 11, pages: 3, descriptors: 40, previous: 5, table_crc: 6 }
}

#[test]
fn any_flipped_byte_of_a_header_is_noticed() {
    let mut whole = [0; HEADER_LEN];
    let digest = header().encode(1, 4096, &mut whole);
    assert_eq!(BatchHeader::parse(&whole, 1, 4096), Some((header(), digest)));
    for at in 0..whole.len() {
        let mut bytes = whole;
        bytes[at] ^= 1;
        assert_eq!(BatchHeader::parse(&bytes, 1, 4096), None, "byte {at}");
    }
}

#[test]
fn header_counts_only_where_it_was_written() {
    let mut bytes = [0; HEADER_LEN];
    header().encode(1, 4096, &mut bytes);
    assert_eq!(BatchHeader::parse(&bytes, 1, 8192), None, "another position");
    assert_eq!(BatchHeader::parse(&bytes, 2, 4096), None, "another segment");
}

#[test]
fn footer_counts_only_in_its_segment() {
    let mut page = vec![0xdb; PAGE_LEN];
    Footer { index_at: 8192 }.encode(5, &mut page);
    assert_eq!(Footer::parse(&page, 5), Some(Footer { index_at: 8192 }));
    assert_eq!(Footer::parse(&page, 6), None);
}

proptest! {
    #[test]
    fn descriptors_come_back(number in any::<u64>(), length in 1..=CHUNK_LEN_MAX, crc in any::<u32>(), start_units in any::<u32>()) {
        let chunk = ChunkId::new(BucketId(3), number);
        let content = Content { length, crc };
        let descriptor = Descriptor { kind: Kind::Chunk, chunk, content, sequence: number ^ 77, start_units };
        let mut bytes = [0xdb; DESCRIPTOR_LEN];
        descriptor.encode(&mut bytes);
        prop_assert_eq!(Descriptor::parse(&bytes), Some(descriptor));
    }

    #[test]
    fn parts_of_a_record_follow_each_other(start in 0..1_u64 << 20, length in 1..=CHUNK_LEN_MAX) {
        let start = start * UNIT;
        let extent = Extent::of_chunk(start, length);
        let sums = if pages(length) > 1 { 4 * pages(length) } else { 0 };
        prop_assert!(extent.start >= start && extent.data >= extent.start + sums);
        prop_assert_eq!(Extent::of_chunk(extent.start, length), extent, "where it was put it stays");
        prop_assert!(extent.end >= extent.data + u64::from(length));
        prop_assert!(extent.end.is_multiple_of(UNIT));
        prop_assert!(length < LARGE_LEN_MIN || extent.data.is_multiple_of(PAGE));
        prop_assert!(extent.len() + DESCRIPTOR_LEN as u64 <= Extent::len_max(length));
    }
}
