#!/usr/bin/env bash
# Zero-copy for real: boots the emulated machine of driver-afxdp/vm with virtio-net (one queue) and igb (two queues, RSS)
# and runs in it: the driver's zero-copy test; `bywash http --mode zero-copy`, from which files are fetched; and, with a second
# such NIC, `bywash gateway` between the two. Says "skipped" with the reason where it cannot be had.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PATH=$HOME/.cargo/bin:$PATH
vm=driver-afxdp/vm

cargo build --release --quiet --package bywash-apps
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
# The test's binary: the line of cargo's own report that names it.
drivertest=$(cargo test --release --no-run --package bywash-afxdp --test zerocopy --message-format json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*zerocopy-[^"]*\)".*/\1/p' | tail -n 1)

for nic in virtio:0 igb:0,1; do
    echo "== ${nic%:*}"
    "$vm/run.sh" --nic "${nic%:*}" --wires 2 --bin "$target/release/bywash" --bin "drivertest=$drivertest" \
        --script "$vm/self-test.sh" --script "$vm/driver-test.sh" --script "$vm/http-test.sh" \
        --script "$vm/gateway-test.sh" \
        --env HTTP_URL=http://10.77.0.10 --env 'ZC_LINE=queue opened .*mode=zero-copy' \
        --env "HTTP_SERVER=bywash http -i dut --queues ${nic#*:} --mode zero-copy --address 10.77.0.10/24 --root /tmp/www"
done
