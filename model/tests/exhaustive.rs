//! Every world that there can be, looked at; and each rule switched off, which must break something.

use std::time::Instant;

use stateright::{Checker, HasDiscoveries, Model, Property};
use xdpfs_model::{Action, Rule, Rules, Scope, World};

/// The model as the checker has it.
#[derive(Clone, Copy, Debug)]
struct Protocol {
    rules: Rules,
    scope: Scope,
}

const READABLE: &str = "an object can be read while at most all replicas but one are lost";
const READER: &str = "so can one that somebody reads by an older manifest";
const TRUE: &str = "whoever a manifest names has the chunk, or has lost it since";
const FULL: &str = "a manifest names as many nodes as the put was promised";
const LIVE: &str = "no live chunk is collected";
const OVER: &str = "nothing that is over comes back";
const PAST: &str = "no receipt of an ended registration counts";
const HEALS: &str = "all replicas come back, and nothing is left behind, once nothing goes wrong";

impl Model for Protocol {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.scope).canonical()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        world.actions(self.rules, actions);
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        world.after(self.rules, action)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(READABLE, |_, world: &World| world.is_readable()),
            Property::always(READER, |_, world: &World| world.reader_gets_it()),
            Property::always(TRUE, |_, world: &World| world.manifests_are_true()),
            Property::always(FULL, |_, world: &World| world.manifests_are_full()),
            Property::always(LIVE, |_, world: &World| world.nothing_live_goes()),
            Property::always(OVER, |_, world: &World| world.nothing_comes_back()),
            Property::always(PAST, |_, world: &World| world.past_vouches_for_nothing()),
            Property::always(HEALS, |model: &Self, world: &World| {
                world.harm.is_some() || world.heals(model.rules)
            }),
        ]
    }
}

const NOTHING: Scope = Scope {
    puts: 0,
    deletes: 0,
    reads: 0,
    fences: 0,
    restarts: 0,
    wipes: 0,
    drains: 0,
    leaders: 0,
    removals: 0,
};
/// Two puts to one key, and what may befall nodes meanwhile.
const PUTS: Scope = Scope { puts: 2, fences: 1, wipes: 1, ..NOTHING };
/// The same, and the key is deleted.
const DELETES: Scope = Scope { puts: 2, deletes: 1, fences: 1, ..NOTHING };
/// An object that is repaired, read and deleted.
const REPAIR: Scope = Scope {
    puts: 1,
    deletes: 1,
    reads: 1,
    fences: 1,
    restarts: 1,
    wipes: 1,
    drains: 1,
    leaders: 1,
    ..NOTHING
};
/// One whose replicas move again and again, while leaders change.
const MOVES: Scope = Scope { puts: 1, deletes: 1, fences: 1, drains: 3, leaders: 2, ..NOTHING };
/// One that another takes the place of while it moves.
const OVERWRITE: Scope = Scope { puts: 2, reads: 1, fences: 1, drains: 1, leaders: 1, ..NOTHING };
/// A node that is removed for ever.
const REMOVAL: Scope = Scope { puts: 1, fences: 2, wipes: 1, leaders: 1, removals: 1, ..NOTHING };

/// Scopes, and how many worlds there are in each. Another number means that something can happen that could not, or can't
/// that could.
const SCOPES: &[(&str, Scope, usize)] = &[
    ("puts", PUTS, 357_629),
    ("deletes", DELETES, 159_284),
    ("repair", REPAIR, 974_163),
    ("moves", MOVES, 65_531),
    ("overwrite", OVERWRITE, 1_081_470),
    ("removal", REMOVAL, 80_520),
];

/// What breaks without each rule, and where.
const NEEDED: &[(Rule, Scope, &str)] = &[
    (Rule::CommitNeedsOpenUpload, PUTS, OVER),
    (Rule::DoubtsAreRepaired, REPAIR, HEALS),
    (Rule::EnoughReceipts, PUTS, READABLE),
    (Rule::FenceEndsRegistration, PUTS, PAST),
    (Rule::ForgottenOnceRemoved, MOVES, LIVE),
    (Rule::GraceOutlastsReaders, REPAIR, READER),
    (Rule::JobsEndWithTheirReplica, MOVES, TRUE),
    (Rule::NamedIsNotCollected, MOVES, LIVE),
    (Rule::OpenIsNotCollected, PUTS, LIVE),
    (Rule::ReceiptsArePresent, PUTS, PAST),
    (Rule::RemovalNeedsEmptyNode, REMOVAL, TRUE),
    (Rule::RemovalNeedsFence, REMOVAL, TRUE),
    (Rule::RemovalNeedsSameRegistration, REMOVAL, TRUE),
    (Rule::StartIsRegistration, PUTS, PAST),
    (Rule::ToIsNotNamed, MOVES, FULL),
    (Rule::ToIsNotPending, MOVES, LIVE),
    (Rule::UnknownIsCollected, MOVES, HEALS),
    (Rule::WordsArePresent, MOVES, PAST),
    (Rule::WordsAreYoung, MOVES, TRUE),
];

#[test]
fn nothing_breaks_in_any_world() {
    let mut counts = Vec::new();
    for (name, scope, expected) in SCOPES {
        let began = Instant::now();
        let protocol = Protocol { rules: Rules::default(), scope: *scope };
        let checker = protocol.checker().threads(2).spawn_bfs().join();
        let (unique, all, depth) = (checker.unique_state_count(), checker.state_count(), checker.max_depth());
        let took = began.elapsed().as_secs_f64();
        eprintln!(
            "{name:<10} {unique:>9} worlds, {all:>9} steps between them, depth {depth:>2}, {took:>5.1} s"
        );
        let broken = checker.discoveries().into_iter().next();
        assert!(
            broken.is_none(),
            "{name}: {:#?}",
            broken.map(|(broken, path)| (broken, path.into_actions()))
        );
        counts.push((*name, unique, *expected));
    }
    assert!(
        counts.iter().all(|(_, unique, expected)| unique == expected),
        "(scope, worlds, expected) {counts:?}"
    );
}

#[test]
fn each_rule_is_needed() {
    let tried: Vec<Rule> = NEEDED.iter().map(|(rule, ..)| *rule).collect();
    assert_eq!(tried, Rule::ALL, "all of them, in order");
    let mut missed = Vec::new();
    for (rule, scope, broken) in NEEDED {
        let protocol = Protocol { rules: Rules::without(*rule), scope: *scope };
        let finish = HasDiscoveries::AnyOf([*broken].into());
        let checker = protocol.checker().finish_when(finish).spawn_bfs().join();
        match checker.discovery(broken) {
            Some(path) => {
                let (steps, worlds) = (path.into_actions().len(), checker.unique_state_count());
                eprintln!("{rule:<30?} after {steps:>2} steps, {worlds:>7} worlds: not so that {broken}");
            }
            None => missed.push(rule),
        }
    }
    assert!(missed.is_empty(), "nothing breaks without {missed:?}");
}
