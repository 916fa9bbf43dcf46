//! A cluster of which every metadata server has a disk of its own that can fail.

use std::{env, fs, io};

use tempfile::TempDir;
use xdpfs_testbed::{
    Cluster, ClusterOptions, Member,
    faulty_fs::{FaultyFs, Losses, NameModel},
};

/// The cluster and the disks. Data nodes have the machine's own.
pub(crate) struct Field {
    // Dropped first: nothing may run on a disk that goes.
    pub(crate) cluster: Cluster,
    disks: Vec<FaultyFs>,
    _directory: TempDir,
}

impl Field {
    /// Starts it.
    pub(crate) fn start(seed: u64, options: ClusterOptions) -> Self {
        let directory = tempfile::Builder::new().prefix("xdpfs-testbed-").tempdir().expect("there is space");
        let disk = |index: usize| {
            let path = directory.path().join(Member::MetaServer(index).to_string());
            FaultyFs::mount(&path, seed + index as u64, NameModel::Journal)
                .expect("file systems can be mounted")
        };
        let disks = (0..options.meta_servers).map(disk).collect();
        let options = ClusterOptions { dir: Some(directory.path().to_owned()), ..options };
        let cluster = Cluster::start(options).expect("the cluster starts");
        Self { cluster, disks, _directory: directory }
    }

    /// The disk of a metadata server.
    pub(crate) fn disk(&self, member: Member) -> &FaultyFs {
        &self.disks[index(member)]
    }

    /// Cuts the power of these at the same moment. Their disks can be read again, and they do not run.
    pub(crate) fn cut(&mut self, victims: &[Member]) -> Losses {
        let mut losses = Losses::default();
        for victim in victims {
            losses += self.disk(*victim).cut();
        }
        for victim in victims {
            self.cluster.kill(*victim);
            self.disks[index(*victim)].power_on().expect("it can be mounted again");
        }
        losses
    }

    /// The term and the last entry known to be agreed on in the store of a server that does not run, which must be whole.
    pub(crate) fn stored(&self, member: Member) -> (u64, u64) {
        let directory = self.disk(member).path().as_os_str();
        let output =
            self.cluster.cli().run(["--json".as_ref(), "meta".as_ref(), "check".as_ref(), directory]);
        assert_eq!(output.code, Some(0), "{member} after a cut: {}", output.stderr);
        let report: serde_json::Value = serde_json::from_str(output.text().trim()).expect("it is JSON");
        let number = |name: &str| report[name].as_u64().expect("a number");
        (number("term"), number("commit_index"))
    }
}

fn index(member: Member) -> usize {
    match member {
        Member::MetaServer(index) => index,
        Member::DataNode(_) | Member::Edge(_) => panic!("{member} has no such disk"),
    }
}

/// What a variable of the environment says.
pub(crate) fn setting(name: &str, otherwise: u64) -> u64 {
    env::var(name)
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn faulty_file_system_is_one_for_every_program() -> io::Result<()> {
    let directory = TempDir::new()?;
    let mut disk = FaultyFs::mount(directory.path(), 1, NameModel::Journal)?;
    let at = |name: &str| directory.path().join(name);
    fs::create_dir_all(at("a/b"))?;
    fs::write(at("a/b/file"), vec![7; 300_000])?;
    fs::rename(at("a/b/file"), at("a/file"))?;
    assert_eq!(
        fs::remove_dir(at("a")).expect_err("it is not empty").kind(),
        io::ErrorKind::DirectoryNotEmpty
    );
    let file = fs::File::options().read(true).write(true).open(at("a/file"))?;
    file.set_len(200_000)?;
    assert_eq!(fs::read(at("a/file"))?, vec![7; 200_000]);
    let listed: Vec<_> =
        fs::read_dir(at("a"))?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    assert_eq!(listed.len(), 2, "{listed:?}");
    file.sync_all()?;

    disk.fail_write_after(0);
    assert!(fs::write(at("refused"), b"x").is_err() && disk.has_failed());
    disk.limit_growth(Some(1_000));
    let full = fs::write(at("refused"), vec![0; 1_001]).expect_err("there is no space");
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);

    let _losses = disk.cut();
    assert!(file.sync_all().is_err() && fs::read(at("a/file")).is_err(), "without power everything fails");
    drop(file);
    disk.power_on()?;
    assert_eq!(fs::read(at("a/file"))?, vec![7; 200_000]);
    Ok(())
}
