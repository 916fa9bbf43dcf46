//! The cases of `fixtures/frames.txt`: a frame, what the maps hold, and what must come of it, byte for byte.
//!
//! Invariant: this file only reads and writes the text. What must come of a frame is in the text, never worked out.

use std::{collections::BTreeMap, fmt::Write as _, fs, net::IpAddr};

use anyhow::{Context as _, bail, ensure};
use xdpfs_plane::{
    Action,
    maps::{Lease, Place, Route, SourceRule},
};
use xdpfs_wire::{NodeEpoch, NodeId};

use crate::{
    fixture::{HERE, THERE},
    oracle::Model,
};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/frames.txt");
/// Equal bytes in a row, from this many on, are written as one and their number.
const RUN_MIN: usize = 8;

/// One case.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Case {
    pub name: String,
    pub modes: Vec<Mode>,
    pub world: World,
    pub frame: Vec<u8>,
    pub action: Action,
    /// Counters that must rise by one, in the order of their names; no other may.
    pub counted: Vec<String>,
    pub out: Vec<u8>,
}

/// What the maps hold besides the secrets of the fixtures.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct World {
    pub nodes: BTreeMap<NodeId, (NodeEpoch, Whereabouts)>,
    /// That of the node on this host, if it has one.
    pub lease: Option<LeaseState>,
    pub source_rules: Vec<(IpAddr, u32, SourceRule)>,
    /// What becomes of sources without a rule.
    pub unlisted_source: SourceRule,
    /// Every source has sent as much as it may.
    pub sources_spent: bool,
    /// Every CPU has answered as often as it may.
    pub answers_spent: bool,
}

macro_rules! words {
    ($(#[$doc:meta])* $type:ident { $($(#[$about:meta])* $name:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $type {
            $($(#[$about])* $name,)*
        }

        impl $type {
            const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }

            fn parse(word: &str) -> anyhow::Result<Self> {
                match word {
                    $($word => Ok(Self::$name),)*
                    _ => bail!("{word}: no such word here"),
                }
            }
        }
    };
}

words! {
    /// Where the program runs.
    Mode {
        Generic = "generic",
        Native = "native",
    }
}

words! {
    /// Where a node is.
    Whereabouts {
        Here = "here",
        /// Behind a device, with addresses of both IP versions.
        There = "there",
        /// Behind a device, with one address only.
        ThereV4 = "there-by-v4-only",
        ThereV6 = "there-by-v6-only",
        /// Behind a device that is gone.
        Severed = "severed",
        /// Where only user space comes.
        Relayed = "relayed",
    }
}

words! {
    /// How it is with a lease.
    LeaseState {
        Holds = "holds",
        Over = "is-over",
    }
}

impl LeaseState {
    /// As the program's map has it, while its clock stands at zero.
    pub const fn entry(self) -> Lease {
        match self {
            Self::Holds => Lease::until(1),
            Self::Over => Lease::until(0),
        }
    }
}

impl Whereabouts {
    /// As the program's map has it.
    pub const fn route(self, node_epoch: NodeEpoch) -> Route {
        let route = match self {
            Self::Here => HERE,
            Self::There => THERE,
            Self::ThereV4 => Route { v6: [0; 16], ..THERE },
            Self::ThereV6 => Route { v4: [0; 4], ..THERE },
            Self::Relayed => Route { place: Place::RELAY, ..THERE },
            Self::Severed => Route { device: THERE.device + 1, ..THERE },
        };
        Route { node_epoch: node_epoch.0, ..route }
    }
}

impl World {
    /// A model with this world in it.
    pub fn model(&self, mode: Mode) -> Model {
        let Self { nodes, lease, source_rules, unlisted_source, sources_spent, answers_spent } = self.clone();
        Model {
            routes: nodes.iter().map(|(node, (epoch, place))| (node.0, place.route(*epoch))).collect(),
            devices: [(THERE.device, true)].into(),
            lease_is_over: lease == Some(LeaseState::Over),
            source_rules,
            unlisted_source,
            sources_spent,
            answers_spent,
            generic: mode == Mode::Generic,
            ..Model::default()
        }
    }
}

/// All cases of the file.
pub fn cases() -> anyhow::Result<Vec<Case>> {
    let text = fs::read_to_string(PATH).context(PATH)?;
    let blocks = text.split("\n\n").filter(|block| block.starts_with("case "));
    blocks
        .map(|block| parse(block).with_context(|| block.lines().next().unwrap_or_default().to_owned()))
        .collect()
}

/// The file as it is.
pub fn text() -> String {
    // A file that is not there yet differs from every other one.
    fs::read_to_string(PATH).unwrap_or_default()
}

/// Writes the file anew.
pub fn bless(text: &str) -> anyhow::Result<()> {
    fs::write(PATH, text).context(PATH)
}

/// The file with these cases.
pub fn print(cases: &[Case]) -> String {
    let mut text = HEAD.to_owned();
    for case in cases {
        text += &one(case).expect("a string takes everything");
    }
    text
}

const HEAD: &str = "\
# What comes of frames, made by tests/host/. Each case: its name, the modes that it holds in, what the maps hold (the
# whereabouts of nodes, a lease, rules for sources, spent buckets), the frame that comes in, the action, the counters that rise
# by one, and the frame that comes out.
#
# Bytes are hexadecimal; the last byte before a star is there so many times. The secrets, the port, the time and the
# addresses of a node that is `there` are in src/fixture.rs.
";

fn one(case: &Case) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    writeln!(text, "\ncase {}", case.name)?;
    let modes: Vec<&str> = case.modes.iter().map(|mode| mode.word()).collect();
    writeln!(text, "modes {}", modes.join(" "))?;
    for (node, (epoch, place)) in &case.world.nodes {
        writeln!(text, "node {} epoch {} {}", node.0, epoch.0, place.word())?;
    }
    if let Some(lease) = case.world.lease {
        writeln!(text, "lease {}", lease.word())?;
    }
    for (prefix, len, rule) in &case.world.source_rules {
        writeln!(text, "source {prefix}/{len} {}", rule_word(*rule))?;
    }
    if case.world.unlisted_source != SourceRule::ALLOW {
        writeln!(text, "source others {}", rule_word(case.world.unlisted_source))?;
    }
    if case.world.sources_spent {
        writeln!(text, "spent sources")?;
    }
    if case.world.answers_spent {
        writeln!(text, "spent answers")?;
    }
    writeln!(text, "in {}", hex(&case.frame))?;
    writeln!(text, "action {}", action_word(case.action))?;
    writeln!(text, "counted {}", case.counted.join(" "))?;
    let out = if case.out == case.frame { "the same".to_owned() } else { hex(&case.out) };
    writeln!(text, "out {out}")?;
    Ok(text)
}

