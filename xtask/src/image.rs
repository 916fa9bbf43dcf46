//! The container image: static binaries, and nothing else.
//!
//! Invariant: what is in the image was built here, in a target directory of its own, so that no other build is disturbed.

use std::{
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use crate::{ebpf, setup, sh};

/// What the image is called, also in deploy/compose.yaml.
pub(crate) const TAG: &str = "xdpfs:latest";

const PROFILE: &str = "image";
const BINARIES: &[&str] = &["xdpfs-meta-server", "xdpfs-data-node", "xdpfs-gateway", "xdpfs-cli"];
/// Places of volumes and sockets. A volume takes over whose its place is, so they must be there.
const PLACES: &[&str] = &[
    "var/lib/xdpfs/meta",
    "var/lib/xdpfs/nodes",
    "run/xdpfs",
    "keys",
    "tls/meta-1",
    "tls/meta-2",
    "tls/meta-3",
    "tls/node",
];

/// Builds it for the engine that the environment names.
pub(crate) fn build(tag: &str) -> anyhow::Result<()> {
    setup::required()?;
    pack(&binaries()?, tag, &[])
}

/// Makes the image of `binaries`, with more environment, such as the engine's address.
pub(crate) fn pack(binaries: &Path, tag: &str, env: &[(&str, &str)]) -> anyhow::Result<()> {
    let context = lay_out(binaries)?;
    let context = context.to_str().context("the path of the target directory is not text")?;
    sh::run_with(&["docker", "build", "--file", "deploy/Dockerfile", "--tag", tag, context], env)
}

/// Builds the binaries; where they are. They run on any host of this architecture.
pub(crate) fn binaries() -> anyhow::Result<PathBuf> {
    let target = format!("{ARCH}-unknown-linux-gnu");
    let dir = directory();
    let dir_text = dir.to_str().context("the path of the target directory is not text")?;
    let mut words = vec!["cargo", "build", "--locked", "--profile", PROFILE];
    // With a target named, the flags are for the binaries only, and not for macros and build scripts.
    words.extend(["--target", &target, "--target-dir", dir_text]);
    words.extend(BINARIES.iter().flat_map(|binary| ["-p", binary]));
    let object = ebpf::built_object();
    let object = object.as_deref().and_then(Path::to_str);
    if object.is_none() {
        eprintln!(
            "without the kernel program, which `cargo xtask build-ebpf` makes: edges will work in user space"
        );
    }
    let mut env = vec![("RUSTFLAGS", "-C target-feature=+crt-static")];
    env.extend(object.map(|object| ("XDPFS_EBPF_OBJECT", object)));
    sh::run_with(&words, &env)?;
    Ok(dir.join(target).join(PROFILE))
}

/// The command line tool among `binaries`.
pub(crate) fn cli(binaries: &Path) -> PathBuf {
    binaries.join("xdpfs-cli")
}

/// Makes the directory that the image is built from.
fn lay_out(binaries: &Path) -> anyhow::Result<PathBuf> {
    let context = directory().join("context");
    let root = context.join("root");
    if context.exists() {
        fs::remove_dir_all(&context).with_context(|| format!("cannot remove {}", context.display()))?;
    }
    for place in PLACES {
        fs::create_dir_all(root.join(place))
            .with_context(|| format!("cannot make {place} in {}", root.display()))?;
    }
    for binary in BINARIES {
        fs::copy(binaries.join(binary), root.join(binary))
            .with_context(|| format!("cannot copy {binary}"))?;
    }
    Ok(context)
}

fn directory() -> PathBuf {
    sh::target_dir("image")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_images_have_the_places_of_volumes() {
        let file = fs::read_to_string(sh::root().join("deploy/Dockerfile.multistage")).expect("it is there");
        let words: Vec<_> = file.split([' ', ';', '\n']).collect();
        for place in PLACES {
            assert!(words.contains(place), "deploy/Dockerfile.multistage makes no {place}");
        }
    }
}
