//! The programs of `examples/`, made ready to be run by tests: built as their pages say, with what they need in the target
//! directory.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{setup, sh};

const INTERFACES: &str = "proto";
const INTERFACE: &str = "xdpfs/object/v1/object.proto";
/// Where the Go example imports the generated package from.
const GO_PACKAGE: &str = "xdpfs.dev/object/xdpfs/object/v1";
/// Where Debian has libraries for Go.
const GO_LIBRARIES: &str = "/usr/share/gocode";

/// Makes all of them ready.
pub(crate) fn prepare() -> anyhow::Result<()> {
    setup::for_examples()?;
    python()?;
    go()?;
    typescript()
}

/// An environment with the packages that the example asks for, and the stubs beside it.
fn python() -> anyhow::Result<()> {
    let (environment, stubs) = (directory("python")?, directory("python-stubs")?);
    let python = environment.join("bin/python");
    let python = text(&python)?;
    let has_all = ["-c", "import google_crc32c, grpc, grpc_status, grpc_tools"];
    if !sh::succeeds(&[&[python], &has_all[..]].concat()) {
        sh::run(&["python3", "-m", "venv", text(&environment)?])?;
        let requirements = "examples/python-grpc/requirements.txt";
        sh::run(&[python, "-m", "pip", "install", "--quiet", "--requirement", requirements])?;
    }
    let (messages, services) =
        (format!("--python_out={}", text(&stubs)?), format!("--grpc_python_out={}", text(&stubs)?));
    sh::run(&[python, "-m", "grpc_tools.protoc", "-I", INTERFACES, &messages, &services, INTERFACE])
}

/// The program, by Debian's libraries, which are made for the time before there were modules.
fn go() -> anyhow::Result<()> {
    let path = directory("go")?;
    let source = path.join("src").join("xdpfs.dev/object");
    fs::create_dir_all(&source).with_context(|| format!("cannot make {}", source.display()))?;
    let out = |plugin: &str| -> anyhow::Result<[String; 3]> {
        Ok([
            format!("--{plugin}_out={}", text(&source)?),
            format!("--{plugin}_opt=paths=source_relative"),
            format!("--{plugin}_opt=M{INTERFACE}={GO_PACKAGE}"),
        ])
    };
    let options = [out("go")?, out("go-grpc")?].concat();
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    sh::run(&[&["protoc", "-I", INTERFACES], &options[..], &[INTERFACE]].concat())?;
    let go_path = format!("{}:{GO_LIBRARIES}", text(&path)?);
    let program = path.join("objects");
    let build = ["go", "build", "-o", text(&program)?, "examples/go/objects.go"];
    sh::run_with(&build, &[("GO111MODULE", "off"), ("GOPATH", &go_path), ("GOFLAGS", "")])
}

/// The compiled program, beside its packages.
fn typescript() -> anyhow::Result<()> {
    let directory = directory("typescript")?;
    for file in ["package.json", "tsconfig.json", "objects.ts"] {
        let from = sh::root().join("examples/typescript").join(file);
        fs::copy(&from, directory.join(file)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    let place = text(&directory)?;
    let compiler = directory.join("node_modules/.bin/tsc");
    if !compiler.exists() {
        sh::run(&["npm", "install", "--prefix", place, "--no-audit", "--no-fund", "--silent"])?;
    }
    sh::run(&[text(&compiler)?, "--project", place])
}

/// A place of an example's, where its test looks for it.
fn directory(name: &str) -> anyhow::Result<PathBuf> {
    let directory = sh::target_dir("examples-of-sdks").join(name);
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the path of the target directory is not text")
}
