//! `node label`: what operators say of a data node.

use std::{collections::BTreeMap, str::FromStr};

use clap::Args;
use serde::Serialize;
use xdpfs_client::{Error, LabelChange, NodeLabel, ObjectClient};

use super::list::labels_text;
use crate::{
    console::Console,
    failure::{Exit, Failure},
    record::labels_by_key,
};

/// Set labels of a data node, or take back what was set before.
///
/// KEY=VALUE sets a label and KEY- takes it back; all of it takes effect, or nothing. Placement goes by the labels zone,
/// rack, host and disk; others mean what you want. What is said here wins over what the node says of itself (--label),
/// and lasts when it starts again. Chunks that lie somewhere stay there.
#[derive(Debug, Args)]
pub(super) struct LabelArguments {
    /// The number of the data node.
    #[arg(value_name = "NODE")]
    node: u32,
    /// What to change.
    #[arg(value_name = "KEY=VALUE|KEY-", required = true)]
    changes: Vec<Change>,
    /// Labels may have another value now.
    #[arg(long)]
    overwrite: bool,
}

/// One change as typed.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Change {
    Remove(String),
    Set(String, String),
}

impl FromStr for Change {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text.split_once('='), text.strip_suffix('-')) {
            (Some((key, value)), _) if !key.is_empty() && !value.is_empty() => {
                Ok(Self::Set(key.to_owned(), value.to_owned()))
            }
            (None, Some(key)) if !key.is_empty() => Ok(Self::Remove(key.to_owned())),
            _ => Err("write KEY=VALUE to set a label, or KEY- to take it back".to_owned()),
        }
    }
}

/// The labels that hold.
#[derive(Debug, Serialize)]
struct LabelsRecord<'a> {
    node: u32,
    labels: BTreeMap<&'a str, &'a str>,
}

/// Changes them.
pub(super) async fn run<C: ObjectClient>(
    arguments: &LabelArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let change = arguments.change()?;
    let labels = client.label_node(arguments.node, change).await;
    let labels = labels.map_err(|error| arguments.failure(error))?;
    let record = LabelsRecord { node: arguments.node, labels: labels_by_key(&labels) };
    console.confirm(&record, || confirmation(arguments.node, &labels))?;
    Ok(Exit::Done)
}

fn confirmation(node: u32, labels: &[NodeLabel]) -> String {
    if labels.is_empty() {
        return format!("data node {node} has no labels");
    }
    format!("data node {node}: {}", labels_text(labels))
}

impl LabelArguments {
    fn change(&self) -> Result<LabelChange, Failure> {
        let mut change = LabelChange { overwrite: self.overwrite, ..LabelChange::default() };
        for asked in &self.changes {
            let (key, is_new) = match asked {
                Change::Remove(key) => {
                    let is_new = !change.set.contains_key(key) && !change.remove.contains(key);
                    change.remove.push(key.clone());
                    (key, is_new)
                }
                Change::Set(key, value) => {
                    let is_new = change.set.insert(key.clone(), value.clone()).is_none();
                    (key, is_new && !change.remove.contains(key))
                }
            };
            if !is_new {
                return Err(Failure::usage(format!("the label {key} is named twice")));
            }
        }
        Ok(change)
    }

    fn failure(&self, error: Error) -> Failure {
        let is_other = matches!(error, Error::PreconditionFailed { .. });
        let failure = Failure::from(error);
        if is_other {
            let hint = format!(
                "see its labels with: xdpfs-cli node show {}; to change one, say --overwrite",
                self.node
            );
            return failure.with_hint(hint);
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn change_is_a_pair_or_a_key_with_a_dash() {
        let check = |text: &str, expect: Option<Change>| assert_eq!(text.parse().ok(), expect, "{text:?}");
        check("zone=a", Some(Change::Set("zone".into(), "a".into())));
        check("zone=a-", Some(Change::Set("zone".into(), "a-".into())));
        check("zone-", Some(Change::Remove("zone".into())));
        check("a-b-", Some(Change::Remove("a-b".into())));
        for bad in ["", "-", "zone", "=a", "zone=", "="] {
            check(bad, None);
        }
    }

    #[test]
    fn label_is_named_once() {
        let arguments = |changes: &[&str]| LabelArguments {
            node: 1,
            changes: changes.iter().map(|change| change.parse().unwrap()).collect(),
            overwrite: false,
        };
        assert!(arguments(&["zone=a", "rack-"]).change().is_ok());
        for twice in [["zone=a", "zone=b"], ["zone=a", "zone-"], ["zone-", "zone=a"], ["zone-", "zone-"]] {
            assert_eq!(arguments(&twice).change().unwrap_err().exit, Exit::Usage, "{twice:?}");
        }
    }
}
