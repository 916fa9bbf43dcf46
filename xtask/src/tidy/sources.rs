//! What every file and every crate must have, and must not have.

use super::{File, Repository};

/// Written in two parts, so that this file does not find itself.
const UNFINISHED: &[&str] = &[
    concat!("todo", "!("),
    concat!("unimplemented", "!("),
    concat!("dbg", "!("),
    concat!("#[", "ignore"),
    concat!("FIX", "ME"),
    concat!("TO", "DO:"),
    concat!("XX", "X:"),
];

pub(super) fn unfinished(repository: &Repository) -> Vec<String> {
    let in_file = |file: &File| {
        let mut complaints = Vec::new();
        for (number, line) in file.lines() {
            let words = UNFINISHED.iter().filter(|word| line.contains(*word));
            complaints.extend(words.map(|word| format!("{}:{number}: {word}", file.path)));
        }
        complaints
    };
    repository.with_extension("rs").flat_map(in_file).collect()
}

/// Tests are exempt: their parent or their folder says what they are about, and their names the rest.
pub(super) fn without_head(repository: &Repository) -> Vec<String> {
    let is_test = |file: &File| file.path.ends_with("/tests.rs") || file.path.contains("/tests/");
    let has_head = |file: &File| file.text.lines().next().is_some_and(|line| line.starts_with("//! "));
    let headless = repository.with_extension("rs").filter(|file| !is_test(file) && !has_head(file));
    headless.map(|file| format!("{} does not begin with //!", file.path)).collect()
}

pub(super) fn without_lints(repository: &Repository) -> Vec<String> {
    let lacks = |folder: &&str| {
        let manifest = repository.file(&format!("{folder}/Cargo.toml"));
        !manifest.is_some_and(|manifest| manifest.text.contains("[lints]\nworkspace = true"))
    };
    let crates = repository.crates().into_iter().filter(lacks);
    crates.map(|folder| format!("{folder}/Cargo.toml has no `[lints] workspace = true`")).collect()
}

pub(super) fn white_space(repository: &Repository) -> Vec<String> {
    let mut complaints = Vec::new();
    for file in &repository.files {
        let ends = file.lines().filter(|(_, line)| line.ends_with([' ', '\t', '\r']));
        complaints.extend(ends.map(|(number, _)| format!("{}:{number}", file.path)));
        if !file.text.is_empty() && (!file.text.ends_with('\n') || file.text.ends_with("\n\n")) {
            complaints.push(format!("{} does not end in exactly one line break", file.path));
        }
    }
    complaints
}

pub(super) fn crates_not_on_the_map(repository: &Repository) -> Vec<String> {
    let mut complaints = Vec::new();
    for page in ["README.md", "ARCHITECTURE.md"] {
        let text = repository.file(page).map_or("", |file| &file.text);
        let is_named =
            |folder: &&str| text.contains(&format!("`{folder}/`")) || text.contains(&format!("`{folder}`"));
        let missing = repository.crates().into_iter().filter(|folder| !is_named(folder));
        complaints.extend(missing.map(|folder| format!("{page} does not name `{folder}/`")));
    }
    complaints
}

pub(super) fn missing_licences(repository: &Repository) -> Vec<String> {
    let missing =
        ["LICENSE-APACHE", "LICENSE-MIT"].into_iter().filter(|name| repository.file(name).is_none());
    missing.map(|name| format!("{name} is missing")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(path: &str, text: &str) -> Repository {
        Repository { files: vec![File { path: path.to_owned(), text: text.to_owned() }] }
    }

    #[test]
    fn unfinished_code_is_found_with_its_line() {
        let text = format!("fn f() {{\n    {}\n}}\n", concat!("todo", "!()"));
        assert_eq!(unfinished(&repository("a/src/b.rs", &text)), [concat!("a/src/b.rs:2: todo", "!(")]);
        assert!(unfinished(&repository("a/src/b.rs", "fn f() {}\n")).is_empty());
    }

    #[test]
    fn white_space_is_found_at_the_end_of_lines_and_files() {
        let check = |text: &str, expect: usize| {
            assert_eq!(white_space(&repository("a", text)).len(), expect, "{text:?}");
        };
        check("", 0);
        check("a\n", 0);
        check("a \nb\t\n", 2);
        check("a", 1);
        check("a\n\n", 1);
    }
}
