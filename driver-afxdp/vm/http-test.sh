#!/bin/bash
# Runs in the guest: an HTTP server on zero-copy AF_XDP sockets, fetched from by the peer's kernel. The server is
# whatever HTTP_SERVER says (a shell command that serves /tmp/www), reached at HTTP_URL; ZC_LINE is the regular
# expression of the line by which it reports, once a queue, that XDP_OPTIONS says zero-copy.
# shellcheck source=guest-lib.sh
. /test/lib.sh
: "${HTTP_SERVER:?}" "${HTTP_URL:?}" "${ZC_LINE:?}"

main() {
    mkdir -p /tmp/www
    dd if=/dev/urandom of=/tmp/www/blob bs=64k count=64 2>/dev/null
    echo hello >/tmp/www/small

    echo "http-test: $HTTP_SERVER"
    setsid bash -c "exec $HTTP_SERVER" >/tmp/server.log 2>&1 &
    server=$!
    trap 'echo "--- server:"; cat /tmp/server.log' EXIT
    wait_until 30 server_answers
    wait_until 10 server_reports_zero_copy
    wait_carrier
    echo "http-test: the kernel's list of zero-copy queues: $(zero_copy_queues | xargs)"
    [[ $(zero_copy_queues | wc -l) == "$ZC_QUEUES" ]] ||
        fail "of $ZC_QUEUES queues the kernel lists as zero-copy: $(zero_copy_queues | xargs)"

    fetch_and_compare "$HTTP_URL/blob" /tmp/www/blob
    echo "http-test: a file of 4 MiB arrived whole"
    many_connections
    server_leaves
}

server_answers() {
    kill -0 "$server" || fail "the server ended: $(tail -n 1 /tmp/server.log)"
    peer curl --silent --fail --globoff --max-time 2 --output /dev/null "$HTTP_URL/small"
}

server_reports_zero_copy() {
    [[ $(grep -cE "$ZC_LINE" /tmp/server.log) -ge $ZC_QUEUES ]]
}

# A connection of its own each: their source ports, and so their queues, differ.
many_connections() {
    local queue count before=()
    for ((queue = 0; queue < ZC_QUEUES; queue++)); do
        before[queue]=$(rx_packets "$queue")
    done
    for _ in {1..32}; do
        fetch_and_compare "$HTTP_URL/small" /tmp/www/small
    done
    for ((queue = 0; queue < ZC_QUEUES; queue++)); do
        count=$(($(rx_packets "$queue") - before[queue]))
        echo "http-test: queue $queue received $count packets of 32 connections"
        ((count > 0)) || fail "queue $queue received none of 32 connections"
    done
}

server_leaves() {
    kill -TERM "$server"
    wait_until 10 server_is_gone
    ! ip -d link show "$DUT" | grep -q 'prog/xdp' || fail "the XDP program is still attached after SIGTERM"
    wait_carrier
    wait_until 10 peer ping -c 1 -W 2 "$DUT_IP4"
}

server_is_gone() {
    ! kill -0 "$server"
}

main
