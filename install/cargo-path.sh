#!/bin/sh
# Prints the folder of a cargo that is new enough for this workspace; nothing and 1 if there is none.
# A rustup in the home folder comes before the system's, as it would in that user's own shell.
here=$(cd "$(dirname "$0")/.." && pwd)
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/Cargo.toml")
for cargo in "$(command -v cargo)" "$HOME/.cargo/bin/cargo" /usr/bin/cargo; do
    [ -x "$cargo" ] || continue
    found=$("$cargo" --version 2>/dev/null | awk '{print $2}')
    [ -n "$found" ] || continue
    oldest=$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)
    if [ "$oldest" = "$wanted" ]; then
        dirname "$cargo"
        exit 0
    fi
done
exit 1
