#!/usr/bin/env bash
# Runs a shell script as root in a fresh virtual device: Debian 12, systemd, Debian's kernel.
#
# The device sees this checkout as /checkout, with what was built and fetched, and may write to /share.
# `modprobe vivid` makes /dev/video0 (see tests/device/guest/etc/modprobe.d/vivid.conf).
#
#   tests/device/vm.sh 'modprobe vivid; /checkout/target/debug/picket-edge-agent cameras'
set -euo pipefail
cd "$(dirname "$0")/../.."
install/install-packages.sh device >&2
PATH="$(install/cargo-path.sh):$PATH" cargo build --quiet --locked -p picket-tests --bin picket-device
exec "${CARGO_TARGET_DIR:-target}/debug/picket-device" run "$@"
