//! What any process can tell of itself.

use std::{fs, time::Instant};

use crate::{
    catalogue::{BUILD, DESCRIPTORS, READY, RESIDENT, UPTIME},
    scrape::{Scrape, Source},
};

/// What is the same for every kind of process.
#[derive(Debug)]
pub(crate) struct ProcessMetrics {
    started: Instant,
    version: &'static str,
    role: &'static str,
}

impl ProcessMetrics {
    pub(crate) fn new(version: &'static str, role: &'static str) -> Self {
        Self { started: Instant::now(), version, role }
    }

    pub(crate) fn collect(&self, source: &dyn Source, scrape: &mut Scrape<'_>) {
        scrape.gauges(&BUILD, [([self.version, self.role], 1.0)]);
        scrape.gauge(&UPTIME, self.started.elapsed().as_secs_f64());
        scrape.gauge(&READY, f64::from(u8::from(source.is_ready())));
        // Elsewhere than on Linux there is no such file, and then there is no such value.
        if let Some(pages) = resident_pages() {
            scrape.gauge(&RESIDENT, (pages * rustix::param::page_size() as u64) as f64);
        }
        if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
            // One of them is the directory's own.
            scrape.gauge(&DESCRIPTORS, descriptors.count().saturating_sub(1) as f64);
        }
    }
}

fn resident_pages() -> Option<u64> {
    resident_field(&fs::read_to_string("/proc/self/statm").ok()?)
}

/// The second field of `statm` (proc_pid_statm(5)).
fn resident_field(statm: &str) -> Option<u64> {
    statm.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_the_second_field() {
        assert_eq!(resident_field("5137 1021 860 210 0 351 0\n"), Some(1021));
        assert_eq!(resident_field("5137"), None);
        assert!(resident_pages().is_some_and(|pages| pages > 0));
    }
}
