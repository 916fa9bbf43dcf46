//! Histories that are known to be good or bad, and random ones from a store that is right by construction.

use super::*;
use crate::rng::Rng;

use Operation::{Create, Delete, Get, Put, Replace};
use Outcome::{Done, Found, Refused, Unknown};

/// An operation that took from the first time to the second.
const fn event(called_ns: u64, returned_ns: u64, operation: Operation, outcome: Outcome) -> Event {
    Event { operation, outcome, called_ns, returned_ns }
}

fn check(events: &[Event], is_good: bool) {
    let verdict = check_key("k", events);
    assert_eq!(verdict.is_ok(), is_good, "{events:#?}\n{verdict:?}");
}

#[test]
fn a_sequence_reads_what_was_last_written() {
    let written = [event(0, 1, Put(1), Done), event(2, 3, Put(2), Done)];
    for (found, is_good) in [(Some(2), true), (Some(1), false), (None, false)] {
        check(&[written[0], written[1], event(4, 5, Get, Found(found))], is_good);
    }
}

#[test]
fn an_acknowledged_put_may_not_be_lost() {
    check(&[event(0, 1, Put(1), Done), event(2, 3, Get, Found(None))], false);
    check(&[event(0, 1, Put(1), Done), event(2, 3, Delete, Refused)], false);
}

#[test]
fn a_read_may_not_be_stale_nor_go_back() {
    let puts = [event(0, 1, Put(1), Done), event(2, 9, Put(2), Done)];
    let (new, old) = (Found(Some(2)), Found(Some(1)));
    check(&[puts[0], puts[1], event(3, 4, Get, old), event(5, 6, Get, new)], true);
    check(&[puts[0], puts[1], event(3, 4, Get, new), event(5, 6, Get, old)], false);
    check(&[puts[0], puts[1], event(10, 11, Get, old)], false);
}

#[test]
fn concurrent_puts_may_take_either_order() {
    for last in [1, 2] {
        let reads = event(10, 11, Get, Found(Some(last)));
        check(&[event(0, 5, Put(1), Done), event(1, 4, Put(2), Done), reads], true);
    }
}

#[test]
fn an_unknown_outcome_may_take_effect_late_or_never_but_not_before_its_call() {
    let known = event(0, 1, Put(1), Done);
    let open = event(2, 3, Put(2), Unknown);
    let reads = |at, value| event(at, at + 1, Get, Found(Some(value)));
    check(&[known, open, reads(10, 1)], true);
    check(&[known, open, reads(10, 1), reads(12, 2)], true);
    check(&[known, open, reads(10, 2), reads(12, 1)], false);
    check(&[reads(0, 2), event(5, 6, Put(2), Unknown)], false);
}

#[test]
fn an_unknown_delete_explains_one_disappearance() {
    let gone = event(4, 5, Get, Found(None));
    let base = [event(0, 1, Put(1), Done), event(2, 3, Delete, Unknown)];
    check(&[base[0], base[1], gone], true);
    check(&[base[0], base[1], gone, event(6, 7, Put(2), Done), event(8, 9, Get, Found(None))], false);
}

#[test]
fn of_two_creates_exactly_one_wins() {
    let both = |second| vec![event(0, 5, Create(1), Done), event(1, 6, Create(2), second)];
    check(&both(Refused), true);
    check(&both(Done), false);
    check(&[event(0, 1, Create(1), Refused)], false);
}

#[test]
fn update_that_rests_on_a_read_may_not_be_lost() {
    let put = event(0, 1, Put(1), Done);
    let replace =
        |called_ns, value, outcome| event(called_ns, called_ns + 4, Replace { held: 1, value }, outcome);
    let reads = |value| event(20, 21, Get, Found(Some(value)));
    check(&[put, replace(2, 2, Done), replace(3, 3, Refused), reads(2)], true);
    check(&[put, replace(2, 2, Done), replace(3, 3, Done), reads(3)], false);
    check(&[put, replace(2, 2, Done), reads(1)], false);
    check(&[put, replace(2, 2, Refused), reads(1)], false);
    check(&[put, replace(2, 2, Unknown), replace(10, 3, Refused), reads(2)], true);
    check(&[put, replace(2, 2, Unknown), replace(10, 3, Done), reads(3)], true);
    check(&[put, replace(2, 2, Unknown), replace(10, 3, Done), reads(2)], false);
}

