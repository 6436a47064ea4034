//! Compiles the XDP program with clang; the library embeds the object (`src/program.rs`).

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "bpf/steer.bpf.c";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-env-changed=CLANG");
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("steer.bpf.o");
    let headers = env::var_os("DEP_BPF_INCLUDE").expect("libbpf-sys says where its headers are");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target architecture");
    let clang = env::var_os("CLANG").unwrap_or_else(|| "clang".into());
    let status = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror"])
        .args(["-Wno-unused-parameter", "-Wno-gnu-variable-sized-type-not-at-end"])
        .arg("-I")
        .arg(headers)
        // Debian and Ubuntu keep <asm/types.h> in the architecture's own folder.
        .arg(format!("-idirafter/usr/include/{arch}-linux-gnu"))
        .arg("-c")
        .arg(SOURCE)
        .arg("-o")
        .arg(&object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("{} could not compile {SOURCE} ({status})", clang.to_string_lossy()),
        Err(error) => panic!(
            "cannot run {} ({error}): install clang, or set CLANG to the path of one that has the bpf target",
            clang.to_string_lossy()
        ),
    }
}
