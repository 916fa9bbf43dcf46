//! The check of all that data nodes hold, in the background: how it is, and what operators want of it.

use std::time::{Duration, SystemTime};

use xdpfs_proto::meta::v1::{self as proto, scrub_status::State};

use crate::{
    client::{Client, request_id},
    control::{Meta, Operation},
    error::Result,
};

/// What a data node's scrub is to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ScrubAction {
    /// Hold, and begin no pass.
    Pause,
    /// Go on as before.
    Resume,
    /// Begin a pass now, unless one is under way; go on if it is held.
    Start,
}

/// What a data node's scrub does at present.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ScrubState {
    /// Nothing: the node was started without.
    Off,
    /// Nothing, until an operator lets it go on.
    Paused,
    /// It reads and checks.
    Running,
    /// The node knows a word for it that this client doesn't.
    Unknown,
    /// Nothing, until the next pass is due.
    Waiting,
}

/// The scrub of a data node, as it last said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeScrub {
    /// What it does.
    pub state: ScrubState,
    /// The pass that is under way, or held.
    pub pass: Option<ScrubPass>,
    /// How far that is.
    pub percent: u32,
    /// The last one that came to its end.
    pub last_pass: Option<ScrubPass>,
    /// When the next one is due, on the node's clock.
    pub next_pass: Option<SystemTime>,
    /// Bytes of chunks that it reads in a second, at most.
    pub bytes_per_second: u64,
}

/// One walk through all chunks of a data node.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ScrubPass {
    /// When it began, on the node's clock.
    pub began: Option<SystemTime>,
    /// When it ended.
    pub ended: Option<SystemTime>,
    /// Bytes that were checked.
    pub bytes: u64,
    /// Chunks that were checked.
    pub chunks: u64,
    /// Chunks that it has put out of service.
    pub damaged_chunks: u64,
    /// Damaged places where no chunk in service was.
    pub damaged_places: u64,
    /// Reads that the disk refused.
    pub read_errors: u64,
}

/// What the leader says to a wish about a scrub.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ScrubAnswer {
    /// As the node last said, before it hears of the wish. None: it has yet to say.
    pub scrub: Option<NodeScrub>,
    /// The node is heard of, so it will be told with its next heartbeat.
    pub alive: bool,
}

impl ScrubAction {
    /// Its name on the command line.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Start => "start",
        }
    }
}

impl ScrubState {
    /// The state's name in output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Paused => "paused",
            Self::Running => "running",
            Self::Unknown => "unknown",
            Self::Waiting => "waiting",
        }
    }
}

impl NodeScrub {
    /// The pass under way, or else the last one.
    #[must_use]
    pub const fn latest(&self) -> Option<ScrubPass> {
        match self.pass {
            Some(pass) => Some(pass),
            None => self.last_pass,
        }
    }
}

impl From<ScrubAction> for proto::ScrubAction {
    fn from(action: ScrubAction) -> Self {
        match action {
            ScrubAction::Pause => Self::Pause,
            ScrubAction::Resume => Self::Resume,
            ScrubAction::Start => Self::Start,
        }
    }
}

impl From<proto::ScrubStatus> for NodeScrub {
    fn from(scrub: proto::ScrubStatus) -> Self {
        let state = match scrub.state() {
            State::Unspecified => ScrubState::Unknown,
            State::Off => ScrubState::Off,
            State::Waiting => ScrubState::Waiting,
            State::Running => ScrubState::Running,
            State::Paused => ScrubState::Paused,
        };
        Self {
            state,
            pass: scrub.pass.map(ScrubPass::from),
            percent: scrub.percent.min(100),
            last_pass: scrub.last_pass.map(ScrubPass::from),
            next_pass: time(scrub.next_pass_time_ms),
            bytes_per_second: scrub.rate_bytes_per_s,
        }
    }
}

impl From<proto::ScrubPass> for ScrubPass {
    fn from(pass: proto::ScrubPass) -> Self {
        Self {
            began: time(pass.begin_time_ms),
            ended: time(pass.end_time_ms),
            bytes: pass.bytes,
            chunks: pass.chunks,
            damaged_chunks: pass.damaged_chunks,
            damaged_places: pass.damaged_places,
            read_errors: pass.read_errors,
        }
    }
}

/// Milliseconds since the Unix epoch; zero is nothing, and so is what no clock shows.
fn time(unix_ms: u64) -> Option<SystemTime> {
    let since_epoch = Some(unix_ms).filter(|unix_ms| *unix_ms != 0).map(Duration::from_millis)?;
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}

pub(crate) async fn scrub_node(client: &Client, node: u32, action: ScrubAction) -> Result<ScrubAnswer> {
    let request = proto::ScrubNodeRequest {
        request_id: request_id(),
        name: format!("nodes/{node}"),
        action: proto::ScrubAction::from(action).into(),
    };
    let operation = Operation::ScrubNode;
    let send = |mut meta: Meta, request| async move { meta.scrub_node(request).await };
    let reply = client.shared().control.call(operation, request, send).await;
    let reply = reply.map_err(|refusal| refusal.about(operation, "", ""))?;
    Ok(ScrubAnswer { scrub: reply.scrub.map(NodeScrub::from), alive: reply.alive })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_taken_as_far_as_this_client_knows_it() {
        let pass = proto::ScrubPass { begin_time_ms: 1000, bytes: 7, ..Default::default() };
        let status = proto::ScrubStatus {
            state: 99,
            pass: Some(pass),
            percent: 300,
            next_pass_time_ms: u64::MAX,
            ..Default::default()
        };
        let scrub = NodeScrub::from(status);
        assert_eq!((scrub.state, scrub.percent), (ScrubState::Unknown, 100));
        let pass = scrub.latest().unwrap();
        assert_eq!(pass.began, Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1)));
        assert_eq!((pass.ended, pass.bytes), (None, 7));
    }
}
