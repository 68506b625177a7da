#!/usr/bin/env bash
# The centre under load: `benches/fleet.sh throughput|growth|latency [OPTIONS]`. Makes what it needs before: Python
# environments, for latency a video, and programs as they are shipped (a release build: 15 minutes the first time).
set -euo pipefail
cd "$(dirname "$0")/.."
bench=${1:?usage: benches/fleet.sh throughput|growth|latency [OPTIONS]}
shift
cache=${PICKET_CACHE:-.cache}
target=${CARGO_TARGET_DIR:-target}
# A folder with the libraries of a list.
environment() {
  local venv=$1 requirements=$2
  if ! cmp --silent "$requirements" "$venv/requirements.txt"; then
    echo "bench: installing $requirements into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --no-deps --require-hashes --requirement "$requirements"
    cp "$requirements" "$venv/requirements.txt"
  fi
}
cargo=("${CARGO:-cargo}")
"${cargo[@]}" build --quiet --locked --release -p picket-aggregator -p picket-edge-agent --bins --example fleet-records
"${cargo[@]}" build --quiet --locked -p picket-tests --bin picket-stack
programs=(--cache "$cache" --aggregator "$target/release/picket-aggregator" --stack-program "$target/debug/picket-stack")
case $bench in
throughput | growth)
  environment "$cache/bench-fleet-venv" benches/fleet-requirements.txt
  exec "$cache/bench-fleet-venv/bin/python" benches/fleet.py "$bench" "${programs[@]}" \
    --records "$target/release/examples/fleet-records" "$@"
  ;;
latency)
  environment "$cache/bench-venv" benches/requirements.txt
  models/fetch.py --manifest benches/MANIFEST.toml
  exec "$cache/bench-venv/bin/python" benches/latency.py "${programs[@]}" --agent "$target/release/picket-edge-agent" "$@"
  ;;
*)
  echo "usage: benches/fleet.sh throughput|growth|latency [OPTIONS]" >&2
  exit 2
  ;;
esac
