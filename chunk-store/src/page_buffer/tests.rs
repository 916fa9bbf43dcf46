use super::*;

#[test]
fn memory_is_zeroed_aligned_and_as_long_as_asked_for() {
    for pages in [0, 1, 2, 17] {
        let buffer = PageBuffer::new(pages);
        assert_eq!(buffer.len(), pages * PAGE_LEN);
        assert_eq!(buffer.pages(), pages);
        assert!(buffer.iter().all(|byte| *byte == 0));
        assert_eq!(buffer.as_ptr().addr() % PAGE_LEN, 0);
    }
}

#[test]
fn a_length_in_bytes_is_rounded_up_to_pages() {
    let check = |bytes: usize, pages: usize| assert_eq!(PageBuffer::with_len(bytes).pages(), pages);
    check(0, 0);
    check(1, 1);
    check(PAGE_LEN, 1);
    check(PAGE_LEN + 1, 2);
}

#[test]
fn bytes_stay_where_they_are_when_the_buffer_moves() {
    let mut buffer = PageBuffer::new(3);
    buffer[PAGE_LEN..2 * PAGE_LEN].fill(7);
    let address = buffer.as_ptr().addr();
    let moved = Box::new(buffer);
    assert_eq!(moved.as_ptr().addr(), address);
    assert_eq!(moved.iter().filter(|byte| **byte == 7).count(), PAGE_LEN);
}
