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
# The list of packages that a build for arm64 needs on another machine.
CROSS_LIST := $(if $(filter arm64,$(shell dpkg --print-architecture)),,deb-arm64)
STACK_DIR ?= .cache/run/stack
# What demo and tests run. Always built together: a dependency is built anew for each selection of
# packages that asks it for other features (tests/build/ checks that these ask for the same).
PROGRAMS := -p picket-edge-agent -p picket-aggregator -p picket-tests

.PHONY: help demo test test-faults test-mutants fuzz check generate check-detector check-provider test-fresh test-device deps fetch build stack stack-down clean-all deb check-deb test-package test-arm64

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: ## show the whole path at work (DURATION_S, OUTAGE_S, VIDEO=file or folder, RTSP, CAMERA, PAGE_PORT)
	@install/install-packages.sh
	@$(MAKE) fetch
	@echo "make: building (some minutes the first time)"
	@$(CARGO) build --locked --bins $(PROGRAMS)
	@$(BIN)/picket-demo

test: ## install what is missing and run all tests
	@install/install-packages.sh
	@$(MAKE) fetch
	@echo "make: building programs and tests (some minutes the first time)"
	@$(CARGO) build --locked --workspace --bins
	@python3 -m unittest discover --start-directory models --verbose
	@PATH="$$(install/cargo-path.sh):$$PATH" python3 -m unittest discover --start-directory tests/build --verbose
	@python3 -m unittest discover --start-directory tests/faults --verbose
	@python3 -m unittest discover --start-directory tests/mutants --verbose
	@python3 -m unittest discover --start-directory tests/detector --verbose
	@$(CARGO) test --locked --workspace --exclude picket-tests --no-fail-fast
	@$(CARGO) test --locked --package picket-tests --no-fail-fast -- --test-threads=1
	@$(MAKE) check-detector
	@tests/device/security.sh

test-faults: ## run each test of docs/faults.md in its long form, and print its table (ONLY=words)
	@install/install-packages.sh
	@$(MAKE) fetch
	@$(CARGO) build --locked --workspace --bins
	@PATH="$$(install/cargo-path.sh):$$PATH" tests/faults/run.py $(ONLY)

test-mutants: ## put faults into a copy of the sources, and require a test to fail on each (ONLY=words)
	@install/install-packages.sh
	@$(MAKE) fetch
	@PATH="$$(install/cargo-path.sh):$$PATH" tests/mutants/run.py $(ONLY)

fuzz: ## look for bytes that break a reader: wire, spool, carried files, configs (FUZZ_S=60 each, ONLY=words)
	@install/install-packages.sh
	@PATH="$$(install/cargo-path.sh):$$PATH" fuzz/run.sh $(ONLY)

check: ## run the linters: format, clippy with warnings as errors, licences and sources
	@install/install-packages.sh
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy --locked --workspace --all-targets -- --deny warnings
	@install/cargo-deny.sh check licenses bans sources

generate: ## write references, schemas and golden messages anew from the types
	@UPDATE_GENERATED=1 $(CARGO) test --locked --quiet -p picket-wire -p picket-edge-agent -p picket-aggregator --test published

deb: ## make the .deb packages in target/deb (ARCH=amd64 or arm64; PROFILE=dev packs the debug build)
	@install/install-packages.sh deb $(if $(filter arm64,$(ARCH)),$(CROSS_LIST))
	@$(MAKE) fetch
	@packaging/build.sh $(ARCH)

check-deb: ## check the packages that `make deb` made (ARCH): files, lintian, what they need of a system
	@ARCH=$(ARCH) python3 -m unittest discover --start-directory tests/package --pattern test_contents.py --verbose

test-package: ## install, upgrade, downgrade, remove and purge debug packages with apt in a folder (root)
	@install/install-packages.sh deb
	@$(MAKE) fetch
	@PROFILE=dev DEB_VERSION=0.0.2-1 packaging/build.sh
	@PROFILE=dev DEB_VERSION=0.0.1-1 packaging/build.sh
	@OLDER=0.0.1-1 NEWER=0.0.2-1 python3 -m unittest discover --start-directory tests/package --pattern test_install.py --verbose
	@$(MAKE) check-deb

test-arm64: ## run the packaged arm64 agent under an emulator: doctor, and the clip's boxes as on this machine
	@install/install-packages.sh emulation
	@$(MAKE) deb check-deb ARCH=arm64
	@$(CARGO) build --quiet --locked -p picket-edge-agent --bins
	@SYSROOT=$$(packaging/sysroot.sh) NATIVE=$(abspath $(BIN))/picket-edge-agent \
	  python3 -m unittest discover --start-directory tests/package --pattern test_arm64.py --verbose

check-detector: ## compare the detectors' boxes with independent ones', frame by frame
	@$(CARGO) build --quiet --locked --bins $(PROGRAMS)
	@tests/detector/check.sh

