#!/usr/bin/env bash
# Whole servers side by side, in one run and on one veth pair: `bywash http` over AF_XDP, and nginx on the kernel's TCP,
# with the kernel's wrk and curl as clients. The servers take turns, so that the machine's moods meet both; each figure is
# the median of the rounds. Client and server share the machine's CPUs: on a NIC of its own, either does more.
# usage: bench.sh            builds, and runs the rest as root; says so where it cannot
#        bench.sh run FILE   runs with this `bywash`, as root
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PATH=$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin

. apps/scripts/bed.sh

readonly rounds=3 load_seconds=2 file_mib=200
readonly nginx_address=192.0.2.20

build_and_run() {
    if ((EUID != 0)); then
        say "Skipped: whole servers side by side (network namespaces and AF_XDP need root)"
        return
    fi
    build_bywash
    exec "$0" run "$bywash"
}

# nginx, unpacked and not installed: as a package it would start to serve this machine's port 80.
find_nginx() { # its libraries come with curl and libselinux
    nginx=$(command -v nginx) && return
    local cache=target/bench-nginx
    nginx=$PWD/$cache/usr/sbin/nginx
    if [[ ! -x $nginx ]]; then
        say "Fetching nginx into $cache"
        mkdir -p "$cache"
        (cd "$cache" && apt-get -qq -o APT::Sandbox::User=root download nginx && dpkg-deb --extract ./nginx_*.deb .) >&2 ||
            return 1
    fi
    "$nginx" -v # does it find its libraries?
}

start_nginx() {
    cat >"$work/nginx.conf" <<END
daemon off;
pid $work/nginx.pid;
error_log $work/log;
worker_processes auto;
user root;
events { worker_connections 8192; }
http {
    access_log off;
    sendfile on;
    keepalive_requests 1000000000;
    types { text/html html; }
    client_body_temp_path $work; proxy_temp_path $work; fastcgi_temp_path $work;
    uwsgi_temp_path $work; scgi_temp_path $work;
    server { listen $nginx_address:80 backlog=1024; root $work/www; }
}
END
    ip netns exec "$ns_server" "$nginx" -c "$work/nginx.conf" 2>"$work/log" &
    server=$!
    local waited
    for ((waited = 0; waited < 100; waited++)); do
        ! client curl -sf -o /dev/null --max-time 1 "http://$nginx_address/" || return 0
        sleep 0.1
    done
    fail "nginx did not start: $(tail -n 1 "$work/log")"
}

# The server's figures of one round, one line each, into $work/SERVER.FIGURE.
measure() {
    local name=$1 url=http://$2 connections
    for connections in 1 64 256; do
        requests "$name" "keep-alive $connections" -c "$connections" "$url/"
    done
    requests "$name" "new connections" -c 64 -H 'Connection: close' "$url/"
    client curl -sS --fail -o /dev/null --max-time 60 -w '%{speed_download}\n' "$url/file" |
        awk '{ printf "%.0f\n", $1 / 1e6 }' >>"$work/$name.download"
}

requests() {
    local name=$1 figure=$2 output
    shift 2
    output=$(client wrk -t1 -d${load_seconds}s "$@") || fail "wrk: $output"
    ! grep -E 'Socket errors|Non-2xx' <<<"$output" || echo "($name, $figure: these are counted against it)"
    awk '/Requests\/sec/ { printf "%.0f\n", $2 }' <<<"$output" >>"$work/$name.$figure"
}

median() { sort -n "$1" | awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'; }

row() {
    local what=$1 figure=$2 ours theirs='-' ratio='-'
    ours=$(median "$work/bywash.$figure")
    if [[ -n $nginx ]]; then
        theirs=$(median "$work/nginx.$figure")
        ratio=$(awk -v ours="$ours" -v theirs="$theirs" 'BEGIN { printf "%.2f x", ours / theirs }')
    fi
    printf '%-48s %12s %16s %8s\n' "$what" "$ours" "$theirs" "$ratio"
}

run() {
    bywash=$1
    [[ -x $bywash ]] || fail "$bywash is no program"
    set_up
    # Ten thousands of short connections: all ports, and those in TIME-WAIT again after a second.
    client sysctl -qw net.ipv4.ip_local_port_range='1024 65535' net.ipv4.tcp_tw_reuse=1
    ip -n "$ns_server" address add "$nginx_address/24" dev "$nic"
    head -c "${file_mib}M" /dev/urandom >"$work/www/file"
    find_nginx || { nginx='' && echo "nginx cannot be had (apt-get download nginx): bywash alone" >&2; }
    local round
    for ((round = 1; round <= rounds; round++)); do
        echo "round $round of $rounds"
        start_bywash
        measure bywash "$server4"
        stop_server
        [[ -n $nginx ]] || continue
        start_nginx
        measure nginx "$nginx_address"
        stop_server
    done
    say "HTTP on a veth pair, $(nproc) CPUs for client and server, median of $rounds rounds"
    printf '%-48s %12s %16s %8s\n' '' 'bywash' 'nginx, kernel' 'ratio'
    row "requests/s, 1 connection" "keep-alive 1"
    row "requests/s, 64 connections" "keep-alive 64"
    row "requests/s, 256 connections" "keep-alive 256"
    row "requests/s, each on a connection of its own" "new connections"
    row "download of $file_mib MiB, MB/s" download
}

case ${1-} in
run) run "${2:?usage: bench.sh run FILE}" ;;
'') build_and_run ;;
*) fail "usage: bench.sh, or bench.sh run FILE" ;;
esac
