//! A label that a node says of itself: `zone=a`.
//!
//! Invariant: bounded, and of characters that a command line and a terminal bear; the metadata servers go by the same
//! rules (`xdpfs.meta.v1.NodeLabel`) and judge again.

use std::{collections::BTreeMap, str::FromStr};

use thiserror::Error;

/// Labels of one node.
const LABELS_MAX: usize = 32;
/// Bytes of a key, and of a value.
const TEXT_BYTES_MAX: usize = 63;

/// A label as typed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct NodeLabel {
    key: String,
    value: String,
}

/// Why labels can't be had.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum NodeLabelError {
    /// The key has other characters, or too many.
    #[error(
        "{0:?} is no label's key: 1 to 63 of a-z, 0-9, '.', '_', '-' and '/', at both ends a letter or a digit"
    )]
    Key(String),
    /// There is no `=`.
    #[error("{0:?} is no label: write KEY=VALUE, such as zone=a")]
    NoPair(String),
    /// There are too many.
    #[error("a node has at most 32 labels")]
    TooMany,
    /// Two labels have one key.
    #[error("the label {0:?} is given twice")]
    Twice(String),
    /// The value has other characters, or too many, or none.
    #[error("{0:?} is no label's value: 1 to 63 of A-Z, a-z, 0-9, '.', '_', '-' and ':'")]
    Value(String),
}

impl FromStr for NodeLabel {
    type Err = NodeLabelError;

    fn from_str(text: &str) -> Result<Self, NodeLabelError> {
        let (key, value) = text.split_once('=').ok_or_else(|| NodeLabelError::NoPair(text.to_owned()))?;
        let is_bounded = |text: &str| (1..=TEXT_BYTES_MAX).contains(&text.len());
        let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let ends_well =
            [key.bytes().next(), key.bytes().last()].iter().all(|end| end.as_ref().is_some_and(is_plain));
        if !is_bounded(key)
            || !ends_well
            || !key.bytes().all(|byte| is_plain(&byte) || b"._-/".contains(&byte))
        {
            return Err(NodeLabelError::Key(key.to_owned()));
        }
        let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
        if !is_bounded(value) || !value.bytes().all(is_good) {
            return Err(NodeLabelError::Value(value.to_owned()));
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

/// The labels of a node.
pub(crate) fn by_key(labels: Vec<NodeLabel>) -> Result<BTreeMap<String, String>, NodeLabelError> {
    let mut by_key = BTreeMap::new();
    for NodeLabel { key, value } in labels {
        if by_key.insert(key.clone(), value).is_some() {
            return Err(NodeLabelError::Twice(key));
        }
    }
    if by_key.len() > LABELS_MAX { Err(NodeLabelError::TooMany) } else { Ok(by_key) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_is_a_key_and_a_value() {
        for good in ["zone=a", "a.b/c_d-e=0000:00:1f.2", "disk=SSD-1"] {
            let label: NodeLabel = good.parse().unwrap();
            assert_eq!(format!("{}={}", label.key, label.value), good);
        }
        let long = format!("k={}", "v".repeat(64));
        for bad in
            ["", "zone", "=a", "zone=", "Zone=a", "zone-=a", "zone=a b", "zone=a=b", "zone=a\u{1b}", &long]
        {
            assert!(bad.parse::<NodeLabel>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn labels_are_bounded_in_number() {
        let labels =
            |count: usize| (0..count).map(|number| format!("k{number}=v").parse().unwrap()).collect();
        assert_eq!(by_key(labels(LABELS_MAX)).unwrap().len(), LABELS_MAX);
        assert_eq!(by_key(labels(LABELS_MAX + 1)), Err(NodeLabelError::TooMany));
    }
}
