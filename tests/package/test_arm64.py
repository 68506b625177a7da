"""The packaged arm64 agent at work, under an emulator, beside one of this machine.

Run by `make test-arm64`. SYSROOT is the arm64 Debian where the program finds its libraries and GStreamer's
plugins; NATIVE is a picket-edge-agent of this machine.
"""

import json
import os
import pathlib
import signal
import sqlite3
import subprocess
import tempfile
import threading
import tomllib
import unittest

import deb

CACHE = pathlib.Path(os.environ.get("PICKET_CACHE", deb.REPOSITORY / ".cache")).resolve()
CLIP = CACHE / "video/carphone_pristine.mp4"
MANIFEST = tomllib.loads((deb.REPOSITORY / "models/MANIFEST.toml").read_text())
SYSROOT, NATIVE = os.environ["SYSROOT"], os.environ["NATIVE"]
LIBRARIES = "/usr/lib/aarch64-linux-gnu"
# The clip's frames, each with one face.
FRAMES = 120
LIMIT_S = 1200
MOST_APART_PX = 1.0


class Agent:
    """A picket-edge-agent with a config and a state of its own."""

    def __init__(self, command, folder, model, runtime):
        self.command, self.folder = command, pathlib.Path(folder)
        # A registry of plugins of its own, which the program writes itself: an arm64 helper program
        # cannot be started from within the emulated one.
        self.environment = {
            "PATH": "/usr/bin:/bin", "HOME": str(folder),
            "GST_REGISTRY": f"{folder}/plugins.bin", "GST_REGISTRY_FORK": "no",
        }  # fmt: skip
        self.config = self.folder / "edge-agent.toml"
        # Port 9 has no broker: what is found stays in the spool, where the tests read it.
        self.config.write_text(f"""
device = "gate-1"
state_dir = "{folder}/state"
uplink = {{ brokers = ["127.0.0.1:9"], allow_plaintext = true }}
ops.listen = "127.0.0.1:0"
[[camera]]
name = "door"
source.file = {{ path = "{CLIP}", pace = "none" }}
[detect]
model = "{model}"
runtime_library = "{runtime}"
""")

    def doctor(self):
        done = subprocess.run(
            [*self.command, "doctor", "--config", self.config], env=self.environment, timeout=LIMIT_S,
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return [line.split(maxsplit=1) for line in done.stdout.splitlines()]

    def run_to_the_end_of_the_clip(self):
        """Gives the log and the exit status."""
        agent = subprocess.Popen(
            [*self.command, "run", "--config", self.config], env=self.environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        limit = threading.Timer(LIMIT_S, agent.kill)
        limit.start()
        try:
            log = []
            for line in agent.stderr:
                log.append(line)
                if "camera closed" in line:
                    agent.send_signal(signal.SIGTERM)
            return "".join(log), agent.wait()
        finally:
            limit.cancel()
            agent.kill()
            agent.stderr.close()
            agent.wait()

    def spooled(self, table, kind):
        query = f"SELECT value FROM {table} WHERE kind = ? ORDER BY id"
        with sqlite3.connect(self.folder / "state/spool.sqlite") as spool:
            return [value for (value,) in spool.execute(query, [kind])]

    def observations(self):
        return [json.loads(value) for value in self.spooled("records", "observation")]


def edges(detection):
    x, y, width, height = detection["box"]
    return x, y, x + width, y + height


def distance_px(a, b):
    return max(abs(x - y) for x, y in zip(edges(a), edges(b)))


class Arm64(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Kept, as its folder goes with it.
        cls.package = next(package for package in deb.built("arm64") if package.name == "picket-edge-agent")
        inside = cls.package.unpacked()
        # Where Debian's alternatives, which no script has set up in the tree, would point to.
        numerics = f"{LIBRARIES}/blas:{LIBRARIES}/lapack"
        emulator = ["qemu-aarch64-static", "-L", SYSROOT, "-E", f"LD_LIBRARY_PATH={numerics}"]
        cls.arm = Agent(
            [*emulator, inside / "usr/bin/picket-edge-agent"],
            cls.enterClassContext(tempfile.TemporaryDirectory()),
            inside / "usr/share/picket-edge-agent/yunet.onnx",
            inside / "usr/lib/picket-edge-agent/libonnxruntime.so",
        )
        cls.amd = Agent(
            [NATIVE],
            cls.enterClassContext(tempfile.TemporaryDirectory()),
            CACHE / "models/yunet.onnx",
            CACHE / f"runtime/{os.uname().machine}/libonnxruntime.so",
        )

    def test_the_clip_becomes_the_observations_that_it_becomes_on_amd64(self):
        for agent in (self.arm, self.amd):
            log, status = agent.run_to_the_end_of_the_clip()
            self.assertEqual(status, 0, log)
        arm, amd = self.arm.observations(), self.amd.observations()
        self.assertEqual((len(arm), len(amd)), (FRAMES, FRAMES))
        farthest = 0.0
        for ours, theirs in zip(arm, amd):
            for field in ("mono_us", "frame_width", "frame_height", "detector", "frame"):
                self.assertEqual(ours[field], theirs[field], ours["id"])
            self.assertEqual(len(ours["detections"]), 1, ours["id"])
            self.assertEqual(len(theirs["detections"]), 1, theirs["id"])
            farthest = max(farthest, distance_px(ours["detections"][0], theirs["detections"][0]))
        self.assertLessEqual(farthest, MOST_APART_PX)
        pictures = zip(self.arm.spooled("pictures", "frame"), self.amd.spooled("pictures", "frame"), strict=True)
        same = sum(a == b for a, b in pictures)
        print(f"edges at most {farthest:.6f} pixels apart, {same} pictures the same to the bit", end=" ... ")

    def test_doctor_finds_nothing_wrong_but_the_broker_that_is_not_there(self):
        page = self.arm.doctor()
        said = [text for what, text in page if what == "model"]
        model = next(entry for entry in MANIFEST["model"] if entry["name"] == "yunet")
        self.assertIn(f"yunet sha256 {model['prepared_sha256']}", " ".join(said))
        self.assertIn(["decoder", "H.264 avdec_h264: decodes, the one used"], page)
        self.assertEqual([what for what, text in page if text.startswith("PROBLEM")], ["broker"], page)


if __name__ == "__main__":
    unittest.main(verbosity=2)
