# The commands a newcomer needs: run, test, build, install, bench. Everything longer than a line
# lives in tests/run/, one script per job, each runnable by hand.

PREFIX ?= /opt/passenger
DESTDIR ?=
PORT ?= 8080
PYTHON ?= python3

# cargo honours CARGO_TARGET_DIR; so does everything here.
TARGET := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)
STAGE := $(TARGET)/stage
LOADERS := $(shell cd helper-agent/loaders && find . -type f -not -name '*.md' -not -name '*.pyc' -not -path '*/tests/*' | sed 's|^\./||' | sort)

.DEFAULT_GOAL := help
.PHONY: help run test build install bench bench-deps chaos deps stage
# Packages come before what needs them, also under make -j.
.NOTPARALLEL:

help:
	@echo 'make run      three demo apps on http://127.0.0.1:$(PORT)/ until Ctrl-C (PORT=…)'
	@echo 'make test     every test: unit, loom, property, end to end against a real httpd'
	@echo 'make build    the module, the agent and the watchdog, optimised'
	@echo 'make install  into PREFIX (now $(PREFIX)); DESTDIR is honoured'
	@echo 'make bench    against Phusion Passenger and a static file, side by side'
	@echo 'make chaos    restarts, kill -9 and upgrades under load, with figures (tests/chaos/README.md)'
	@echo 'make deps     the Debian packages that are missing (the others do this too)'

run: deps stage
	@PORT=$(PORT) exec tests/run/demo $(STAGE)

test: deps stage
	@exec tests/run/test $(STAGE)

build:
	@command -v cargo >/dev/null || { echo 'cargo was not found: install Rust 1.85 or newer (rustup) and try again.' >&2; exit 1; }
	cargo build --release --locked -p mod_passenger -p passenger-helper-agent

bench: bench-deps stage
	@exec tests/run/bench $(STAGE)

bench-deps:
	@tests/run/deps --bench

chaos: bench-deps stage
	@exec tests/run/chaos $(STAGE)

deps:
	@tests/run/deps

stage:
	@$(MAKE) --no-print-directory install PREFIX=$(STAGE) DESTDIR=

# A new file, renamed over the old one: what runs keeps the file it has mapped.
root := $(DESTDIR)$(PREFIX)
put = install -D -m $(1) $(2) '$(root)/$(3).new' && mv -f '$(root)/$(3).new' '$(root)/$(3)'

# Apps' users cannot write bytecode beside the loaders, and compiling at each start takes half as long as Python's own start.
compile_python = ! command -v $(PYTHON) >/dev/null || $(PYTHON) -m compileall -q --invalidation-mode checked-hash \
	-s '$(DESTDIR)' '$(root)/share/passenger/loaders/passenger_python' || true

install: build
	@$(call put,0755,$(TARGET)/release/passenger-watchdog,libexec/passenger-watchdog)
	@$(call put,0755,$(TARGET)/release/passenger-helper-agent,libexec/passenger-helper-agent)
	@$(call put,0755,$(TARGET)/release/passenger,bin/passenger)
	@$(foreach tool,passenger-status passenger-config passenger-memory-stats,ln -sf passenger '$(root)/bin/$(tool)' &&) true
	@$(foreach file,$(LOADERS),$(call put,0644,helper-agent/loaders/$(file),share/passenger/loaders/$(file)) &&) true
	@$(compile_python)
	@$(call put,0644,$(TARGET)/release/libmod_passenger.so,modules/mod_passenger.so)
	@echo 'installed in $(root)'
