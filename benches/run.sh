#!/usr/bin/env bash
# Runs a benchmark of this folder: `benches/run.sh edge [OPTIONS]`. Makes what it needs before: the Python
# environment, the videos, and programs as they are shipped (a release build: 15 minutes the first time).
set -euo pipefail
cd "$(dirname "$0")/.."
bench=$1
shift
cache=${PICKET_CACHE:-.cache}
venv=$cache/bench-venv
target=${CARGO_TARGET_DIR:-target}
if ! cmp --silent benches/requirements.txt "$venv/requirements.txt"; then
  echo "bench: installing OpenCV, ONNX Runtime and confluent-kafka into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --require-hashes --requirement benches/requirements.txt
  cp benches/requirements.txt "$venv/requirements.txt"
fi
models/fetch.py --manifest benches/MANIFEST.toml
cargo=("${CARGO:-cargo}")
"${cargo[@]}" build --quiet --locked --release -p picket-edge-agent --bins --example bare-kernels
"${cargo[@]}" build --quiet --locked -p picket-tests --bin picket-stack
exec "$venv/bin/python" "benches/$bench.py" --cache "$cache" \
  --agent "$target/release/picket-edge-agent" --kernels "$target/release/examples/bare-kernels" \
  --stack-program "$target/debug/picket-stack" "$@"
