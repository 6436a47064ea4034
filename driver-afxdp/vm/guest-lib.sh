# shellcheck shell=bash
# What a test script in the guest starts with: `. /test/lib.sh`. Names and addresses of the two ends, and the few
# verbs every test needs: fail with a reason, act as the peer, wait for a condition, fetch a file and compare it.
set -euo pipefail

# The device under test is in the guest's first namespace; the peer, a plain kernel NIC, is alone in `peer`.
# The guest's kernel holds the `dut` addresses too; the `free` ones belong to nobody, for the stack to take.
DUT=dut
DUT_IP4=10.77.0.1 DUT_IP6=fd77::1
FREE_IP4=10.77.0.10 FREE_IP6=fd77::10
PEER_IP4=10.77.0.2 PEER_IP6=fd77::2
export DUT DUT_IP4 DUT_IP6 FREE_IP4 FREE_IP6 PEER_IP4 PEER_IP6
# With two wires, the second one's: its peer is alone in `peer2`.
DUT2=dut2
FREE2_IP4=10.78.0.10 FREE2_IP6=fd78::10
PEER2_IP4=10.78.0.2 PEER2_IP6=fd78::2
export DUT2 FREE2_IP4 FREE2_IP6 PEER2_IP4 PEER2_IP6

# fail REASON: ends the script; REASON stands in the run's result.
fail() {
    echo "$*" >/run/fail-reason
    exit 1
}

# peer COMMAND...: run on the other end of the wire.
peer() {
    ip netns exec peer "$@"
}

# peer2 COMMAND...: run on the other end of the second wire.
peer2() {
    ip netns exec peer2 "$@"
}

# wait_until SECONDS COMMAND...: until COMMAND succeeds, else fails naming it.
wait_until() {
    local seconds=$1 end
    shift
    end=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || fail "not within $seconds s: $*"
        sleep 0.2
    done
}

# wait_carrier [NIC]: igb drops its link for up to 2 s whenever a socket or a program is attached or detached.
wait_carrier() {
    wait_until 20 grep -qx 1 "/sys/class/net/${1:-$DUT}/carrier"
}

# zero_copy_queues [NIC]: the queues of the device under test with a socket whose UMEM is bound zero-copy, one a line. The
# kernel's word (sock_diag), a witness beside the XDP_OPTIONS a program reads back. With one UMEM shared by all queues
# it tells of the UMEM, and only XDP_OPTIONS of each socket.
zero_copy_queues() {
    ss --xdp --all --extended --no-header |
        awk -v nic="${1:-$DUT}:q" '/^[A-Z]/ { queue = index($4, nic) == 1 ? substr($4, length(nic) + 1) : "" }
            queue != "" && /umem\(.*zc:1[,)]/ { print queue }' | sort -un
}

# rx_packets QUEUE: igb: packets received on one queue; virtio: those that an XDP program saw, 0 without a program.
rx_packets() {
    ethtool -S "$DUT" | sed -n -e "s/^ *rx_queue_$1_packets: //p" -e "s/^ *rx$1_xdp_packets: //p"
}

# fetch_and_compare URL FILE [CURL_OPTION...]: the peer's kernel fetches URL; the bytes must be those of FILE.
fetch_and_compare() {
    local url=$1 file=$2 want got
    shift 2
    peer curl --silent --show-error --fail --globoff --max-time 120 "$@" --output /tmp/fetched "$url" ||
        fail "curl could not fetch $url"
    want=$(sha256sum <"$file")
    got=$(sha256sum </tmp/fetched)
    [[ $want == "$got" ]] || fail "$url: $(stat -c %s /tmp/fetched) bytes that are not those of $file"
    rm /tmp/fetched
}
