#!/usr/bin/env bash
# Runs cargo-deny, which is built from the Rust registry at its first use (some minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.20.2
home=${PICKET_CACHE:-.cache}/cargo-deny-$version
PATH="$(install/cargo-path.sh):$PATH"
if ! [ -x "$home/bin/cargo-deny" ]; then
  echo "install: building cargo-deny $version"
  cargo install --locked --quiet cargo-deny --version "=$version" --root "$home"
fi
exec "$home/bin/cargo-deny" "$@"
