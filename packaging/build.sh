#!/usr/bin/env bash
# Builds the programs and packs them into target/deb/<architecture>/*.deb.
#
#   packaging/build.sh [amd64|arm64]
#
# PROFILE=dev packs the programs of the debug build instead, for tests that need a package soon.
# SOURCE_DATE_EPOCH is the packages' date, which is else the last commit's.
# DEB_VERSION overrides the version, which is else the workspace's, or a lower one for a debug build.
set -euo pipefail
cd "$(dirname "$0")/.."
own=$(dpkg --print-architecture)
arch=${1:-$own}
profile=${PROFILE:-release}
say() { echo "deb: $*"; }

case $arch in
  amd64) triple=x86_64-unknown-linux-gnu ;;
  arm64) triple=aarch64-unknown-linux-gnu ;;
  *) echo "deb: ARCH=$arch is not known: amd64 or arm64" >&2; exit 1 ;;
esac
# cargo's folder of a profile; only that of `dev` has another name.
folder=$profile
[ "$profile" = dev ] && folder=debug
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
cache=$(realpath "${PICKET_CACHE:-.cache}")
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# Lower than the release's, which is thus an upgrade of it.
[ "$profile" = dev ] && version+=~dev
version=${DEB_VERSION:-$version-1}
out=$target/deb/$arch
source=$out/source

# Before the long build, since an unpacked archive has no commits to take it from.
if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then
  date=$(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH") ||
    { echo "deb: SOURCE_DATE_EPOCH=$SOURCE_DATE_EPOCH is not a number of seconds since 1970" >&2; exit 1; }
else
  date=$(git log -1 --format=%cD 2> /dev/null) ||
    { echo "deb: no git commit here to take the packages' date from: set SOURCE_DATE_EPOCH (seconds since 1970)" >&2; exit 1; }
fi

build=(build --locked --profile "$profile" --bins -p picket-edge-agent -p picket-aggregator -p picket-pki)
say "building for $arch (profile $profile)"
if [ "$arch" = "$own" ]; then
  PATH="$(install/cargo-path.sh):$PATH" cargo "${build[@]}"
  programs=$target/$folder
  sysroot=
else
  packaging/cross.sh "${build[@]}"
  programs=$target/$triple/$folder
  sysroot=$(packaging/sysroot.sh)
fi

say "packing version $version"
rm -rf "$source"
mkdir -p "$source"
cp -r packaging/debian "$source/debian"
cat > "$source/debian/changelog" <<END
picket ($version) stable; urgency=medium

  * What changed for users stands in changelog.gz, beside this file.

 -- $(sed -n 's/^Maintainer: //p' packaging/debian/control)  $date
END
# xz takes a minute more, which a package for tests is not worth.
compression=xz
[ "$profile" = dev ] && compression=gzip
(
  cd "$source"
  export REPO=$OLDPWD PROGRAMS=$programs CACHE=$cache COMPRESSION=$compression
  [ -z "$sysroot" ] || export SYSROOT=$sysroot
  dpkg-buildpackage --build=binary --host-arch "$arch" --unsigned-changes --unsigned-buildinfo \
    --no-check-builddeps > "$out/build.log" 2>&1
) || { tail -40 "$out/build.log" >&2; echo "deb: packing failed; the whole log: $out/build.log" >&2; exit 1; }
files=("$out"/picket-{aggregator,edge-agent,pki}_"${version}_$arch.deb")
# For the tests: which of the packages that may lie here are of this build.
printf '%s\n' "${files[@]}" > "$out/built.txt"
for file in "${files[@]}"; do
  say "$file ($(( $(stat --format=%s "$file") / 1024 )) KiB)"
done
