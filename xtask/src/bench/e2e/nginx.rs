//! nginx with WebDAV on a directory of its own.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::setup;

const PROGRAM: &str = "nginx";
const START_MAX: Duration = Duration::from_secs(5);

pub(super) struct Nginx {
    child: Child,
    address: SocketAddr,
    files: PathBuf,
}

impl Nginx {
    /// Starts it; `None` if it isn't installed.
    pub(super) fn start(directory: &Path) -> anyhow::Result<Option<Self>> {
        if !setup::has_program(PROGRAM) {
            eprintln!("  nginx IS LEFT OUT: it is not installed");
            return Ok(None);
        }
        let files = directory.join("files");
        fs::create_dir_all(&files)?;
        // Free just now, and nobody else asks for ports in this moment.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let settings = format!(
            "pid nginx.pid; worker_processes 2; user root; error_log stderr error;\n\
             events {{ worker_connections 1024; }}\n\
             http {{\n\
             access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000000;\n\
             client_max_body_size 0; client_body_temp_path {directory}/body;\n\
             server {{ listen {address}; root {directory}/files; dav_methods PUT; }}\n\
             }}\n",
            directory = directory.display()
        );
        let file = directory.join("nginx.conf");
        fs::write(&file, settings)?;
        let mut command = Command::new(PROGRAM);
        command.arg("-p").arg(directory).arg("-c").arg(&file).args(["-g", "daemon off;"]);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot start nginx")?;
        let nginx = Self { child, address, files };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            ensure!(began.elapsed() < START_MAX, "nginx does not listen");
            thread::sleep(Duration::from_millis(20));
        }
        Ok(Some(nginx))
    }

    pub(super) const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Removes all that was put.
    pub(super) fn forget(&self) -> anyhow::Result<()> {
        fs::remove_dir_all(&self.files)?;
        Ok(fs::create_dir(&self.files)?)
    }

    /// Of its processes.
    pub(super) fn pids(&self) -> anyhow::Result<Vec<u32>> {
        let parent = self.child.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"))?;
        let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        Ok(children.chain([parent]).collect())
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it only if it is asked to end.
        let pid = self.child.id().to_string();
        let _asked = Command::new("kill").args(["-TERM", &pid]).status();
        let _status = self.child.wait();
    }
}
