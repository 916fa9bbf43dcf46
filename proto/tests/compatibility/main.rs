//! Whether this release and the earlier ones understand each other's messages.
//!
//! `releases/` has the `.proto` files of each release that is still met, as `cargo xtask keep-formats` has kept them.
//! Invariant: what is kept is never changed; what does not agree with it is changed back.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod images;
mod rules;

use std::{fs, path::Path};

use prost_reflect::DescriptorPool;

const FILES: [&str; 7] = [
    "xdpfs/access/v1/access.proto",
    "xdpfs/admin/v1/admin.proto",
    "xdpfs/meta/v1/meta.proto",
    "xdpfs/node/v1/node.proto",
    "xdpfs/object/v1/object.proto",
    "xdpfs/raft/v1/raft.proto",
    "xdpfs/state/v1/state.proto",
];

fn present() -> DescriptorPool {
    DescriptorPool::decode(xdpfs_proto::FILE_DESCRIPTOR_SET).unwrap()
}

/// The releases that are kept, with their names.
fn releases() -> Vec<(String, DescriptorPool)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/releases");
    let mut releases: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
            // A file that a release did not have yet is none of its own.
            let files: Vec<_> = FILES.into_iter().filter(|file| path.join(file).is_file()).collect();
            let descriptors = protox::compile(files, [path]).unwrap();
            let pool = DescriptorPool::from_file_descriptor_set(descriptors).unwrap();
            (name.into_string().unwrap(), pool)
        })
        .collect();
    releases.sort_by(|one, other| one.0.cmp(&other.0));
    releases
}

#[test]
fn nothing_that_an_earlier_release_says_has_another_meaning() {
    let releases = releases();
    assert!(!releases.is_empty());
    for (name, earlier) in releases {
        let breaches = rules::breaches(&earlier, &present());
        assert!(breaches.is_empty(), "{name}:\n{}", breaches.join("\n"));
    }
}

#[test]
fn messages_of_earlier_releases_are_read_whole() {
    for (name, earlier) in releases() {
        let count = images::exchange(&earlier, &present(), images::Reader::Later);
        assert!(count > 100, "{name}: {count} messages are not all");
    }
}

#[test]
fn earlier_releases_find_in_present_messages_what_they_know() {
    for (name, earlier) in releases() {
        let count = images::exchange(&present(), &earlier, images::Reader::Earlier);
        assert!(count > 100, "{name}: {count} messages are not all");
    }
}
