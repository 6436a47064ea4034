#!/usr/bin/env bash
# Bywash in a minute: two network namespaces joined by a veth pair, `bywash http` over AF_XDP in one, the kernel's curl
# and wrk in the other. Everything it makes has a name of its own and is removed again, also after Ctrl-C.
# usage: demo.sh            installs what is missing, builds, and runs the rest as root
#        demo.sh run FILE   runs with this `bywash`, as root
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PATH=$HOME/.cargo/bin:$PATH

# Addresses that RFC 5737 and RFC 3849 keep for documentation: no real network has them.
readonly server4=192.0.2.10 server6=2001:db8::10 client4=192.0.2.1 client6=2001:db8::1
readonly file_mib=100 load_seconds=3 load_connections=64 idle_seconds=5

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() {
    echo "demo: $*" >&2
    exit 1
}

build_and_run() {
    apps/scripts/setup.sh build demo
    say "Building bywash (release)"
    cargo build --release --quiet --package bywash-apps
    local target
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    if ((EUID == 0)); then
        exec "$0" run "$target/release/bywash"
    fi
    command -v sudo >/dev/null || fail "network namespaces and AF_XDP need root, and there is no sudo: run as root"
    say "Network namespaces and AF_XDP need root: sudo"
    exec sudo "$0" run "$target/release/bywash"
}

# ---- what is made, and removed in clean_up
ns_server=bywash-demo-$$-server ns_client=bywash-demo-$$-client
nic=bwd$$s peer=bwd$$c
work='' server=''

clean_up() {
    trap '' INT TERM
    [[ -z $server ]] || { kill -KILL "$server" 2>/dev/null && wait "$server" 2>/dev/null; } || true
    ip netns del "$ns_server" 2>/dev/null || true
    ip netns del "$ns_client" 2>/dev/null || true
    [[ -z $work ]] || rm -rf "$work"
}

make_network() {
    local queues each
    queues=$(($(nproc) > 1 ? 2 : 1))
    each="numrxqueues $queues numtxqueues $queues"
    ip netns add "$ns_server" || fail "cannot make a network namespace (in a container: it needs CAP_SYS_ADMIN and CAP_NET_ADMIN)"
    ip netns add "$ns_client"
    # shellcheck disable=SC2086
    ip -n "$ns_server" link add "$nic" $each type veth peer name "$peer" $each netns "$ns_client"
    ip -n "$ns_server" link set "$nic" up
    ip -n "$ns_client" link set "$peer" up
    ip -n "$ns_client" address add "$client4/24" dev "$peer"
    ip -n "$ns_client" address add "$client6/64" dev "$peer" nodad
    ip -n "$ns_client" link set lo up
}

client() { ip netns exec "$ns_client" "$@"; }

start_server() {
    ip netns exec "$ns_server" "$bywash" http --interface "$nic" --address "$server4/24" --address "$server6/64" \
        --root "$work/www" >"$work/summary" 2>"$work/log" &
    server=$!
    local waited
    for ((waited = 0; waited < 150; waited++)); do
        grep -q 'ready:' "$work/log" && break
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/log"
    grep -q 'ready:' "$work/log" || fail "the server did not start"
}

fetch() {
    say "A page over IPv4 and IPv6, fetched by the kernel's curl"
    client curl -sS --fail --max-time 10 "http://$server4/"
    client curl -sS --fail --max-time 10 -o /dev/null -w 'IPv6: %{http_code}, %{size_download} bytes\n' "http://[$server6]/"

    say "A file of $file_mib MiB, and its SHA-256"
    client curl -sS --fail --max-time 120 -o "$work/fetched" -w '%{size_download} bytes in %{time_total} s\n' "http://$server4/file"
    local want got
    want=$(sha256sum <"$work/www/file" | cut -d ' ' -f 1)
    got=$(sha256sum <"$work/fetched" | cut -d ' ' -f 1)
    echo "served  $want"
    echo "fetched $got"
    [[ $want == "$got" ]] || fail "the file arrived changed"

    say "The same file uploaded to the sink"
    client curl -sS --fail --max-time 120 -T "$work/www/file" "http://$server4/sink"
}

load() {
    say "A short load: wrk, $load_connections connections, $load_seconds s (client and server share this machine's CPUs)"
    client wrk -t1 -c$load_connections -d${load_seconds}s "http://$server4/" | grep -E 'requests in|Requests/sec|Socket errors|Non-2xx' || true
}

cpu_seconds() {
    client curl -sS --fail --max-time 10 "http://$server4/metrics" |
        awk '/^bywash_cpu_seconds_total/ { sum += $2 } END { printf "%.6f", sum }'
}

idle() {
    say "An idle server sleeps: its CPU time over $idle_seconds s"
    local before after
    sleep 1
    before=$(cpu_seconds)
    sleep "$idle_seconds"
    after=$(cpu_seconds)
    awk -v before="$before" -v after="$after" -v seconds="$idle_seconds" \
        'BEGIN { printf "%.1f ms, %.2f %% of a core (with two requests for the counters)\n", (after - before) * 1000, (after - before) / seconds * 100 }'
}

counters() {
    say "The server's own counters (/metrics)"
    client curl -sS --fail --max-time 10 "http://$server4/metrics" |
        grep -E '^bywash_(rx_packets|tx_packets|tcp_passive_opens|tcp_retransmits|tcp_bytes_tx|tcp_bytes_rx)_total|^bywash_tcp_connections'
}

stop_server() {
    say "SIGINT: the server drains and sums up"
    kill -INT "$server"
    wait "$server" || fail "the server ended with an error: $(tail -n 1 "$work/log")"
    server=''
    cat "$work/summary"
}

run() {
    bywash=$1
    [[ -x $bywash ]] || fail "$bywash is no program"
    ((EUID == 0)) || fail "network namespaces and AF_XDP need root"
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    work=$(mktemp -d)
    mkdir "$work/www"
    echo '<!doctype html><title>Bywash</title><p>This page came through a TCP/IP stack in user space.</p>' >"$work/www/index.html"
    head -c "${file_mib}M" /dev/urandom >"$work/www/file"
    say "Two namespaces, a veth pair, and bywash http over AF_XDP"
    make_network
    start_server
    fetch
    load
    idle
    counters
    stop_server
    say "Done: nothing is left behind."
}

case ${1-} in
run) run "${2:?usage: demo.sh run FILE}" ;;
'') build_and_run ;;
*) fail "usage: demo.sh, or demo.sh run FILE" ;;
esac
