//! How a packet ends. Each fate has one counter per CPU; so has each reason for a refusal, besides.

use xdpfs_wire::Reject;

/// What the driver does with a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Action {
    /// `XDP_DROP`.
    Drop = 1,
    /// `XDP_PASS`: the kernel's network stack gets it.
    Pass = 2,
    /// `XDP_TX`: back where it came from.
    Answer = 3,
    /// `XDP_REDIRECT`.
    Redirect = 4,
}

macro_rules! fates {
    ($($(#[$doc:meta])* $name:ident = $label:literal => $action:ident,)*) => {
        /// How a packet ends. Every packet has one fate, so the counters of the fates add up to what was seen; but
        /// what comes from data nodes is counted only if it is a reply that was sent on.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        #[repr(u8)]
        pub enum Fate {
            $($(#[$doc])* $name,)*
        }

        impl Fate {
            /// All fates, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The fate's name in metrics and in `xdp stats`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// What the driver does with the packet.
            #[inline(always)]
            #[must_use]
            pub const fn action(self) -> Action {
                match self {
                    $(Self::$name => Action::$action,)*
                }
            }
        }
    };
}

fates! {
    /// Not ours: the kernel's business.
    Foreign = "foreign" => Pass,
    /// Several datagrams in one, or one that no class allows: user space takes it apart and judges each.
    SuperPacket = "super_packet" => Pass,
    /// For a data node on this host.
    Local = "local" => Pass,
    /// For a data node that only user space reaches.
    Relayed = "relayed" => Pass,
    /// Sent to the data node that it is for.
    Routed = "routed" => Redirect,
    /// For another data node, but its hop limit ends here: the kernel tells the sender.
    HopLimit = "hop_limit" => Pass,
    /// For a data node without an address of this IP version: user space relays it.
    NoAddress = "no_address" => Pass,
    /// For a data node whose interface is gone.
    NoDevice = "no_device" => Drop,
    /// From a source prefix that may not send.
    SourceDenied = "source_denied" => Drop,
    /// From a source that sends faster than it may.
    SourceTooFast = "source_too_fast" => Drop,
    /// Refused; the reason has its own counter.
    Refused = "refused" => Drop,
    /// Refused, and the sender was told why.
    Answered = "answered" => Answer,
    /// Refused, and the sender was not told, because enough answers have gone out.
    AnswerWithheld = "answer_withheld" => Drop,
    /// A map or the packet was not what the loader or the kernel promised: a fault of ours.
    Fault = "fault" => Drop,
    /// A data node's reply, sent on to its client by the network stack's classifier.
    ReplyByKernel = "reply_kernel" => Redirect,
    /// A data node's reply, sent on to its client in the driver.
    ReplyByXdp = "reply_xdp" => Redirect,
}

/// Counters in all: first the fates, then the rejects.
pub const COUNTERS: u32 = Fate::ALL.len() as u32 + Reject::ALL.len() as u32;

impl Fate {
    /// The fate's place among the counters.
    #[inline(always)]
    #[must_use]
    pub const fn counter(self) -> u32 {
        self as u32
    }

    /// The fate with this counter.
    #[inline(always)]
    #[must_use]
    pub fn from_counter(counter: u32) -> Self {
        Self::ALL.get(counter as usize).copied().unwrap_or(Self::Fault)
    }

    /// The place of a reason among the counters.
    #[inline(always)]
    #[must_use]
    pub const fn reject_counter(reject: Reject) -> u32 {
        Self::ALL.len() as u32 + reject as u32
    }
}

/// The name of the counter at `index`.
#[must_use]
pub fn counter_label(index: u32) -> Option<&'static str> {
    let index = index as usize;
    match Fate::ALL.get(index) {
        Some(fate) => Some(fate.label()),
        None => Reject::ALL.get(index - Fate::ALL.len()).map(|reject| reject.label()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_a_name_of_its_own() {
        let label = |at| counter_label(at).unwrap_or("nameless");
        for at in 0..COUNTERS {
            assert_ne!(label(at), "nameless", "{at}");
            assert!((0..at).all(|other| label(other) != label(at)), "{} twice", label(at));
        }
        assert_eq!(counter_label(COUNTERS), None);
    }

    #[test]
    fn fates_and_reasons_are_counted_apart() {
        for fate in Fate::ALL {
            assert_eq!(Fate::from_counter(fate.counter()), *fate);
            assert_eq!(counter_label(fate.counter()), Some(fate.label()));
        }
        for reject in Reject::ALL {
            assert_eq!(counter_label(Fate::reject_counter(*reject)), Some(reject.label()));
        }
        assert_eq!(Fate::from_counter(COUNTERS), Fate::Fault);
    }
}
