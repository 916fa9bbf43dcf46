//! Messages that wait for one peer.
//!
//! Invariant: bounded in number and bytes. Consensus repeats what is lost, so the newest message is the one to drop:
//! dropping an older one would leave a gap that only a round trip closes.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use raft::eraftpb::Message;
use tokio::sync::Notify;

const MESSAGES_MAX: usize = 4096;
const BYTES_MAX: usize = 64 << 20;
/// A batch ends with the message that reaches one of these.
const BATCH_MESSAGES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 1 << 20;
/// The part of a message's size that is not its entries.
const MESSAGE_OVERHEAD: usize = 96;
const ENTRY_OVERHEAD: usize = 32;

#[derive(Debug, Default)]
pub(super) struct MessageQueue {
    waiting: Mutex<Waiting>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Message>,
    bytes: usize,
}

impl MessageQueue {
    /// False: there is no room, and the message is lost.
    pub(super) fn push(&self, message: Message) -> bool {
        let bytes = message_bytes(&message);
        let mut waiting = self.lock();
        let has_room = waiting.messages.len() < MESSAGES_MAX && waiting.bytes + bytes <= BYTES_MAX;
        if has_room || waiting.messages.is_empty() {
            waiting.bytes += bytes;
            waiting.messages.push_back(message);
            self.filled.notify_one();
            return true;
        }
        false
    }

    /// Waits until there is something to send.
    pub(super) async fn wait(&self) {
        while self.lock().messages.is_empty() {
            self.filled.notified().await;
        }
    }

    /// The oldest messages, waited for.
    pub(super) async fn next_batch(&self) -> Vec<Message> {
        loop {
            self.wait().await;
            let batch = self.take_batch();
            if !batch.is_empty() {
                return batch;
            }
        }
    }

    fn take_batch(&self) -> Vec<Message> {
        let mut waiting = self.lock();
        let (mut batch, mut batch_bytes) = (Vec::new(), 0);
        while batch.len() < BATCH_MESSAGES_MAX && batch_bytes < BATCH_BYTES_MAX {
            let Some(message) = waiting.messages.pop_front() else { break };
            let bytes = message_bytes(&message);
            waiting.bytes -= bytes;
            batch_bytes += bytes;
            batch.push(message);
        }
        batch
    }

    /// Forgets everything: what waited for a peer that cannot be reached is of no use to it later.
    pub(super) fn clear(&self) {
        *self.lock() = Waiting::default();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn message_bytes(message: &Message) -> usize {
    let entries = message.entries.iter().map(|entry| entry.data.len() + ENTRY_OVERHEAD).sum::<usize>();
    entries + message.context.len() + MESSAGE_OVERHEAD
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::Entry;

    use super::*;

    fn message(index: u64, data_len: usize) -> Message {
        let mut message = Message { index, ..Default::default() };
        message.mut_entries().push(Entry { data: vec![0; data_len].into(), ..Default::default() });
        message
    }

    fn indexes(batch: &[Message]) -> Vec<u64> {
        batch.iter().map(|message| message.index).collect()
    }

    #[test]
    fn full_queue_refuses_the_newest_message() {
        let queue = MessageQueue::default();
        for index in 0..MESSAGES_MAX as u64 {
            assert!(queue.push(message(index, 0)));
        }
        assert!(!queue.push(message(9999, 0)));
        assert_eq!(indexes(&queue.take_batch())[..3], [0, 1, 2]);
        assert!(queue.push(message(9999, 0)));
    }

    #[test]
    fn bytes_are_bounded_and_one_message_always_fits() {
        let queue = MessageQueue::default();
        assert!(queue.push(message(1, 2 * BYTES_MAX)));
        assert!(!queue.push(message(2, 0)));
        assert_eq!(indexes(&queue.take_batch()), [1]);
        assert!(queue.push(message(3, BYTES_MAX / 2)));
        assert!(!queue.push(message(4, BYTES_MAX / 2)));
    }

    #[test]
    fn batch_ends_with_the_message_that_fills_it() {
        let queue = MessageQueue::default();
        for index in 1..=3 {
            assert!(queue.push(message(index, BATCH_BYTES_MAX / 2)));
        }
        assert_eq!(indexes(&queue.take_batch()), [1, 2]);
        assert_eq!(indexes(&queue.take_batch()), [3]);
        assert!(queue.take_batch().is_empty());
        assert_eq!(queue.lock().bytes, 0);
    }

    #[tokio::test]
    async fn waiting_ends_with_the_first_message() {
        let queue = std::sync::Arc::new(MessageQueue::default());
        let waiter = tokio::spawn({
            let queue = std::sync::Arc::clone(&queue);
            async move { queue.next_batch().await.len() }
        });
        assert!(queue.push(message(1, 0)));
        assert_eq!(waiter.await.unwrap(), 1);
    }
}
