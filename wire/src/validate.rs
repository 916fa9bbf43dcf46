//! The verdict on a request: the same function in the kernel and in user space (`docs/protocol.md §9`).
//!
//! Steps run cheapest first, and nothing is said to a sender whose tag is wrong.

use crate::capability::{Capability, CapabilityKey, EpochSecret};
use crate::header::{HEADER_LEN, Header, HeaderBytes, ParseError};
use crate::ids::{Expiry, KeyEpoch, NodeEpoch, NodeId, Rights};
use crate::opcode::Opcode;
use crate::payload::{GET_BURST_LEN, REQUEST_PADDING_MIN};
use crate::status::Status;

/// Where the secrets of the live key epochs are found: an array in user space, a map in the kernel.
pub trait KeyEpochs {
    /// The secret of `epoch`, if that epoch is live.
    fn secret(&self, epoch: KeyEpoch) -> Option<EpochSecret>;

    /// The key of a capability, if its epoch is live. Whoever remembers keys answers from memory; it must be the one
    /// that [`Capability::key`] makes.
    #[inline(always)]
    fn key(&self, capability: &Capability) -> Option<CapabilityKey> {
        Some(capability.key(self.secret(capability.key_epoch)?))
    }
}

/// A request that passed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Accepted {
    /// Its header.
    pub header: Header,
    /// The key to tag the reply with.
    pub key: CapabilityKey,
}

/// The node that is asked to accept a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TargetNode {
    /// Its id.
    pub node: NodeId,
    /// Its present registration.
    pub epoch: NodeEpoch,
}

