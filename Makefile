# Picket. `make` alone lists what there is.
#
# What `make deps` installs and what `make fetch` downloads is listed in install/packages.txt,
# models/MANIFEST.toml and tests/stack/. Everything that is made lies in target/ and .cache/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# A cargo that is new enough may be missing until `make deps` ran: so it is asked for at each use.
CARGO = PATH="$$(install/cargo-path.sh):$$PATH" cargo
# Folder that the build writes its programs to.
BIN := $(or $(CARGO_TARGET_DIR),target)/debug
STACK_DIR ?= .cache/run/stack

.PHONY: help deps fetch build stack stack-down clean-all

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: ## install the system's packages that are missing (says which first; root or sudo)
	@install/install-packages.sh

fetch: ## download model, runtime, clip, Kafka and MongoDB, each checked by its sha256
	@models/fetch.py
	@models/fetch.py --manifest tests/stack/MANIFEST.toml
	@tests/stack/fetch-kafka.sh

build: ## build all programs (the build that tests and demo use)
	@$(CARGO) build --workspace --bins --locked

stack: deps fetch ## start Kafka and MongoDB, and print how to connect (STACK_DIR=folder)
	@$(CARGO) build --quiet --locked -p picket-tests --bin picket-stack
	@$(BIN)/picket-stack up --dir $(STACK_DIR)

stack-down: ## stop them; their data stays for the next `make stack`
	@if [ -x $(BIN)/picket-stack ]; then $(BIN)/picket-stack down --dir $(STACK_DIR); fi

clean-all: stack-down ## stop the stack and remove all that was built, downloaded and run
	rm -rf target .cache
