//! Opens a scenario file. The only place of [`super`] that touches the world.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::{Errors, FILE_MAX};

/// Its text; `name` is the file in messages.
pub(super) fn read(path: &Path, name: &str) -> Result<String, Errors> {
    let bytes = bytes(path).map_err(|why| Errors::file(name, &why))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() + 1;
        Errors::file(name, &format!("line {line} is not UTF-8 (byte {at})"))
    })
}

fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    // Non-blocking, so that a FIFO put in the file's place cannot hold us.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let file = file.map_err(|e| format!("cannot open: {e}"))?;
    let metadata = file.metadata().map_err(|e| format!("cannot examine: {e}"))?;
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too long from one that just fits.
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|e| format!("cannot read: {e}"))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(format!("file is larger than {} MiB", FILE_MAX >> 20));
    }
    Ok(bytes)
}
