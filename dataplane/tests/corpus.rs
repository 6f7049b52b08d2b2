//! Replays the committed fuzz corpus through the checks of the fuzz targets, without a fuzzer.
//!
//! An input that once broke a target goes into `fuzz/corpus/<target>/` and stays mended.
#![allow(unreachable_pub)] // a target is a module here, and a crate where it is fuzzed

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[path = "../fuzz/fuzz_targets/forward.rs"]
mod forward;
#[path = "../fuzz/fuzz_targets/neighbor.rs"]
mod neighbor;
#[path = "../fuzz/fuzz_targets/packet.rs"]
mod packet;

/// What a target does with one input.
type Check = fn(&[u8]);

/// Every file in `fuzz/fuzz_targets/`.
const TARGETS: &[(&str, Check)] =
    &[("forward", forward::check), ("neighbor", neighbor::check), ("packet", packet::check)];

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The files of a directory, in order.
fn files(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.expect("a readable directory").path()).collect()
}

#[test]
fn every_committed_input_keeps_the_promises_of_its_target() {
    for (name, check) in TARGETS {
        let inputs = files(&fuzz().join("corpus").join(name));
        assert!(inputs.len() >= 4, "{name} has too few seeds");
        for path in inputs {
            // Shown by the test runner only if the check fails: which input it was.
            println!("{}", path.display());
            check(&std::fs::read(&path).unwrap());
        }
    }
}

#[test]
fn every_fuzz_target_is_built_and_replayed() {
    let manifest = std::fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let on_disk: BTreeSet<_> = files(&fuzz().join("fuzz_targets")).into_iter().map(stem).collect();
    let replayed: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(on_disk, replayed);
    for name in on_disk {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "{name} has no [[bin]]");
    }
}
