# Thin: every target says what it does, installs what is missing (apps/scripts/setup.sh) and calls a script or cargo.

SHELL := /bin/bash
export PATH := $(HOME)/.cargo/bin:$(PATH)
SETUP := apps/scripts/setup.sh
# Seconds that `make fuzz` gives to each target.
FUZZ_SECONDS ?= 60

.PHONY: help demo test lint compliance bench bench-quick bench-instructions plots fuzz test-zerocopy clean

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

demo: ## HTTP over AF_XDP between two namespaces: a page, a 100 MB file, a load figure, counters
	@apps/scripts/demo.sh

test: ## Formatting, lints and every test; those that need root when this is root
	@$(SETUP) build test
	@apps/scripts/test.sh

lint: ## Formatting and lints only
	@$(SETUP) build test
	@apps/scripts/test.sh lint

compliance: ## Writes COMPLIANCE.md: the demands of the standards of TCP and NAT, where they are met and tested
	@$(SETUP) build
	BYWASH_WRITE_COMPLIANCE=1 cargo test -p bywash --test compliance

bench: ## Every benchmark beside its rivals, as root: benches/BENCHMARKS.md, SVG and JSON in benches/results/
	@$(SETUP) build bench
	cargo bench --package bywash-benches --bench micro
	@apps/scripts/bench.sh

bench-quick: ## The same within 3 minutes, less exact: prints the ratios (README=1: into the README as well)
	@$(SETUP) build bench
	@apps/scripts/bench.sh quick

bench-instructions: ## Instructions per segment, request and connection in memory, beside those on record (RECORD=1: record them)
	@$(SETUP) build bench
	cargo run --release -p bywash-benches --features lwip --bin instructions -- $(if $(RECORD),--record)

plots: ## Congestion control and recovery in the simulator: benches/CONGESTION.md, SVG and JSON in benches/results/
	@$(SETUP) build bench
	cargo run --release -p bywash-benches --bin plots

fuzz: ## Every fuzz target for FUZZ_SECONDS (60) from its corpus
	@$(SETUP) build fuzz
	@cd fuzz && for target in $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs))); do \
	    echo "== $$target, $(FUZZ_SECONDS) s"; \
	    cargo +nightly fuzz run --features libfuzzer $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

test-zerocopy: ## The HTTP test on real zero-copy sockets, in a small emulated machine (downloads it)
	@$(SETUP) build zerocopy
	@apps/scripts/zerocopy.sh

clean: ## Removes everything that was built
	cargo clean
	cargo clean --manifest-path fuzz/Cargo.toml
