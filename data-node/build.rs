//! Embeds the kernel program, if it was built before: `cargo xtask build-ebpf` does, and nothing else is needed.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Names the object file, if it isn't where `cargo xtask build-ebpf` leaves it.
const OBJECT_VARIABLE: &str = "XDPFS_EBPF_OBJECT";
const TARGET_VARIABLE: &str = "CARGO_TARGET_DIR";
const OBJECT: &str = "xdpfs-ebpf.o";

fn main() -> io::Result<()> {
    println!("cargo::rustc-check-cfg=cfg(xdp_object)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OBJECT_VARIABLE}");
    println!("cargo::rerun-if-env-changed={TARGET_VARIABLE}");
    if env::var_os("CARGO_FEATURE_XDP").is_none() {
        return Ok(());
    }
    let object = match env::var_os(OBJECT_VARIABLE) {
        Some(named) => named.into(),
        None => usual_object()?,
    };
    // Cargo takes a file that isn't there for one that has changed, and would build anew every time; so until it is
    // there, its directory is watched.
    let watched = if object.is_file() { Some(object.as_path()) } else { object.parent() };
    println!("cargo::rerun-if-changed={}", watched.unwrap_or(&object).display());
    if object.is_file() {
        let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
        fs::copy(&object, out.join(OBJECT))?;
        println!("cargo::rustc-cfg=xdp_object");
    } else if env::var_os(OBJECT_VARIABLE).is_some() {
        println!("cargo::error={OBJECT_VARIABLE} names {}, which is not a file", object.display());
    }
    Ok(())
}

fn usual_object() -> io::Result<PathBuf> {
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let root = manifest_dir.parent().map(Path::to_owned).unwrap_or_default();
    let target = root.join(env::var_os(TARGET_VARIABLE).unwrap_or_else(|| "target".into()));
    let directory = target.join("bpf");
    fs::create_dir_all(&directory)?;
    Ok(directory.join(OBJECT))
}
