//! The cluster of deploy/ from its first start to its end, as operators and accidents have it.
//!
//! Invariant: what is compared are bytes that clients got, what the engine says of its containers, and what the kernel
//! has counted; nothing is taken for granted because a command succeeded.

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tempfile::TempDir;
use xdpfs_testbed::{Cli, Content, Rng};

use super::{
    ADDRESS, BUCKET, META_SERVERS, await_some, chaos,
    compose::{self, Container, Project},
    credentials::Credentials,
    endpoints,
    engine::{self, Engine, UPLINK, UPLINK_ADDRESS},
    units,
    workload::{Workload, get, put},
};
use crate::{ebpf, image, sh};

const BASE: &str = "deploy/compose.yaml";
const OVERLAY: &str = "deploy/compose.xdp.yaml";
/// Not the usual one, so that no image of anybody's is replaced.
const IMAGE: &str = "xdpfs:test";
/// A cluster, or a member of it, is well within this.
const WELL_WITHIN: Duration = Duration::from_secs(90);
/// The edge looks at the program's counters every second.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
const CHAOS_FOR: Duration = Duration::from_secs(25);
const SEED: u64 = 20;
const SCALED: usize = 5;
const NODES: usize = 3;
const MIB: u64 = 1 << 20;
/// Payload of a datagram, at most: what crosses the edge has at least a datagram for each of these.
const DATAGRAM_PAYLOAD_MAX: u64 = 1452;
/// In the BPF file system, by deploy/compose.xdp.yaml.
const PIN_DIRECTORY: &str = "xdpfs-edge";

