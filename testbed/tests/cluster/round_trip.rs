//! What goes in comes out, byte for byte, whatever its size and whichever way it is put and got.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use xdpfs_testbed::Content;

use crate::support::{cluster, done, get_within, holds, json, put, put_within};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Every length at which something is cut: the four sizes of a piece, the bursts of each, a page of the store, the
/// smallest chunk, the default chunk.
const BOUNDARIES: &[u64] =
    &[1024, 1344, 3328, 8192, 56 * 1024, 43 * 1344, 18 * 3328, 7 * 8192, 4 * KIB, 64 * KIB, 4 * MIB];

#[test]
fn every_size_around_a_boundary_survives() {
    let cluster = cluster();
    done(&cluster, &["mb", "small-chunks", "--chunk-size", "64KiB"]);
    let mut sizes = vec![0, 1, 2, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1, 8 * MIB + 1];
    sizes.extend(BOUNDARIES.iter().flat_map(|boundary| [boundary - 1, *boundary, boundary + 1]));
    sizes.sort_unstable();
    sizes.dedup();
    for bucket in ["data", "small-chunks"] {
        for size in &sizes {
            put(&cluster, &format!("{bucket}/{size}"), &Content::new(*size, *size));
        }
        // Read after all are written, so that none is right only because it was the last.
        for size in &sizes {
            let address = format!("{bucket}/{size}");
            holds(&cluster, &address, &Content::new(*size, *size));
            let stat = json(&cluster, &["stat", &address]);
            assert_eq!(stat["size"], *size, "{address}: {stat}");
            assert!(stat["durable_replicas"].as_u64() >= Some(2), "{address}: {stat}");
        }
    }
}

#[test]
fn a_hundred_mebibytes_survive_as_a_file_and_as_a_stream() {
    let cluster = cluster();
    let content = Content::new(100, 100 * MIB);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (source, copy) = (dir.path().join("source.bin"), dir.path().join("copy.bin"));
    fs::write(&source, content.to_vec()).expect("the disk has room");

    done(&cluster, &["put", text(&source), "data"]);
    holds(&cluster, "data/source.bin", &content);
    put(&cluster, "data/stream", &content);
    done(&cluster, &["get", "xdp://data/stream", text(&copy)]);
    assert!(fs::read(&copy).expect("it is there") == content.to_vec(), "the copy differs");
    assert_eq!(names_in(dir.path()), ["copy.bin", "source.bin"], "a draft was left behind");
}

#[test]
fn a_name_that_the_user_leaves_out_is_taken_from_the_other_side() {
    let cluster = cluster();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = dir.path().join("word.txt");
    fs::write(&source, "xdpfs").expect("the disk has room");
    for destination in ["data", "data/", "data/in/", "data/in/other.txt"] {
        done(&cluster, &["put", text(&source), destination]);
    }
    let listed = keys(&cluster, &["ls", "-r", "data"]);
    assert_eq!(listed, ["in/other.txt", "in/word.txt", "word.txt"]);
    assert_eq!(done(&cluster, &["cat", "data/word.txt", "s3://data/in/other.txt"]).text(), "xdpfsxdpfs");

    let mut get = cluster.cli().command(["get", "data/in/other.txt"]);
    assert!(get.current_dir(dir.path()).status().expect("it starts").success());
    assert_eq!(fs::read(dir.path().join("other.txt")).expect("it is there"), b"xdpfs");
}

