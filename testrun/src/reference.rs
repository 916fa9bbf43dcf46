//! The programs that xdpfs is measured with and against.

use anyhow::{Context as _, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, DevMap},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode},
};

use crate::kernel::{REFERENCES, mean_ns, median_of_hops_ns};

/// What the generator writes anew into each frame: all headers.
const HEAD_LEN: usize = 106;
/// Frames that are sent before anybody receives: what a device's queue takes at once.
const BATCH: u32 = 64;

/// One of the programs.
#[derive(Debug)]
pub struct Reference {
    ebpf: Ebpf,
    name: &'static str,
}

impl Reference {
    pub fn load(name: &'static str) -> anyhow::Result<Self> {
        let mut reference = Self { ebpf: EbpfLoader::new().load(&REFERENCES.read()?)?, name };
        reference.program()?.load()?;
        Ok(reference)
    }

    /// As of [`crate::kernel::Kernel::mean_ns`].
    pub fn mean_ns(&mut self, packet: &[u8], repeat: u32) -> anyhow::Result<f64> {
        mean_ns(self.program()?, packet, repeat)
    }

    /// As of [`crate::kernel::Kernel::median_of_hops_ns`].
    pub fn median_of_hops_ns(&mut self, packet: &[u8], repeat: u32) -> anyhow::Result<f64> {
        median_of_hops_ns(self.program()?, packet, repeat)
    }

    /// Puts it on an interface of this thread's namespace, as long as it lives.
    pub fn attach(&mut self, if_index: u32) -> anyhow::Result<()> {
        self.program()?.attach_to_if_index(if_index, XdpMode::Driver)?;
        Ok(())
    }

    /// Where it sends frames: to an interface of this thread's namespace.
    pub fn aim(&mut self, if_index: u32) -> anyhow::Result<()> {
        let mut next: DevMap<_> = self.ebpf.map_mut("NEXT").context("NEXT")?.try_into()?;
        Ok(next.set(0, if_index, None, 0)?)
    }

    /// Sends the frame so many times from this thread; returns when all are sent.
    pub fn generate(&mut self, frame: &[u8], count: u32) -> anyhow::Result<()> {
        ensure!(self.name == "xdpfs_generate", "{} sends nothing by itself", self.name);
        let head: [u8; HEAD_LEN] = *frame.first_chunk().context("the frame is too short")?;
        let mut heads: Array<_, [u8; HEAD_LEN]> = self.ebpf.map_mut("HEAD").context("HEAD")?.try_into()?;
        heads.set(0, head, 0)?;
        let attrs = TestRunAttrs::new().xdp_live_frames(BATCH);
        let options = TestRunOptions { data_in: Some(frame), repeat: count, attrs, ..TestRunOptions::new() };
        self.program()?.test_run(options)?;
        Ok(())
    }

    fn program(&mut self) -> anyhow::Result<&mut Xdp> {
        Ok(self.ebpf.program_mut(self.name).context("no such program")?.try_into()?)
    }
}
