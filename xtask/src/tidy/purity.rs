//! Pure cores decide and thin shells act: what a core may not depend on, and may not call.

use super::{File, Repository};
use crate::sh;

/// The chunk protocol's definition depends on nothing at all: it is compiled for the kernel too.
const ALONE: &str = "xdpfs-wire";
/// What the kernel program decides by depends on that only.
const PLANE: &str = "xdpfs-plane";
/// The protocol's state machines depend on nothing that does I/O, keeps time or asks for chance.
const PURE: &str = "xdpfs-transport";
const IMPURE: &[&str] = &[
    "aya",
    "fastrand",
    "getrandom",
    "libc",
    "mio",
    "quinn-udp",
    "rand",
    "rustix",
    "sled",
    "socket2",
    "tokio",
    "tonic",
];

/// Files that hold pure code: those whose path begins with the first and not with the second.
const CORES: &[(&str, Option<&str>)] = &[
    ("wire/src/", None),
    ("plane/src/", None),
    ("transport/src/", Some("transport/src/shell")),
    ("meta-server/src/state_machine", None),
    ("meta-server/src/placement.rs", None),
];
/// Time and chance come in from outside, so that a run can be had again.
const IMPURE_CALLS: &[&str] = &[
    "Instant::now",
    "SystemTime::now",
    "thread::sleep",
    "thread_rng",
    "rand::rng",
    "fastrand::",
    "getrandom::",
    "RandomState",
    "std::net::UdpSocket",
    "std::fs",
    "std::env",
];

pub(super) fn dependencies() -> anyhow::Result<Vec<String>> {
    let mut complaints = Vec::new();
    for name in tree(ALONE)?.iter().filter(|name| *name != ALONE) {
        complaints.push(format!("{ALONE} depends on {name}"));
    }
    for name in tree(PLANE)?.iter().filter(|name| ![ALONE, PLANE].contains(&name.as_str())) {
        complaints.push(format!("{PLANE} depends on {name}"));
    }
    for name in tree(PURE)?.iter().filter(|name| IMPURE.contains(&name.as_str())) {
        complaints.push(format!("{PURE} without features depends on {name}"));
    }
    Ok(complaints)
}

/// All that the package is built from without features, itself included.
fn tree(package: &str) -> anyhow::Result<Vec<String>> {
    let words = ["cargo", "tree", "--locked", "-p", package, "-e", "normal", "--prefix", "none", "-f", "{p}"];
    let output = sh::output(&[&words[..], &["--no-default-features"]].concat())?;
    let names = output.lines().filter_map(|line| line.split(' ').next());
    Ok(names.filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect())
}

pub(super) fn calls(repository: &Repository) -> Vec<String> {
    let mut complaints: Vec<String> =
        repository.with_extension("rs").filter(|file| is_core(file)).flat_map(in_file).collect();
    // Whether it really compiles without std is only known where such a target is installed, so this is asked too.
    for path in ["wire/src/lib.rs", "plane/src/lib.rs"] {
        let lib = repository.file(path).map_or("", |file| &file.text);
        if !lib.contains("#![no_std]") && !lib.contains("#![cfg_attr(not(test), no_std)]") {
            complaints.push(format!("{path} is not #![no_std]"));
        }
    }
    complaints
}

fn is_core(file: &File) -> bool {
    let is_test = file.path.ends_with("/tests.rs") || file.path.contains("/tests/");
    let fits = |(inside, outside): &(&str, Option<&str>)| {
        file.path.starts_with(inside) && !outside.is_some_and(|outside| file.path.starts_with(outside))
    };
    !is_test && CORES.iter().any(fits)
}

fn in_file(file: &File) -> Vec<String> {
    // Tests come last in a file, and may start from the real time.
    let code = file.lines().take_while(|(_, line)| *line != "#[cfg(test)]");
    let code = code.filter(|(_, line)| !line.trim_start().starts_with("//"));
    let mut complaints = Vec::new();
    for (number, line) in code {
        let calls = IMPURE_CALLS.iter().filter(|call| line.contains(*call));
        complaints.extend(calls.map(|call| format!("{}:{number}: {call} in a pure core", file.path)));
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn shells_and_tests_may_ask_for_the_time() {
        let text = "fn f() {\n    Instant::now();\n}\n";
        let check = |path: &str, text: &str, expect: usize| {
            let lib = |path| file(path, "#![no_std]\n");
            let files = vec![file(path, text), lib("wire/src/lib.rs"), lib("plane/src/lib.rs")];
            let repository = Repository { files };
            assert_eq!(calls(&repository).len(), expect, "{path}");
        };
        check("transport/src/client.rs", text, 1);
        check("transport/src/shell/socket.rs", text, 0);
        check("transport/tests/sim/main.rs", text, 0);
        check("meta-server/src/state_machine/buckets.rs", text, 1);
        check("meta-server/src/consensus.rs", text, 0);
        check("wire/src/ids.rs", &format!("fn g() {{}}\n\n#[cfg(test)]\nmod tests {{\n{text}}}\n"), 0);
        check("wire/src/ids.rs", "// Not by Instant::now.\n", 0);
    }
}
