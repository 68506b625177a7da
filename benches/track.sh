#!/usr/bin/env bash
# The tracker on sequences of the MOTChallenge: `benches/track.sh quality --mot FOLDER` scores it (PROGRAM=FILE
# takes a picket-aggregator that is there already), `benches/track.sh speed ROUNDS FOLDER` times it beside a peer.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${PICKET_CACHE:-.cache}
target=${CARGO_TARGET_DIR:-target}
cargo=("${CARGO:-cargo}")
case ${1:-} in
quality)
  shift
  venv=$cache/bench-track-venv
  if ! cmp --silent benches/track-requirements.txt "$venv/requirements.txt"; then
    echo "bench: installing TrackEval into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --no-deps --require-hashes --requirement benches/track-requirements.txt
    cp benches/track-requirements.txt "$venv/requirements.txt"
  fi
  if [ -z "${PROGRAM:-}" ]; then
    "${cargo[@]}" build --quiet --locked --release -p picket-aggregator --bins
    PROGRAM=$target/release/picket-aggregator
  fi
  exec "$venv/bin/python" benches/track.py --program "$PROGRAM" "$@"
  ;;
speed)
  rounds=$2
  mapfile -t sequences < <(find "$3" -maxdepth 3 -name seqinfo.ini -printf '%h\n' | sort)
  [ ${#sequences[@]} -gt 0 ] || { echo "bench: $3 holds no sequences: a sequence is a folder with seqinfo.ini and det/det.txt" >&2; exit 1; }
  "${cargo[@]}" build --quiet --locked --release --manifest-path benches/track-speed/Cargo.toml --target-dir "$target/track-speed"
  exec "$target/track-speed/release/track-speed" "$rounds" "${sequences[@]}"
  ;;
*)
  echo "usage: benches/track.sh quality --mot FOLDER | speed ROUNDS FOLDER" >&2
  exit 2
  ;;
esac
