//! What a datagram asks for or answers with (`docs/protocol.md §4`).

use crate::ids::Rights;

/// The reply bit: set in every opcode that a data node sends.
const REPLY: u8 = 0x80;

macro_rules! opcodes {
    ($($(#[$doc:meta])* $name:ident = $value:expr,)*) => {
        /// The kind of a datagram, in wire order. Requests have bit 7 clear, replies have it set.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u8)]
        pub enum Opcode {
            $($(#[$doc])* $name = $value,)*
        }

        impl Opcode {
            /// All opcodes, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The opcode with this byte, if there is one.
            #[must_use]
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $(value if value == $value => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

opcodes! {
    /// Is the node there, how far is it, and does a datagram of this size reach it? Answered by `Pong`.
    Ping = 0x01,
    /// Read at most one piece; the request is padded to the size of its answer. Answered by `Data`.
    GetPiece = 0x02,
    /// Read up to 64 pieces in one burst. Needs a cookie. Answered by `Data` for each piece, then `Tail`.
    GetBurst = 0x03,
    /// Is the chunk there, and with which length and checksum? Answered by `StatReply`.
    Stat = 0x04,
    /// Write a whole chunk that fits one piece. Answered by `Receipt` once it is durable.
    PutWhole = 0x05,
    /// Start an upload of a chunk. Answered by `Sack`, or by `Receipt` if the chunk is already durable here.
    PutOpen = 0x06,
    /// One piece of an open upload. Answered by `Sack` if the datagram wants one.
    PutData = 0x07,
    /// All pieces are sent: verify, make durable. Answered by `Receipt`, or by `Sack` if pieces are missing.
    PutCommit = 0x08,
    /// Forget an unfinished upload. Not answered.
    PutAbort = 0x09,
    /// The answer to `Ping`, as long as the request.
    Pong = REPLY | 0x01,
    /// One piece of a chunk.
    Data = REPLY | 0x02,
    /// The end of a burst: how long the node took and how many pieces it sent.
    Tail = REPLY | 0x03,
    /// Length and checksum of a chunk.
    StatReply = REPLY | 0x04,
    /// A signed word that the chunk is durable.
    Receipt = REPLY | 0x05,
    /// Which pieces of an upload have arrived, and how far the sender may go.
    Sack = REPLY | 0x06,
    /// The request can't be served; the status says why.
    Error = REPLY | 0x07,
}

impl Opcode {
    /// Whether a data node sends this (as against a client).
    #[must_use]
    pub const fn is_reply(self) -> bool {
        self as u8 & REPLY != 0
    }

    /// The rights that a request needs. Replies need none.
    #[must_use]
    pub const fn rights_needed(self) -> Rights {
        match self {
            Self::GetPiece | Self::GetBurst | Self::Stat => Rights::READ,
            Self::PutWhole | Self::PutOpen | Self::PutData | Self::PutCommit | Self::PutAbort => {
                Rights::WRITE
            }
            Self::Ping
            | Self::Pong
            | Self::Data
            | Self::Tail
            | Self::StatReply
            | Self::Receipt
            | Self::Sack
            | Self::Error => Rights::NONE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_opcode_survives_its_byte() {
        for opcode in Opcode::ALL {
            assert_eq!(Opcode::from_byte(*opcode as u8), Some(*opcode));
        }
        assert_eq!(Opcode::from_byte(0), None);
        assert_eq!(Opcode::from_byte(0x7f), None);
    }
}