/// All of it. The engine and what it takes are brought if they are missing.
pub(crate) fn run() -> anyhow::Result<()> {
    engine::bring()?;
    let with_kernel = ebpf::can_load().is_ok();
    if with_kernel && ebpf::built_object().is_none() {
        ebpf::build()?;
    }
    let binaries = image::binaries()?;
    let began = Instant::now();
    let verified = units::verify(&binaries)?;
    ensure!(verified || env::var_os("CI").is_none(), "there is no systemd-analyze, and CI skips nothing");
    if !verified {
        eprintln!("SKIPPED: the systemd units, for want of systemd-analyze");
    }
    let engine = Engine::start()?;
    image::pack(&binaries, IMAGE, &[("DOCKER_HOST", &engine.url())])?;
    user_space(&engine, &binaries)?;
    if with_kernel {
        kernel(&engine, &binaries)?;
    } else {
        ensure!(env::var_os("CI").is_none(), "this kernel has no BPF, and CI skips nothing");
        eprintln!("SKIPPED: the cluster with XDP, for want of BPF");
    }
    eprintln!("the deployment held, in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

fn project(engine: &Engine, name: &str, files: &[&str], env: &[(&str, String)]) -> Project {
    let mut all = vec![
        ("DOCKER_HOST".to_owned(), engine.url()),
        ("XDPFS_IMAGE".to_owned(), IMAGE.to_owned()),
        // Several nodes share a disk that may be small.
        ("XDPFS_NODE_CAPACITY".to_owned(), "2GiB".to_owned()),
    ];
    all.extend(env.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    Project {
        program: compose::program(),
        name: name.to_owned(),
        env: all,
        files: files.iter().map(|file| (*file).to_owned()).collect(),
    }
}

/// What `xdpfs-cli status` says.
fn status(cli: &Cli) -> anyhow::Result<Value> {
    let output = cli.invoke(["--json", "status"]).try_run()?;
    ensure!(output.code == Some(0), "status failed: {}", output.stderr);
    serde_json::from_slice(&output.stdout).context("status printed no JSON")
}

/// The base file: start, scale, accidents, and a restart from the volumes.
fn user_space(engine: &Engine, binaries: &Path) -> anyhow::Result<()> {
    eprintln!("the cluster in user space");
    let project = project(engine, "xdpfs-test", &[BASE], &[("XDPFS_ADDRESS", ADDRESS.to_owned())]);
    project.compose(&["up", "--detach"])?;
    project.await_cluster(NODES, WELL_WITHIN)?;
    for once in ["init", "first-key"] {
        project.await_health(&project.container(once)?, "exited 0", WELL_WITHIN)?;
    }
    let credentials = Credentials::of(&project)?;
    let cli = credentials.client(image::cli(binaries), endpoints(ADDRESS), Some(engine.host().clone()));
    is_confined(&project)?;
    is_closed(&project, &cli)?;
    tells_metrics(&cli)?;

    // As the page says it, by the tool in the image.
    let note = b"a first object\n";
    let run = ["run", "--rm", "-T", "cli"];
    project.compose_output(&[&run[..], &["put", "-", "first/now"]].concat(), note)?;
    let came_back = project.compose_output(&[&run[..], &["cat", "first/now"]].concat(), b"")?;
    ensure!(came_back == note, "the first object came back as {came_back:?}");
    let kept: Vec<_> =
        (0..4).map(|n| (format!("{BUCKET}/kept-{n}"), Content::new(100 + n, n * 3 * MIB + 17))).collect();
    for (address, content) in &kept {
        put(&cli, address, content)?;
        get(&cli, address, content)?;
    }

    project.compose(&["up", "--detach", "--scale", &format!("data-node={SCALED}")])?;
    project.await_cluster(SCALED, WELL_WITHIN)?;
    let nodes = alive_nodes(&cli, SCALED)?;
    let mut workload = Workload::start(&cli, &format!("{BUCKET}/work-"), SEED);
    workload.await_more(8)?;
    leader_dies(&project, &cli, &mut workload)?;
    node_dies(&project, &mut workload)?;
    chaos::strike(&project, &mut workload, CHAOS_FOR, &mut Rng::new(SEED))?;
    node_is_cut_off(&project, &mut workload)?;
    let tally = workload.finish()?;
    eprintln!("  no put and no get has failed: {tally:?}");
    majority_dies(&project)?;

    // Everything but the volumes.
    project.compose(&["down"])?;
    project.compose(&["up", "--detach", "--scale", &format!("data-node={SCALED}")])?;
    project.await_cluster(SCALED, WELL_WITHIN)?;
    ensure!(alive_nodes(&cli, SCALED)? == nodes, "nodes are others than before");
    for (address, content) in &kept {
        get(&cli, address, content)?;
    }
    ends_without_a_trace(&project)
}

/// The ids of the nodes that are alive, once there are so many.
fn alive_nodes(cli: &Cli, count: usize) -> anyhow::Result<BTreeSet<u64>> {
    await_some(&format!("{count} nodes are alive"), WELL_WITHIN, || {
        let Ok(status) = status(cli) else { return Ok(None) };
        let nodes = status["data_nodes"].as_array().context("no nodes in the status")?;
        let alive = nodes.iter().filter(|node| node["state"] == "alive");
        let ids: BTreeSet<_> = alive.filter_map(|node| node["id"].as_u64()).collect();
        // Nodes of an earlier start would be there too, and not be alive.
        Ok((ids.len() == count && nodes.len() == count).then_some(ids))
    })
}

/// Nobody is served without a key, or without TLS, and the first key does what it was made for.
fn is_closed(project: &Project, cli: &Cli) -> anyhow::Result<()> {
    let refused = |cli: Cli, why: &str| -> anyhow::Result<()> {
        let output = cli.invoke(["ls"]).try_run()?;
        ensure!(
            output.code != Some(0) && output.stderr.contains(why),
            "`ls` ended with {output:?}, not {why}"
        );
        Ok(())
    };
    refused(Cli { access_key: None, ..cli.clone() }, "access key")?;
    refused(Cli { ca: None, access_key: None, ..cli.clone() }, "TLS")?;
    let printed = project.docker(&["logs", &project.container("first-key")?.id])?;
    let key = printed.lines().find(|line| line.starts_with("XK")).context("no key was printed")?;
    let first = Cli { access_key: Some(key.trim().to_owned()), ..cli.clone() };
    let content = Content::new(5, 1000);
    put(&first, &format!("{BUCKET}/by-the-first-key"), &content)?;
    get(&first, &format!("{BUCKET}/by-the-first-key"), &content)?;
    let output = first.invoke(["mb", "another"]).try_run()?;
    ensure!(output.code == Some(6), "the first key may make buckets: {output:?}");
    Ok(())
}

/// The edge is scraped where deploy/obs/prometheus.yml expects it.
fn tells_metrics(cli: &Cli) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("bundle.tar.gz");
    let (file, address) = (file.to_str().context("the path is not text")?, format!("{ADDRESS}:9600"));
    let words = ["--json", "debug", "bundle", "--output", file, "--metrics", &address];
    let output = cli.invoke(words).try_run()?;
    ensure!(output.code == Some(0), "debug bundle failed: {}", output.stderr);
    let bundle: Value = serde_json::from_slice(&output.stdout).context("debug bundle printed no JSON")?;
    let parts = bundle["parts"].as_array().context("a bundle has parts")?;
    let has = |part: &str| parts.iter().any(|found| found == part);
    ensure!(has("metrics-10.177.0.1-9600.txt") && has("status.json"), "the bundle lacks something: {bundle}");
    Ok(())
}

/// No container has more than it needs.
fn is_confined(project: &Project) -> anyhow::Result<()> {
    for service in ["meta-1", "data-node", "edge"] {
        let format = "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}} {{.HostConfig.CapAdd}} \
                      {{.HostConfig.Privileged}}";
        for Container { id, .. } in project.containers(service)? {
            let is = project.docker(&["inspect", "--format", format, &id])?;
            ensure!(is.trim() == "65532:65532 true [ALL] [] false", "{service} runs as {is}");
        }
    }
    Ok(())
}

fn leader_dies(project: &Project, cli: &Cli, workload: &mut Workload) -> anyhow::Result<()> {
    let leader = |what: &str, is_wanted: &dyn Fn(u64) -> bool| {
        // Between two leaders there is no answer.
        let led_by = || status(cli).ok()?["leader_id"].as_u64();
        await_some(what, WELL_WITHIN, || Ok(led_by().filter(|id| is_wanted(*id))))
    };
    let first = leader("there is a leader", &|_| true)?;
    let victim = project.meta_server(first)?;
    project.kill(&victim)?;
    project.await_health(&victim, "exited 137", WELL_WITHIN)?;
    leader("another server leads", &|id| id != first)?;
    workload.await_more(8)?;
    project.start(&victim)?;
    project.await_health(&victim, "healthy", WELL_WITHIN)
}

fn node_dies(project: &Project, workload: &mut Workload) -> anyhow::Result<()> {
    let victim = project.containers("data-node")?.remove(0);
    project.kill(&victim)?;
    project.await_health(&victim, "exited 137", WELL_WITHIN)?;
    workload.await_more(8)?;
    project.start(&victim)?;
    project.await_health(&victim, "healthy", WELL_WITHIN)
}

/// A node that hears of no leader says that it doesn't serve, and serves again by itself.
fn node_is_cut_off(project: &Project, workload: &mut Workload) -> anyhow::Result<()> {
    let victim = project.containers("data-node")?.remove(1);
    let cut = project.cut(&victim)?;
    project.await_health(&victim, "unhealthy", WELL_WITHIN)?;
    workload.await_more(8)?;
    project.mend(&cut)?;
    project.await_health(&victim, "healthy", WELL_WITHIN)
}

/// A server without a majority says that it doesn't serve, and serves again with one.
fn majority_dies(project: &Project) -> anyhow::Result<()> {
    let servers =
        (1..=META_SERVERS as u64).map(|id| project.meta_server(id)).collect::<Result<Vec<_>, _>>()?;
    let (last, others) = servers.split_last().context("there are no servers")?;
    others.iter().try_for_each(|server| project.kill(server))?;
    project.await_health(last, "unhealthy", WELL_WITHIN)?;
    project.await_health(&project.container("edge")?, "unhealthy", WELL_WITHIN)?;
    others.iter().try_for_each(|server| project.start(server))?;
    project.await_cluster(SCALED, WELL_WITHIN)
}

/// Ends it with its volumes; nothing of its name is left.
fn ends_without_a_trace(project: &Project) -> anyhow::Result<()> {
    project.compose(&["down", "--volumes"])?;
    let label = format!("label=com.docker.compose.project={}", project.name);
    for what in [&["ps", "--all"][..], &["volume", "ls"], &["network", "ls"]] {
        let left = project.docker(&[what, &["--quiet", "--filter", &label]].concat())?;
        ensure!(left.trim().is_empty(), "`docker {}` still has {left}", what.join(" "));
    }
    Ok(())
}

/// The overlay: a client in another network, whose datagrams come in by the uplink and cross the edge in the kernel.
fn kernel(engine: &Engine, binaries: &Path) -> anyhow::Result<()> {
    eprintln!("the cluster with XDP");
    let pins = Pins::mount()?;
    let env = [
        ("XDPFS_ADDRESS", UPLINK_ADDRESS.to_string()),
        ("XDPFS_UPLINK", UPLINK.to_owned()),
        ("XDPFS_BPFFS", pins.path()),
    ];
    let project = project(engine, "xdpfs-test-xdp", &[BASE, OVERLAY], &env);
    project.compose(&["up", "--detach"])?;
    project.await_cluster(NODES, WELL_WITHIN)?;
    let credentials = Credentials::of(&project)?;
    let endpoint = endpoints(&UPLINK_ADDRESS.to_string());
    let cli = credentials.client(image::cli(binaries), endpoint, Some(engine.client().clone()));
    let edge = project.container("edge")?;
    let asked = |question: &str| -> anyhow::Result<Value> {
        let words = ["exec", "--user", "65532:65532", &edge.id, "xdpfs-cli", "--json", "xdp", question];
        let said = project.docker(&[&words[..], &["--socket", "/run/xdpfs/edge.sock"]].concat())?;
        serde_json::from_str(&said).with_context(|| format!("xdp {question} printed no JSON: {said}"))
    };
    // A node that has just come is relayed until its MAC address is known.
    await_some("all nodes are behind interfaces", WELL_WITHIN, || {
        let status = asked("status")?;
        let nodes = status["nodes"].as_array().context("no nodes in the status")?;
        let crossed = nodes.iter().filter(|node| node["interface"].is_string()).count();
        Ok((crossed == NODES).then_some(()))
    })
    .with_context(|| format!("{:#}\n{}", asked("status").unwrap_or_default(), project.log_tail(&edge)))?;
    let mode = asked("status")?["mode"].clone();
    ensure!(mode == "native", "XDP is {mode}, and veth takes it natively");

    let count = |stats: &Value, fate: &str| stats["fates"][fate].as_u64().unwrap_or_default();
    let before = asked("stats")?;
    let content = Content::new(7, 16 * MIB);
    put(&cli, "first/crossed", &content)?;
    get(&cli, "first/crossed", &content)?;
    ensure!(pins.has_links(), "the programs would not outlive the edge's process");
    // Each chunk is written to several nodes, and read from one.
    let least = content.len() / DATAGRAM_PAYLOAD_MAX;
    let replies = |stats: &Value| count(stats, "reply_kernel") + count(stats, "reply_xdp");
    // What is told was counted within the last second or so, and 16 MiB may take less.
    let crossed = format!("{} datagrams crossed to nodes, and {least} back", 2 * least);
    let (routed, replied) = await_some(&crossed, SETTLED_WITHIN, || {
        let now = asked("stats")?;
        let routed = count(&now, "routed") - count(&before, "routed");
        let replied = replies(&now) - replies(&before);
        Ok((routed >= 2 * least && replied >= least).then_some((routed, replied)))
    })
    .with_context(|| asked("stats").unwrap_or_default().to_string())?;
    eprintln!(
        "  16 MiB put and got: {routed} datagrams by XDP and DEVMAP to nodes, {replied} replies sent on"
    );

    let mut workload = Workload::start(&cli, &format!("{BUCKET}/work-"), SEED + 1);
    workload.await_more(8)?;
    node_dies(&project, &mut workload)?;
    // The program goes on while its process is dead.
    project.kill(&edge)?;
    workload.await_more(8)?;
    project.start(&edge)?;
    project.await_health(&edge, "healthy", WELL_WITHIN)?;
    workload.await_more(8)?;
    let tally = workload.finish()?;
    eprintln!("  no put and no get has failed: {tally:?}");
    is_refused(&project)?;
    ends_without_a_trace(&project)?;
    ensure!(!pins.has_links(), "the edge has ended, and its programs are still pinned");
    Ok(())
}

/// Where nothing is allowed, an edge that would like XDP works in user space, and says so.
fn is_refused(project: &Project) -> anyhow::Result<()> {
    let listen = format!("{UPLINK_ADDRESS}:7499");
    let certificates = format!("{}_tls-node:/tls:ro", project.name);
    let words = ["run", "--detach", "--network", "host", "--cap-drop", "ALL", "--read-only"];
    let words = [&words[..], &["--volume", &certificates, IMAGE]].concat();
    let edge = [
        "xdpfs-data-node",
        "edge",
        "--tls",
        "/tls",
        "--meta",
        &endpoints(&UPLINK_ADDRESS.to_string()),
        "--listen",
        &listen,
    ];
    // By an interface that has no program yet.
    let id = project.docker(&[&words[..], &edge, &["--uplink", "lo", "--xdp", "auto"]].concat())?;
    let id = id.trim();
    let said = await_some("an edge that may do nothing is ready", WELL_WITHIN, || {
        let said = project.docker(&["logs", id])?;
        Ok(said.contains("ready ").then_some(said))
    });
    let edge = Container { id: id.to_owned(), service: "refused edge".to_owned() };
    let log = project.log_tail(&edge);
    project.docker(&["rm", "--force", id])?;
    let said = said.with_context(|| log.clone())?;
    ensure!(said.contains(" xdp=off "), "it says {said}");
    ensure!(log.contains("CAP_NET_ADMIN"), "it does not say what it lacks: {log}");
    Ok(())
}

/// A BPF file system of the test's own, so that no edge on this machine is disturbed.
struct Pins(TempDir);

impl Pins {
    fn mount() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("xdpfs-bpf-").tempdir()?;
        let path = directory.path().to_str().context("the temporary directory is not text")?;
        sh::output(&["mount", "-t", "bpf", "bpf", path])?;
        Ok(Self(directory))
    }

    fn path(&self) -> String {
        self.0.path().display().to_string()
    }

    /// Whether an edge's programs are in force still.
    fn has_links(&self) -> bool {
        let links = fs::read_dir(self.0.path().join(PIN_DIRECTORY).join("links"));
        links.is_ok_and(|mut links| links.next().is_some())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // The programs end with it, and then the directory can be removed.
        if let Err(error) = sh::output(&["umount", &self.path()]) {
            eprintln!("{error:#}");
        }
    }
}