macro_rules! rejects {
    ($($(#[$doc:meta])* $name:ident = $label:literal => $status:expr,)*) => {
        /// Why a datagram was refused; each reason has one counter.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u8)]
        pub enum Reject {
            $($(#[$doc])* $name,)*
        }

        impl Reject {
            /// All reasons, in the order of the steps that find them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The reason's name in metrics and in `status`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// What the sender is told; `None` where an answer would serve only an attacker.
            #[must_use]
            pub const fn reply(self) -> Option<Status> {
                match self {
                    $(Self::$name => $status,)*
                }
            }
        }
    };
}

rejects! {
    /// Fewer bytes than a header.
    TooShort = "too_short" => None,
    /// Not an xdpfs datagram.
    BadMagic = "bad_magic" => None,
    /// A version that this node doesn't speak.
    BadVersion = "bad_version" => None,
    /// No such opcode, or one that only nodes send.
    BadOpcode = "bad_opcode" => None,
    /// A reserved bit is set.
    ReservedBits = "reserved_bits" => None,
    /// The payload's size doesn't fit the opcode, the length or the piece class.
    BadLength = "bad_length" => None,
    /// No live secret has this epoch.
    UnknownKeyEpoch = "unknown_key_epoch" => None,
    /// The tag is wrong: forged, corrupted, or made for other fields.
    BadTag = "bad_tag" => None,
    /// The capability's time is over.
    Expired = "expired" => Some(Status::Expired),
    /// The capability doesn't allow this opcode.
    RightsMissing = "rights_missing" => Some(Status::Denied),
    /// The chunk is in another bucket than the capability's.
    ForeignBucket = "foreign_bucket" => Some(Status::Denied),
    /// Meant for another node.
    WrongNode = "wrong_node" => Some(Status::WrongNode),
    /// A write meant for an earlier registration of this node.
    StaleNode = "stale_node" => Some(Status::StaleNode),
    /// A write to a node that may vouch for nothing, since it has not heard from the leader for too long.
    LeaseOver = "lease_over" => Some(Status::StaleNode),
}

/// Judges a request by everything that needs no look-up besides the epoch secret. `payload_len` is the number of
/// bytes behind the header. Where the datagram goes is [`TargetNode::check`]'s business, or a route's.
///
/// # Errors
/// The first step that the request fails, with the request itself if its tag was right: only then may the sender
/// be told.
#[inline(always)]
pub fn validate_request(
    bytes: &HeaderBytes,
    payload_len: usize,
    keys: &impl KeyEpochs,
    now: Expiry,
) -> Result<Accepted, (Reject, Option<Accepted>)> {
    let header = Header::parse(bytes).map_err(|error| (reject_of(error), None))?;
    if header.opcode.is_reply() {
        return Err((Reject::BadOpcode, None));
    }
    if !payload_fits(&header, payload_len) {
        return Err((Reject::BadLength, None));
    }
    let Some(key) = keys.key(&Capability::claimed_by(&header)) else {
        return Err((Reject::UnknownKeyEpoch, None));
    };
    if !key.verifies(bytes) {
        return Err((Reject::BadTag, None));
    }
    let accepted = Accepted { header, key };
    let refused = |reject| Err((reject, Some(accepted)));
    if header.expiry <= now {
        return refused(Reject::Expired);
    }
    if !header.rights.contains(header.opcode.rights_needed()) {
        return refused(Reject::RightsMissing);
    }
    if header.chunk.bucket() != header.bucket {
        return refused(Reject::ForeignBucket);
    }
    Ok(accepted)
}

impl TargetNode {
    /// Whether this node is the one that `header` is meant for. Reads are good in any epoch, since chunks never
    /// change; writes are good only in the present one, since a receipt speaks for it.
    ///
    /// # Errors
    /// [`Reject::WrongNode`] or [`Reject::StaleNode`].
    #[inline(always)]
    pub fn check(&self, header: &Header) -> Result<(), Reject> {
        if header.node != self.node {
            return Err(Reject::WrongNode);
        }
        if is_write(header) && header.node_epoch != self.epoch {
            return Err(Reject::StaleNode);
        }
        Ok(())
    }

    /// Whether an edge that knows this node sends `header` on to it. As [`TargetNode::check`], but a write in a newer
    /// epoch than the edge knows passes: the node has registered again, the edge has yet to hear of it, and the node
    /// decides.
    ///
    /// # Errors
    /// [`Reject::WrongNode`] or [`Reject::StaleNode`].
    #[inline(always)]
    pub fn route_check(&self, header: &Header) -> Result<(), Reject> {
        if header.node != self.node {
            return Err(Reject::WrongNode);
        }
        if is_write(header) && header.node_epoch.is_before(self.epoch) {
            return Err(Reject::StaleNode);
        }
        Ok(())
    }
}

/// The last step, and a node's own: whether it may vouch for what `header` writes. `holds` is asked for writes only.
///
/// # Errors
/// [`Reject::LeaseOver`].
#[inline(always)]
pub fn check_lease(header: &Header, holds: impl FnOnce() -> bool) -> Result<(), Reject> {
    if is_write(header) && !holds() { Err(Reject::LeaseOver) } else { Ok(()) }
}

/// Whether `header` asks for something that a receipt may come of.
#[inline(always)]
#[must_use]
pub const fn is_write(header: &Header) -> bool {
    header.opcode.rights_needed().contains(Rights::WRITE)
}

const fn reject_of(error: ParseError) -> Reject {
    match error {
        ParseError::Magic => Reject::BadMagic,
        ParseError::Version => Reject::BadVersion,
        ParseError::Opcode => Reject::BadOpcode,
        ParseError::Reserved => Reject::ReservedBits,
        ParseError::Length => Reject::BadLength,
    }
}

/// Whether the payload has a size that the opcode allows. This is also what keeps replies no longer than requests.
#[inline(always)]
const fn payload_fits(header: &Header, payload_len: usize) -> bool {
    let piece = header.class.piece_len() as usize;
    let length = header.length as usize;
    if payload_len > piece {
        return false;
    }
    match header.opcode {
        Opcode::GetPiece => length > 0 && length <= payload_len,
        Opcode::GetBurst => length > 0 && payload_len == GET_BURST_LEN,
        Opcode::PutWhole | Opcode::PutData => {
            length > 0 && length <= payload_len && payload_len >= REQUEST_PADDING_MIN
        }
        Opcode::PutOpen | Opcode::PutCommit => length > 0 && payload_len >= REQUEST_PADDING_MIN,
        Opcode::Ping | Opcode::Stat => payload_len >= REQUEST_PADDING_MIN,
        Opcode::PutAbort => payload_len == 0,
        Opcode::Pong
        | Opcode::Data
        | Opcode::Tail
        | Opcode::StatReply
        | Opcode::Receipt
        | Opcode::Sack
        | Opcode::Error => false,
    }
}

const _: () = assert!(HEADER_LEN == 64);
