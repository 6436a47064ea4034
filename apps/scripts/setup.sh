#!/usr/bin/env bash
# Installs what is missing for the given purposes, says what, asks nothing, and is quick when all is there.
# usage: setup.sh build|test|demo|bench|fuzz|zerocopy...
# Debian 12 and 13, Ubuntu 22.04 and later. Root, or sudo for the packages; Rust goes to the calling user.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

say() { echo "setup: $*" >&2; }
fail() {
    say "$*"
    exit 1
}

# Debian packages of each purpose. The C ones are for libbpf and libxdp, which the driver links, and for its XDP program.
packages() {
    local purpose
    for purpose in "$@"; do
        case $purpose in
        build)
            echo clang llvm libclang-dev libelf-dev zlib1g-dev m4 make gcc libc6-dev linux-libc-dev pkg-config
            # <asm/types.h> where the XDP program's compiler looks for it; other architectures need no second C library.
            [[ $(uname -m) != x86_64 ]] || echo gcc-multilib
            ;;
        test) echo iproute2 ethtool iputils-ping curl wrk tcpdump tshark dnsmasq-base ;;
        demo) echo iproute2 curl wrk ;;
        bench) echo iproute2 ethtool curl wrk iperf3 nginx-light ;;
        zerocopy | fuzz) ;;
        *) fail "unknown purpose '$purpose': use build, test, demo, bench, fuzz or zerocopy" ;;
        esac
    done
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root, and there is no sudo: run as root: $*"
    fi
}

install_packages() {
    local wanted missing=() name
    if ! command -v apt-get >/dev/null; then
        say "no apt-get here: nothing is installed; what Debian calls $(packages "$@" | xargs) is needed"
        return
    fi
    wanted=$(packages "$@" | xargs -n 1 | sort -u)
    for name in $wanted; do
        [[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || missing+=("$name")
    done
    ((${#missing[@]})) || return 0
    say "installing packages: ${missing[*]}"
    as_root apt-get update -qq || say "apt-get update failed: trying with the lists that are there"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 ||
        fail "apt-get could not install ${missing[*]}: see its message above"
}

# The Rust release that the workspace asks for, such as 1.91.
rust_wanted() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

rust_is_new_enough() {
    local have
    have=$(rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p')
    [[ -n $have && $(printf '%s\n' "$(rust_wanted)" "$have" | sort -V | head -n 1) == "$(rust_wanted)" ]] &&
        command -v cargo >/dev/null
}

install_rust() {
    export PATH=$HOME/.cargo/bin:$PATH
    if rust_is_new_enough; then
        return
    fi
    if ! command -v rustup >/dev/null; then
        if command -v apt-cache >/dev/null && apt-cache show rustup >/dev/null 2>&1; then
            say "installing package: rustup"
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq rustup >&2 || fail "apt-get could not install rustup"
        else
            command -v curl >/dev/null || as_root apt-get install -y -qq curl ca-certificates >&2
            say "installing rustup from https://rustup.rs into $HOME/.cargo"
            curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
                sh -s -- -y --quiet --no-modify-path --profile minimal --default-toolchain none >&2 ||
                fail "rustup's installer failed: install Rust $(rust_wanted) or later yourself, then try again"
        fi
    fi
    say "installing Rust's stable toolchain ($(rust_wanted) or later is needed)"
    rustup toolchain install stable --profile minimal --component rustfmt,clippy >&2 ||
        fail "rustup could not install the stable toolchain"
    rustup default stable >&2
    rust_is_new_enough || fail "Rust is older than $(rust_wanted): $(rustc --version 2>&1); a rust-toolchain file or RUSTUP_TOOLCHAIN may pin it"
}

install_components() {
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        command -v rustup >/dev/null || fail "cargo $component is missing, and there is no rustup to add it"
        say "adding cargo $component"
        rustup component add "${component/fmt/rustfmt}" >&2 || fail "rustup could not add $component"
    done
}

install_fuzzer() {
    rustup toolchain list 2>/dev/null | grep -q '^nightly' || {
        say "installing Rust's nightly toolchain, which cargo-fuzz needs"
        rustup toolchain install nightly --profile minimal >&2 || fail "rustup could not install the nightly toolchain"
    }
    command -v cargo-fuzz >/dev/null || {
        say "installing cargo-fuzz"
        cargo install --quiet --locked cargo-fuzz >&2 || fail "cargo could not install cargo-fuzz"
    }
}

main() {
    (($#)) || fail "say for what: build, test, demo, bench, fuzz or zerocopy"
    install_packages "$@"
    local purpose
    for purpose in "$@"; do
        case $purpose in
        build) install_rust ;;
        test) install_components ;;
        fuzz) install_fuzzer ;;
        esac
    done
}

main "$@"
