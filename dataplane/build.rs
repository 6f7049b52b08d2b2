//! Compiles the steering program for the BPF machine (`steer` embeds the object), and makes a `cfg` of the
//! feature `loom`.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    if env::var_os("CARGO_FEATURE_LOOM").is_some() {
        println!("cargo:rustc-cfg=loom");
    }
    match compile() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn compile() -> Result<(), String> {
    let variable = |name: &str| env::var(name).map_err(|_| format!("{name} is not set"));
    let object = PathBuf::from(variable("OUT_DIR")?).join("steer.bpf.o");
    // From libbpf-sys, which brings the headers of the libbpf that loads the object.
    let libbpf = variable("DEP_BPF_INCLUDE")?;
    // `asm/types.h` lies in the multi-arch directory on Debian and its kin.
    let multiarch = format!("/usr/include/{}-linux-gnu", variable("CARGO_CFG_TARGET_ARCH")?);
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(["-Ibpf", "-I", &libbpf, "-idirafter", &multiarch])
        .args(["-c", "bpf/steer.bpf.c", "-o"])
        .arg(&object)
        .status()
        .map_err(|error| {
            format!(
                "{clang}: {error}\nThe steering program is compiled with clang, 14 or newer: \
                 install it (Debian: apt-get install clang), or name one in CLANG."
            )
        })?;
    if status.success() { Ok(()) } else { Err(format!("{clang}: {status} (messages above)")) }
}
