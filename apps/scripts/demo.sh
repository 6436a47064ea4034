#!/usr/bin/env bash
# Bywash in a minute: two network namespaces joined by a veth pair, `bywash http` over AF_XDP in one, the kernel's curl
# and wrk in the other. Everything it makes has a name of its own and is removed again, also after Ctrl-C.
# usage: demo.sh            installs what is missing, builds, and runs the rest as root
#        demo.sh run FILE   runs with this `bywash`, as root
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PATH=$HOME/.cargo/bin:$PATH

. apps/scripts/bed.sh

readonly file_mib=100 load_seconds=3 load_connections=64 idle_seconds=5

build_and_run() {
    apps/scripts/setup.sh build demo
    say "Building bywash (release)"
    build_bywash
    if ((EUID == 0)); then
        exec "$0" run "$bywash"
    fi
    command -v sudo >/dev/null || fail "network namespaces and AF_XDP need root, and there is no sudo: run as root"
    say "Network namespaces and AF_XDP need root: sudo"
    exec sudo "$0" run "$bywash"
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

run() {
    bywash=$1
    [[ -x $bywash ]] || fail "$bywash is no program"
    say "Two namespaces, a veth pair, and bywash http over AF_XDP"
    set_up
    head -c "${file_mib}M" /dev/urandom >"$work/www/file"
    start_bywash
    cat "$work/log"
    fetch
    load
    idle
    counters
    say "SIGINT: the server drains and sums up"
    stop_server
    cat "$work/summary"
    say "Done: nothing is left behind."
}

case ${1-} in
run) run "${2:?usage: demo.sh run FILE}" ;;
'') build_and_run ;;
*) fail "usage: demo.sh, or demo.sh run FILE" ;;
esac
