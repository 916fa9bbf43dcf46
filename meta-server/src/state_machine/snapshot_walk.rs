//! A snapshot or a backup that is taken a slice at a time while the state goes on changing, and that is still the state of one moment.
//!
//! Invariant: its bytes are those that encoding all at once would have given at its beginning. Of what there may be much, maps keep
//! a picture meanwhile; of the rest a copy is made at once.

use bytes::Bytes;
use xdpfs_proto::state::v1::snapshot_record::Kind;
use xdpfs_wire::{ChunkId, NodeId};

use super::{
    ObjectName, State,
    answered::{Answer, RequestId},
    backup::in_backup,
    pending_deletes,
    snapshot::Encoder,
    versions::Place,
};
use crate::mistake::{Mistake, is_planted};

/// How far a snapshot has got.
#[derive(Debug)]
pub struct SnapshotWalk {
    encoder: Encoder,
    next: Stage,
    nodes: Vec<Kind>,
    last: Vec<Kind>,
    has_answers: bool,
}

/// What is encoded next, and behind what.
#[derive(Debug)]
enum Stage {
    Objects(Option<ObjectName>),
    Older(Option<Place>),
    Uploads(Option<u64>),
    PendingDeletes(Option<(NodeId, ChunkId)>),
    Answers(Option<RequestId>),
    End,
}

impl SnapshotWalk {
    /// Whether all of it has been encoded.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        matches!(self.next, Stage::End)
    }
}

impl State {
    /// Begins a snapshot of this moment. It costs memory for all that changes until [`State::end_snapshot`].
    #[must_use]
    pub fn begin_snapshot(&mut self, piece_len: usize) -> SnapshotWalk {
        self.answered.by_request().begin_picture();
        self.begin_walk(piece_len, Some, true)
    }

    /// Begins a backup of this moment, which is what [`State::decode`] makes a state of without what no backup has: the secrets of
    /// key epochs, what receipts are signed with, and the answers to requests of the last minutes. It is gone on with, and ended, as a
    /// snapshot is.
    #[must_use]
    pub fn begin_backup(&mut self, piece_len: usize) -> SnapshotWalk {
        self.begin_walk(piece_len, in_backup, false)
    }

    fn begin_walk(
        &mut self,
        piece_len: usize,
        keep: impl Fn(Kind) -> Option<Kind>,
        has_answers: bool,
    ) -> SnapshotWalk {
        let mut encoder = Encoder::new(piece_len);
        self.first_records().filter_map(&keep).for_each(|kind| encoder.put(kind));
        let nodes = self.node_records().filter_map(&keep).collect();
        let last = self.last_records().filter_map(&keep).collect();
        self.objects.begin_picture();
        self.older.versions().begin_picture();
        self.uploads.begin_picture();
        self.pending_deletes.replicas().begin_picture();
        SnapshotWalk { encoder, next: Stage::Objects(None), nodes, last, has_answers }
    }

    /// Encodes about so many records more, each chunk of an object counted as one.
    pub fn go_on_with_snapshot(&self, walk: &mut SnapshotWalk, records_max: usize) {
        let SnapshotWalk { encoder, next, nodes, last, has_answers } = walk;
        let count = records_max.max(1);
        *next = match std::mem::replace(next, Stage::End) {
            Stage::Objects(after) => {
                let put = |name: &_, object: &super::Object| {
                    encoder.put(Kind::Object(object.record(name)));
                    1 + object.chunks.len()
                };
                self.objects
                    .slice(after.as_ref(), count, put)
                    .map_or(Stage::Older(None), |last| Stage::Objects(Some(last)))
            }
            Stage::Older(after) => {
                let put = |(bucket, key, _): &Place, older: &super::versions::Older| {
                    encoder.put(Kind::OlderVersion(older.record(&(*bucket, key.clone()))));
                    match older {
                        super::versions::Older::Object(object) => 1 + object.chunks.len(),
                        super::versions::Older::DeleteMarker(_) => 1,
                    }
                };
                self.older
                    .slice(after.as_ref(), count, put)
                    .map_or(Stage::Uploads(None), |last| Stage::Older(Some(last)))
            }
            Stage::Uploads(after) => {
                let put = |_: &u64, upload: &super::Upload| {
                    encoder.put(Kind::Upload(upload.record()));
                    1 + upload.chunks.len()
                };
                match self.uploads.slice(after.as_ref(), count, put) {
                    Some(last) => Stage::Uploads(Some(last)),
                    None => {
                        nodes.drain(..).for_each(|kind| encoder.put(kind));
                        Stage::PendingDeletes(None)
                    }
                }
            }
            Stage::PendingDeletes(after) => {
                let put = |replica: &_, not_before_ms: &u64| {
                    encoder.put(Kind::PendingDelete(pending_deletes::record(replica, *not_before_ms)));
                    1
                };
                self.pending_deletes
                    .slice(after.as_ref(), count, put)
                    .map_or(Stage::Answers(None), |last| Stage::PendingDeletes(Some(last)))
            }
            Stage::Answers(after) => {
                let is_forgotten = is_planted(Mistake::AnswersForgottenInSnapshots);
                let put = |request_id: &_, answer: &Answer| {
                    if !is_forgotten {
                        encoder.put_answer(request_id, answer);
                    }
                    1
                };
                match has_answers.then(|| self.answered.slice(after.as_ref(), count, put)).flatten() {
                    Some(last) => Stage::Answers(Some(last)),
                    None => {
                        last.drain(..).for_each(|kind| encoder.put(kind));
                        Stage::End
                    }
                }
            }
            Stage::End => Stage::End,
        };
    }

    /// The snapshot in pieces, if it is whole. Nothing is kept for it any more, in any case, but for what has come together, which is
    /// to be let go where nobody waits.
    pub fn end_snapshot(&mut self, walk: SnapshotWalk) -> (Option<Vec<Bytes>>, impl Send + use<>) {
        let noted = (
            self.objects.end_picture(),
            self.older.versions().end_picture(),
            self.uploads.end_picture(),
            self.pending_deletes.replicas().end_picture(),
            self.answered.by_request().end_picture(),
        );
        (walk.is_whole().then(|| walk.encoder.finish()), noted)
    }
}
