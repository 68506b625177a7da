#!/usr/bin/env bash
# Lays an unpacked Debian 12 of arm64 into .cache/cross/arm64, and prints where that is.
#
# Unpacked only: no package's script runs, so that neither root nor an emulator is needed. Made anew
# when the list of packages or this machine's rustc changes, whose libraries must be of the same build.
# Takes some 1.3 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
list=packaging/sysroot-arm64.txt
root=$(realpath -m "${PICKET_CACHE:-.cache}")/cross/arm64
wanted=$(cat "$list"; /usr/bin/rustc --version)
if [ "$wanted" != "$(cat "$root/made-of.txt" 2>/dev/null)" ]; then
  echo "cross: unpacking Debian 12 for arm64 into $root" >&2
  rm -rf "$root" "$root.new"
  mkdir -p "$(dirname "$root")"
  packages=$(sed 's/#.*//' "$list" | awk 'NF {print $1}' | paste -sd,)
  # The security archive too: Debian's recent Rust comes from there.
  mmdebstrap --quiet --variant=extract --architectures=arm64 --include="$packages" bookworm "$root.new" \
    "deb http://deb.debian.org/debian bookworm main" \
    "deb http://deb.debian.org/debian-security bookworm-security main" >&2
  # Links such as libz.so -> /lib/aarch64-linux-gnu/libz.so.1 would lead out of the tree.
  find "$root.new" -type l -lname '/*' -print0 | while IFS= read -r -d '' link; do
    ln --symbolic --force --no-dereference --relative "$root.new$(readlink "$link")" "$link"
  done
  echo "$wanted" > "$root.new/made-of.txt"
  mv "$root.new" "$root"
fi
echo "$root"
