//! A compose project: its containers, how they are, and what can be done to them.

use std::{env, io::Write as _, path::Path, process::Stdio, thread, time::Duration};

use anyhow::{Context as _, ensure};

use super::{LOOK_AGAIN_AFTER, META_SERVERS, await_some};
use crate::sh;

/// Names another compose than the one in `PATH`.
const PROGRAM_VARIABLE: &str = "XDPFS_TEST_COMPOSE";

/// A project of deploy/compose.yaml, on some engine.
#[derive(Debug)]
pub(super) struct Project {
    /// Compose: version 1 or 2.
    pub(super) program: String,
    pub(super) name: String,
    /// Of the engine and of compose.
    pub(super) env: Vec<(String, String)>,
    /// Compose files.
    pub(super) files: Vec<String>,
}

/// A container, by its id.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Container {
    pub(super) id: String,
    pub(super) service: String,
}

/// A container's connection to the project's network, to be had again.
#[derive(Debug)]
pub(super) struct Cut {
    container: Container,
    network: String,
    address: String,
}

/// The compose to use.
pub(super) fn program() -> String {
    env::var(PROGRAM_VARIABLE).unwrap_or_else(|_| "docker-compose".to_owned())
}

impl Project {
    /// Runs compose, its output where ours goes.
    pub(super) fn compose(&self, words: &[&str]) -> anyhow::Result<()> {
        sh::run_with(&self.compose_words(words), &self.env())
    }

    /// Runs compose and returns what it printed; `input` is given to it.
    pub(super) fn compose_output(&self, words: &[&str], input: &[u8]) -> anyhow::Result<Vec<u8>> {
        let words = self.compose_words(words);
        let line = words.join(" ");
        let mut command = sh::command(&words);
        command.envs(self.env()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().with_context(|| format!("cannot run `{line}`"))?;
        // Little enough for the pipe; dropped, so that it ends.
        child.stdin.take().context("it takes no input")?.write_all(input)?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "`{line}` failed ({})", output.status);
        Ok(output.stdout)
    }