#[test]
fn what_was_deleted_does_not_come_back() {
    let base = [event(0, 1, Put(1), Done), event(2, 3, Delete, Done), event(4, 5, Get, Found(None))];
    check(&base, true);
    let back = event(6, 7, Get, Found(Some(1)));
    check(&[base[0], base[1], back], false);
    check(&[base[0], base[1], base[2], back], false);
    // A put without an answer may have come in between.
    let open = event(1, 2, Put(2), Unknown);
    check(&[base[0], open, base[1], base[2], event(6, 7, Get, Found(Some(2)))], true);
    check(&[base[0], open, base[1], base[2], back], false);
}

#[test]
fn two_halves_that_both_answer_are_found_out() {
    // Each half goes on by itself, and agrees with itself.
    let left = [event(0, 1, Put(1), Done), event(10, 11, Put(2), Done), event(30, 31, Get, Found(Some(2)))];
    let right = [event(12, 13, Put(3), Done), event(32, 33, Get, Found(Some(3)))];
    check(&left, true);
    check(&[left[0], right[0], right[1]], true);
    check(&[left[0], left[1], right[0], left[2], right[1]], false);
    // One after the other, they could be one store.
    let later = [event(32, 33, Put(3), Done), event(34, 35, Get, Found(Some(3)))];
    check(&[left[0], left[1], left[2], later[0], later[1]], true);
}

#[test]
fn what_nobody_put_is_never_found() {
    let events = [event(0, 1, Put(1), Done), event(2, 3, Get, Found(Some(7)))];
    assert!(matches!(check_key("k", &events), Err(Violation::Invented { value: 7, .. })));
    let events = [event(0, 1, Put(1), Done), event(2, 3, Put(1), Done)];
    assert!(matches!(check_key("k", &events), Err(Violation::NotUnique { value: 1, .. })));
}

/// Runs `operations` on one true register. Each takes effect at a time of its own inside its interval; some are
/// never answered, and of these some never take effect.
fn honest_history(seed: u64, operations: u64) -> Vec<Event> {
    let mut rng = Rng::new(seed);
    let mut holds = None;
    (1..=operations)
        .map(|value| {
            let takes_effect_ns = value * 100;
            let called_ns = takes_effect_ns - rng.below(90).min(takes_effect_ns);
            let returned_ns = takes_effect_ns + rng.below(400);
            let held = holds.filter(|_| rng.chance(60.0)).unwrap_or(value.saturating_sub(1));
            let operation =
                *rng.choose(&[Put(value), Create(value), Replace { held, value }, Delete, Get, Get]);
            let is_unknown = operation != Get && rng.chance(4.0);
            if is_unknown && rng.chance(50.0) {
                return event(called_ns, returned_ns, operation, Unknown);
            }
            let outcome = apply(&mut holds, operation);
            event(called_ns, returned_ns, operation, if is_unknown { Unknown } else { outcome })
        })
        .collect()
}

fn apply(holds: &mut Option<Value>, operation: Operation) -> Outcome {
    match operation {
        Get => return Found(*holds),
        Create(_) if holds.is_some() => return Refused,
        Delete if holds.is_none() => return Refused,
        Replace { held, .. } if *holds != Some(held) => return Refused,
        Create(value) | Put(value) | Replace { value, .. } => *holds = Some(value),
        Delete => *holds = None,
    }
    Done
}

#[test]
fn an_honest_store_is_always_believed() {
    for seed in 0..200 {
        check(&honest_history(seed, 300), true);
    }
}

#[test]
fn a_planted_stale_read_is_found_in_a_long_history() {
    let mut found = 0;
    for seed in 0..50 {
        let mut events = honest_history(seed, 200);
        // Long gone at the end: some value that was written early and replaced many times since.
        let early = events.iter().take(40).find_map(|event| match (event.operation, event.outcome) {
            (Put(value), Done) => Some(value),
            _ => None,
        });
        if let Some(early) = early {
            events.push(event(90_000, 90_001, Get, Found(Some(early))));
            check(&events, false);
            found += 1;
        }
    }
    assert!(found > 40, "only {found} histories had something to plant");
}
