#!/usr/bin/env bash
# How much the units leave exposed, as systemd itself judges them, without starting anything.
#
# Each unit, and the agent's with each drop-in, has a figure that it must not exceed; it is the one that
# the drop-in's head states. What systemd does not know in them is an error too: this machine's, and that
# of Ubuntu 22.04, which is older (systemd-directives.txt).
set -euo pipefail
directives=$(realpath "$(dirname "$0")/systemd-directives.txt")
cd "$(dirname "$0")/../../systemd"
command -v systemd-analyze >/dev/null || { echo "security: systemd-analyze is missing: run \`make deps\`" >&2; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0

# Lays a unit out as it is installed, with a drop-in if one is named, and compares.
judge() { # limit, unit, [drop-in]
  local limit=$1 unit=$2 drop_in=${3:-} root=$folder/root said figure
  rm -rf "$root"
  install -D --mode=0644 "$unit.service" "$root/$unit.service"
  [ -z "$drop_in" ] || install -D --mode=0644 "$drop_in" "$root/$unit.service.d/$(basename "$drop_in")"
  said=$(cd "$root" && SYSTEMD_UNIT_PATH="$root:" systemd-analyze security --offline=true --no-pager "$unit.service" 2>&1)
  figure=$(sed -n 's/.*Overall exposure level for [^:]*: \([0-9.]*\) .*/\1/p' <<< "$said")
  echo "security: $unit${drop_in:+ with $(basename "$drop_in")}: ${figure:-unknown} (limit $limit)"
  if grep --ignore-case 'unknown\|failed to parse\|invalid' <<< "$said" >&2; then failed=1; fi
  awk -v figure="${figure:-99}" -v limit="$limit" 'BEGIN { exit !(figure <= limit) }' ||
    { echo "security: $unit is more exposed than $limit" >&2; failed=1; }
}

# LoadCredential= of something that is a folder here would pass all of the above, and fails for ever
# on the oldest systemd; whether it is one, only the box knows. So the units themselves use none.
known_to_oldest() { # file
  awk -v file="$1" '
    FNR == NR { if ($1 !~ /^#/) known[$1] = 1; next }
    match($0, /^[A-Za-z]+=/) {
      name = substr($0, 1, RLENGTH - 1)
      if (!(name in known)) problem = "is not in systemd-directives.txt: does systemd 249 know it?"
      else if (name == "LoadCredential" && file ~ /\.service$/) problem = "belongs into a drop-in, for a file that a site has"
      else next
      print "security: " file ": " name "= " problem; failed = 1
    }
    END { exit failed }' "$directives" "$1" >&2 || failed=1
}

for file in *.service edge-agent.service.d/*.conf; do known_to_oldest "$file"; done
judge 1.6 edge-agent
judge 1.6 aggregator
judge 1.6 aggregator-classify
for drop_in in edge-agent.service.d/*.conf; do
  stated=$(sed -n 's/^# Exposure: \([0-9.]*\)$/\1/p' "$drop_in")
  [ -n "$stated" ] || { echo "security: $drop_in does not state its exposure" >&2; failed=1; continue; }
  judge "$stated" edge-agent "$drop_in"
done
exit $failed
