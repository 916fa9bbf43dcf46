//! SIGHUP: what can change while a server runs does, under load, and nothing else happens.

use std::{
    fs,
    io::{ErrorKind, Read as _},
    net::TcpStream,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use xdpfs_testbed::{
    Cli, Cluster, ClusterOptions, EdgeOptions, Member,
    load::{BUCKET, CHUNK_SIZE, Load},
};

use crate::support::done;

const WITHIN: Duration = Duration::from_secs(30);

/// A cluster with a root key, whose servers have a file of options for each kind of them.
struct Scene {
    cluster: Cluster,
    directory: tempfile::TempDir,
    root: String,
}

impl Scene {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = |name: &str| directory.path().join(name).display().to_string();
        for name in ["meta.toml", "node.toml", "edge.toml"] {
            fs::write(directory.path().join(name), "").expect("the disk has room");
        }
        let root = generate(&directory.path().join("root.key"));
        let env = [
            ("XDPFS_META_CONFIG", place("meta.toml")),
            ("XDPFS_NODE_CONFIG", place("node.toml")),
            ("XDPFS_EDGE_CONFIG", place("edge.toml")),
            ("XDPFS_META_ROOT_KEY_FILE", place("root.key")),
        ];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let options =
            ClusterOptions { env, edges: Some(EdgeOptions::default()), ..ClusterOptions::default() };
        let mut cluster = Cluster::start(options).expect("the cluster starts");
        cluster.show_access_key(&root);
        Self { cluster, directory, root }
    }

    fn tell(&self, file: &str, text: &str, members: &[Member]) {
        fs::write(self.directory.path().join(file), text).expect("the disk has room");
        members.iter().for_each(|member| self.cluster.hang_up(*member).expect("it runs"));
    }

    /// Waits until the member has logged a line with all of these words, so many times.
    #[track_caller]
    fn says(&self, member: Member, words: &[&str], times: usize) {
        let deadline = Instant::now() + WITHIN;
        let count = || {
            let log = self.cluster.log(member).expect("there is a log");
            log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
        };
        while count() < times {
            assert!(Instant::now() < deadline, "{member} does not say {words:?} {times} times");
            // There is nothing to wait on but the file.
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn cli(&self, key: &str) -> Cli {
        Cli { access_key: Some(key.to_owned()), ..self.cluster.cli().clone() }
    }
}

fn generate(file: &PathBuf) -> String {
    let tool = Cluster::tool().expect("it is built");
    // Its own file, so that the old key is never half there.
    let new = file.with_extension("new");
    let output = tool.run(["key", "generate", "--save", &new.display().to_string()]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let key = fs::read_to_string(&new).expect("it is saved").trim().to_owned();
    fs::rename(&new, file).expect("they are on one disk");
    key
}

/// Whether the other end ends the first of so many connections soon, of which none says a word.
fn drops_the_first_of(count: usize, address: std::net::SocketAddr) -> bool {
    let open = |_| TcpStream::connect(address).expect("it listens");
    let mut connections: Vec<TcpStream> = (0..count).map(open).collect();
    connections[0].set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
    match connections[0].read(&mut [0]) {
        Ok(0) => true,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => false,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        other => panic!("it says something: {other:?}"),
    }
}

#[test]
fn options_change_under_load_and_no_request_fails() {
    let mut scene = Scene::start();
    done(&scene.cluster, &["mb", BUCKET, "--chunk-size", CHUNK_SIZE]);
    let rights = ["--read", "*", "--write", "*", "--list", "*"];
    let key = done(&scene.cluster, &[&["key", "create"][..], &rights].concat()).text();
    let mut load = Load::start(vec![scene.cli(key.trim())], 1);
    let servers = scene.cluster.all_meta_servers();
    let leader = scene.cluster.leader(WITHIN).expect("somebody leads");
    let follower = *servers.iter().find(|server| **server != leader).expect("there are three");

    // The log, of everybody.
    let in_force = |option: &'static str| [option, "has changed, and is in force"];
    for (file, members) in [
        ("meta.toml", servers.clone()),
        ("node.toml", scene.cluster.all_data_nodes()),
        ("edge.toml", scene.cluster.all_edges()),
    ] {
        for member in &members {
            assert!(!scene.cluster.log(*member).expect("there is a log").contains("DEBUG"), "{member}");
        }
        scene.tell(file, "log = 'debug'", &members);
        members.iter().for_each(|member| scene.says(*member, &in_force("log"), 1));
    }
    scene.says(leader, &["DEBUG"], 1);

    // Requests at once: four clients are too many for one place.
    scene.tell("meta.toml", "log = 'debug'\nrequests-max = 1", &servers);
    servers.iter().for_each(|server| scene.says(*server, &in_force("requests-max"), 1));
    scene.says(leader, &["refused", "as many requests as it can serve"], 1);
    scene.tell("meta.toml", "log = 'debug'", &servers);
    servers.iter().for_each(|server| scene.says(*server, &in_force("requests-max"), 2));

    // Connections at once, of one that clients do not need.
    let Member::MetaServer(index) = follower else { unreachable!("it is one of them") };
    let address = scene.cluster.endpoint_of(index);
    assert!(!drops_the_first_of(8, address), "there is room");
    scene.tell("meta.toml", "log = 'debug'\nconnections-max = 4", &[follower]);
    scene.says(follower, &in_force("connections-max"), 1);
    assert!(drops_the_first_of(8, address), "there is no room any more");

    // The root key.
    let new = generate(&scene.directory.path().join("root.key"));
    scene.tell("meta.toml", "log = 'debug'", &servers);
    servers.iter().for_each(|server| scene.says(*server, &["the root key is another one"], 1));
    assert_eq!(scene.cli(&new).run(["key", "list"]).code, Some(0));
    let old = scene.cli(&scene.root).run(["key", "list"]);
    assert_eq!(old.code, Some(6), "{}", old.stderr);
    let log = scene.cluster.log(leader).expect("there is a log");
    for key in [&new, &scene.root] {
        let secret = key.split('.').nth(1).expect("a key has two parts");
        assert!(!log.contains(secret), "a secret was logged");
    }
    scene.cluster.show_access_key(&new);

    assert!(load.goes_on_for(20, WITHIN), "the clients go on");
    load.stop();
    load.judge();
    let summary = load.check().unwrap_or_else(|violation| panic!("{violation}"));
    assert_eq!(summary.unknown, 0, "{summary}");
}

#[test]
fn what_makes_no_sense_changes_nothing_and_what_takes_a_restart_is_named() {
    let scene = Scene::start();
    done(&scene.cluster, &["mb", BUCKET]);
    let server = scene.cluster.leader(WITHIN).expect("somebody leads");
    let (node, edge) = (Member::DataNode(0), Member::Edge(0));
    let goes_on = ["ERROR", "goes on as it was"];
    let bad = [
        ("log = 'debug'\nrequests-max = 'many'", "requests-max"),
        ("log = 'debug'\nno-such-option = 1", "no-such-option"),
        ("log = 'debug'\nconnections-max = 0", "must not be zero"),
        ("log = 'loud=very=much'", "no filter"),
        ("log = ", "no TOML"),
    ];
    for (round, (text, word)) in bad.iter().enumerate() {
        scene.tell("meta.toml", text, &[server]);
        scene.says(server, &goes_on, round + 1);
        scene.says(server, &[word], 1);
    }
    for (file, member) in [("node.toml", node), ("edge.toml", edge)] {
        scene.tell(file, "log = 'debug'\nhttp-listen = 'nowhere'", &[member]);
        scene.says(member, &goes_on, 1);
    }
    for member in [server, node, edge] {
        let log = scene.cluster.log(member).expect("there is a log");
        assert!(!log.contains("DEBUG"), "{member} has taken a part of it");
    }
    done(&scene.cluster, &["ls", BUCKET]);

    let restart = "takes a restart to be in force";
    scene.tell("meta.toml", "http-listen = '127.0.0.1:0'\nlog = 'debug'", &[server]);
    scene.says(server, &["http-listen", restart], 1);
    scene.says(server, &["log", "is in force"], 1);
    scene.tell("node.toml", "capacity = '1GiB'", &[node]);
    scene.says(node, &["capacity", restart], 1);
    scene.tell("edge.toml", "source-rate = 1000", &[edge]);
    scene.says(edge, &["source-rate", restart], 1);
    // As long as it is so, it is said.
    scene.tell("edge.toml", "source-rate = 1000", &[edge]);
    scene.says(edge, &["source-rate", restart], 2);
    done(&scene.cluster, &["ls", BUCKET]);
}
