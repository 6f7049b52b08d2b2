//! Compiles the programs of `bpf/` for the BPF machine; `bpf.rs` embeds the objects.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    match ["receive", "data"].into_iter().try_for_each(compile) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn compile(name: &str) -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|_| format!("{name} is not set"));
    let object = PathBuf::from(variable("OUT_DIR")?).join(format!("{name}.bpf.o"));
    // From libbpf-sys, which brings the headers of the libbpf that loads the object.
    let libbpf = variable("DEP_BPF_INCLUDE")?;
    // `asm/types.h` lies in the multi-arch directory on Debian and its kin.
    let multiarch = format!("/usr/include/{}-linux-gnu", variable("CARGO_CFG_TARGET_ARCH")?);
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(["-Ibpf", "-I", &libbpf, "-idirafter", &multiarch, "-c"])
        .arg(Path::new("bpf").join(format!("{name}.bpf.c")))
        .arg("-o")
        .arg(&object)
        .status()
        .map_err(|error| {
            format!(
                "{clang}: {error}\nThe programs in bpf/ are compiled with clang, 14 or newer: \
                 install it (Debian: apt-get install clang), or name one in CLANG."
            )
        })?;
    if status.success() { Ok(()) } else { Err(format!("{clang}: {status} (messages above)")) }
}
