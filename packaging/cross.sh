#!/usr/bin/env bash
# Runs cargo for arm64 on another architecture, without Docker: Debian's cross compilers and Debian's
# Rust, against the tree that sysroot.sh makes.
#
#   packaging/cross.sh build --release ...
set -euo pipefail
cd "$(dirname "$0")/.."
root=$(packaging/sysroot.sh)
triple=aarch64-unknown-linux-gnu
gnu=aarch64-linux-gnu

# Debian's own: the libraries in the tree are of the same build, and a rustup's would not fit.
rust=/usr/bin

# rustc finds its libraries below a root of its own: this gives the arm64 ones to what is built for
# arm64 alone, as cargo passes no flags to build scripts when a target is named.
export RUSTC=$rust/rustc RUSTDOC=$rust/rustdoc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="--sysroot=$root/usr -Clink-arg=--sysroot=$root"

# C and C++ parts: SQLite, libjpeg-turbo, librdkafka. The last has a configure script that only knows
# these plain names, so that what runs on this machine while building needs names of its own.
export CC=$gnu-gcc CXX=$gnu-g++ AR=$gnu-ar LD=$gnu-ld NM=$gnu-nm OBJDUMP=$gnu-objdump STRIP=$gnu-strip RANLIB=$gnu-ranlib
export CFLAGS=--sysroot=$root CXXFLAGS=--sysroot=$root LDFLAGS=--sysroot=$root
own=$("$rust/rustc" -vV | sed -n 's/^host: //p' | tr - _)
export "CC_$own=gcc" "CXX_$own=g++" "AR_$own=ar" "CFLAGS_$own=" "CXXFLAGS_$own="
# bindgen, for V4L2.
export BINDGEN_EXTRA_CLANG_ARGS_aarch64_unknown_linux_gnu=--sysroot=$root
# Paths in the tree's .pc files are meant from its root.
export PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_SYSROOT_DIR=$root
export PKG_CONFIG_LIBDIR=$root/usr/lib/$gnu/pkgconfig:$root/usr/share/pkgconfig

command=$1
shift
exec "$rust/cargo" "$command" --target "$triple" "$@"
