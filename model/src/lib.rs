//! The protocol of commit, collection, fencing and repair: what servers, nodes and clients may do next, in a world of three
//! nodes and one key, so small that all of it can be looked at (`tests/exhaustive.rs`,
//! [design 0038](../../docs/design/0038-the-model-and-the-cluster-simulator.md)).
//!
//! Invariant: pure, and no part of any program. Each action names the function that it stands for. Time is not modelled: a node
//! that is slow, frozen or cut off is one that takes no step, and what must not happen before some time has passed is a rule.

mod action;
mod heal;
mod property;
mod rule;
mod step;
mod world;

pub use action::Action;
pub use property::Broken;
pub use rule::{Rule, Rules};
pub use world::{
    CHUNKS, Cell, Change, Job, NODES, Pending, Phase, REPLICAS, Scope, Stage, Standing, Word, World,
};