fn parse(block: &str) -> anyhow::Result<Case> {
    let mut case = Case {
        name: String::new(),
        modes: Vec::new(),
        world: World::default(),
        frame: Vec::new(),
        action: Action::Drop,
        counted: Vec::new(),
        out: Vec::new(),
    };
    for line in block.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["case", name] => case.name = name.to_owned(),
            ["modes", ref modes @ ..] => {
                case.modes = modes.iter().map(|word| Mode::parse(word)).collect::<Result<_, _>>()?;
            }
            ["node", node, "epoch", epoch, place] => {
                let place = (NodeEpoch(epoch.parse()?), Whereabouts::parse(place)?);
                case.world.nodes.insert(NodeId(node.parse()?), place);
            }
            ["lease", state] => case.world.lease = Some(LeaseState::parse(state)?),
            ["source", "others", rule] => case.world.unlisted_source = parse_rule(rule)?,
            ["source", prefix, rule] => {
                let (prefix, len) = prefix.split_once('/').context("not a prefix")?;
                case.world.source_rules.push((prefix.parse()?, len.parse()?, parse_rule(rule)?));
            }
            ["spent", "sources"] => case.world.sources_spent = true,
            ["spent", "answers"] => case.world.answers_spent = true,
            ["in", bytes] => case.frame = parse_hex(bytes)?,
            ["action", word] => case.action = parse_action(word)?,
            ["counted", ref labels @ ..] => case.counted = labels.iter().map(ToString::to_string).collect(),
            ["out", "the", "same"] => case.out = case.frame.clone(),
            ["out", bytes] => case.out = parse_hex(bytes)?,
            _ => bail!("{line}: not understood"),
        }
    }
    ensure!(!case.modes.is_empty() && !case.counted.is_empty(), "the case is not complete");
    Ok(case)
}

fn rule_word(rule: SourceRule) -> &'static str {
    if rule == SourceRule::DENY { "denied" } else { "allowed" }
}

fn parse_rule(word: &str) -> anyhow::Result<SourceRule> {
    match word {
        "allowed" => Ok(SourceRule::ALLOW),
        "denied" => Ok(SourceRule::DENY),
        _ => bail!("{word} is not a rule"),
    }
}

const ACTIONS: [(Action, &str); 4] = [
    (Action::Answer, "answer"),
    (Action::Drop, "drop"),
    (Action::Pass, "pass"),
    (Action::Redirect, "redirect"),
];

fn action_word(action: Action) -> &'static str {
    ACTIONS.iter().find(|(other, _)| *other == action).map_or("", |(_, word)| word)
}

fn parse_action(word: &str) -> anyhow::Result<Action> {
    let found = ACTIONS.iter().find(|(_, other)| *other == word);
    found.map(|(action, _)| *action).with_context(|| format!("{word} is not an action"))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    let runs = bytes.chunk_by(|a, b| a == b);
    let mut is_after_run = false;
    for run in runs {
        if is_after_run {
            text.push('.');
        }
        is_after_run = run.len() >= RUN_MIN;
        if is_after_run {
            text += &format!("{:02x}*{}", run[0], run.len());
        } else {
            run.iter().for_each(|byte| text += &format!("{byte:02x}"));
        }
    }
    text
}

fn parse_hex(text: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for part in text.split('.') {
        let (digits, times) =
            part.split_once('*').map_or((part, None), |(digits, times)| (digits, Some(times)));
        ensure!(digits.len().is_multiple_of(2) && !digits.is_empty(), "{digits} are not bytes");
        for at in (0..digits.len()).step_by(2) {
            bytes.push(u8::from_str_radix(&digits[at..at + 2], 16).context("not hexadecimal")?);
        }
        if let Some(times) = times {
            let more = times.parse::<usize>()?.checked_sub(1).context("zero times")?;
            let last = *bytes.last().context("nothing is repeated")?;
            bytes.resize(bytes.len() + more, last);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_their_text() {
        for bytes in [&[1][..], &[0; 7], &[0; 8], &[1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3], &[9; 3000]] {
            assert_eq!(parse_hex(&hex(bytes)).ok().as_deref(), Some(bytes), "{}", hex(bytes));
        }
        assert_eq!(hex(&[&[7, 0][..], &[0; 9], &[1]].concat()), "0700*10.01");
        for wrong in ["", "0", "0g", "00*0", "00..11", "*3"] {
            assert!(parse_hex(wrong).is_err(), "{wrong}");
        }
    }
}
