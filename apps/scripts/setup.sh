#!/usr/bin/env bash
# Installs what is missing for the given purposes, says what, asks nothing, and is quick when all is there.
# usage: setup.sh build|test|demo|bench|fuzz|zerocopy...
# Debian 12 and 13, Ubuntu 24.04 and later. Root, or sudo for the packages; Rust goes to the calling user.
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
            echo ca-certificates # for cargo's and rustup's downloads
            # <asm/types.h> where the XDP program's compiler looks for it; other architectures need no second C library.
            [[ $(uname -m) != x86_64 ]] || echo gcc-multilib
            ;;
        test)
            # The assertions of packetdrill scripts. packetdrill itself is no Debian package: a runner of our own stands in.
            # With all features, as they are linted and tested, the benchmarks have lwIP as a rival.
            echo python3 liblwip-dev
            # Only tests that run as root use these.
            ((EUID != 0)) || echo iproute2 ethtool iputils-ping curl wrk tcpdump tshark dnsmasq-base conntrack nftables
            ;;
        demo) echo iproute2 curl wrk ;;
        fuzz) echo g++ ;; # libFuzzer is C++
        bench) echo iproute2 ethtool util-linux wrk iperf3 dpkg valgrind liblwip-dev ;;
        zerocopy) ;;
        *) fail "unknown purpose '$purpose': use build, test, demo, bench, fuzz or zerocopy" ;;
        esac
    done
}

can_be_root() { ((EUID == 0)) || command -v sudo >/dev/null; }

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        sudo "$@"
    fi
}

# Installs Debian packages without a question: a debconf dialogue, Ubuntu's list of services to restart, a lock that
# unattended-upgrades holds for a minute. Never removes a package for it.
apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends --no-remove "$@" >&2
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
    can_be_root ||
        fail "packages are missing, and there is no sudo; as root: apt-get install --no-install-recommends ${missing[*]}"
    say "installing packages: ${missing[*]}"
    as_root apt-get -o DPkg::Lock::Timeout=120 update -qq || say "apt-get update failed: trying with the lists that are there"
    apt_install "${missing[@]}" || fail "apt-get could not install ${missing[*]}: see its message above"
}

# The Rust release that the workspace asks for, such as 1.91.
rust_wanted() { sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml; }

rust_is_new_enough() {
    local have
    have=$(rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9.]*\).*/\1/p')
    [[ -n $have && $(printf '%s\n' "$(rust_wanted)" "$have" | sort -V | head -n 1) == "$(rust_wanted)" ]] &&
        command -v cargo >/dev/null
}

no_rust() {
    say "$1"
    say "Rust $(rust_wanted) or later is needed. Get it in one of these ways, then run the same command again:"
    say "- with rustup (https://rustup.rs): rustup toolchain install stable --profile minimal --component rustfmt,clippy && rustup default stable"
    say "- any other way that puts cargo and rustc (and for \`make test\` cargo-fmt and cargo-clippy) into PATH"
    exit 1
}

install_rust() {
    export PATH=$HOME/.cargo/bin:$PATH
    if rust_is_new_enough; then
        return
    fi
    command -v rustup >/dev/null || install_rustup
    say "installing Rust's stable toolchain ($(rust_wanted) or later is needed)"
    rustup toolchain install stable --profile minimal --component rustfmt,clippy >&2 ||
        no_rust "rustup could not install the stable toolchain: see its message above"
    rust_is_new_enough || { say "making it the default toolchain" && rustup default stable >&2; } || true
    rust_is_new_enough ||
        no_rust "Rust is still older: $(rustc --version 2>&1); a rust-toolchain file, RUSTUP_TOOLCHAIN or another rustc in PATH may be first"
}

# Debian's rustup where there is one and no Rust of Debian's that it would displace, else rustup's own installer.
install_rustup() {
    if can_be_root && [[ $(apt-cache policy rustup 2>/dev/null) == *'Candidate: '[0-9]* ]]; then
        say "installing package: rustup"
        apt_install rustup && return
    fi
    if ! command -v curl >/dev/null; then
        say "installing package: curl"
        { can_be_root && apt_install curl; } || no_rust "curl cannot be installed"
    fi
    say "installing rustup from https://rustup.rs into $HOME/.cargo"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
        sh -s -- -y --quiet --no-modify-path --profile minimal --default-toolchain none >&2 ||
        no_rust "rustup's installer failed: see its message above"
}

install_components() {
    local component
    for component in fmt clippy; do
        cargo "$component" --version >/dev/null 2>&1 && continue
        command -v rustup >/dev/null || no_rust "cargo $component is missing, and there is no rustup to add it"
        say "adding cargo $component"
        rustup component add "${component/fmt/rustfmt}" >&2 || fail "rustup could not add $component"
    done
}

install_fuzzer() {
    command -v rustup >/dev/null ||
        fail "cargo-fuzz needs Rust's nightly toolchain beside the stable one: install rustup (https://rustup.rs) first"
    rustup toolchain list 2>/dev/null | grep -q '^nightly' || {
        say "installing Rust's nightly toolchain, which cargo-fuzz needs"
        rustup toolchain install nightly --profile minimal >&2 || fail "rustup could not install the nightly toolchain"
    }
    command -v cargo-fuzz >/dev/null || {
        say "installing cargo-fuzz"
        cargo install --quiet --locked cargo-fuzz >&2 || fail "cargo could not install cargo-fuzz"
    }
}

# Counts instructions under callgrind; of the version of the crate that the benchmarks use.
install_gungraun_runner() {
    local wanted
    wanted=$(sed -n 's/^gungraun = "=\(.*\)"/\1/p' benches/Cargo.toml)
    [[ $(gungraun-runner --version 2>/dev/null) != *" $wanted" ]] || return 0
    say "installing gungraun-runner $wanted"
    cargo install --quiet --locked --version "$wanted" gungraun-runner >&2 || fail "cargo could not install gungraun-runner"
}

# nginx, unpacked below the target directory and not installed: as a package it would start to serve this machine's port 80.
# Without it the benchmarks do without. Its libraries come with curl and libselinux.
unpack_nginx() {
    local directory=target/bench-nginx
    if command -v nginx >/dev/null || [[ -x $directory/usr/sbin/nginx ]]; then
        return
    fi
    say "unpacking nginx into $directory"
    mkdir -p "$directory"
    (cd "$directory" && apt-get -qq -o APT::Sandbox::User=root download nginx && dpkg-deb --extract ./nginx_*.deb .) >&2 ||
        say "nginx cannot be had (apt-get download nginx): benchmarks go without"
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
        bench)
            unpack_nginx
            install_gungraun_runner
            ;;
        esac
    done
}

main "$@"
