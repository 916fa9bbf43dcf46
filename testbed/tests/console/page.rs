use std::{fs, path::PathBuf};

use serde_json::json;
use xdpfs_testbed::{Cluster, ClusterOptions, Content, Member};

use crate::{
    browser::{Browser, Origin},
    certificate::key_hash,
};

/// A name that tries what a name can.
const HOSTILE: &str = "<img src=x onerror=alert(1)>\"'&amp; ü🐋 100%?#.txt";
const DIRECTORY: &str = "a dir/../x";

/// The narrowest phone.
const PHONE: (u32, u32) = (360, 740);

/// A cluster with TLS and a root key, whose servers show it to browsers, and that key.
fn cluster() -> (Cluster, String) {
    let keys = tempfile::tempdir().unwrap();
    let file = keys.path().join("root.key").display().to_string();
    let output = Cluster::tool().unwrap().run(["key", "generate", "--save", &file]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let key = fs::read_to_string(&file).unwrap().trim().to_owned();
    let env = vec![
        ("XDPFS_META_CONSOLE_LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
        ("XDPFS_META_ROOT_KEY_FILE".to_owned(), file),
    ];
    let options = ClusterOptions { tls: true, env, ..ClusterOptions::default() };
    let mut cluster = Cluster::start(options).unwrap_or_else(|error| panic!("{error}"));
    cluster.show_access_key(key.clone());
    (cluster, key)
}

fn put(cluster: &Cluster, address: &str, content: &Content) {
    let output = cluster.cli().invoke(["put", "-", address]).stdin(content.clone()).run();
    assert_eq!(output.code, Some(0), "put {address}: {}", output.stderr);
}

fn origin(cluster: &Cluster, server: Member, key: &str) -> Origin {
    let Member::MetaServer(index) = server else { panic!("{server} shows nothing") };
    let ready = cluster.ready_line(server);
    let address = ready.split(' ').find_map(|word| word.strip_prefix("console=")).expect("it shows itself");
    let port = address.rsplit(':').next().unwrap();
    let (user, password) = key.split_once('.').unwrap();
    let certificate = cluster.certificates().join(format!("meta-{}", index + 1)).join("server.pem");
    Origin {
        url: format!("https://localhost:{port}"),
        user: user.to_owned(),
        password: password.to_owned(),
        key_hash: key_hash(&certificate),
    }
}

/// Where pictures are left for people to look at.
fn picture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join(name)
}

/// What a figure of the summary shows.
fn figure(name: &str) -> String {
    format!("document.querySelector('[data-figure={name}]')?.firstChild.data")
}

#[test]
fn page_shows_a_cluster_live_follows_a_nodes_death_and_gives_out_objects() {
    let (mut cluster, key) = cluster();
    let leader = cluster.leader(std::time::Duration::from_secs(30)).unwrap();
    // A follower shows it: what only the leader knows comes from there.
    let server = cluster.all_meta_servers().into_iter().find(|server| *server != leader).unwrap();
    for bucket in ["data", "photos"] {
        assert_eq!(cluster.cli().run(["mb", bucket]).code, Some(0));
    }
    put(&cluster, "data/first", &Content::new(1, 3_000_000));
    let mut browser = Browser::start(origin(&cluster, server, &key));

    browser.visit("/");
    browser.wait_for("health", "document.getElementById('health')?.textContent === 'Healthy'");
    assert_eq!(browser.evaluate(&figure("objects")), "1");
    assert_eq!(browser.evaluate(&figure("quorum")), "3 of 3");
    assert_eq!(browser.evaluate(&figure("alive")), "3 of 3");
    assert!(browser.seen.challenges > 0, "a browser is asked for the key");

    figures_follow_what_happens(&cluster, &mut browser);
    objects_are_found_and_downloaded(&cluster, &mut browser);
    death_of_a_node_is_seen(&mut cluster, &mut browser);
    page_suits_a_phone(&mut browser);

    let strangers: Vec<_> =
        browser.seen.requests.iter().filter(|url| !url.starts_with("https://localhost:")).collect();
    assert!(strangers.is_empty(), "the page needs nobody else: {strangers:?}");
    assert!(browser.seen.complaints.is_empty(), "{:#?}", browser.seen.complaints);

    server_that_is_gone_is_said_to_be_gone_until_it_is_back(&cluster, &mut browser, server);
}

fn figures_follow_what_happens(cluster: &Cluster, browser: &mut Browser) {
    // Charts show rates: there must be some while the server looks.
    let drawn = "['throughput', 'requests', 'latency'].every((chart) => document.querySelector(`[data-chart=${chart}] path.line`)?.getAttribute('d').includes('L')) && [...document.querySelectorAll('[data-chart=throughput] .scale')].some((text) => text.textContent.includes('MiB/s'))";
    let mut puts = 0;
    browser.wait("charts of what is put and got", |browser| {
        put(cluster, &format!("data/many/{puts}"), &Content::new(puts, 2_000_000));
        puts += 1;
        let get = cluster.cli().run(["cat", "data/first"]);
        assert_eq!(get.stdout.len(), 3_000_000);
        browser.evaluate(drawn).as_bool().filter(|is_drawn| *is_drawn)
    });
    browser.wait_for("the objects that were put", &format!("{} === '{}'", figure("objects"), puts + 1));
    assert_eq!(browser.evaluate("document.querySelectorAll('#topology g').length"), 6);
    assert_eq!(browser.evaluate("document.querySelectorAll('#xdp tbody tr').length"), 3);
    let fullness =
        "[...document.querySelectorAll('#nodes .level')].every((bar) => bar.getAttribute('width') > 0)";
    browser.wait_for("the nodes' fullness", fullness);
}

fn objects_are_found_and_downloaded(cluster: &Cluster, browser: &mut Browser) {
    let content = Content::new(7, 5_000_000);
    let key = format!("{DIRECTORY}/{HOSTILE}");
    put(cluster, &format!("data/{key}"), &content);
    let click = |selector: &str| format!("document.querySelector({})?.click() ?? true", json!(selector));
    browser.wait_for("the buckets", "document.querySelectorAll('tr[data-bucket]').length === 2");
    browser.evaluate(&click("tr[data-bucket=data] a"));
    // One group after the other, as somebody walks.
    for group in ["a dir/", "a dir/../", "a dir/../x/"] {
        let row = format!("tr[data-prefix={}] a", json!(group));
        browser.wait_for(group, &format!("document.querySelector({}) !== null", json!(row)));
        browser.evaluate(&click(&row));
    }
    let found = format!(
        "[...document.querySelectorAll('tr[data-key]')].map((row) => row.dataset.key)[0] === {}",
        json!(key)
    );
    browser.wait_for("the object", &found);
    let shown = browser.evaluate("document.querySelector('tr[data-key] a').textContent");
    assert_eq!(shown, HOSTILE, "a name is text");
    assert_eq!(browser.evaluate("document.querySelectorAll('#browser img').length"), 0);
    browser.evaluate(&click("tr[data-key] a"));
    browser.wait("the download", |browser| (browser.seen.downloads == 1).then_some(()));
    let files: Vec<_> =
        fs::read_dir(browser.downloads()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(fs::read(&files[0]).unwrap() == content.to_vec(), "every byte is as it was put");
    let steps = browser.evaluate("[...document.querySelectorAll('#path a')].map((step) => step.textContent)");
    assert_eq!(steps, json!(["All buckets", "data", "a dir/", "../", "x/"]));
    browser.evaluate("history.back()");
    let group = "document.querySelector('tr[data-prefix=\"a dir/../x/\"]') !== null";
    browser.wait_for("the way back", group);
    browser.evaluate("location.hash = '#/'");
    browser.wait_for("the buckets again", "document.querySelectorAll('tr[data-bucket]').length === 2");
}

fn death_of_a_node_is_seen(cluster: &mut Cluster, browser: &mut Browser) {
    // On a slow disk a replica may have missed its put: repair makes it in the meantime.
    browser.wait_for("health again", "document.getElementById('health').textContent === 'Healthy'");
    browser.shoot(&picture("console-healthy.png"));
    cluster.kill(Member::DataNode(0));
    browser.wait_for("the silent node", "document.querySelector('tr[data-state=silent]') !== null");
    browser.wait_for("the warning", "document.querySelector('li[data-code=data_node_silent]') !== null");
    let codes =
        browser.evaluate("[...document.querySelectorAll('#warnings li')].map((item) => item.dataset.code)");
    assert_eq!(codes, json!(["data_node_silent"]));
    let health = browser.evaluate("document.getElementById('health').textContent");
    assert_eq!(health, "1 warning");
    assert_eq!(browser.evaluate(&figure("alive")), "2 of 3");
    assert_eq!(browser.evaluate("document.querySelectorAll('#topology .box.lost').length"), 1);
    let (width, height) = browser.shoot(&picture("console.png"));
    assert!(width == 1280 && height > 900, "{width} x {height}");
    browser.prefer("dark");
    browser.shoot(&picture("console-dark.png"));
    browser.prefer("light");
}

fn page_suits_a_phone(browser: &mut Browser) {
    browser.resize(PHONE.0, PHONE.1, true);
    // Drawings are laid out anew.
    let width = "document.documentElement.scrollWidth === 360 && innerWidth === 360";
    browser.wait_for("a page no wider than the phone", width);
    let wide = "[...document.querySelectorAll('main *')].filter((element) => !element.closest('.scroll') && element.getBoundingClientRect().right > 361).map((element) => element.outerHTML.slice(0, 200))";
    assert_eq!(browser.evaluate(wide), json!([]), "nothing sticks out");
    browser.shoot(&picture("console-phone.png"));
    browser.resize(1280, 900, false);
}

fn server_that_is_gone_is_said_to_be_gone_until_it_is_back(
    cluster: &Cluster,
    browser: &mut Browser,
    server: Member,
) {
    cluster.pause(server).unwrap();
    browser.wait_for("word of the loss", "!document.getElementById('lost').hidden");
    cluster.resume(server).unwrap();
    browser.wait_for("the server's return", "document.getElementById('lost').hidden");
}
