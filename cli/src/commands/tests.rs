//! Whole command lines against a cluster in memory. The JSON lines are a promise to scripts: change them with care.

use std::{ffi::OsString, fs, path::Path};

use clap::Parser as _;
use tempfile::TempDir;
use xdpfs_client::{ObjectClient as _, PutOptions, mock::MockClient};

use crate::{
    arguments::Arguments,
    console::{Look, tests::Printed},
    failure::Exit,
};

/// A cluster, and a directory that `@` stands for in command lines.
struct Fixture {
    client: MockClient,
    directory: TempDir,
}

/// What a run has come to.
#[derive(Debug)]
struct Run {
    exit: Exit,
    out: String,
    err: String,
}

impl Fixture {
    /// With a bucket `demo`, and files in the directory.
    async fn new() -> Self {
        let fixture = Self { client: MockClient::new(), directory: tempfile::tempdir().unwrap() };
        for (path, text) in [("hello", "hello"), ("tree/a", "a"), ("tree/b/c", "ccc"), ("tree/b/d", "")] {
            let path = fixture.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fixture.done("mb demo").await;
        fixture
    }

    fn path(&self, path: &str) -> std::path::PathBuf {
        self.directory.path().join(path)
    }

    async fn run(&self, line: &str) -> Run {
        let expand = |word: &str| match word.strip_prefix('@') {
            Some(path) => self.path(path).into_os_string(),
            None => OsString::from(word),
        };
        let words = ["xdpfs-cli"].into_iter().chain(line.split_whitespace()).map(expand);
        let arguments = Arguments::try_parse_from(words).unwrap();
        let look = Look { json: arguments.common.json, quiet: arguments.common.quiet };
        let (mut console, printed) = Printed::console(look);
        let exit =
            super::run(&arguments.command, &self.client, &mut console).await.unwrap_or_else(|failure| {
                console.failure(&failure);
                failure.exit
            });
        let directory = self.directory.path().display().to_string();
        let tidy = |text: String| without_times(&text.replace(&directory, "@"));
        Run { exit, out: tidy(printed.out()), err: tidy(printed.err()) }
    }

    async fn done(&self, line: &str) -> String {
        let run = self.run(line).await;
        assert_eq!((run.exit, run.err.as_str()), (Exit::Done, ""), "{line}: {run:?}");
        run.out
    }

    async fn fails(&self, line: &str, exit: Exit, said: &str) {
        let run = self.run(line).await;
        assert_eq!(run.exit, exit, "{line}: {run:?}");
        assert!(run.err.contains(said), "{line}: {run:?}");
    }
}

/// Times differ from run to run.
fn without_times(text: &str) -> String {
    let mut pieces = text.split(r#""created":""#);
    let mut tidy = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        tidy.push_str(r#""created":"TIME"#);
        tidy.push_str(&piece[piece.find('"').unwrap_or(0)..]);
    }
    tidy
}

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[tokio::test]
async fn json_lines_have_the_promised_fields() {
    let fixture = Fixture::new().await;
    let check = async |line: &str, expect: &[&str]| {
        assert_eq!(lines(&fixture.done(&format!("--json {line}")).await), expect, "{line}");
    };
    let object = concat!(
        r#""bucket":"demo","key":"p/hello","size":5,"etag":"2-9a71bb4c","version":2,"crc32c":"9a71bb4c","#,
        r#""durable_replicas":3,"created":"TIME","content_type":"text/plain","metadata":{"who":"me"}"#,
    );
    let bucket = concat!(
        r#""bucket":"demo","chunk_size":4194304,"replicas":3,"min_replicas":2,"created":"TIME","#,
        r#""objects":1,"bytes":5,"quota_bytes":null,"quota_objects":null,"#,
        r#""versioning":"off","older_versions":0,"older_bytes":0,"delete_markers":0"#,
    );
    let put = format!(r#"{{{object},"chunks_in_debt":0,"source":"@/hello"}}"#);
    check("put @hello demo/p/ --metadata who=me --content-type text/plain", &[&put]).await;
    check("stat demo/p/hello", &[&format!("{{{object}}}")]).await;
    check("ls -r demo", &[&format!("{{{object}}}")]).await;
    check("ls demo", &[r#"{"bucket":"demo","prefix":"p/"}"#]).await;
    check("ls", &[&format!("{{{bucket}}}")]).await;
    check("stat demo", &[&format!("{{{bucket}}}")]).await;
    check("bucket show demo", &[&format!("{{{bucket}}}")]).await;
    let used = r#""objects":1,"bytes":5,"older_versions":0,"older_bytes":0"#;
    check("du demo/p", &[&format!(r#"{{"bucket":"demo","prefix":"p",{used}}}"#)]).await;
    check("du", &[&format!(r#"{{"bucket":"demo","prefix":"",{used}}}"#)]).await;
    let got = format!(r#"{{{object},"bytes":2,"target":"@/part"}}"#);
    check("get demo/p/hello @part --range 0-1", &[&got]).await;
    check("rm demo/p/hello", &[&format!(r#"{{{object},"removed":true}}"#)]).await;
    check("rb demo", &[r#"{"bucket":"demo","removed":true,"objects_removed":0}"#]).await;
}

#[tokio::test]
async fn json_of_copies_and_moves_says_what_went_through_this_machine() {
    let fixture = Fixture::new().await;
    fixture.done("mb other").await;
    fixture.done("put @hello demo/a --content-type text/plain").await;
    let check = async |line: &str, expect: &str| {
        let out = fixture.done(&format!("--json {line}")).await;
        assert!(out.ends_with(&format!("{expect}}}\n")), "{line}: {out}");
        out
    };
    let out =
        check("cp demo/a demo/b", r#""source":"demo/a","bytes_moved":0,"copied":true,"by":"shared""#).await;
    assert!(out.contains(r#""key":"b","size":5"#) && out.contains("text/plain"), "{out}");
    check("cp demo/a other/", r#""source":"demo/a","bytes_moved":0,"copied":true,"by":"nodes""#).await;
    check("mv demo/a demo/c", r#""source":"demo/a","bytes_moved":0,"moved":true,"by":"shared""#).await;
    check("mv demo/c other/d", r#""source":"demo/c","bytes_moved":0,"moved":true,"by":"nodes""#).await;
    let out = fixture.done("cp demo/b demo/b --metadata who=me").await;
    assert_eq!(out, "copied demo/b to demo/b (5 B, no byte moved)\n");
    let out = fixture.done("--json stat demo/b").await;
    assert!(out.contains(r#""content_type":"","metadata":{"who":"me"}"#), "{out}");
}

#[tokio::test]
async fn copies_and_moves_end_where_hands_expect_them() {
    let fixture = Fixture::new().await;
    fixture.done("mb other").await;
    fixture.done("put -r @tree demo/t").await;
    let keys = async |bucket: &str| {
        let out = fixture.done(&format!("--json ls -r {bucket}")).await;
        let key = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["key"].clone();
        lines(&out).into_iter().map(key).collect::<Vec<_>>()
    };
    fixture.done("cp -r demo/t demo/copy").await;
    fixture.done("mv -r demo/t/b other/deep/").await;
    assert_eq!(keys("demo").await, ["copy/a", "copy/b/c", "copy/b/d", "t/a"]);
    assert_eq!(keys("other").await, ["deep/c", "deep/d"]);
    assert!(fixture.done("--json stat other/deep/c").await.contains(r#""size":3"#));
    fixture.fails("mv demo/none demo/x", Exit::NotFound, "no object \"none\"").await;
    fixture.fails("mv demo/t/a demo/t/a", Exit::Usage, "to itself").await;
    fixture.fails("cp demo/t/a demo/copy/a --if-none-match *", Exit::Precondition, "stat demo/copy/a").await;
    fixture.fails("mv demo/t/a demo/copy/a --if-none-match *", Exit::Precondition, "demo/copy/a").await;
    fixture.fails("cp demo/t/a demo/x --source-if-match 0-0", Exit::Precondition, "precondition").await;
    fixture.fails("cp -r demo/none/ demo/x", Exit::NotFound, "no object to copy").await;
    fixture.fails("cp demo/t/ demo/x", Exit::Usage, "-r").await;
    fixture.fails("mv demo/t/a demo/none demo/", Exit::Partial, "1 of 2 failed").await;
    assert_eq!(keys("demo").await, ["a", "copy/a", "copy/b/c", "copy/b/d"]);
}

#[tokio::test]
async fn versions_are_kept_shown_brought_back_and_removed() {
    let fixture = Fixture::new().await;
    fixture.done("mb papers --versioning").await;
    let put = async |file: &str| {
        let out = fixture.done(&format!("--json put @{file} papers/a")).await;
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["version"].to_string()
    };
    let (old, new) = (put("hello").await, put("tree/a").await);
    let listed = async |line: &str| {
        let out = fixture.done(&format!("--json ls --versions {line}")).await;
        let line = |line: &str| {
            let record = serde_json::from_str::<serde_json::Value>(line).unwrap();
            format!("{} {} {}", record["version"], record["latest"], record["delete_marker"])
        };
        lines(&out).into_iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(listed("papers").await, [format!("{new} true false"), format!("{old} false false")]);
    let stat = fixture.done(&format!("stat papers/a --version-id {old}")).await;
    assert!(stat.contains("size          5\n"), "{stat}");
    let used = fixture.done("du papers").await;
    assert!(used.contains("1 object  papers  (and 5 in 1 older version)"), "{used}");
    let out = fixture.done("--json rm papers/a").await;
    let marker = serde_json::from_str::<serde_json::Value>(&out).unwrap()["delete_marker"].to_string();
    fixture.fails("stat papers/a", Exit::NotFound, "no object").await;
    assert_eq!(listed("papers/a").await[0], format!("{marker} true true"));
    fixture.fails("rb papers", Exit::Precondition, "--versions").await;
    let out = fixture.done(&format!("rm papers/a --version-id {marker}")).await;
    assert_eq!(out, format!("removed delete marker {marker} of papers/a\n"));
    fixture.done(&format!("cp papers/a papers/a --version-id {old}")).await;
    assert!(fixture.done("--json stat papers/a").await.contains(r#""size":5"#));
    fixture.fails("cat papers/a papers/b --version-id 1", Exit::Usage, "one object").await;
    fixture.fails("rm -r papers/ --version-id 1", Exit::Usage, "one object").await;
    fixture.done("bucket update papers --versioning suspended").await;
    fixture.done("rm papers/a --versions").await;
    assert_eq!(listed("-r papers").await, [""; 0]);
    fixture.fails("rm papers/a --versions", Exit::NotFound, "no version").await;
    fixture.done("put -r @tree papers/t").await;
    fixture.done("rm -r papers/t/").await;
    fixture.done("rb papers --force").await;
}

#[tokio::test]
async fn json_tells_where_chunks_lie() {
    let fixture = Fixture::new().await;
    fixture.done("put @hello demo").await;
    let out = fixture.done("--json stat --chunks demo/hello").await;
    let record: serde_json::Value = serde_json::from_str(&out).unwrap();
    let chunk = &record["chunks"][0];
    assert_eq!(
        (&chunk["offset"], &chunk["length"], &chunk["crc32c"]),
        (&0.into(), &5.into(), &"9a71bb4c".into())
    );
    assert_eq!(chunk["nodes"].as_array().map(Vec::len), Some(3), "{out}");
}

#[tokio::test]
async fn errors_are_json_lines_on_standard_error() {
    let fixture = Fixture::new().await;
    let run = fixture.run("--json rm demo/a demo/b").await;
    assert_eq!((run.exit, run.out.as_str()), (Exit::NotFound, ""));
    let expect = concat!(
        r#"{"error":{"kind":"not_found","message":"there is no object \"a\" in bucket \"demo\"","#,
        r#""hint":"see what is there: xdpfs-cli ls -r demo","bucket":"demo","key":"a"}}"#,
    );
    assert_eq!((lines(&run.err).len(), lines(&run.err)[0]), (2, expect), "{run:?}");
}

#[tokio::test]
async fn a_tree_comes_back_as_it_went() {
    let fixture = Fixture::new().await;
    fixture.done("put -q -r @tree demo/t").await;
    assert_eq!(fixture.done("get -q -r demo/t/ @back").await, "");
    for path in ["a", "b/c", "b/d"] {
        let read = |root: &str| fs::read(fixture.path(root).join(path)).unwrap();
        assert_eq!(read("tree"), read("back"), "{path}");
    }
    assert_eq!(names(&fixture.path("back")), ["a", "b"]);
}

#[tokio::test]
async fn keys_that_make_no_path_are_refused_and_the_others_come() {
    let fixture = Fixture::new().await;
    for key in ["good", "../bad", "/bad", "a//b", "c/../d", "e/"] {
        // A key with a slash at its end is more than the command line gives.
        fixture.client.put_bytes("demo", key, "x".into(), PutOptions::default()).await.expect(key);
    }
    let run = fixture.run("get -r demo/ @out/in").await;
    assert_eq!(run.exit, Exit::Partial, "{run:?}");
    assert_eq!(run.err.matches("makes no file name").count(), 5, "{run:?}");
    assert_eq!(names(&fixture.path("out")), ["in"]);
    assert_eq!(names(&fixture.path("out/in")), ["good"]);
}

#[tokio::test]
async fn empty_objects_of_a_slash_become_directories() {
    let fixture = Fixture::new().await;
    for key in ["t/", "t/a/", "t/b/c/", "t/b/c/d"] {
        fixture.client.put_bytes("demo", key, "".into(), PutOptions::default()).await.expect(key);
    }
    fixture.done("get -r demo/t/ @out").await;
    assert_eq!(names(&fixture.path("out")), ["a", "b"]);
    assert_eq!(names(&fixture.path("out/a")), [""; 0]);
    assert_eq!(names(&fixture.path("out/b/c")), ["d"]);
    fixture.client.put_bytes("demo", "t/b/../../e/", "".into(), PutOptions::default()).await.unwrap();
    assert_eq!(fixture.run("get -r demo/t/ @out").await.exit, Exit::Partial);
    assert!(!fixture.path("e").exists());
}

#[tokio::test]
async fn a_key_that_is_file_and_directory_fails_alone() {
    let fixture = Fixture::new().await;
    for key in ["a", "a/b", "c"] {
        fixture.done(&format!("put @hello demo/{key}")).await;
    }
    let run = fixture.run("get -r demo/ @out").await;
    assert_eq!(run.exit, Exit::Partial, "{run:?}");
    assert!(run.err.contains("1 of 3 failed"), "{run:?}");
    assert_eq!(names(&fixture.path("out")), ["a", "c"]);
}

#[tokio::test]
async fn listings_look_as_hands_know_them() {
    let fixture = Fixture::new().await;
    fixture.done("put -r @tree demo/t").await;
    fixture.done("put @hello demo/s").await;
    fixture.done("put @hello demo/u").await;
    let check = async |line: &str, expect: &[&str]| {
        let out = fixture.done(line).await;
        let shown: Vec<_> = lines(&out).into_iter().map(|line| line.split_at(20).1).collect();
        assert_eq!(shown, expect, "{line}");
    };
    check("ls", &["demo"]).await;
    check("ls demo", &["         5 s", "       PRE t/", "         5 u"]).await;
    check("ls demo/t", &["       PRE t/"]).await;
    check("ls demo/t/", &["         1 a", "       PRE b/"]).await;
    check("ls demo/t/b", &["       PRE b/"]).await;
    check("ls -r demo/t/b", &["         3 t/b/c", "         0 t/b/d"]).await;
    check("ls --human demo/t/b/c", &["       3 B c"]).await;
    fixture.fails("ls demo/none", Exit::NotFound, "no key starts with").await;
    fixture.fails("ls none-such", Exit::NotFound, "no bucket").await;
    fixture.done("mb empty").await;
    assert_eq!(fixture.done("ls -r empty").await, "");
}

#[tokio::test]
async fn a_usage_that_cannot_be_counted_does_not_keep_the_others_back() {
    let fixture = Fixture::new().await;
    fixture.done("put -r @tree demo/t").await;
    let run = fixture.run("du none-such demo/t/").await;
    assert_eq!(run.exit, Exit::Partial, "{run:?}");
    assert!(run.out.contains("3 objects  demo/t/") && run.err.contains("no bucket \"none-such\""), "{run:?}");
    fixture.fails("du none-such none-there", Exit::NotFound, "2 of 2 failed").await;
}

#[tokio::test]
async fn a_recursive_removal_takes_what_is_below_and_nothing_else() {
    let fixture = Fixture::new().await;
    for key in ["a", "a/1", "a/2", "ab", "b/1"] {
        fixture.done(&format!("put @hello demo/{key}")).await;
    }
    assert_eq!(lines(&fixture.done("rm -r demo/a").await).len(), 3);
    fixture.fails("rm -r demo/a", Exit::NotFound, "nothing to remove").await;
    fixture.fails("rm -r demo/none demo/a", Exit::NotFound, "below demo/a").await;
    fixture.fails("rm -r demo", Exit::Usage, "demo/").await;
    fixture.fails("rm demo/", Exit::Usage, "rm -r demo/").await;
    fixture.fails("rm demo/none", Exit::NotFound, "no object").await;
    fixture.fails("rm demo/none demo/ab", Exit::Partial, "1 of 2 failed").await;
    assert_eq!(lines(&fixture.done("rm -r demo/").await), ["removed demo/b/1"]);
    fixture.fails("rm -r demo/", Exit::NotFound, "nothing to remove").await;
    fixture.done("rb demo").await;
}

#[tokio::test]
async fn buckets_are_removed_empty_or_by_force() {
    let fixture = Fixture::new().await;
    fixture.done("put -r @tree demo").await;
    fixture.fails("mb demo", Exit::Precondition, "exists already").await;
    assert!(fixture.done("mb demo --if-missing").await.contains("there already"));
    fixture.fails("mb NO", Exit::Usage, "not a bucket name").await;
    fixture.fails("mb other --replicas 0", Exit::Usage, "at least 1 replica").await;
    fixture.fails("mb demo/key", Exit::Usage, "not a bucket").await;
    fixture.fails("rb demo", Exit::Precondition, "--force").await;
    let out = fixture.done("--json rb --force demo").await;
    assert_eq!(lines(&out).last(), Some(&r#"{"bucket":"demo","removed":true,"objects_removed":3}"#));
    fixture.fails("rb demo", Exit::NotFound, "no bucket").await;
}

#[tokio::test]
async fn a_quota_is_set_shown_and_kept() {
    let fixture = Fixture::new().await;
    fixture.done("mb small --quota 8 --max-objects 2").await;
    fixture.done("put @hello small/a").await;
    fixture.fails("put @hello small/b", Exit::Unavailable, "bucket update small --quota").await;
    fixture.fails("cp small/a small/b", Exit::Unavailable, "quota").await;
    fixture.done("mv small/a small/b").await;
    let out = fixture.done("bucket update small --quota 1KiB").await;
    assert_eq!(out, "bucket small may hold 1.0 KiB in 2 objects\n");
    fixture.done("cp small/b small/c").await;
    fixture.fails("put @tree/b/d small/d", Exit::Unavailable, "more objects").await;
    let out = fixture.done("bucket update small --max-objects none").await;
    assert_eq!(out, "bucket small may hold 1.0 KiB in any number of objects\n");
    fixture.done("put @tree/b/d small/d").await;
    let out = fixture.done("bucket show small").await;
    assert!(out.contains("quota") && out.contains("no bound"), "{out}");
    let out = fixture.done("--json bucket update small --quota none").await;
    assert!(out.contains(r#""quota_bytes":null,"quota_objects":null"#), "{out}");
    fixture.fails("bucket update small --quota 0", Exit::Usage, "at least 1").await;
    fixture.fails("bucket update none-such --quota 1", Exit::NotFound, "no bucket").await;
    fixture.fails("bucket show small/a", Exit::Usage, "not a bucket").await;
}

#[tokio::test]
async fn preconditions_decide_and_the_hint_names_the_key() {
    let fixture = Fixture::new().await;
    fixture.done("put @hello demo/once --if-none-match *").await;
    fixture
        .fails("put @hello demo/once --if-none-match *", Exit::Precondition, "xdpfs-cli stat demo/once")
        .await;
    fixture.fails("get demo/once @x --if-match 0-0", Exit::Precondition, "demo/once").await;
    fixture.fails("rm demo/once --if-match 0-0", Exit::Precondition, "demo/once").await;
    fixture.fails("stat demo --if-match 0-0", Exit::Usage, "only an object").await;
    assert!(!fixture.path("x").exists());
}

#[tokio::test]
async fn a_failed_file_does_not_stop_the_others() {
    let fixture = Fixture::new().await;
    let run = fixture.run("put @hello @missing demo/").await;
    assert_eq!(
        (run.exit, run.out.as_str()),
        (Exit::Partial, "put demo/hello (5 B, 3 replicas)\n"),
        "{run:?}"
    );
    assert!(run.err.contains("cannot open @/missing") && run.err.contains("1 of 2 failed"), "{run:?}");
    // It can be opened, but its first byte cannot be read.
    fixture.fails("put /proc/self/mem demo", Exit::Partial, "cannot read /proc/self/mem").await;
    fixture.fails("put @missing demo", Exit::NotFound, "cannot open").await;
    fixture.fails("put @hello none-such", Exit::NotFound, "no bucket").await;
    fs::create_dir(fixture.path("empty")).unwrap();
    fixture.fails("put -r @empty demo", Exit::NotFound, "no file").await;
    fixture.fails("put @tree demo", Exit::Usage, "-r").await;
}

#[tokio::test]
async fn single_objects_become_files() {
    let fixture = Fixture::new().await;
    fixture.done("put @hello demo/p/hello").await;
    assert_eq!(fixture.done("get demo/p/hello @new/").await, "got demo/p/hello as @/new/hello (5 B)\n");
    fixture.done("get demo/p/hello @new/x --range 1-2").await;
    assert_eq!(fs::read(fixture.path("new/x")).unwrap(), b"el");
    fixture.fails("get demo/p/hello @new/y --range 5-", Exit::Usage, "5 bytes").await;
    fixture.done("put @tree/b/d demo/empty").await;
    fixture.fails("get demo/empty @new/y --range 0-", Exit::Usage, "without --range").await;
    fixture.fails("get demo/p/hello @tree/b/c/d", Exit::Partial, "is a file").await;
    fixture.fails("get demo/none @new/z", Exit::NotFound, "no object").await;
    fixture.fails("get -r demo/none/ @new/z", Exit::NotFound, "nothing below").await;
    fixture.fails("get demo/ @new/z", Exit::Usage, "names a bucket").await;
    assert_eq!(names(&fixture.path("new")), ["hello", "x"]);
    // What is no directory is an object.
    fixture.done("get -r demo/p/hello @copy").await;
    assert_eq!(fs::read(fixture.path("copy")).unwrap(), b"hello");
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test]
async fn a_key_is_printed_once_and_listed_without_its_secret() {
    let fixture = Fixture::new().await;
    fixture.fails("key create", Exit::Usage, "a key without any right").await;
    fixture.fails("key create --read demo", Exit::Usage, "the first access key").await;
    // The mock counts its keys.
    let (first, second) = ("XK0000000000000001", "XK0000000000000002");
    let run = fixture.run("key create --admin * --label first").await;
    assert_eq!((run.exit, run.out.as_str()), (Exit::Done, "XK0000000000000001.SECRET1\n"));
    assert!(run.err.contains("not shown again") && !run.err.contains("SECRET"), "{run:?}");
    let line = "--json key create --read demo --list demo --read logs-*";
    let key = format!(
        concat!(
            r#"{{"id":"{}","grants":[{{"buckets":"demo","rights":["read","list"]}},"#,
            r#"{{"buckets":"logs-*","rights":["read"]}}],"label":"","created":"TIME","revoked":null}}"#,
        ),
        second
    );
    let made = format!(r#"{{"id":"{second}","access_key":"{second}.SECRET2","key":{key}}}"#);
    assert_eq!(lines(&fixture.done(line).await), [made]);

    let listed = fixture.done("--json key list").await;
    assert_eq!(lines(&listed)[1], key);
    assert!(!listed.contains("SECRET"), "{listed}");
    let listed = fixture.done("key list").await;
    assert!(listed.contains("live") && listed.contains("admin:* first"), "{listed}");
    assert!(listed.contains("read,list:demo read:logs-*"), "{listed}");

    fixture.fails(&format!("key revoke {first}"), Exit::Precondition, "no other access key").await;
    fixture.fails("key revoke XK9999999999999999", Exit::NotFound, "no access key").await;
    let run = fixture.run(&format!("key revoke {second} --now")).await;
    assert_eq!((run.exit, run.out.as_str()), (Exit::Done, "revoked access key XK0000000000000002\n"));
    assert!(run.err.contains("within 1s"), "{run:?}");
    assert!(fixture.done("key list").await.contains("revoked"));
    let rotated = fixture.done("--json capabilities revoke").await;
    assert_eq!(rotated, "{\"key_epoch\":2,\"obeyed_within_ms\":1000}\n");
}

#[tokio::test]
async fn a_saved_key_is_its_owners_and_is_made_once() {
    use std::os::unix::fs::PermissionsExt as _;

    let fixture = Fixture::new().await;
    let line = "--json key create --admin * --save @new.key";
    assert_eq!(fixture.done(line).await, "{\"id\":\"XK0000000000000001\",\"saved\":\"@/new.key\"}\n");
    let saved = || fs::read_to_string(fixture.path("new.key")).unwrap();
    assert_eq!(saved(), "XK0000000000000001.SECRET1\n");
    let mode = fs::metadata(fixture.path("new.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fixture.fails(line, Exit::Precondition, "is there already").await;
    fixture.run("key create --admin * --save @new.key --if-missing").await;
    assert_eq!(saved(), "XK0000000000000001.SECRET1\n");
    assert_eq!(fixture.done("key list").await.lines().count(), 1, "no key was made in vain");

    // A key that is not made leaves no file.
    fixture.fails("key create --read a --read @bad --save @none/file", Exit::NotFound, "make the file").await;
    let other = Fixture::new().await;
    other.fails("key create --read demo --save @early.key", Exit::Usage, "the first access key").await;
    assert!(!other.path("early.key").exists());

    // A root key needs nobody.
    let run = fixture.run("key generate").await;
    let text = run.out.trim();
    let credential: xdpfs_meta_server::Credential = text.parse().unwrap();
    assert_eq!(credential.to_text(), text);
    let again = fixture.run("key generate").await;
    assert_ne!(again.out, run.out);
}

#[tokio::test]
async fn nodes_are_labelled_listed_and_planned_for() {
    let fixture = Fixture::new().await;
    let labelled = fixture.done("node label 3 zone=a rack=r1 --json").await;
    assert_eq!(labelled, "{\"node\":3,\"labels\":{\"rack\":\"r1\",\"zone\":\"a\"}}\n");
    fixture.fails("node label 3 zone=b", Exit::Precondition, "--overwrite").await;
    assert_eq!(fixture.done("node label 3 zone=b rack- --overwrite").await, "data node 3: zone=b\n");
    fixture.fails("node label 99 zone=b", Exit::NotFound, "xdpfs-cli node list").await;
    assert!(fixture.done("node list").await.contains("zone=b"));
    assert_eq!(fixture.done("node list --json").await.lines().count(), 7);
    assert!(fixture.done("node show 3 --json").await.contains("\"labels\":{\"zone\":\"b\"}"));
    fixture.fails("node show 99", Exit::NotFound, "xdpfs-cli node list").await;

    fixture.done("put @hello demo/x").await;
    let plan = fixture.done("node drain-plan 1 2 3 4 5 6 7 --json").await;
    for words in
        ["\"dry_run\":true", "\"fits\":false", "\"replicas\":3,", "\"replicas_unplaced\":3,", "\"bytes\":15,"]
    {
        assert!(plan.contains(words), "{words}: {plan}");
    }
    assert!(fixture.done("node drain-plan 1 2").await.contains("nothing is moved"));
    fixture.fails("node drain-plan 99", Exit::NotFound, "xdpfs-cli node list").await;
}

#[tokio::test]
async fn scrubs_are_shown_and_steered() {
    let fixture = Fixture::new().await;
    let paused = fixture.done("node scrub pause 3 --json").await;
    assert_eq!(paused, "{\"node\":3,\"action\":\"pause\",\"alive\":true}\n");
    assert!(fixture.done("node scrub 3").await.contains("\n3     paused"));
    let all = fixture.done("node scrub status --json").await;
    assert_eq!((all.lines().count(), all.matches("\"state\":\"paused\"").count()), (7, 1), "{all}");
    assert!(fixture.done("node scrub start --all").await.contains("data node 7: the scrub is to start"));
    assert!(!fixture.done("node scrub status").await.contains("paused"));
    fixture.fails("node scrub start", Exit::Usage, "--all").await;
    fixture.fails("node scrub pause 99", Exit::NotFound, "xdpfs-cli node list").await;
    fixture.fails("node scrub 99", Exit::NotFound, "xdpfs-cli node list").await;
}

#[tokio::test]
async fn placement_is_explained_for_what_is_there_and_for_what_is_not() {
    let fixture = Fixture::new().await;
    fixture.done("put @hello demo/x").await;
    let there = fixture.done("placement explain demo/x --json").await;
    assert!(there.contains("\"chunk_count\":1,\"spreads\":{\"hosts\":1}"), "{there}");
    assert!(there.contains("\"obstacle\":null") && !there.contains("candidate"), "{there}");
    for line in ["placement explain demo/y --json", "placement explain demo/x --new --json"] {
        let new = fixture.done(line).await;
        assert!(new.starts_with("{\"object\":null,") && new.contains("\"choice\":\"chosen\""), "{new}");
    }
    fixture.fails("placement explain demo", Exit::Usage, "demo/x").await;
    fixture.fails("placement explain nowhere/x", Exit::NotFound, "nowhere").await;
}
