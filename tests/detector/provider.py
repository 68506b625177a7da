#!/usr/bin/env python3
"""Compares what a provider of an ONNX Runtime finds with what the processor finds, frame by frame.

    provider.py --provider cuda --runtime-library /opt/onnxruntime/libonnxruntime.so \\
        --model yunet.onnx --model centerface.onnx VIDEO

The processor computes with `--reference-library`, the packaged runtime, so that a vendor's build is
compared with a known one, also by `--provider cpu`. Needs nothing but Python and the agent, so that it
runs on a device.

A thing that both find is at most BOX_PX apart in every side and SCORE in its score: accelerators calculate
with fewer digits. One whose score stands within SCORE of the threshold may be found by one alone; it is
counted, and is no mismatch. Prints a line per model with the largest differences; exit status 1 on a
mismatch, or when the provider cannot be used.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

BOX_PX = 1.0
SCORE = 0.02


def look(options, model, library, provider):
    """The frames' reports, and the milliseconds per frame of the whole run."""
    command = shlex.split(options.agent) + [
        str(options.video), "--json", "--model", str(model), "--runtime-library", str(library),
        "--provider", provider, "--score-threshold", str(options.threshold),
        "--input-width-px", str(options.width),
    ]  # fmt: skip
    began = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} failed with status {done.returncode}")
    took_s = time.monotonic() - began
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    return reports, 1000 * took_s / max(len(reports), 1)


def apart_px(a, b):
    return max(abs(x - y) for x, y in zip(a["box"], b["box"]))


class Comparison:
    """Of all frames of a video."""

    def __init__(self, threshold):
        self.threshold = threshold
        self.frames = self.things = self.borderline = 0
        self.box_px = self.score = 0.0
        self.mismatches = []

    def videos(self, ours, expected):
        if len(ours) != len(expected):
            self.mismatches.append(f"{len(ours)} frames, the processor has {len(expected)}")
        for one, other in zip(ours, expected):
            self.frame(one, other)
        return self

    def frame(self, ours, expected):
        self.frames += 1
        self.things += len(expected["detections"])
        left = list(ours["detections"])
        for thing in expected["detections"]:
            same = [one for one in left if one["class"] == thing["class"]]
            nearest = min(same, key=lambda one: apart_px(one, thing), default=None)
            if nearest is None or apart_px(nearest, thing) > BOX_PX:
                self.alone(ours["frame"], "the processor", thing)
                continue
            left.remove(nearest)
            self.box_px = max(self.box_px, apart_px(nearest, thing))
            score = abs(nearest["score"] - thing["score"])
            self.score = max(self.score, score)
            if score > SCORE:
                self.mismatches.append(f"frame {ours['frame']}: scores {score:.4f} apart: {words(thing)}")
        for thing in left:
            self.alone(ours["frame"], "the provider", thing)

    def alone(self, frame, who, thing):
        if thing["score"] - self.threshold <= SCORE:
            self.borderline += 1
        else:
            self.mismatches.append(f"frame {frame}: only {who} has {words(thing)}")

    def holds(self):
        return bool(self.frames and self.things and not self.mismatches)

    def __str__(self):
        return (f"{self.frames} frames, {self.things} found, at most {self.box_px:.3f} px and {self.score:.5f} of "
                f"score apart, {self.borderline} at the threshold, {len(self.mismatches)} mismatches")  # fmt: skip


def words(thing):
    box = ", ".join(f"{value:.1f}" for value in thing["box"])
    return f"{thing['class']} at {box} of score {thing['score']:.3f}"


def main():
    parser = argparse.ArgumentParser(description="Compares a provider's boxes with the processor's.")
    parser.add_argument("--agent", default="picket-edge-agent detect", help="the command, up to and with `detect`")
    parser.add_argument("--provider", required=True, help="as `detect.provider` calls it")
    parser.add_argument("--runtime-library", required=True, type=Path, help="ONNX Runtime that has it")
    parser.add_argument("--reference-library", type=Path, default="/usr/lib/picket-edge-agent/libonnxruntime.so")
    parser.add_argument("--model", required=True, type=Path, action="append", dest="models")
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--threshold", type=float, default=0.6)
    parser.add_argument("video", type=Path)
    options = parser.parse_args()
    all_hold = True
    for model in options.models:
        expected, cpu_ms = look(options, model, options.reference_library, "cpu")
        ours, ours_ms = look(options, model, options.runtime_library, options.provider)
        comparison = Comparison(options.threshold).videos(ours, expected)
        print(f"{'ok' if comparison.holds() else 'MISMATCH':8} {options.provider}, {model.stem}: {comparison}")
        print(f"         {ours_ms:.1f} ms a frame, the processor {cpu_ms:.1f}, loading and decoding included")
        for line in comparison.mismatches[:20]:
            print(f"         {line}")
        all_hold &= comparison.holds()
    sys.exit(0 if all_hold else 1)


if __name__ == "__main__":
    main()
