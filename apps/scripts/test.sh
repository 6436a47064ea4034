#!/usr/bin/env bash
# Formatting, lints and every test. Tests that need root run when this is root; otherwise they are named as skipped.
# usage: test.sh [lint]   lint: formatting and lints only
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PATH=$HOME/.cargo/bin:$PATH:/usr/sbin:/sbin CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
readonly fuzz=fuzz/Cargo.toml # a workspace of its own

step() { printf '\n== %s\n' "$*"; }

lint() {
    step "formatting"
    cargo fmt --all --check
    cargo fmt --manifest-path "$fuzz" --check
    step "lints"
    cargo clippy --workspace --all-targets --all-features --quiet -- -D warnings
    cargo clippy --manifest-path "$fuzz" --all-targets --quiet -- -D warnings
}

run_tests() {
    local log status=0
    log=$(mktemp)
    # shellcheck disable=SC2064
    trap "rm -f '$log'" EXIT
    step "the fuzz targets on their corpora"
    cargo test --manifest-path "$fuzz" --quiet
    step "examples in the documentation"
    cargo test --workspace --all-features --doc --quiet
    step "tests"
    if command -v cargo-nextest >/dev/null; then
        # A passing test's output says nothing, except which tests skipped themselves for want of root.
        local show=never
        ((EUID == 0)) || show=final
        cargo nextest run --workspace --all-features --no-fail-fast --success-output "$show" 2>&1 | tee "$log" || status=$?
    else
        cargo test --workspace --all-features --no-fail-fast --lib --bins --tests 2>&1 | tee "$log" || status=$?
    fi
    if grep -q 'SKIPPED' "$log"; then
        step "skipped"
        grep -o 'SKIPPED [a-z0-9_:]*: needs .*' "$log" | sed 's/^SKIPPED //' | sort -u
        ((EUID == 0)) || echo "$(grep -c 'SKIPPED .*: needs root' "$log") tests need root: run make test as root to include them"
    fi
    # The runner's own closing line, last.
    echo
    grep -E '^ *Summary \[|^test result: ' "$log" | tail -n 1 || true
    return "$status"
}

lint
[[ ${1-} == lint ]] || run_tests
