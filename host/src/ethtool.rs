//! What a driver can and does: features and queues, as the kernel's ethtool calls answer.

use std::collections::BTreeMap;

use crate::netlink::{text, u32_at};

/// `ETH_GSTRING_LEN`
const NAME_LEN: usize = 32;
/// Command and number of the blocks that follow.
pub(crate) const FEATURES_HEAD_LEN: usize = 8;
/// Four words of 32 features each.
const FEATURES_BLOCK_LEN: usize = 16;
/// Command, set and number of the names that follow.
pub(crate) const NAMES_HEAD_LEN: usize = 12;

/// The features of an interface by their names, as `ethtool -k` shows them in its longest form.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Features(BTreeMap<String, Feature>);

/// One feature.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Feature {
    /// Whether it is on.
    pub is_on: bool,
    /// Whether it can't be changed as things are.
    pub is_fixed: bool,
}

/// How many queues are in use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Channels {
    /// That receive.
    pub rx: u32,
    /// That transmit.
    pub tx: u32,
    /// The most that can receive.
    pub rx_max: u32,
    /// The most that can transmit.
    pub tx_max: u32,
    /// Whether queues do both, and are counted as such when they are changed.
    pub is_combined: bool,
}

impl Features {
    /// The feature of this name, such as `rx-gro`; `None` if this kernel has no such.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<Feature> {
        self.0.get(name).copied()
    }

    /// Whether the feature of this name is on.
    #[must_use]
    pub fn is_on(&self, name: &str) -> bool {
        self.named(name).is_some_and(|feature| feature.is_on)
    }

    /// Where a feature stands among how many, by the answer to `ETHTOOL_GSTRINGS`.
    pub(crate) fn place(names: &[u8], feature: &str) -> Option<(usize, usize)> {
        let names = names.get(NAMES_HEAD_LEN..)?.chunks_exact(NAME_LEN);
        let count = names.len();
        names.map(text).position(|name| name == feature).map(|index| (index, count))
    }

    /// From the answers to `ETHTOOL_GSTRINGS` and `ETHTOOL_GFEATURES`.
    pub(crate) fn parse(names: &[u8], features: &[u8]) -> Self {
        let names = names.get(NAMES_HEAD_LEN..).unwrap_or_default().chunks_exact(NAME_LEN);
        let blocks = features.get(FEATURES_HEAD_LEN..).unwrap_or_default();
        let bit = |index: usize, word: usize| {
            let at = index / 32 * FEATURES_BLOCK_LEN + word * 4;
            u32_at(blocks, at).is_some_and(|word| word >> (index % 32) & 1 == 1)
        };
        let feature = |index| {
            let (is_available, is_on, never_changes) = (bit(index, 0), bit(index, 2), bit(index, 3));
            Feature { is_on, is_fixed: !is_available || never_changes }
        };
        let named = names.enumerate().map(|(index, name)| (text(name), feature(index)));
        Self(named.filter(|(name, _)| !name.is_empty()).collect())
    }
}

impl FromIterator<(String, bool)> for Features {
    /// Features that can all be changed, and whether they are on.
    fn from_iter<T: IntoIterator<Item = (String, bool)>>(features: T) -> Self {
        let feature = |(name, is_on)| (name, Feature { is_on, is_fixed: false });
        Self(features.into_iter().map(feature).collect())
    }
}

impl Channels {
    /// From the answer to `ETHTOOL_GCHANNELS`. Queues that do both count on both sides.
    pub(crate) fn parse(answer: &[u8]) -> Option<Self> {
        let word = |index: usize| u32_at(answer, index * 4);
        let (combined_max, combined) = (word(4)?, word(8)?);
        Some(Self {
            rx: word(5)?.saturating_add(combined),
            tx: word(6)?.saturating_add(combined),
            rx_max: word(1)?.saturating_add(combined_max),
            tx_max: word(2)?.saturating_add(combined_max),
            is_combined: combined_max > 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn features_are_found_by_their_names_in_every_block() {
        let mut names = vec![0; NAMES_HEAD_LEN + 34 * NAME_LEN];
        for (index, name) in [(0, "rx-gro"), (1, "tx-checksum-ip-generic"), (33, "tx-udp-segmentation")] {
            names[NAMES_HEAD_LEN + index * NAME_LEN..][..name.len()].copy_from_slice(name.as_bytes());
        }
        // Available, requested, active, never changed.
        let features = words(&[0, 2, 0b11, 0, 0b01, 0b10, 0b10, 0, 0b10, 0b10]);
        let cut = Features::parse(&names, &features[..features.len() - 8]);
        let features = Features::parse(&names, &features);
        let check = |name, expect: Option<(bool, bool)>| {
            let expect = expect.map(|(is_on, is_fixed)| Feature { is_on, is_fixed });
            assert_eq!(features.named(name), expect, "{name}");
            assert_eq!(features.is_on(name), expect.is_some_and(|feature| feature.is_on));
        };
        check("rx-gro", Some((true, false)));
        check("tx-checksum-ip-generic", Some((false, true)));
        check("tx-udp-segmentation", Some((true, true)));
        assert!(!cut.is_on("tx-udp-segmentation"), "its state is not in the answer");
        check("", None);
        check("rx-none", None);
        assert_eq!(Features::place(&names, "tx-udp-segmentation"), Some((33, 34)));
        assert_eq!(Features::place(&names, "rx-none"), None);
    }

    #[test]
    fn queues_that_do_both_count_twice() {
        let answer = words(&[0x3c, 1, 2, 0, 8, 0, 1, 0, 4]);
        assert_eq!(
            Channels::parse(&answer),
            Some(Channels { rx: 4, tx: 5, rx_max: 9, tx_max: 10, is_combined: true })
        );
        assert_eq!(Channels::parse(&answer[..35]), None);
    }
}