check-provider: ## compare what an accelerator finds with what the processor does (PROVIDER=cuda RUNTIME=file)
	@models/fetch.py
	@$(CARGO) build --quiet --locked --bins $(PROGRAMS)
	@tests/detector/provider.py --agent "$(BIN)/picket-edge-agent detect" \
	  --provider "$(or $(PROVIDER),$(error check-provider needs PROVIDER, such as cuda))" \
	  --runtime-library "$(or $(RUNTIME),$(error check-provider needs RUNTIME, the vendor's libonnxruntime.so))" \
	  --reference-library ".cache/runtime/$$(uname -m)/libonnxruntime.so" \
	  --model .cache/models/yunet.onnx --model .cache/models/centerface.onnx .cache/video/carphone_pristine.mp4

test-fresh: ## run `make demo` and `make test` on a bare Debian 12 in a folder (WHO=root, user, both)
	@tests/fresh/run.sh $(or $(WHO),both)

test-device: ## install the .deb on a Debian 12 in QEMU, and break things there (root; PATIENCE=n stretches limits)
	@[ "$$(id -u)" = 0 ] || { echo "make: test-device makes a disk with its owners and device files: run it as root" >&2; exit 1; }
	@install/install-packages.sh deb device
	@$(MAKE) fetch
	@echo "make: building programs and package (some minutes the first time)"
	@$(CARGO) build --locked --bins -p picket-aggregator -p picket-tests
	@PROFILE=dev packaging/build.sh amd64
	@$(BIN)/picket-device test --patience $(or $(PATIENCE),1) \
	  --package "$$(grep '/picket-edge-agent_' $(or $(CARGO_TARGET_DIR),target)/deb/amd64/built.txt)"

# The benchmarks build release programs: 15 minutes the first time.
bench = PATH="$$(install/cargo-path.sh):$$PATH" benches/run.sh $(1)
.PHONY: bench-edge bench-cameras bench-idle bench-spool bench-backlog bench-track bench-track-speed bench-fleet bench-fleet-growth bench-latency

bench-edge: deps fetch ## the agent beside a Python script and bare kernels (ROUNDS, SECONDS_OF_VIDEO, EVERY)
	@$(call bench,edge) --rounds $(or $(ROUNDS),3) --seconds $(or $(SECONDS_OF_VIDEO),20) --every $(or $(EVERY),3)

bench-cameras: deps fetch ## what four 1280x720 cameras cost in one agent, and how late they are (DURATION_S)
	@$(call bench,cameras) --seconds $(or $(DURATION_S),40)

bench-idle: deps fetch ## what a still scene costs with the motion gate, without, and in the script (DURATION_S)
	@$(call bench,idle) --seconds $(or $(DURATION_S),40)

bench-spool: ## bytes written to disk for one that the spool keeps, by layout and page size (FOLDER, FRAMES)
	@mkdir -p .cache
	@benches/spool_layouts.py --folder $(or $(FOLDER),.cache) --frames $(or $(FRAMES),800)

bench-backlog: deps fetch ## the spool beside Python's sqlite3, and a large backlog (ROUNDS, BACKLOG_GB, FOLDER)
	@$(CARGO) build --quiet --locked --release -p picket-edge-agent --bins --example spool-work
	@python3 benches/backlog.py --product $(or $(CARGO_TARGET_DIR),target)/release/examples/spool-work \
	  --agent $(or $(CARGO_TARGET_DIR),target)/release/picket-edge-agent \
	  --folder $(or $(FOLDER),.cache) --rounds $(or $(ROUNDS),3) --backlog-gb $(or $(BACKLOG_GB),10)

bench-track: deps ## how well the tracker follows, beside others, on sequences of the MOTChallenge (MOT=folder, PROGRAM)
	@PATH="$$(install/cargo-path.sh):$$PATH" benches/track.sh quality \
	  --mot "$(or $(MOT),$(error bench-track needs MOT, a folder of MOTChallenge sequences))"

bench-track-speed: ## frames a second of the tracker beside the crate trackforge's ByteTrack (MOT=folder, ROUNDS)
	@PATH="$$(install/cargo-path.sh):$$PATH" benches/track.sh speed $(or $(ROUNDS),9) \
	  "$(or $(MOT),$(error bench-track-speed needs MOT, a folder of MOTChallenge sequences))"

fleet = PATH="$$(install/cargo-path.sh):$$PATH" benches/fleet.sh $(1)

bench-fleet: deps fetch ## the centre beside a Python consumer: observations a second, CPU (ROUNDS, CAMERAS, FPS, DURATION_S, FACES)
	@$(call fleet,throughput) --rounds $(or $(ROUNDS),3) --cameras $(or $(CAMERAS),100) --fps $(or $(FPS),10) \
	  --seconds $(or $(DURATION_S),40) --faces $(or $(FACES),3)

bench-fleet-growth: deps fetch ## the centre with 10, 100, 1000 cameras, one and two aggregators, with outages (FPS, FACES)
	@$(call fleet,growth) --fps $(or $(FPS),10) --faces $(or $(FACES),3)

bench-latency: deps fetch ## from capture to MongoDB, four cameras of 10 fps on the whole path (DURATION_S)
	@$(call fleet,latency) --seconds $(or $(DURATION_S),60)

deps: ## install the system's packages that are missing (says which first; root or sudo)
	@install/install-packages.sh

fetch: ## download model, runtime, clip, Kafka, MongoDB and SeaweedFS, each checked by its sha256
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
