//! Labels that operators give to data nodes.

use xdpfs_proto::{
    meta::v1 as proto,
    state::v1::{self as pb, command, outcome},
};

use super::{
    Gateway, Refusal,
    gateway::{Call, RequestId, reused_request_id},
};
use crate::state_machine::{KEY_RULE, LABELS_MAX, Labels, VALUE_RULE, is_label_key, is_label_value};

impl Gateway {
    pub(super) async fn label_node(
        &self,
        call: Call<proto::LabelNodeRequest>,
    ) -> Result<proto::LabelNodeResponse, Refusal> {
        let request_id = RequestId::parse(&call.message.request_id)?;
        let label = parse(call.message)?;
        let node = label.node_id;
        let labelled = self
            .propose_for(&call.access, call.deadline, request_id, command::Kind::LabelNode(label))
            .await?;
        let outcome::Kind::Labelled(labelled) = labelled else { return Err(reused_request_id()) };
        tracing::info!(node, "an operator has changed the labels of a data node");
        Ok(proto::LabelNodeResponse { labels: to_proto(&labelled.labels, &labelled.operator_labels) })
    }
}

fn parse(request: proto::LabelNodeRequest) -> Result<pb::LabelNode, Refusal> {
    let number = request.name.strip_prefix("nodes/").and_then(|number| number.parse::<u16>().ok());
    let number =
        number.ok_or_else(|| Refusal::invalid_name("name", "expected nodes/{node}, by the node's number"))?;
    let proto::LabelNodeRequest { set, remove, overwrite, .. } = request;
    if set.is_empty() && remove.is_empty() {
        return Err(Refusal::invalid("set", "neither set nor remove names a label"));
    }
    if set.len() > LABELS_MAX || remove.len() > LABELS_MAX {
        return Err(Refusal::invalid("set", format!("at most {LABELS_MAX} labels at once")));
    }
    if !set.keys().chain(&remove).all(|key| is_label_key(key)) {
        return Err(Refusal::invalid("set", KEY_RULE));
    }
    if !set.values().all(|value| is_label_value(value)) {
        return Err(Refusal::invalid("set", VALUE_RULE));
    }
    if remove.iter().any(|key| set.contains_key(key)) {
        return Err(Refusal::invalid("remove", "a label is set and removed at once"));
    }
    Ok(pb::LabelNode { node_id: number.into(), set, remove, overwrite })
}

/// The labels that hold, by key: an operator's word wins over the node's own.
pub(super) fn to_proto(own: &Labels, by_operator: &Labels) -> Vec<proto::NodeLabel> {
    let mut labels: Vec<_> = [(own, false), (by_operator, true)]
        .into_iter()
        .flat_map(|(labels, by_operator)| {
            labels.iter().map(move |(key, value)| proto::NodeLabel {
                key: key.clone(),
                value: value.clone(),
                by_operator,
            })
        })
        .filter(|label| label.by_operator || !by_operator.contains_key(&label.key))
        .collect();
    labels.sort_by(|a, b| a.key.cmp(&b.key));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_names_a_node_and_labels_that_can_be() {
        let check = |name: &str, set: &[(&str, &str)], remove: &[&str], expect: bool| {
            let request = proto::LabelNodeRequest {
                name: name.into(),
                set: set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
                remove: remove.iter().map(|key| (*key).to_owned()).collect(),
                ..Default::default()
            };
            assert_eq!(parse(request).is_ok(), expect, "{name} {set:?} {remove:?}");
        };
        check("nodes/7", &[("zone", "a")], &["rack"], true);
        check("nodes/7", &[], &["rack"], true);
        check("nodes/7", &[], &[], false);
        check("7", &[("zone", "a")], &[], false);
        check("nodes/70000", &[("zone", "a")], &[], false);
        check("nodes/7", &[("Zone", "a")], &[], false);
        check("nodes/7", &[("zone", "a b")], &[], false);
        check("nodes/7", &[("zone", "a")], &["zone"], false);
        check("nodes/7", &[], &["a\u{1b}"], false);
        let many: Vec<String> = (0..=LABELS_MAX).map(|number| format!("k{number}")).collect();
        check("nodes/7", &[], &many.iter().map(String::as_str).collect::<Vec<_>>(), false);
    }

    #[test]
    fn word_of_an_operator_wins() {
        let own = [("rack".to_owned(), "1".to_owned()), ("zone".to_owned(), "a".to_owned())].into();
        let operator = [("zone".to_owned(), "b".to_owned()), ("disk".to_owned(), "d".to_owned())].into();
        let labels = to_proto(&own, &operator);
        let labels: Vec<_> = labels
            .iter()
            .map(|label| (label.key.as_str(), label.value.as_str(), label.by_operator))
            .collect();
        assert_eq!(labels, [("disk", "d", true), ("rack", "1", false), ("zone", "b", true)]);
    }
}
