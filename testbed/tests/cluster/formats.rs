//! What earlier programs left on disk, and what the present one makes of it.

use std::{fs, path::PathBuf};

use xdpfs_testbed::{Content, keepsake};

use crate::support::{done, holds, put};

fn archives() -> Vec<PathBuf> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/formats");
    let entries = fs::read_dir(directory).expect("archives are kept");
    let mut archives: Vec<_> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    archives.sort();
    archives
}

#[test]
fn data_of_earlier_programs_is_served_and_goes_on() {
    let archives = archives();
    assert!(!archives.is_empty());
    for archive in archives {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut cluster = keepsake::start(&archive, directory.path()).expect("the cluster starts");
        let name = archive.display();
        keepsake::check(&cluster).unwrap_or_else(|error| panic!("{name}: {error}"));
        let content = Content::new(77, 100_000);
        put(&cluster, "photos/new", &content);
        for member in [cluster.all_data_nodes(), cluster.all_meta_servers()].concat() {
            cluster.kill(member);
        }
        let members = [cluster.all_meta_servers(), cluster.all_data_nodes()].concat();
        cluster.restart_all(&members).expect("it starts with what the present program has written");
        holds(&cluster, "photos/new", &content);
        done(&cluster, &["rm", "photos/new"]);
        keepsake::check(&cluster).unwrap_or_else(|error| panic!("{name}, written on: {error}"));
    }
}
