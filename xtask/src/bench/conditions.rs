//! What the numbers depend on, as far as the machine tells.

use std::{fs, thread};

use super::row::Condition;

/// Kernel, cores and the load that others make at this moment.
pub(super) fn machine() -> Vec<Condition> {
    let first_word = |path: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        text.split_whitespace().next().unwrap_or("unknown").to_owned()
    };
    let cores = thread::available_parallelism().map_or("unknown".to_owned(), |cores| cores.to_string());
    vec![
        ("kernel", first_word("/proc/sys/kernel/osrelease")),
        ("cores", cores),
        ("load before", first_word("/proc/loadavg")),
    ]
}
