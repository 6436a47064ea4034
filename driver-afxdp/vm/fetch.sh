#!/usr/bin/env bash
# Downloads what the zero-copy VM needs into a cache folder: qemu, busybox, ip, ethtool and curl for the host's
# own distribution, and one Debian backports kernel per NIC. Nothing is installed: a private apt root checks the
# archive's signatures, and the packages are only unpacked. A second call finds everything in place.
# Called by run.sh. Exit 77, with the reason as the only line on stdout, where something cannot be had.
set -euo pipefail

cache=${1:?usage: fetch.sh CACHE_DIR virtio|igb}
nic=${2:?usage: fetch.sh CACHE_DIR virtio|igb}

# The first suite whose kernels (>= 6.14) bind AF_XDP zero-copy for both directions on virtio_net and igb.
kernel_suite=trixie-backports

main() {
    cannot_without apt-get dpkg-deb flock timeout
    mkdir -p "$cache"
    cache=$(cd "$cache" && pwd)
    exec 9>"$cache/lock"
    flock 9

    fetch_kernel "$nic"
    fetch_tools
}

# --- the two downloads --------------------------------------------------------------------------------------------

fetch_kernel() {
    local dest=$cache/kernel-$1 meta packages
    case $1 in
        virtio) meta=linux-image-cloud-amd64 ;;  # 37 MB; has no igb
        igb) meta=linux-image-amd64 ;;           # 121 MB
    esac
    [[ ! -e $dest/complete ]] || return 0
    [[ $distribution == debian ]] || skip "only Debian's archive has $kernel_suite kernels; this machine runs $distribution"
    rm -rf "$dest"

    note "fetching the $kernel_suite kernel for $1 into $dest"
    private_apt kernel "$kernel_suite"
    # An empty status file: the kernel does not depend on what this machine has installed.
    : >"$apt_root/status"
    update_lists
    # The meta package names the version; image, binary and modules are separate packages in newer kernels.
    packages=$(apt-cache depends --recurse --important "$meta" |
        grep -E '^linux-(image|binary|modules)-[0-9]' | sort -u) ||
        skip "$kernel_suite has no kernel package that $meta leads to"
    # shellcheck disable=SC2086  # one word per package
    (cd "$apt_root/archives" && apt_logged "$meta" 900 apt-get download $packages)
    unpack_into "$dest"
}

fetch_tools() {
    local dest=$cache/tools target=() suites
    if [[ -e $dest/complete ]] && tools_run "$dest"; then
        return 0
    fi
    rm -rf "$dest"

    note "fetching qemu and the guest's tools into $dest"
    suites=("$codename" "$codename-updates" "$codename-security")
    if [[ $codename == bookworm ]]; then
        # bookworm's own qemu 7.2 has no igb.
        suites+=(bookworm-backports)
        target=(--target-release bookworm-backports)
    fi
    private_apt tools "${suites[@]}"
    # The machine's own status file (a copy, so that its lock stays free): what it has is not downloaded again.
    cp /var/lib/dpkg/status "$apt_root/status"
    update_lists
    apt_logged "the guest's tools" 600 apt-get install --download-only --yes --no-install-recommends \
        busybox-static iproute2 ethtool curl
    apt_logged qemu 900 apt-get install --download-only --yes --no-install-recommends "${target[@]}" qemu-system-x86
    unpack_into "$dest"
    tools_run "$dest" || skip "the downloaded qemu does not start: $(tail -n 1 "$cache/qemu-start.log")"
}

# A cached qemu stops working when a library it took from this machine is removed: then it is fetched again.
tools_run() {
    local qemu=$1/usr/bin/qemu-system-x86_64
    [[ -x $qemu ]] || qemu=$(command -v qemu-system-x86_64) || return 1
    LD_LIBRARY_PATH=$1/usr/lib/x86_64-linux-gnu:$1/lib/x86_64-linux-gnu "$qemu" --version >"$cache/qemu-start.log" 2>&1
}

# --- a private apt root -------------------------------------------------------------------------------------------

