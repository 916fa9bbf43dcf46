//! How a reply ended, and what the client should do about it (`docs/protocol.md §5`).

macro_rules! statuses {
    ($($(#[$doc:meta])* $name:ident = $value:expr => $advice:ident,)*) => {
        /// The result of a request, in wire order.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u8)]
        pub enum Status {
            $($(#[$doc])* $name = $value,)*
        }

        impl Status {
            /// All statuses, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The status with this byte, if there is one.
            #[must_use]
            pub const fn from_byte(byte: u8) -> Option<Self> {
                match byte {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// What a client does after this status.
            #[must_use]
            pub const fn advice(self) -> Advice {
                match self {
                    $(Self::$name => Advice::$advice,)*
                }
            }
        }
    };
}

/// What a client does after a status.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Advice {
    /// Nothing: it worked.
    Done,
    /// The same request can never work.
    GiveUp,
    /// The same request again, to the same node, after the hinted delay.
    Retry,
    /// The same chunk from (or to) another replica.
    OtherReplica,
    /// Ask the metadata service again: the placement or the capability is out of date.
    Refresh,
}

statuses! {
    /// It worked.
    Ok = 0 => Done,
    /// The node doesn't have the chunk.
    NotFound = 1 => OtherReplica,
    /// The range lies outside the chunk.
    Range = 2 => GiveUp,
    /// A chunk with this id and other bytes is already durable here.
    Conflict = 3 => GiveUp,
    /// The bytes on the node's disk, or those just uploaded, fail their checksum.
    Corrupt = 4 => OtherReplica,
    /// The node's disk is full.
    NoSpace = 5 => OtherReplica,
    /// The capability lacks the right, or names another bucket.
    Denied = 6 => GiveUp,
    /// Not now; `length` is the delay to wait, in microseconds.
    Busy = 7 => Retry,
    /// The capability has expired.
    Expired = 8 => Refresh,
    /// The datagram reached a node that it wasn't meant for.
    WrongNode = 9 => Refresh,
    /// The node has registered anew since the client learnt of it.
    StaleNode = 10 => Refresh,
    /// The cookie is missing or out of date; the payload holds a good one.
    Cookie = 11 => Retry,
    /// The node doesn't speak this version.
    Version = 12 => GiveUp,
    /// The node knows no such upload: start it again.
    NotOpen = 13 => Retry,
    /// The datagram is well signed but makes no sense.
    Invalid = 14 => GiveUp,
    /// The node failed.
    Internal = 15 => OtherReplica,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_survives_its_byte() {
        for status in Status::ALL {
            assert_eq!(Status::from_byte(*status as u8), Some(*status));
        }
        assert_eq!(Status::from_byte(0xff), None);
    }
}
