#!/bin/bash
# Runs in the guest, which has two wires: `bywash gateway` on zero-copy AF_XDP sockets of both NICs, with one packet memory.
# The peer of the first wire fetches files from the peer of the second through MASQUERADE, and reaches it by IPv6 without;
# a closed port's refusal and the errors of traceroute come back; a port forward leads in again. For IPv6 the peer finds the gateway
# by asking for routers.
# shellcheck source=guest-lib.sh
. /test/lib.sh

main() {
    configure
    mkdir -p /tmp/www /tmp/inside
    dd if=/dev/urandom of=/tmp/www/blob bs=64k count=64 2>/dev/null
    echo hello >/tmp/www/small
    echo inside >/tmp/inside/small
    peer2 httpd -p "[::]:80" -h /tmp/www
    peer httpd -p "[::]:80" -h /tmp/inside
    # Packets by IPv4 come from the gateway's own address: the outside needs no route to the inside.
    peer2 ip -6 route add default via "$FREE2_IP6"

    setsid bywash gateway --config /tmp/gw.toml --stats-interval 0 >/tmp/gateway.log 2>&1 &
    gateway=$!
    trap 'echo "--- gateway:"; cat /tmp/gateway.log' EXIT
    wait_until 30 answers
    wait_carrier "$DUT"
    wait_carrier "$DUT2"
    all_queues_are_zero_copy
    advertised
    peer ip route add default via "$FREE_IP4"

    fetch_and_compare "http://$PEER2_IP4/blob" /tmp/www/blob
    echo "gateway-test: a file of 4 MiB arrived whole through MASQUERADE"
    fetch_and_compare "http://[$PEER2_IP6]/blob" /tmp/www/blob
    echo "gateway-test: and by IPv6 without translation"
    for _ in {1..32}; do
        fetch_and_compare "http://$PEER2_IP4/small" /tmp/www/small
    done
    peer ping -c 3 -i 0.2 -W 5 "$PEER2_IP4" || fail "no ping through the gateway"
    refused
    [[ $(peer2 curl --silent --fail --max-time 10 "http://$FREE2_IP4:8080/small") == inside ]] ||
        fail "the port forward does not lead to the inside"
    peer traceroute -n -m 3 -q 1 -w 3 "$PEER2_IP4" | tee /tmp/trace
    grep -q "^ *1 *$FREE_IP4" /tmp/trace || fail "the gateway is not the first hop"
    grep -q "^ *2 *$PEER2_IP4" /tmp/trace || fail "the server is not the second hop"
    has_router || fail "the host inside has lost the gateway"
    show_counters
    leaves
}

configure() {
    cat >/tmp/gw.toml <<TOML
rules = "gw.rules"
[stack]
mode = "zero-copy"
[[link]]
interface = "$DUT"
name = "lan"
queues = "$(queues)"
address = ["$FREE_IP4/24", "$FREE_IP6/64"]
[link.advertise]
[[link]]
interface = "$DUT2"
name = "wan"
queues = "$(queues)"
address = ["$FREE2_IP4/24", "$FREE2_IP6/64"]
[admin]
port = 80
TOML
    cat >/tmp/gw.rules <<RULES
*nat
-A PREROUTING -i wan -p tcp --dport 8080 -j DNAT --to-destination $PEER_IP4:80
-A POSTROUTING -o wan -s 10.77.0.0/24 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP
-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED,DNAT -j ACCEPT
-A FORWARD -i lan -j ACCEPT
COMMIT
RULES
}

queues() {
    seq -s , 0 $((ZC_QUEUES - 1))
}

answers() {
    kill -0 "$gateway" || fail "the gateway ended: $(tail -n 1 /tmp/gateway.log)"
    peer curl --silent --fail --max-time 2 --output /dev/null "http://$FREE_IP4/metrics"
}

# XDP_OPTIONS' word, which the gateway logs once for each queue of each NIC, and the kernel's list beside it.
all_queues_are_zero_copy() {
    local nic
    for nic in "$DUT" "$DUT2"; do
        (($(grep -c "queue opened interface=\"$nic\" .*mode=zero-copy" /tmp/gateway.log) == ZC_QUEUES)) ||
            fail "not every queue of $nic reports zero-copy"
        echo "gateway-test: the kernel's list of zero-copy queues of $nic: $(zero_copy_queues "$nic" | xargs)"
        [[ $(zero_copy_queues "$nic" | wc -l) == "$ZC_QUEUES" ]] || fail "not every queue of $nic is listed as zero-copy"
    done
}

# A host asks when its link comes up, in a group that the gateway's kernel has not joined: the NIC's filter must let it in.
advertised() {
    peer bash -c "echo 2 >/proc/sys/net/ipv6/conf/peer/accept_ra"
    peer ip link set peer down
    peer ip link set peer up
    peer ip addr add "$PEER_IP6/64" dev peer nodad
    wait_until 20 has_asked
    wait_until 20 has_router
    echo "gateway-test: the host inside asked for routers, and found the gateway"
}

has_asked() {
    peer curl --silent --fail --max-time 2 "http://$FREE_IP4/metrics" | grep -q '^bywash_router_solicitations_rx_total.* [1-9]'
}

has_router() {
    peer ip -6 route show default | grep -q "via fe80:"
}

# curl's 7: could not connect; a time-out would be 28.
refused() {
    local code=0
    peer curl --silent --max-time 10 --output /dev/null "http://$PEER2_IP4:81/" || code=$?
    ((code == 7)) || fail "a closed port behind the gateway is not refused: curl ends with $code"
}

# What was dropped has a counter and a reason.
show_counters() {
    peer curl --silent --fail --max-time 10 "http://$FREE_IP4/metrics" >/tmp/metrics
    grep -E '^[a-z_]*forwarded' /tmp/metrics
    grep -E 'drop' /tmp/metrics | grep -vE '^#| 0$' || true
}

leaves() {
    local nic
    kill -TERM "$gateway"
    wait_until 20 is_gone
    for nic in "$DUT" "$DUT2"; do
        ! ip -d link show "$nic" | grep -q 'prog/xdp' || fail "an XDP program is still attached to $nic after SIGTERM"
        wait_carrier "$nic"
    done
    wait_until 10 peer ping -c 1 -W 2 "$DUT_IP4"
}

is_gone() {
    ! kill -0 "$gateway"
}

main
