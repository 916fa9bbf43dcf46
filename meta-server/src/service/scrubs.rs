//! What operators want of data nodes' scrubs: noted here, and told to nodes with the answers to their heartbeats.

use std::time::Instant;

use xdpfs_proto::meta::v1::{self as proto, ScrubAction, scrub_status::State};
use xdpfs_wire::NodeId;

use super::{
    Gateway, Refusal,
    gateway::{Call, RequestId},
};
use crate::state_machine::Reason;

impl Gateway {
    pub(super) async fn scrub_node(
        &self,
        call: Call<proto::ScrubNodeRequest>,
    ) -> Result<proto::ScrubNodeResponse, Refusal> {
        RequestId::parse(&call.message.request_id)?;
        let (node, action) = parse(&call.message)?;
        let term = self.admit(call.deadline, &call.access).await?;
        if self.state().node(node).is_none() {
            return Err(Refusal::new(Reason::NodeUnknown, "no data node of this number has registered"));
        }
        let sight = self.liveness().sight(term, node, Instant::now());
        let heard = sight.usage.is_some();
        let scrub = sight.usage.and_then(|usage| usage.scrub);
        if heard {
            check(node, scrub.as_ref(), action)?;
        }
        self.scrubs().wish(term, node, action);
        tracing::info!(%node, action = action.as_str_name(), "an operator steers the scrub of a data node");
        Ok(proto::ScrubNodeResponse { scrub, alive: sight.alive && heard })
    }
}

/// Whether the node, which says this of its scrub, can do that.
fn check(node: NodeId, scrub: Option<&proto::ScrubStatus>, action: ScrubAction) -> Result<(), Refusal> {
    let refusal = |message: String| Err(Refusal::new(Reason::ScrubUnsupported, message));
    match scrub.map(proto::ScrubStatus::state) {
        None => refusal(format!("data node {node} runs a release that has no scrub: update it")),
        Some(State::Off) if action != ScrubAction::Pause => {
            refusal(format!("data node {node} was told to have no scrub: give it a --scrub-rate"))
        }
        Some(_) => Ok(()),
    }
}

fn parse(request: &proto::ScrubNodeRequest) -> Result<(NodeId, ScrubAction), Refusal> {
    let number = request.name.strip_prefix("nodes/").and_then(|number| number.parse::<u16>().ok());
    let number =
        number.ok_or_else(|| Refusal::invalid_name("name", "expected nodes/{node}, by the node's number"))?;
    match request.action() {
        ScrubAction::Unspecified => Err(Refusal::invalid("action", "say what the scrub is to do")),
        action => Ok((NodeId(number), action)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_names_a_node_and_what_it_is_to_do() {
        let check = |name: &str, action: i32, expect: bool| {
            let request = proto::ScrubNodeRequest { name: name.into(), action, ..Default::default() };
            assert_eq!(parse(&request).is_ok(), expect, "{name} {action}");
        };
        check("nodes/7", ScrubAction::Start.into(), true);
        check("nodes/7", ScrubAction::Unspecified.into(), false);
        check("nodes/7", 99, false);
        check("7", ScrubAction::Start.into(), false);
        check("nodes/70000", ScrubAction::Start.into(), false);
    }

    #[test]
    fn node_that_has_no_scrub_is_told_apart() {
        let check = |state: Option<State>, action, expect: Option<&str>| {
            let status = |state: State| proto::ScrubStatus { state: state.into(), ..Default::default() };
            let refused = check(NodeId(3), state.map(status).as_ref(), action).err();
            assert_eq!(refused.is_some(), expect.is_some(), "{state:?} {action:?}");
            if let (Some(refusal), Some(words)) = (refused, expect) {
                assert_eq!(refusal.reason(), Reason::ScrubUnsupported);
                assert!(format!("{refusal:?}").contains(words), "{refusal:?}");
            }
        };
        check(None, ScrubAction::Start, Some("release"));
        check(Some(State::Off), ScrubAction::Start, Some("--scrub-rate"));
        check(Some(State::Off), ScrubAction::Pause, None);
        check(Some(State::Waiting), ScrubAction::Start, None);
        check(Some(State::Paused), ScrubAction::Resume, None);
    }
}