# private_apt NAME SUITE...: an apt root of its own, with the machine's mirror and proxy settings and nothing else
# of its configuration (no hooks, no third-party sources). Sets $apt_root and points every later apt call there.
private_apt() {
    local suite line
    apt_root=$cache/apt-$1
    shift
    rm -rf "$apt_root"
    mkdir -p "$apt_root/lists/partial" "$apt_root/archives/partial"
    for suite in "$@"; do
        line=$(source_line "$suite") || continue
        echo "$line" >>"$apt_root/sources.list"
    done
    [[ -s $apt_root/sources.list ]] || skip "the machine's apt sources name no archive for $*"
    {
        (unset APT_CONFIG && apt-config dump) | grep '^Acquire::' | grep -v '^Acquire::IndexTargets' || true
        cat <<CONF
Dir::State "$apt_root";
Dir::State::Lists "$apt_root/lists";
Dir::State::status "$apt_root/status";
Dir::Cache "$apt_root";
Dir::Cache::archives "$apt_root/archives";
Dir::Etc::Main "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::Etc::SourceList "$apt_root/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "1";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
CONF
    } >"$apt_root/apt.conf"
    export APT_CONFIG=$apt_root/apt.conf
}

# source_line SUITE: a sources.list line for SUITE from the archive that serves the machine's own suites. A suite
# that the machine has itself is taken from where the machine has it (security updates may live elsewhere).
source_line() {
    local uri
    uri=$(grep -m 1 "/dists/$1/" <<<"$machine_sources") ||
        uri=$(grep -m 1 "/dists/$codename/" <<<"$machine_sources") || return 1
    # Updates and security of a suite that the machine does not list itself are not invented.
    case $1 in
        *-updates | *-security) [[ $uri == */dists/$1/* ]] || return 1 ;;
    esac
    echo "deb ${signed_by}${uri%%/dists/*} $1 main${more_components}"
}

update_lists() {
    apt_logged "the package lists" 300 apt-get update
}

# apt_logged WHAT SECONDS COMMAND...: skips with apt's own last complaint when the command fails.
apt_logged() {
    local what=$1 seconds=$2 log=$apt_root/log complaint
    shift 2
    if ! timeout --kill-after=10 "$seconds" "$@" </dev/null >"$log" 2>&1; then
        complaint=$(grep -E -m 1 '^[EW]:' "$log") || complaint="no answer within $seconds s"
        skip "cannot download $what: $complaint"
    fi
}

# unpack_into DIR: every downloaded package, then the mark that DIR is whole. The packages are deleted: a kernel is
# large, and the cache is never looked at by apt again.
unpack_into() {
    local deb
    mkdir -p "$1"
    for deb in "$apt_root"/archives/*.deb; do
        [[ -e $deb ]] || continue
        nice dpkg-deb --extract "$deb" "$1"
    done
    rm -rf "$apt_root"
    touch "$1/complete"
}

# --- small things -------------------------------------------------------------------------------------------------

cannot_without() {
    local command
    for command in "$@"; do
        command -v "$command" >/dev/null || skip "this machine has no $command"
    done
    [[ $(uname -m) == x86_64 ]] || skip "this machine is no x86_64: its programs do not run in the VM"
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    distribution=$(. /etc/os-release && echo "${ID:-}")
    signed_by='' more_components=''
    case $distribution in
        debian)
            if [[ -e /usr/share/keyrings/debian-archive-keyring.gpg ]]; then
                signed_by='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] '
            fi
            ;;
        ubuntu) more_components=' universe' ;;
        *) skip "this machine runs neither Debian nor Ubuntu (ID=$distribution)" ;;
    esac
    # One line per suite the machine is configured for, e.g. ARCHIVE/dists/bookworm/InRelease.
    machine_sources=$(apt-get update --print-uris 2>/dev/null | cut -d "'" -f 2) || true
}

note() {
    echo "zero-copy VM: $*" >&2
}

skip() {
    echo "$*"
    exit 77
}

main
