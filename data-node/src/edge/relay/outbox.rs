//! Datagrams on their way to nodes, laid together so that the kernel may send them at once. Pure.
//!
//! Invariant: datagrams from one client to one node keep their order. All but the last one of a batch have the same
//! size.

use std::net::SocketAddr;

use xdpfs_transport::BURST_BYTES_MAX;

use super::flow::FlowKey;

/// What one round of receiving has brought. Holds no more than the receive buffers did.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    batches: Vec<Batch>,
    /// Batches that are in use; the others keep their memory for the next round.
    used: usize,
}

/// Datagrams of one client for one node.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) flow: FlowKey,
    pub(super) destination: SocketAddr,
    datagram_len: usize,
    datagrams: usize,
    bytes: Vec<u8>,
    /// The last datagram was shorter, or another batch follows.
    is_closed: bool,
}

impl Outbox {
    /// Puts a datagram behind those of the same way.
    pub(super) fn push(&mut self, flow: FlowKey, destination: SocketAddr, datagram: &[u8]) {
        let same_way = |batch: &&mut Batch| batch.flow == flow && batch.destination == destination;
        let in_use = self.batches.get_mut(..self.used).unwrap_or_default();
        if let Some(batch) = in_use.iter_mut().rev().find(same_way)
            && batch.takes(datagram)
        {
            batch.push(datagram);
            return;
        }
        self.open(flow, destination).push(datagram);
    }

    /// All batches, in order.
    pub(super) fn batches(&self) -> &[Batch] {
        self.batches.get(..self.used).unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        self.used = 0;
    }

    fn open(&mut self, flow: FlowKey, destination: SocketAddr) -> &mut Batch {
        let at = self.used;
        self.used += 1;
        let new = |bytes| Batch { flow, destination, datagram_len: 0, datagrams: 0, bytes, is_closed: false };
        match self.batches.get_mut(at) {
            Some(batch) => {
                let mut bytes = std::mem::take(&mut batch.bytes);
                bytes.clear();
                *batch = new(bytes);
            }
            None => self.batches.push(new(Vec::new())),
        }
        &mut self.batches[at]
    }
}

impl Batch {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn datagrams(&self) -> usize {
        self.datagrams
    }

    /// Bytes in each datagram but the last, if there are several.
    pub(super) fn segment_size(&self) -> Option<usize> {
        (self.datagrams > 1).then_some(self.datagram_len)
    }

    fn takes(&self, datagram: &[u8]) -> bool {
        !self.is_closed
            && datagram.len() <= self.datagram_len
            && self.bytes.len() + datagram.len() <= BURST_BYTES_MAX
    }

    fn push(&mut self, datagram: &[u8]) {
        if self.datagrams == 0 {
            self.datagram_len = datagram.len();
        }
        self.is_closed = datagram.len() < self.datagram_len;
        self.datagrams += 1;
        self.bytes.extend_from_slice(datagram);
    }
}

#[cfg(test)]
mod tests {
    use xdpfs_transport::Peer;

    use super::*;

    fn way(client: u16, node: u16) -> (FlowKey, SocketAddr) {
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        (FlowKey::new(Peer::from(address(client)), address(node)), address(node))
    }

    /// Sizes and destinations' ports of the batches that come of datagrams (client, node, size).
    fn batches(outbox: &mut Outbox, datagrams: &[(u16, u16, usize)]) -> Vec<(u16, Option<usize>, usize)> {
        outbox.clear();
        for (client, node, len) in datagrams {
            let (flow, destination) = way(*client, *node);
            outbox.push(flow, destination, &vec![*node as u8; *len]);
        }
        let told = |batch: &Batch| (batch.destination.port(), batch.segment_size(), batch.bytes().len());
        outbox.batches().iter().map(told).collect()
    }

    #[test]
    fn datagrams_of_one_way_go_together() {
        let mut outbox = Outbox::default();
        let mixed = [(1, 7, 100), (1, 8, 100), (1, 7, 100), (2, 7, 100), (1, 8, 40), (1, 7, 100)];
        let expect = [(7, Some(100), 300), (8, Some(100), 140), (7, None, 100)];
        assert_eq!(batches(&mut outbox, &mixed), expect);
        assert_eq!(batches(&mut outbox, &[(1, 7, 50)]), [(7, None, 50)], "the next round starts afresh");
    }

    #[test]
    fn only_the_last_of_a_batch_is_shorter() {
        let mut outbox = Outbox::default();
        let sizes = [(1, 7, 100), (1, 7, 60), (1, 7, 60), (1, 7, 100), (1, 7, 100)];
        let expect = [(7, Some(100), 160), (7, None, 60), (7, Some(100), 200)];
        assert_eq!(batches(&mut outbox, &sizes), expect);
    }

    #[test]
    fn a_batch_is_no_longer_than_the_kernel_sends() {
        let mut outbox = Outbox::default();
        let many = vec![(1, 7, 1408); 100];
        let made = batches(&mut outbox, &many);
        assert!(made.iter().all(|(_, _, len)| *len <= BURST_BYTES_MAX));
        assert_eq!(made.iter().map(|(_, _, len)| len).sum::<usize>(), 140_800);
    }
}
