//! The scrubs of all disks of a node, steered and seen as one.

use std::{io, sync::Arc};

use xdpfs_observe::Scrape;
use xdpfs_proto::meta::v1::{ScrubAction, ScrubPass, ScrubStatus, scrub_status::State};

use super::{ScrubConfig, ScrubHandle, Scrubber};
use crate::disks::Disks;

/// One scrub for each disk, so that a disk that is slow keeps the others from nothing. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Scrubbers {
    #[expect(dead_code, reason = "held to go on")]
    scrubbers: Vec<Scrubber>,
    handles: ScrubHandles,
}

/// What others see of them, and how they steer them. Clones are of the same ones.
#[derive(Clone, Debug)]
pub(crate) struct ScrubHandles(Arc<[(String, ScrubHandle)]>);

impl Scrubbers {
    /// Starts them, each where it left off.
    pub(crate) fn spawn(disks: &Disks, config: ScrubConfig) -> io::Result<Self> {
        let (mut scrubbers, mut handles) = (Vec::new(), Vec::new());
        for (name, directory, store) in disks.opened() {
            let scrubber = Scrubber::spawn(store.clone(), directory, config)?;
            handles.push((name.to_owned(), scrubber.handle()));
            scrubbers.push(scrubber);
        }
        Ok(Self { scrubbers, handles: ScrubHandles(handles.into()) })
    }

    pub(crate) fn handle(&self) -> ScrubHandles {
        self.handles.clone()
    }
}

impl ScrubHandles {
    /// How they are, as if they were one.
    pub(crate) fn status(&self) -> ScrubStatus {
        sum(&self.all().map(ScrubHandle::status).collect::<Vec<_>>())
    }

    /// The number of the last order that all have carried out.
    pub(crate) fn order_done(&self) -> u64 {
        self.all().map(ScrubHandle::order_done).min().unwrap_or_default()
    }

    /// Does what an operator wants, once for each number.
    pub(crate) fn order(&self, number: u64, action: ScrubAction) {
        self.all().for_each(|scrub| scrub.order(number, action));
    }

    /// From here on with these values.
    pub(crate) fn configure(&self, config: ScrubConfig) {
        self.all().for_each(|scrub| scrub.configure(config));
    }

    pub(crate) fn collect(&self, scrape: &mut Scrape<'_>) {
        scrape.parts(self.0.iter().map(|(disk, scrub)| {
            let collect = |scrape: &mut Scrape<'_>| scrub.collect(scrape);
            (disk.clone(), collect)
        }));
    }

    fn all(&self) -> impl Iterator<Item = &ScrubHandle> {
        self.0.iter().map(|(_, scrub)| scrub)
    }
}

/// The state is that of the disk with the most to do.
fn sum(statuses: &[ScrubStatus]) -> ScrubStatus {
    let state = [State::Running, State::Paused, State::Waiting, State::Off]
        .into_iter()
        .find(|state| statuses.iter().any(|status| status.state() == *state))
        .unwrap_or_default();
    let percents: Vec<_> =
        statuses.iter().filter(|status| status.pass.is_some()).map(|status| status.percent).collect();
    let due = statuses.iter().map(|status| status.next_pass_time_ms).filter(|due| *due > 0).min();
    ScrubStatus {
        state: state.into(),
        pass: all_of(statuses.iter().filter_map(|status| status.pass)),
        percent: percents.iter().sum::<u32>() / u32::try_from(percents.len()).unwrap_or(u32::MAX).max(1),
        last_pass: all_of(statuses.iter().filter_map(|status| status.last_pass)),
        next_pass_time_ms: due.filter(|_| state == State::Waiting).unwrap_or_default(),
        rate_bytes_per_s: statuses.iter().map(|status| status.rate_bytes_per_s).fold(0, u64::saturating_add),
    }
}

/// From the first beginning to the last end.
fn all_of(passes: impl Iterator<Item = ScrubPass>) -> Option<ScrubPass> {
    passes.reduce(|sum, pass| ScrubPass {
        begin_time_ms: sum.begin_time_ms.min(pass.begin_time_ms),
        end_time_ms: sum.end_time_ms.max(pass.end_time_ms),
        bytes: sum.bytes.saturating_add(pass.bytes),
        chunks: sum.chunks.saturating_add(pass.chunks),
        damaged_chunks: sum.damaged_chunks.saturating_add(pass.damaged_chunks),
        damaged_places: sum.damaged_places.saturating_add(pass.damaged_places),
        read_errors: sum.read_errors.saturating_add(pass.read_errors),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrubs_of_several_disks_are_told_as_one() {
        let pass = |from: u64, bytes: u64| ScrubPass {
            begin_time_ms: from,
            bytes,
            chunks: 1,
            ..ScrubPass::default()
        };
        let running = ScrubStatus {
            state: State::Running.into(),
            pass: Some(pass(70, 5)),
            percent: 40,
            last_pass: Some(ScrubPass { end_time_ms: 60, damaged_chunks: 2, ..pass(50, 10) }),
            next_pass_time_ms: 0,
            rate_bytes_per_s: 8,
        };
        let waiting = ScrubStatus {
            state: State::Waiting.into(),
            pass: None,
            percent: 0,
            last_pass: Some(ScrubPass { end_time_ms: 55, ..pass(45, 20) }),
            next_pass_time_ms: 900,
            rate_bytes_per_s: 8,
        };
        assert_eq!(sum(&[running]), running);
        assert_eq!(sum(&[waiting]), waiting);
        let expect = ScrubStatus {
            last_pass: Some(ScrubPass {
                begin_time_ms: 45,
                end_time_ms: 60,
                bytes: 30,
                chunks: 2,
                damaged_chunks: 2,
                ..ScrubPass::default()
            }),
            rate_bytes_per_s: 16,
            ..running
        };
        assert_eq!(sum(&[waiting, running]), expect);
        let sooner = ScrubStatus { next_pass_time_ms: 800, ..waiting };
        assert_eq!(sum(&[waiting, sooner]).next_pass_time_ms, 800);
        assert_eq!(sum(&[]).state(), State::Unspecified);
    }
}
