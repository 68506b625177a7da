#!/usr/bin/env bash
# The README's two commands on a Debian 12 that has git, make and CA certificates and nothing else.
#
# Makes the system with mmdebstrap in a folder of its own, clones this repository's HEAD into it, and
# runs `make demo` and `make test` there, as root and as a user with sudo, printing the minutes of
# each step. The host's settings for package registries are handed in. Runs as root.
#
#   tests/fresh/run.sh [root|user|both] [folder]
set -euo pipefail
who=${1:-both}
folder=${2:-$(mktemp -d -t picket-fresh.XXXXXX)}
repo=$(cd "$(dirname "$0")/../.." && pwd)
packages=git,make,ca-certificates,sudo

[ "$(id -u)" = 0 ] || { echo "test-fresh: must run as root, to make a system in a folder" >&2; exit 1; }
command -v mmdebstrap >/dev/null || apt-get install -y --no-install-recommends mmdebstrap

mkdir -p "$folder"
root=$folder/debian
mounts=()
finish() {
  # Whatever still runs in there (a stack of an interrupted step) would keep the mounts busy.
  for process in /proc/[0-9]*; do
    [ "$(readlink "$process/root" 2>/dev/null)" = "$root" ] && kill -9 "${process#/proc/}" 2>/dev/null
  done
  for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do umount -l "${mounts[i]}"; done
  rm -rf --one-file-system "$folder"
}
trap finish EXIT

# `make` in a minbase knows nothing of the host's proxies, mirrors and certificates: hand them in.
hand_in() { # user
  install -D /etc/resolv.conf "$root/etc/resolv.conf"
  install -D /etc/hosts "$root/etc/hosts"
  # Authorities of the host's own: `update-ca-certificates` also puts them where Java looks.
  mkdir -p "$root/usr/local/share/ca-certificates"
  cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
  chroot "$root" update-ca-certificates
  [ -f /etc/pip.conf ] && cp /etc/pip.conf "$root/etc/pip.conf"
  cp /etc/apt/sources.list.d/debian.sources "$root/etc/apt/sources.list.d/" 2>/dev/null && : > "$root/etc/apt/sources.list"
  for file in .cargo/config.toml .m2/settings.xml; do
    [ -f "$HOME/$file" ] && install -D "$HOME/$file" "$root$(home "$1")/$file"
  done
  env | grep -E '^(https?_proxy|HTTPS?_PROXY|no_proxy|NO_PROXY|PIP_INDEX_URL|PIP_CERT|CARGO_HTTP_CAINFO|SSL_CERT_FILE|REQUESTS_CA_BUNDLE)=' \
    > "$root/etc/environment" || : > "$root/etc/environment"
}

# One step inside, with its minutes; the log stays beside the system until it is removed.
step() { # user, title, command
  local start log=$folder/$1-$2.log
  start=$(date +%s)
  echo "== $1: $3"
  if ! chroot "$root" env -i HOME="$(home "$1")" TERM=dumb PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
      sudo -u "$1" -H env $(cat "$root/etc/environment") bash -c "cd ~/picket && $3" > "$log" 2>&1; then
    tail -60 "$log"
    echo "test-fresh: $1: $3 failed" >&2
    exit 1
  fi
  tail -25 "$log"
  awk -v who="$1" -v what="$3" -v s="$(($(date +%s) - start))" \
    'BEGIN { printf "== %s: %s took %.1f minutes\n", who, what, s / 60 }'
}
home() { if [ "$1" = root ]; then echo /root; else echo "/home/$1"; fi; }

try_as() {
  local user=$1
  mmdebstrap --variant=minbase --include="$packages" bookworm "$root"
  for where in proc sys dev; do
    mount --rbind "/$where" "$root/$where" && mount --make-rslave "$root/$where"
    mounts+=("$root/$where")
  done
  if [ "$user" != root ]; then
    chroot "$root" useradd --create-home --shell /bin/bash "$user"
    echo "$user ALL=(ALL) NOPASSWD: ALL" > "$root/etc/sudoers.d/$user"
    echo 'Defaults env_keep += "http_proxy https_proxy no_proxy"' >> "$root/etc/sudoers.d/$user"
  fi
  hand_in "$user"
  git clone --quiet "$repo" "$root$(home "$user")/picket"
  chroot "$root" chown -R "$user:" "$(home "$user")"
  step "$user" demo "DURATION_S=30 make demo"
  step "$user" test "make test"
  for ((i = ${#mounts[@]} - 1; i >= 0; i--)); do umount -l "${mounts[i]}"; done
  mounts=()
  rm -rf --one-file-system "$root"
}

case $who in
  root) try_as root ;;
  user) try_as engineer ;;
  both) try_as root; try_as engineer ;;
  *) echo "test-fresh: say root, user or both, not $who" >&2; exit 1 ;;
esac
echo "test-fresh: passed"
