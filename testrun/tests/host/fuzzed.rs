//! What the fuzzer runs, where there is none: its corpus, each input spoilt in many ways.

use xdpfs_testrun::{
    chance::{Chance, setting},
    differential::{check_input, corpus},
};

use crate::{CASES, SEED};

#[test]
fn fuzzed_input_breaks_nothing() {
    let (cases, seed) = (setting("XDPFS_TEST_CASES", CASES), setting("XDPFS_TEST_SEED", SEED));
    println!("{cases} cases, seed {seed}");
    let corpus = corpus().unwrap();
    let mut chance = Chance::new(seed);
    for case in 0..cases {
        let mut input = corpus[case as usize % corpus.len()].clone();
        chance.spoil(&mut input);
        check_input(&input);
    }
}

#[test]
fn corpus_itself_breaks_nothing() {
    let corpus = corpus().unwrap();
    assert!(corpus.len() > 400);
    corpus.iter().for_each(|input| check_input(input));
}
