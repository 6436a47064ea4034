#!/bin/bash
# Runs in the guest: the driver's own zero-copy tests (driver-afxdp/tests/zerocopy.rs), one after the other, on the device
# under test, with the kernel's listing of zero-copy queues as the witness that nothing is left behind.
# shellcheck source=guest-lib.sh
. /test/lib.sh

# igb spreads UDP by address only unless told otherwise; virtio-net here has one queue.
if ((ZC_QUEUES > 1)); then
    ethtool -N "$DUT" rx-flow-hash udp4 sdfn || fail "cannot spread UDP flows over the queues"
fi
export BYWASH_ZEROCOPY_NIC=$DUT BYWASH_ZEROCOPY_QUEUES=$ZC_QUEUES BYWASH_ZEROCOPY_PEER=/run/netns/peer
drivertest --nocapture --test-threads 1 >/tmp/driver-test.log 2>&1 || {
    cat /tmp/driver-test.log
    fail "the driver's test failed"
}
cat /tmp/driver-test.log
(($(grep -c 'queue [0-9]*: zero-copy' /tmp/driver-test.log) == ZC_QUEUES)) || fail "not every queue was bound zero-copy"
grep -q SKIPPED /tmp/driver-test.log && fail "the driver's test skipped itself"
wait_carrier
peer ping -c 1 -W 5 "$DUT_IP4" || fail "the kernel's address does not answer after the test"
