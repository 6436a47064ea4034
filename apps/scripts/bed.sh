# Sourced by scripts that run `bywash http` against the kernel's clients: two network namespaces joined by a veth pair,
# the server in one, clients in the other. Everything has a name of this process's own and is removed by clean_up.
# shellcheck shell=bash

# Addresses that RFC 5737 and RFC 3849 keep for documentation: no real network has them.
readonly server4=192.0.2.10 server6=2001:db8::10 client4=192.0.2.1 client6=2001:db8::1

ns_server=bywash-$$-server ns_client=bywash-$$-client
nic=bwd$$s peer=bwd$$c
work='' server='' bywash=''

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# Builds the release binary and says where it is.
build_bywash() {
    cargo build --release --quiet --package bywash-apps
    local target
    target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    bywash=$target/release/bywash
}

# Makes the work directory and the network, and sees to it that they go again.
set_up() {
    ((EUID == 0)) || fail "network namespaces and AF_XDP need root"
    trap clean_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    work=$(mktemp -d)
    mkdir "$work/www"
    echo '<!doctype html><title>Bywash</title><p>This page came through a TCP/IP stack in user space.</p>' >"$work/www/index.html"
    make_network
}

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

# Starts `bywash http` on the work directory's www and waits until it is ready; its log is $work/log.
start_bywash() {
    : >"$work/log"
    ip netns exec "$ns_server" "$bywash" http --interface "$nic" --address "$server4/24" --address "$server6/64" \
        --root "$work/www" >"$work/summary" 2>"$work/log" &
    server=$!
    local waited
    for ((waited = 0; waited < 150; waited++)); do
        grep -q 'ready:' "$work/log" && return
        kill -0 "$server" 2>/dev/null || break
        sleep 0.1
    done
    cat "$work/log" >&2
    fail "the server did not start"
}

# Ends the server as Ctrl-C does, and waits for it.
stop_server() {
    kill -INT "$server"
    wait "$server" || fail "the server ended with an error: $(tail -n 1 "$work/log")"
    server=''
}
