//! Takes over what a store in the format before this one holds: every chunk that lives is written again, then its file goes.
//!
//! Invariant: a file goes only when all that lived in it is durable in the new format. Files go in the order in which they were
//! written, so that a deletion stays as long as anything that it concerns; a crash in between costs nothing but the time.

use std::io;

use crate::{
    Recovery, Shared,
    batch::{NewRecord, Origin},
    format::{Content, Kind},
    format1::OldStore,
    log::AppendError,
    medium::Slot,
    writer::Writer,
};

/// Bytes of chunks that are written at once.
const BATCH_BYTES: u64 = 8 << 20;

/// Converts the files at `slots`, if there are any. Chunks that can't be read stay where they are, and are counted.
pub(crate) fn take_over(
    shared: &Shared,
    writer: &mut Writer,
    slots: &[Slot],
    report: &mut Recovery,
) -> io::Result<()> {
    if slots.is_empty() {
        return Ok(());
    }
    tracing::info!(segments = slots.len(), "converting the store to the present format");
    let old = OldStore::read(&*shared.medium, slots)?;
    for slot in old.slots() {
        let (mut records, mut bytes, mut is_whole) = (Vec::new(), 0, true);
        old.for_each(slot, |chunk, found| {
            // An earlier start may have come so far.
            if shared.index().chunk(chunk.chunk).is_some_and(|there| there.content() == chunk.content) {
                return Ok(());
            }
            match found {
                Ok((page_crcs, data)) => {
                    let (kind, id, content) = (Kind::Chunk, chunk.chunk, chunk.content);
                    let (sequence, origin) = (writer.next_sequence(), Origin::Caller);
                    bytes += u64::from(content.length);
                    records.push(NewRecord { kind, chunk: id, content, sequence, data, page_crcs, origin });
                }
                Err(_) if chunk.is_last => report.torn_bytes += u64::from(chunk.content.length),
                Err(_) => {
                    let Content { length, .. } = chunk.content;
                    tracing::warn!(chunk = %chunk.chunk, length, "chunk is damaged on the disk");
                    report.quarantined += 1;
                    is_whole = false;
                }
            }
            if bytes >= BATCH_BYTES {
                bytes = 0;
                append(writer, std::mem::take(&mut records))?;
            }
            Ok(())
        })?;
        append(writer, records)?;
        if is_whole {
            shared.medium.remove(slot)?;
        }
    }
    report.chunks = shared.index().chunk_count();
    report.segments = shared.index().segment_count();
    Ok(())
}

fn append(writer: &mut Writer, records: Vec<NewRecord>) -> io::Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    writer.append(records).map_err(|error| match error {
        AppendError::Failed => io::Error::other("the disk failed"),
        AppendError::NoSpace => io::Error::new(
            io::ErrorKind::StorageFull,
            "there is no room to convert the store to the present format; it needs as much as one of its segments",
        ),
    })
}
