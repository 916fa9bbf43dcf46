//! Kinds of directories, some of them mounted for this, and media that are too good to be true.

use tempfile::TempDir;

use super::*;

#[test]
fn kinds_that_keep_nothing_are_doubted() {
    let check = |kind, expect| assert_eq!(doubt_of(kind), expect, "{kind:?}");
    check(FileSystem::Disk, None);
    check(FileSystem::Memory, Some(StorageDoubt::Volatile));
    check(FileSystem::Network, Some(StorageDoubt::Network));
    check(FileSystem::Overlay, Some(StorageDoubt::Overlay));
    assert!(StorageDoubt::Volatile.is_certain() && !StorageDoubt::FastSync.is_certain());
}

#[test]
fn medium_is_judged_by_the_median() {
    let check = |micros: &[u64], expect| {
        let mut times: Vec<_> = micros.iter().copied().map(Duration::from_micros).collect();
        assert_eq!(is_too_fast(&mut times), expect, "{micros:?}");
    };
    check(&[], false);
    check(&[3, 4, 5000], true);
    check(&[3, 30, 30], false);
    check(&[15, 15, 15], false);
    check(&[4000], false);
}

#[test]
fn nothing_is_left_and_nothing_is_made() {
    let home = TempDir::new().unwrap();
    assert_eq!(measure(home.path(), 3, Duration::from_secs(60)).unwrap().len(), 3);
    let absent = home.path().join("not/yet");
    assert_eq!(of_file_system(&absent), of_file_system(home.path()), "the one above stands for it");
    assert_eq!(of_sync(&absent), None);
    assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
}

/// Root may mount.
#[cfg(all(feature = "kernel", target_os = "linux"))]
mod mounted {
    use std::process::Command;

    use super::*;

    /// A mount that goes with the test.
    struct Mount(TempDir);

    impl Mount {
        fn new(kind: &str, options: &str) -> Self {
            let place = TempDir::new().unwrap();
            let mount =
                Command::new("mount").args(["-t", kind, "-o", options, kind]).arg(place.path()).status();
            assert!(mount.unwrap().success(), "mounting {kind} takes root");
            Self(place)
        }
    }

    impl Drop for Mount {
        fn drop(&mut self) {
            drop(Command::new("umount").arg(self.0.path()).status());
        }
    }

    #[test]
    fn file_systems_in_memory_are_volatile() {
        for (kind, options) in [("tmpfs", "size=1m"), ("ramfs", "mode=700")] {
            let mount = Mount::new(kind, options);
            let directory = mount.0.path();
            assert_eq!(of_file_system(directory), Some(StorageDoubt::Volatile), "{kind}");
            assert_eq!(of_file_system(&directory.join("n/1")), Some(StorageDoubt::Volatile), "{kind}");
        }
    }

    #[test]
    fn layers_of_a_container_are_an_overlay() {
        let layers = TempDir::new().unwrap();
        let part = |name: &str| {
            let path = layers.path().join(name);
            fs::create_dir(&path).unwrap();
            path.display().to_string()
        };
        let options =
            format!("lowerdir={},upperdir={},workdir={}", part("lower"), part("upper"), part("work"));
        let mount = Mount::new("overlay", &options);
        assert_eq!(of_file_system(mount.0.path()), Some(StorageDoubt::Overlay));
    }
}
