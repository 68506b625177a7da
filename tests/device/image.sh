#!/usr/bin/env bash
# Makes the virtual device's disk: a Debian 12 with systemd and Debian's kernel, as a file system that
# each run starts from and never writes. Prints the folder, which holds disk.ext4, vmlinuz and initrd.
#
# It lies in the cache under a name made from everything that goes into it, so that a changed list of
# packages or a changed script makes a new one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${PICKET_CACHE:-$here/../../.cache}/device

packages=$(sed 's/#.*//; s/ *$//; /^$/d' "$here/packages.txt")
# The content, not the time: a checkout made anew finds its image again.
name=$({ echo "$packages"; cat "$here/image.sh"; find "$here/guest" -type f | sort | xargs cat; } | sha256sum | cut -c1-16)
image=$cache/$name
[ -e "$image/initrd" ] && { echo "$image"; exit; }

for tool in mmdebstrap mke2fs; do
  command -v "$tool" >/dev/null || { echo "device image: $tool is missing: run \`make test-device\`, which installs it" >&2; exit 1; }
done
mkdir -p "$cache"
exec 9> "$cache/lock"
flock 9
[ -e "$image/initrd" ] && { echo "$image"; exit; }

# Images of older lists are of no more use.
find "$cache" -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
making=$cache/making
mkdir "$making"
trap 'rm -rf "$making"' EXIT
echo "device image: making a Debian 12 (some minutes, once)" >&2

# An initial file system with the few drivers that lead to the disk: software emulation unpacks it at
# every boot.
mkdir -p "$making/initramfs/conf.d" "$making/initramfs/modules.d"
printf 'MODULES=list\nCOMPRESS=lz4\n' > "$making/initramfs/conf.d/device"
printf 'virtio_pci\nvirtio_blk\next4\ncrc32c_generic\n' > "$making/initramfs/modules.d/device"

mmdebstrap --variant=minbase \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  --include="$(echo "$packages" | paste -sd,),lz4" \
  --essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"' \
  --essential-hook="cp '$making/initramfs/conf.d/device' \"\$1/etc/initramfs-tools/conf.d/\"" \
  --essential-hook="cp '$making/initramfs/modules.d/device' \"\$1/usr/share/initramfs-tools/modules.d/\"" \
  --customize-hook="copy-out /boot '$making'" \
  --customize-hook="sync-in '$here/guest' /" \
  --customize-hook='chroot "$1" systemctl enable systemd-networkd' \
  --customize-hook='rm -rf "$1"/boot/* "$1"/var/lib/apt/lists/*; : > "$1/etc/machine-id"' \
  bookworm "$making/root.tar" > "$making/log" 2>&1 || { tail -30 "$making/log" >&2; exit 1; }

mkdir "$making/root"
tar --extract --file "$making/root.tar" --directory "$making/root" --numeric-owner
mke2fs -q -t ext4 -d "$making/root" -L device "$making/disk.ext4" 4G >> "$making/log"
mv "$making"/boot/vmlinuz-* "$making/vmlinuz"
mv "$making"/boot/initrd.img-* "$making/initrd.new"
rm -rf "$making/root" "$making/root.tar" "$making/boot" "$making/initramfs"
mv "$making" "$image"
# Last: what makes it count as whole.
mv "$image/initrd.new" "$image/initrd"
trap - EXIT
echo "$image"
