#!/bin/bash
# The guest's /init: mounts, loads the NICs' drivers, names the device under test `dut`, moves the other NIC into the
# namespace `peer`, runs every script of /test/order and prints the result line that run.sh judges:
# `ZC-RESULT: PASS` or `ZC-RESULT: FAIL reason`. What the scripts may rely on is in guest-lib.sh and in run.sh --help.
set -euo pipefail

export PATH=/test/bin:/bin HOME=/root TERM=dumb
reason='the guest did not come up'

main() {
    mount_all
    # shellcheck disable=SC1091  # written by initramfs.sh
    set -a && . /test/env && set +a
    # shellcheck source=guest-lib.sh
    . /test/lib.sh
    load_modules
    name_nics
    [[ $ZC_NIC != igb ]] || two_queues
    echo "guest: Linux $(uname -r), $ZC_NIC, up after $(cut -d ' ' -f 1 /proc/uptime) s"

    reason=
    local script
    while read -r script; do
        run_script "$script" || true
    done </test/order
}

mount_all() {
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    # The kernel may have mounted /dev itself.
    mount -t devtmpfs dev /dev 2>/dev/null || true
    mkdir -p /dev/shm /dev/pts
    mount -t tmpfs tmpfs /dev/shm
    mount -t devpts devpts /dev/pts
    mount -t tmpfs tmpfs /tmp
    mount -t tmpfs tmpfs /run
    mkdir -p /run/netns
    mount -t bpf bpf /sys/fs/bpf
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null || true
    ulimit -l unlimited -n 65536
}

load_modules() {
    local module
    while read -r module; do
        insmod "/lib/modules/$module.ko" || echo "guest: $module.ko did not load"
    done </lib/modules/order
}

# The NICs are told apart by the addresses that run.sh gave them.
name_nics() {
    ip link set lo up
    wire dut 01 "$DUT_IP4" "$DUT_IP6" peer 02 "$PEER_IP4" "$PEER_IP6"
    ((ZC_WIRES == 1)) || wire "$DUT2" 03 10.78.0.1 fd78::1 peer2 04 "$PEER2_IP4" "$PEER2_IP6"
}

# wire DUT LAST_BYTE IP4 IP6 PEER LAST_BYTE IP4 IP6: names the two NICs, gives them their addresses, puts the second into a
# namespace of its name.
wire() {
    local dut=$1 peer=$5
    wait_until 20 interface_with "02:00:00:00:00:$2"
    wait_until 20 interface_with "02:00:00:00:00:$6"
    ip link set "$(interface_with "02:00:00:00:00:$2")" name "$dut"
    ip netns add "$peer"
    ip link set "$(interface_with "02:00:00:00:00:$6")" netns "$peer" name "$peer"
    echo 0 >"/proc/sys/net/ipv6/conf/$dut/accept_dad"
    ip netns exec "$peer" bash -c "echo 0 >/proc/sys/net/ipv6/conf/$peer/accept_dad; ip link set lo up"
    ip addr add "$3/24" dev "$dut"
    ip addr add "$4/64" dev "$dut" nodad
    ip -n "$peer" addr add "$7/24" dev "$peer"
    ip -n "$peer" addr add "$8/64" dev "$peer" nodad
    ip link set "$dut" up
    ip -n "$peer" link set "$peer" up
    wait_carrier "$dut"
}

interface_with() {
    local path
    for path in /sys/class/net/*; do
        if [[ $(cat "$path/address") == "$1" ]]; then
            basename "$path"
            return 0
        fi
    done
    return 1
}

# With fewer than 5 vectors this NIC's receive side never starts in qemu; RSS then spreads over queues 0 and 1 only.
two_queues() {
    local nic
    for nic in dut $( ((ZC_WIRES == 1)) || echo "$DUT2"); do
        ethtool -L "$nic" combined 5
        wait_carrier "$nic"
        ethtool -X "$nic" equal 2
    done
}

run_script() {
    local begun=$SECONDS code=0 left=$((ZC_SECONDS - SECONDS)) why
    ((left > 0)) || left=1
    echo "ZC-TEST: $1: starts"
    rm -f /run/fail-reason
    timeout -k 5 "$left" "/test/scripts/$1" </dev/null 2>&1 || code=$?
    ((code == 0)) || diagnose
    leave_nothing
    if ((code == 0)); then
        echo "ZC-TEST: $1: ok ($((SECONDS - begun)) s)"
        return 0
    fi
    why=$(cat /run/fail-reason 2>/dev/null) || why="exit code $code"
    # busybox's timeout sends SIGTERM, then SIGKILL.
    case $code in 137 | 143) why="no end within $left s" ;; esac
    echo "ZC-TEST: $1: FAILED: $why"
    reason="${reason:+$reason; }$1: $why"
    return 1
}

# The next script finds the guest as the first one did. To process 1, -1 is everybody else.
leave_nothing() {
    kill -KILL -1 2>/dev/null || true
    rm -rf /tmp/* /tmp/.[!.]*
}

# What one would otherwise have to boot again for.
diagnose() {
    echo "--- guest: links"
    ip -s -d link show dut
    peer ip -s link show peer
    ((ZC_WIRES == 1)) || { ip -s -d link show "$DUT2" && peer2 ip -s link show peer2; }
    echo "--- guest: dut's counters that are not 0"
    ethtool -S dut | grep -v ': 0$' || true
    echo "--- guest: last kernel messages"
    dmesg | tail -n 30
}

# Also reached when a step of init itself fails.
finish() {
    local line='ZC-RESULT: PASS'
    [[ -z $reason ]] || line="ZC-RESULT: FAIL ${reason//[$'\n\r']/ }"
    dmesg -n 1 || true
    printf '\n%s\n' "$line"
    sync
    reboot -f
}
trap finish EXIT

main
