#!/bin/bash
# Runs in the guest and needs nothing but the guest itself: tells whether the harness works before blaming a test of
# the stack. Both NICs speak to each other over IPv4 and IPv6, a file of some MB arrives whole over HTTP, igb has
# two queues that RSS fills both.
# shellcheck source=guest-lib.sh
. /test/lib.sh

peer ping -c 1 -W 5 "$DUT_IP4" || fail "the peer does not reach $DUT_IP4"
peer ping -c 1 -W 5 "$DUT_IP6" || fail "the peer does not reach $DUT_IP6"

mkdir /tmp/www
dd if=/dev/urandom of=/tmp/www/blob bs=64k count=64 2>/dev/null
httpd -p "$DUT_IP4:80" -h /tmp/www
fetch_and_compare "http://$DUT_IP4/blob" /tmp/www/blob

queues=$(find /sys/class/net/dut/queues -name 'rx-*' | wc -l)
echo "self-test: $ZC_NIC has $queues receive queues, $(uname -r)"
if ((ZC_QUEUES > 1)); then
    echo hello >/tmp/www/small
    # A connection of its own each: their source ports, and so their queues, differ.
    for _ in {1..32}; do
        fetch_and_compare "http://$DUT_IP4/small" /tmp/www/small
    done
    for ((queue = 0; queue < ZC_QUEUES; queue++)); do
        echo "self-test: queue $queue received $(rx_packets "$queue") packets"
        (($(rx_packets "$queue") > 30)) || fail "queue $queue received $(rx_packets "$queue") packets"
    done
fi