#[test]
fn ranges_are_cut_out_exactly() {
    let cluster = cluster();
    done(&cluster, &["mb", "small-chunks", "--chunk-size", "64KiB"]);
    let len = 300 * KIB + 17;
    let content = Content::new(3, len);
    let bytes = content.to_vec();
    for bucket in ["data", "small-chunks"] {
        let address = format!("{bucket}/object");
        put(&cluster, &address, &content);
        let check = |range: &str, from: u64, to: u64| {
            let output = done(&cluster, &["get", "--range", range, &address, "-"]);
            assert!(output.stdout == bytes[from as usize..to as usize], "{address} {range}");
        };
        check("0-0", 0, 1);
        check("0-", 0, len);
        check("-1", len - 1, len);
        check("-5000", len - 5000, len);
        check("-999999999", 0, len);
        check("65535-65536", 65535, 65537);
        check("65536-131071", 65536, 131_072);
        check("1343-200001", 1343, 200_002);
        check(&format!("{}-{}", len - 1, len + 5), len - 1, len);

        let beyond = cluster.cli().run(["get", "--range", &format!("{len}-"), &address, "-"]);
        assert_eq!(beyond.code, Some(2), "{}", beyond.stderr);
        assert!(beyond.stderr.contains(&len.to_string()), "{}", beyond.stderr);
    }
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let cluster = cluster();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let source = dir.path().join("tree");
    let names = [
        "a.txt",
        "deep/er/and/deeper.bin",
        "deep/empty",
        "deep/er/b",
        "Zürich/größe ½.txt",
        "big",
        "a.txt.d/a",
    ];
    for (seed, name) in names.iter().enumerate() {
        let path = source.join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("the disk has room");
        let len = if *name == "big" { 9 * MIB + 1 } else { seed as u64 * 997 };
        let content =
            if *name == "deep/empty" { Vec::new() } else { Content::new(seed as u64, len).to_vec() };
        fs::write(path, content).expect("the disk has room");
    }
    done(&cluster, &["put", "-r", text(&source), "data/trees/"]);
    let copy = dir.path().join("copy");
    done(&cluster, &["get", "-r", "data/trees/", text(&copy)]);
    let (sent, got) = (tree(&source), tree(&copy));
    assert_eq!(sent.keys().collect::<Vec<_>>(), got.keys().collect::<Vec<_>>());
    assert!(sent == got, "some file differs");

    done(&cluster, &["rm", "-r", "data/trees/"]);
    assert_eq!(cluster.cli().run(["ls", "-r", "data/trees/"]).text(), "");
    done(&cluster, &["rb", "data"]);
}

#[test]
fn a_version_is_replaced_only_by_those_who_know_it() {
    let cluster = cluster();
    let (old, new) = (Content::new(1, 70_000), Content::new(2, 50_000));
    put(&cluster, "data/key", &old);
    let etag = json(&cluster, &["stat", "data/key"])["etag"].as_str().expect("it has one").to_owned();
    let conditional = |flag: &str, value: &str| {
        cluster.cli().invoke(["put", flag, value, "-", "data/key"]).stdin(new.clone()).run()
    };
    for (flag, value) in [("--if-none-match", "*"), ("--if-none-match", etag.as_str()), ("--if-match", "0-0")]
    {
        let output = conditional(flag, value);
        assert_eq!(output.code, Some(4), "{flag} {value}: {}", output.stderr);
    }
    holds(&cluster, "data/key", &old);
    assert_eq!(conditional("--if-match", &etag).code, Some(0));
    holds(&cluster, "data/key", &new);
    let stat = json(&cluster, &["stat", "data/key"]);
    assert_ne!(stat["etag"], etag.as_str());
    assert!(stat["version"].as_u64() >= Some(2), "{stat}");
}

/// Far more than any buffer, so that whatever grows with the object is seen.
#[test]
fn three_gibibytes_pass_in_little_memory() {
    let cluster = cluster();
    let content = Content::new(3072, 3072 * MIB);
    let within = Duration::from_secs(300);
    let put = put_within(&cluster, "data/huge", &content, within);
    assert_eq!(put.code, Some(0), "{}", put.stderr);
    let get = get_within(&cluster, "data/huge", &content, within);
    assert_eq!(get.code, Some(0), "{}", get.stderr);

    let rate = |took: Duration| (content.len() / MIB) as f64 / took.as_secs_f64();
    println!("put {:.0} MiB/s, get {:.0} MiB/s", rate(put.took), rate(get.took));
    let mut peaks =
        vec![("put".to_owned(), put.peak_memory_bytes), ("get".to_owned(), get.peak_memory_bytes)];
    for member in cluster.all_meta_servers().into_iter().chain(cluster.all_data_nodes()) {
        peaks.push((member.to_string(), cluster.peak_memory_bytes(member).expect("it runs")));
    }
    for (name, peak) in peaks {
        println!("{name:<14} {:>4} MiB", peak / MIB);
        assert!(peak < 256 * MIB, "{name} had {} MiB resident", peak / MIB);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

fn keys(cluster: &xdpfs_testbed::Cluster, args: &[&str]) -> Vec<String> {
    let lines = done(cluster, &[&["--json"], args].concat()).text();
    let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("each line is JSON");
    lines.lines().map(|line| parse(line)["key"].as_str().expect("it has a key").to_owned()).collect()
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("it is a directory");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    names
}

/// All files below `root`, by their path from it.
fn tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("it is a directory") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                directories.push(path);
            } else {
                let name = path.strip_prefix(root).expect("it is below").to_string_lossy().into_owned();
                files.insert(name, fs::read(&path).expect("it can be read"));
            }
        }
    }
    files
}
