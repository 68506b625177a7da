#!/bin/bash
# Installs the Debian packages that are missing, after it has said which, and how much disk they take.
# Further lists are named as arguments: `deb` stands for packages-deb.txt.
# Needs root or sudo only when something is missing.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# The build folder, fetched files and the stack's data, beside the packages themselves.
REPOSITORY_DISK_MB=6000

say() { echo "install: $*"; }
fail() { echo "install: error: $*" >&2; exit 1; }

check_system() {
    local ID=unknown VERSION_ID=0 PRETTY_NAME=
    [ -r /etc/os-release ] && . /etc/os-release
    [ "$ID ${VERSION_ID%%.*}" = "debian 12" ] && return
    fail "${PRETTY_NAME:-$ID} is not a system that this knows; it knows Debian 12"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo env DEBIAN_FRONTEND=noninteractive "$@"
    else
        fail "packages are missing: run this as root, or install sudo"
    fi
}

listed() { sed 's/#.*//' "$1" | awk 'NF {print $1}'; }

# Installed, and not merely known or half removed.
missing_of() {
    local package
    for package in "$@"; do
        case "$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null)" in
            installed*) ;;
            *) echo "$package" ;;
        esac
    done
}

check_system
export DEBIAN_FRONTEND=noninteractive
mapfile -t wanted < <(listed "$here/packages.txt"; for list in "$@"; do listed "$here/packages-$list.txt"; done)
if cargo=$("$here/cargo-path.sh"); then
    say "Rust: $("$cargo/cargo" --version) in $cargo"
else
    say "Rust: none that is new enough; Debian's own will be installed"
    mapfile -t rust < <(listed "$here/packages-rust.txt")
    wanted+=("${rust[@]}")
fi
mapfile -t missing < <(missing_of "${wanted[@]}")

free_mb=$(df --output=avail -m "$here" | tail -n 1 | tr -d ' ')
if [ "${#missing[@]}" = 0 ]; then
    say "all ${#wanted[@]} packages are installed"
else
    say "missing ${#missing[@]} of ${#wanted[@]} packages: ${missing[*]}"
    say "reading the package lists"
    as_root apt-get update -qq
    for package in "${missing[@]}"; do
        apt-cache show --no-all-versions "$package" >/dev/null 2>&1 ||
            fail "this system has no package $package (see install/packages.txt)"
    done
    # apt's own sum for these and all that they bring along, before anything is installed.
    apt-get install --simulate --assume-yes --no-install-recommends "${missing[@]}" |
        awk '/^[0-9]+ upgraded/ {print "install: " $0}'
    # Only asked: saying no to apt makes it end with an error.
    apt-get install --print-uris --no-install-recommends --assume-no "${missing[@]}" 2>/dev/null |
        awk '/^Need to get|^After this operation/ {print "install: " $0}' || true
fi
say "disk: about $REPOSITORY_DISK_MB MB for the build and the fetched files here; $free_mb MB are free"
[ "$free_mb" -ge "$REPOSITORY_DISK_MB" ] || say "warning: that may not be enough"

if [ "${#missing[@]}" != 0 ]; then
    start=$SECONDS
    as_root apt-get install --assume-yes --no-install-recommends -o Dpkg::Use-Pty=0 \
        -o APT::Get::Show-Upgraded=false -q "${missing[@]}" |
        awk '/^(Get:|Setting up)/ {print "install: " $0; fflush()}'
    mapfile -t left < <(missing_of "${wanted[@]}")
    [ "${#left[@]}" = 0 ] || fail "still missing after the installation: ${left[*]}"
    say "packages installed in $((SECONDS - start)) s"
fi