    /// Runs docker and returns what it printed.
    pub(super) fn docker(&self, words: &[&str]) -> anyhow::Result<String> {
        let words = [&["docker"], words].concat();
        let line = words.join(" ");
        let output = sh::command(&words).envs(self.env()).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{line}` failed ({})\n{errors}", output.status);
        String::from_utf8(output.stdout)
            .with_context(|| format!("`{line}` printed something that is not text"))
    }

    /// The containers of a service, also those that don't run, but not those of `compose run`.
    pub(super) fn containers(&self, service: &str) -> anyhow::Result<Vec<Container>> {
        let label = |name: &str, value: &str| format!("label=com.docker.compose.{name}={value}");
        let (project, of_service) = (label("project", &self.name), label("service", service));
        let words = ["ps", "--all", "--quiet", "--no-trunc", "--filter", &project, "--filter", &of_service];
        let ids = self.docker(&[&words[..], &["--filter", &label("oneoff", "False")]].concat())?;
        let container = |id: &str| Container { id: id.to_owned(), service: service.to_owned() };
        let mut containers: Vec<_> = ids.split_whitespace().map(container).collect();
        containers.sort();
        Ok(containers)
    }

    /// The only container of a service.
    pub(super) fn container(&self, service: &str) -> anyhow::Result<Container> {
        let mut containers = self.containers(service)?;
        ensure!(containers.len() == 1, "there are {} containers of {service}", containers.len());
        containers.pop().context("there is none")
    }

    /// The metadata server of this id.
    pub(super) fn meta_server(&self, id: u64) -> anyhow::Result<Container> {
        self.container(&format!("meta-{id}"))
    }

    /// `healthy`, `unhealthy` or `starting`; for what does not run, why.
    pub(super) fn health(&self, container: &Container) -> anyhow::Result<String> {
        let format = "{{if .State.Running}}{{if .State.Health}}{{.State.Health.Status}}{{else}}unwatched{{end}}\
                      {{else}}{{.State.Status}} {{.State.ExitCode}}{{end}}";
        Ok(self.docker(&["inspect", "--format", format, &container.id])?.trim().to_owned())
    }

    /// Waits until a container is as wanted.
    pub(super) fn await_health(
        &self,
        container: &Container,
        wanted: &str,
        within: Duration,
    ) -> anyhow::Result<()> {
        let what = format!("{} is {wanted}", container.service);
        let is_it = || Ok((self.health(container)? == wanted).then_some(()));
        await_some(&what, within, is_it).with_context(|| self.log_tail(container))
    }

    /// Waits until everything that has to run does, `data_nodes` of them.
    pub(super) fn await_cluster(&self, data_nodes: usize, within: Duration) -> anyhow::Result<()> {
        let mut services: Vec<_> = (1..=META_SERVERS).map(|server| (format!("meta-{server}"), 1)).collect();
        services.extend([("data-node".to_owned(), data_nodes), ("edge".to_owned(), 1)]);
        let mut last = String::new();
        let all_are_healthy = || {
            last.clear();
            for (service, count) in &services {
                let containers = self.containers(service)?;
                for container in &containers {
                    let health = self.health(container)?;
                    if health != "healthy" {
                        last += &format!("{service} {health}; ");
                    }
                }
                if containers.len() != *count {
                    last += &format!("{} of {count} {service}; ", containers.len());
                }
            }
            Ok(last.is_empty().then_some(()))
        };
        let healthy =
            await_some(&format!("all are healthy, {data_nodes} data nodes"), within, all_are_healthy);
        if healthy.is_err() {
            let containers =
                services.iter().flat_map(|(service, _)| self.containers(service).unwrap_or_default());
            let logs: String = containers.map(|container| self.log_tail(&container)).collect();
            return healthy.context(format!("{last}\n{logs}"));
        }
        healthy
    }

    /// Copies the file `path` out of a container into `to`.
    pub(super) fn copy_out(&self, container: &Container, path: &str, to: &Path) -> anyhow::Result<()> {
        let to = to.to_str().context("the path is not text")?;
        self.docker(&["cp", &format!("{}:{path}", container.id), to]).map(drop)
    }

    /// SIGKILL, after which the engine does not start it again by itself.
    pub(super) fn kill(&self, container: &Container) -> anyhow::Result<()> {
        self.docker(&["kill", &container.id]).map(drop)
    }

    pub(super) fn start(&self, container: &Container) -> anyhow::Result<()> {
        self.docker(&["start", &container.id]).map(drop)
    }

    /// Lets it do nothing for a while.
    pub(super) fn freeze(&self, container: &Container, length: Duration) -> anyhow::Result<()> {
        self.docker(&["pause", &container.id])?;
        thread::sleep(length.max(LOOK_AGAIN_AFTER));
        self.docker(&["unpause", &container.id]).map(drop)
    }

    /// Takes it off the project's network.
    pub(super) fn cut(&self, container: &Container) -> anyhow::Result<Cut> {
        let network = format!("{}_default", self.name);
        let format = format!("{{{{(index .NetworkSettings.Networks {network:?}).IPAddress}}}}");
        let address = self.docker(&["inspect", "--format", &format, &container.id])?.trim().to_owned();
        self.docker(&["network", "disconnect", "--force", &network, &container.id])?;
        Ok(Cut { container: container.clone(), network, address })
    }

    /// Puts it back, at the address that it had: a node finds its own only when it starts.
    pub(super) fn mend(&self, cut: &Cut) -> anyhow::Result<()> {
        let Cut { container, network, address } = cut;
        self.docker(&["network", "connect", "--ip", address, network, &container.id]).map(drop)
    }

    /// The last words of a container.
    pub(super) fn log_tail(&self, container: &Container) -> String {
        let words = ["docker", "logs", "--tail", "15", &container.id];
        let output = sh::command(&words).envs(self.env()).output();
        let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        let Container { id, service } = container;
        format!("--- {service} {}\n{}", &id[..12.min(id.len())], String::from_utf8_lossy(&text))
    }

    fn compose_words<'a>(&'a self, words: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec![self.program.as_str(), "--project-name", &self.name];
        all.extend(self.files.iter().flat_map(|file| ["--file", file.as_str()]));
        all.extend(words);
        all
    }

    fn env(&self) -> Vec<(&str, &str)> {
        self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}
