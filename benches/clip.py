"""Makes the videos that the benchmarks read: H.264 as a fixed camera on a street gives it.

No package index has a camera's 1080p recording with faces, so one is put together from two clips that
are there: the street is a frame of one, held still as a fixed camera holds it; the traffic is the same
clip playing in a part of the picture; the person is the other clip's, scaled up, who walks through the
picture and is out of it half of the time. Sensor noise lies over all of it, or the decoder would have
nothing to do. It is seeded, so the same versions give the same bytes.

The encoder (OpenH264: GStreamer's own set has it, x264 is an extra package) is set as such cameras are:
baseline profile, 4 Mbit/s for 1080p at 30 fps (by area and rate at others), a key frame every two seconds,
one reference, no B-frames.

    clip.py --size 1920x1080 --fps 30 --seconds 20 OUT.mp4
    clip.py --size 1280x720 --fps 10 --seconds 20 --still OUT.mp4      nobody, nothing moves
"""

import argparse
import pathlib
import subprocess

import cv2
import numpy as np

STREET_FRAME = 149
NOISE_SIGMA = 2.5
NOISE_PLANES = 8
# Of each ten seconds the person is there for five.
PERSON_PERIOD_S, PERSON_THERE_S = 10, 5


def frames_of(path):
    video = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, frame = video.read()
        if not there:
            break
        frames.append(frame)
    if not frames:
        raise SystemExit(f"{path} holds no frames: run `make fetch` and benches/run.sh again")
    return frames


class Scene:
    def __init__(self, cache, width, height, fps, still):
        self.size, self.fps, self.still = (width, height), fps, still
        bikes = frames_of(cache / "video/bikes.mp4")
        self.street = cv2.resize(bikes[STREET_FRAME], self.size, interpolation=cv2.INTER_CUBIC)
        traffic_size = (width // 4, height // 4)
        self.traffic = [cv2.resize(frame, traffic_size) for frame in bikes]
        person_size = (width // 4 // 2 * 2, height * 4 // 11 // 2 * 2)
        person = frames_of(cache / "video/carphone_pristine.mp4")
        person = [cv2.resize(frame, person_size, interpolation=cv2.INTER_CUBIC) for frame in person]
        # There and back, so that the person does not jump at the clip's end.
        self.person = person + person[-2:0:-1]
        random = np.random.default_rng(2026)
        self.noise = [random.normal(0, NOISE_SIGMA, (height, width)).astype(np.int16) for _ in range(NOISE_PLANES)]

    def frame(self, index):
        picture = self.street.copy()
        if not self.still:
            self.put(picture, self.traffic[index * 25 // self.fps % len(self.traffic)], (0, self.size[1] * 3 // 4))
            second = index / self.fps % PERSON_PERIOD_S
            if second < PERSON_THERE_S:
                person = self.person[index * 30 // self.fps % len(self.person)]
                way = self.size[0] // 4 + int(self.size[0] / 2 * second / PERSON_THERE_S)
                self.put(picture, person, (way, self.size[1] // 4))
        planes = cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420)
        luma = planes[: self.size[1]]
        np.copyto(luma, np.clip(luma + self.noise[index % NOISE_PLANES], 16, 235).astype(np.uint8))
        return planes.tobytes()

    @staticmethod
    def put(picture, part, at):
        x, y = at
        height, width = part.shape[:2]
        picture[y : y + height, x : x + width] = part[: picture.shape[0] - y, : picture.shape[1] - x]


def encoder(options, width, height, partial):
    kbit_s = 4096 * width * height * options.fps // (1920 * 1080 * 30)
    return [
        "gst-launch-1.0", "--quiet", "fdsrc", "fd=0", "!",
        "rawvideoparse", "format=i420", f"width={width}", f"height={height}", f"framerate={options.fps}/1",
        "colorimetry=bt709", "!",
        "openh264enc", f"bitrate={1000 * kbit_s}", f"gop-size={2 * options.fps}", "rate-control=bitrate",
        "complexity=low", "multi-thread=1", "!",
        "h264parse", "!", "mp4mux", "!", "filesink", f"location={partial}",
    ]  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description="Makes a video for the benchmarks.")
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path(".cache"))
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--still", action="store_true", help="nobody is there and nothing moves")
    parser.add_argument("out", type=pathlib.Path)
    options = parser.parse_args()
    width, height = (int(px) for px in options.size.split("x"))
    scene = Scene(options.cache, width, height, options.fps, options.still)
    partial = options.out.with_suffix(".partial.mp4")
    encoding = subprocess.Popen(encoder(options, width, height, partial), stdin=subprocess.PIPE)
    for index in range(options.fps * options.seconds):
        encoding.stdin.write(scene.frame(index))
    encoding.stdin.close()
    if encoding.wait() != 0:
        raise SystemExit(f"gst-launch-1.0 ended with {encoding.returncode}: is gstreamer1.0-plugins-bad there?")
    partial.rename(options.out)


if __name__ == "__main__":
    main()
