//! Labels of data nodes: what a node says of itself, and what operators say of it, which wins.
//!
//! Invariant: bounded in number and length, and of characters that a command line and a terminal bear. What a label
//! means is not known here but for the four that say where a node is.

use std::collections::BTreeMap;

use xdpfs_proto::state::v1::{self as pb, outcome};
use xdpfs_wire::NodeId;

use super::{
    State,
    reject::{NODE_UNKNOWN, Reason, Reject},
};

/// Labels that one side gives to one node.
pub const LABELS_MAX: usize = 32;
/// Bytes of a key, and of a value.
const TEXT_BYTES_MAX: usize = 63;

/// The well-known keys, from the widest to the narrowest.
pub const ZONE: &str = "zone";
/// See [`ZONE`].
pub const RACK: &str = "rack";
/// See [`ZONE`].
pub const HOST: &str = "host";
/// See [`ZONE`].
pub const DISK: &str = "disk";

/// Labels that one side gives to a node, by key.
pub type Labels = BTreeMap<String, String>;

/// What keys look like, for people.
pub const KEY_RULE: &str = "a label's key has 1 to 63 of a-z, 0-9, '.', '_', '-' and '/', and begins and ends with a \
                            letter or a digit";
/// What values look like, for people.
pub const VALUE_RULE: &str = "a label's value has 1 to 63 of A-Z, a-z, 0-9, '.', '_', '-' and ':'";

/// Whether this can be a label's key.
#[must_use]
pub fn is_label_key(text: &str) -> bool {
    let plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = |byte: Option<&u8>| byte.is_some_and(plain);
    let bytes = text.as_bytes();
    (1..=TEXT_BYTES_MAX).contains(&bytes.len())
        && bytes.iter().all(|byte| plain(byte) || b"._-/".contains(byte))
        && ends(bytes.first())
        && ends(bytes.last())
}

/// Whether this can be a label's value.
#[must_use]
pub fn is_label_value(text: &str) -> bool {
    (1..=TEXT_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte))
}

/// Whether these can be the labels that one side gives to a node.
#[must_use]
pub fn are_labels(labels: &Labels) -> bool {
    labels.len() <= LABELS_MAX && labels.iter().all(|(key, value)| is_label_key(key) && is_label_value(value))
}

const HAS_VALUE: Reject = Reject::new(
    Reason::PreconditionFailed,
    "the node has another value for this label: nobody said that it is to be overwritten",
);
const NOT_SET: Reject = Reject::new(
    Reason::PreconditionFailed,
    "no operator has set this label: what a node says of itself is changed where it is started, or overwritten",
);
const MALFORMED: Reject =
    Reject::new(Reason::InvalidArgument, "a label is malformed, or set and removed at once");
const TOO_MANY: Reject = Reject::new(Reason::InvalidArgument, "operators give at most 32 labels to one node");

impl State {
    /// All of it takes effect, or nothing.
    pub(super) fn label_node(&mut self, label: &pb::LabelNode) -> Result<outcome::Kind, Reject> {
        let id = u16::try_from(label.node_id).map_err(|_| NODE_UNKNOWN)?;
        let node = self.nodes.get_mut(&NodeId(id)).ok_or(NODE_UNKNOWN)?;
        let is_twice = label.remove.iter().any(|key| label.set.contains_key(key));
        if is_twice || !are_labels(&label.set) || label.remove.len() > LABELS_MAX {
            return Err(MALFORMED);
        }
        let differs = |(key, value): (&String, &String)| node.label(key).is_some_and(|held| held != value);
        if !label.overwrite && label.set.iter().any(differs) {
            return Err(HAS_VALUE);
        }
        let mut operator_labels = node.operator_labels.clone();
        for key in &label.remove {
            match operator_labels.remove(key) {
                None if node.labels.contains_key(key) => return Err(NOT_SET),
                // What is not there is gone already.
                Some(_) | None => {}
            }
        }
        operator_labels.extend(label.set.clone());
        if operator_labels.len() > LABELS_MAX {
            return Err(TOO_MANY);
        }
        node.operator_labels = operator_labels;
        Ok(outcome::Kind::Labelled(pb::Labelled {
            labels: node.labels.clone(),
            operator_labels: node.operator_labels.clone(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_values_are_short_and_plain() {
        for good in ["zone", "a", "0", "example.com/tier", "a-b_c.d", &"k".repeat(63)] {
            assert!(is_label_key(good), "{good}");
        }
        for bad in ["", "Zone", "zone-", "-zone", ".a", "a/", "a b", "a=b", "ü", "a\n", &"k".repeat(64)] {
            assert!(!is_label_key(bad), "{bad:?}");
        }
        for good in ["a", "R-12", "pci-0000:00:1f.2", "-", &"v".repeat(63)] {
            assert!(is_label_value(good), "{good}");
        }
        for bad in ["", "a b", "a/b", "a=b", "ü", "a\n", "\u{1b}[2J", &"v".repeat(64)] {
            assert!(!is_label_value(bad), "{bad:?}");
        }
    }
}
