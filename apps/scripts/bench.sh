#!/usr/bin/env bash
# All benchmarks in one run, rivals side by side: builds, runs each program of benches/src/bin that measures, and ends with
# the table of ratios. What needs root (network namespaces, AF_XDP) is skipped, by name, without it.
# usage: bench.sh            at least 5 rounds; writes benches/results/ and benches/BENCHMARKS.md
#        bench.sh quick      within 3 minutes; writes to target/bench-quick/ only, and the README's block if README=1
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PATH=$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin

fail() {
    echo "bench: $*" >&2
    exit 1
}

case ${1-} in
quick) quick=(--quick) results=target/bench-quick ;;
'') quick=() results=benches/results ;;
*) fail "usage: bench.sh [quick]" ;;
esac

# Programs that measure, in this order: each takes --quick and --results DIRECTORY. `root` before those that need it.
programs=(stack idle_memory 'root veth')

cargo build --release --package bywash-benches --package bywash-apps --features bywash-benches/lwip
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
mkdir -p "$results"
[[ $results == benches/results ]] || rm -f "$results"/bench-*.json
for program in "${programs[@]}"; do
    name=${program#root }
    if [[ $program != "$name" ]] && ((EUID != 0)); then
        echo "Skipped: $name (network namespaces and AF_XDP need root)"
        continue
    fi
    # Namespaces have no names, and what runs in them ends with the program: Ctrl-C leaves nothing behind.
    "$target/release/$name" "${quick[@]}" --results "$results"
done
"$target/release/report" --results "$results" --print
if [[ $results == benches/results ]]; then
    "$target/release/report"
elif [[ ${README-} == 1 ]]; then
    "$target/release/report" --results "$results" --readme README.md
fi
