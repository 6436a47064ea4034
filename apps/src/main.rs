//! `bywash`: TCP/IP in user space over AF_XDP.

fn main() -> std::process::ExitCode {
    bywash_apps::run(std::env::args_os().collect())
}
