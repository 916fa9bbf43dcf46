//! What nodes and edges say of themselves is kept for whoever looks, within bounds.

use std::collections::BTreeMap;

/// Counters of one kind that are kept of one speaker.
const COUNTERS_MAX: usize = 64;
/// Bytes of a counter's name.
const COUNTER_NAME_LEN_MAX: usize = 64;
/// Bytes of a text that are kept.
const TEXT_LEN_MAX: usize = 1024;

/// Keeps the counters that have a sensible name, and of those the first ones.
pub(crate) fn bound_counters(counters: &mut BTreeMap<String, u64>) {
    counters.retain(|name, _| name.len() <= COUNTER_NAME_LEN_MAX && !name.chars().any(char::is_control));
    while counters.len() > COUNTERS_MAX {
        counters.pop_last();
    }
}

/// Keeps what a terminal can show of the beginning.
pub(crate) fn bound_text(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT_LEN_MAX));
    text.retain(|c| !c.is_control());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_bounded_in_number_and_name() {
        let names = (0..100).map(|number| format!("c{number:03}"));
        let mut counters: BTreeMap<_, _> = names.map(|name| (name, 1)).collect();
        counters.insert("a".repeat(COUNTER_NAME_LEN_MAX + 1), 1);
        counters.insert("a\nb".to_owned(), 1);
        bound_counters(&mut counters);
        assert_eq!(counters.len(), COUNTERS_MAX);
        assert_eq!(counters.keys().next().map(String::as_str), Some("c000"));
    }

    #[test]
    fn texts_are_cut_at_a_character_and_steer_no_terminal() {
        let mut text = "\u{1b}[2Jé".to_owned() + &"é".repeat(TEXT_LEN_MAX);
        bound_text(&mut text);
        assert!(text.len() <= TEXT_LEN_MAX && text.starts_with("[2Jé"), "{text}");
    }
}
