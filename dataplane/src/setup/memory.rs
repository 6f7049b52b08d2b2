//! Whether there is memory for what a snapshot asks, before it is taken: a machine that runs out of it
//! half way kills some process, and not always the one that asked.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::bail;
use dataplane::limits;
use dataplane_api::service::{Engine, Snapshot};

/// Bytes of one connection in table and index.
const CONNECTION: u64 = 84;

/// Compares what table and frames will take with what the kernel says is available. `table` is the
/// file that the new table replaces.
///
/// # Errors
/// If it is more, with what to change.
pub(super) fn check(snapshot: &Snapshot, table: &Path) -> anyhow::Result<()> {
    let replaced = fs::symlink_metadata(table).map_or(0, |m| m.blocks() * 512);
    match fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(available) {
        Some(available) => compare(snapshot, available + replaced),
        // A kernel that does not say lets us try.
        None => Ok(()),
    }
}

/// `MemAvailable` in bytes.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}

fn compare(snapshot: &Snapshot, available: u64) -> anyhow::Result<()> {
    let Engine { connections, frames, cores, .. } = &snapshot.engine;
    let table = u64::from(*connections) * CONNECTION;
    let devices = (cores.len() * snapshot.interfaces.len().max(1)) as u64;
    let frames = u64::from(*frames) * devices * limits::FRAME_SIZE as u64;
    if table + frames > available {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        bail!(
            "not enough memory: {connections} connections take {} MiB and the frames {} MiB, \
             {} MiB are available; lower engine.connections or engine.frames",
            mib(table),
            mib(frames),
            available >> 20
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_word_for_free_memory_is_understood() {
        let text = "MemTotal:       16384 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available(text), Some(2 << 20));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
    }
}
