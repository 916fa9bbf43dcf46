//! A headless Chromium with one page, driven over the DevTools protocol, which it speaks on two pipes: messages of JSON,
//! each with a zero byte behind it.
//!
//! Invariant: every request passes through here before it is sent, and one that would leave the origin is not; the
//! browser ends with the test.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What it may be called. `XDPFS_CHROMIUM` says otherwise.
const PROGRAMS: [&str; 4] = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];
/// How long one answer may take; the first one has the start before it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Where the page comes from, and what is shown there when it asks.
pub(crate) struct Origin {
    pub(crate) url: String,
    pub(crate) user: String,
    pub(crate) password: String,
    /// What the server's key hashes to.
    pub(crate) key_hash: String,
}

/// What has happened that a test may want to know.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Requests by their URLs, those that were not sent among them.
    pub(crate) requests: Vec<String>,
    /// What the page or the browser itself has complained of: exceptions, policies, failed loads, dialogs.
    pub(crate) complaints: Vec<String>,
    /// How often somebody was asked for credentials.
    pub(crate) challenges: usize,
    /// Downloads that are whole.
    pub(crate) downloads: usize,
}

pub(crate) struct Browser {
    child: Child,
    input: ChildStdin,
    messages: Receiver<Value>,
    last_id: u64,
    session: Option<String>,
    origin: Origin,
    pub(crate) seen: Seen,
    directory: TempDir,
}

fn program() -> PathBuf {
    if let Some(program) = env::var_os("XDPFS_CHROMIUM") {
        return program.into();
    }
    let directories = env::var_os("PATH").unwrap_or_default();
    let directories: Vec<_> = env::split_paths(&directories).collect();
    let places =
        PROGRAMS.iter().flat_map(|name| directories.iter().map(move |directory| directory.join(name)));
    let found = { places }.find(|path| path.is_file());
    found.expect("there is a Chromium: `cargo xtask setup` brings it, or set XDPFS_CHROMIUM")
}

