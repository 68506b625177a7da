#!/usr/bin/env bash
# Compares the detector's boxes with OpenCV's on the clip; see check.py. Takes further files to compare.
set -euo pipefail
cd "$(dirname "$0")/../.."
cache=${PICKET_CACHE:-.cache}
venv=$cache/detector-venv
requirements=tests/detector/requirements.txt
if ! cmp --silent "$requirements" "$venv/requirements.txt"; then
  echo "detector: installing OpenCV into $venv"
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --require-hashes --requirement "$requirements"
  cp "$requirements" "$venv/requirements.txt"
fi
clip=$cache/video/carphone_pristine.mp4
exec "$venv/bin/python" tests/detector/check.py \
  --agent "${CARGO_TARGET_DIR:-target}/debug/picket-edge-agent detect" \
  --model "$cache/models/yunet.onnx" --runtime-library "$cache/runtime/$(uname -m)/libonnxruntime.so" \
  --file-too "$clip" "$@"