impl Browser {
    pub(crate) fn start(origin: Origin) -> Self {
        let directory = tempfile::Builder::new().prefix("xdpfs-browser-").tempdir().unwrap();
        let mut command = Command::new("sh");
        // The shell puts the pipes where Chromium looks for them.
        command.args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >&2"#]).arg(program());
        command.args(["--headless", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]);
        command.args([
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-dev-shm-usage",
        ]);
        command.args(["--remote-debugging-pipe", "--force-color-profile=srgb", "--lang=en"]);
        command.arg(format!("--user-data-dir={}", directory.path().join("profile").display()));
        command.arg(format!("--ignore-certificate-errors-spki-list={}", origin.key_hash));
        if rustix::process::geteuid().is_root() {
            // It will not have root in its sandbox; what it opens is ours.
            command.arg("--no-sandbox");
        }
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, messages) = channel();
        thread::spawn(move || {
            for message in read(output) {
                // Whoever waited may be gone.
                let _ = sender.send(message);
            }
        });
        let mut browser = Self {
            child,
            input,
            messages,
            last_id: 0,
            session: None,
            origin,
            seen: Seen::default(),
            directory,
        };
        browser.open();
        browser
    }

    /// One page, which tells what happens on it.
    fn open(&mut self) {
        let target = self.call("Target.createTarget", json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = self.call("Target.attachToTarget", attach)["sessionId"].as_str().unwrap().to_owned();
        let downloads = self.downloads().display().to_string();
        let behavior = json!({"behavior": "allow", "downloadPath": downloads, "eventsEnabled": true});
        self.call("Browser.setDownloadBehavior", behavior);
        self.session = Some(session);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
        self.call("Fetch.enable", json!({"handleAuthRequests": true, "patterns": [{"urlPattern": "*"}]}));
        self.resize(1280, 900, false);
    }

    /// Where downloads are put.
    pub(crate) fn downloads(&self) -> PathBuf {
        self.directory.path().join("downloads")
    }

    /// Goes to a place below the origin.
    pub(crate) fn visit(&mut self, path: &str) {
        let url = format!("{}{path}", self.origin.url);
        let gone = self.call("Page.navigate", json!({"url": url}));
        assert!(gone.get("errorText").is_none(), "{gone}");
    }

    pub(crate) fn resize(&mut self, width: u32, height: u32, is_phone: bool) {
        let scale = if is_phone { 2 } else { 1 };
        let metrics =
            json!({"width": width, "height": height, "deviceScaleFactor": scale, "mobile": is_phone});
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    pub(crate) fn prefer(&mut self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.call("Emulation.setEmulatedMedia", features);
    }

    /// What an expression of the page's own language comes to.
    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Looks until the expression comes to something that is true.
    pub(crate) fn wait_for(&mut self, what: &str, expression: &str) -> Value {
        self.wait(what, |browser| Some(browser.evaluate(expression)).filter(is_true))
    }

    /// Looks until there is something to see.
    pub(crate) fn wait<T>(&mut self, what: &str, mut look: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(seen) = look(self) {
                return seen;
            }
            if Instant::now() >= deadline {
                let page = self.evaluate("document.body.innerText");
                panic!("waited in vain for {what}: {:?}\n{}", self.seen, page.as_str().unwrap_or_default());
            }
            self.pass(LOOK_EVERY);
        }
    }

    /// A picture of the whole page, as a PNG at `path`, and how large that is.
    pub(crate) fn shoot(&mut self, path: &Path) -> (u32, u32) {
        let parameters = json!({"format": "png", "captureBeyondViewport": true});
        let picture = self.call("Page.captureScreenshot", parameters);
        let png = STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 10_000, "{} bytes", png.len());
        let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().unwrap());
        fs::write(path, &png).unwrap();
        (number(16), number(20))
    }

    /// Asks, and deals with what happens until the answer comes.
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        let id = self.send(method, parameters);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok(message) if message["id"] == id => {
                    assert!(message.get("error").is_none(), "{method}: {message}");
                    return message["result"].clone();
                }
                Ok(message) => self.note(&message),
                Err(error) => panic!("{method}: {error}: {}", self.log()),
            }
        }
    }

    /// Deals with what happens for this long.
    fn pass(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        loop {
            match self.messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(message) => self.note(&message),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => panic!("the browser has ended: {}", self.log()),
            }
        }
    }

    fn send(&mut self, method: &str, parameters: Value) -> u64 {
        self.last_id += 1;
        let mut message = json!({"id": self.last_id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message).unwrap();
        bytes.push(0);
        self.input.write_all(&bytes).unwrap_or_else(|error| panic!("{method}: {error}: {}", self.log()));
        self.last_id
    }

    fn note(&mut self, message: &Value) {
        let parameters = &message["params"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match message["method"].as_str().unwrap_or_default() {
            "Fetch.requestPaused" => {
                let url = text(&parameters["request"]["url"]);
                let id = json!({"requestId": parameters["requestId"]});
                if url.starts_with(&self.origin.url) {
                    self.send("Fetch.continueRequest", id);
                } else {
                    let refused =
                        json!({"requestId": parameters["requestId"], "errorReason": "AccessDenied"});
                    self.send("Fetch.failRequest", refused);
                }
                self.seen.requests.push(url);
            }
            "Fetch.authRequired" => {
                self.seen.challenges += 1;
                let Origin { user, password, .. } = &self.origin;
                let answer =
                    json!({"response": "ProvideCredentials", "username": user, "password": password});
                let answer = json!({"requestId": parameters["requestId"], "authChallengeResponse": answer});
                self.send("Fetch.continueWithAuth", answer);
            }
            "Runtime.exceptionThrown" => self.seen.complaints.push(parameters.to_string()),
            "Runtime.consoleAPICalled"
                if parameters["type"] == "error" || parameters["type"] == "warning" =>
            {
                self.seen.complaints.push(parameters.to_string());
            }
            "Log.entryAdded" if parameters["entry"]["level"] == "error" => {
                self.seen.complaints.push(parameters.to_string());
            }
            "Page.javascriptDialogOpening" => {
                self.seen.complaints.push(format!("a dialog: {parameters}"));
                self.send("Page.handleJavaScriptDialog", json!({"accept": false}));
            }
            "Browser.downloadProgress" if parameters["state"] == "completed" => self.seen.downloads += 1,
            _ => {}
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

/// As the page's own language has it.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_true) => *is_true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

fn read(output: ChildStdout) -> impl Iterator<Item = Value> {
    let messages = BufReader::new(output).split(0).map_while(Result::ok);
    messages.map(|message| serde_json::from_slice(&message).expect("messages are JSON"))
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It may have ended by itself; its other processes end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
