"""How the agent and the script are told to do the same work."""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys

import stack

HERE = pathlib.Path(__file__).resolve().parent
INPUT_WIDTH_PX, QUALITY = 320, 85


def parser(about):
    """What every benchmark is told by run.sh."""
    arguments = argparse.ArgumentParser(description=about)
    arguments.add_argument("--cache", type=pathlib.Path, default=pathlib.Path(".cache"))
    arguments.add_argument("--agent", type=pathlib.Path, required=True)
    arguments.add_argument("--kernels", type=pathlib.Path, required=True)
    arguments.add_argument("--stack-program", type=pathlib.Path, required=True)
    return arguments


@contextlib.contextmanager
def started(options):
    """A bench with its Kafka, which ends with it."""
    folder = options.cache.resolve() / "bench/stack"
    broker = stack.Stack(str(options.stack_program), str(folder))
    try:
        load = os.getloadavg()[0]
        print(f"machine: {os.cpu_count()} cores, load {load:.1f} at the start", flush=True)
        if load > 0.5:
            print("machine: something else runs; CPU times move by some tenths then, wall times by far more")
        yield Bench(options, broker)
    finally:
        broker.stop()


class Bench:
    """What every run shares: folders, programs, the broker."""

    def __init__(self, options, stack):
        self.cache = options.cache.resolve()
        self.agent_program, self.kernels_program = options.agent, options.kernels
        self.stack = stack
        self.folder = self.cache / "bench/run"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.model = self.cache / "models/yunet.onnx"
        self.runtime = self.cache / f"runtime/{platform.machine()}/libonnxruntime.so"

    def video(self, size, fps, seconds, still=False):
        """A video of the street, made when it is first asked for."""
        path = self.cache / f"bench/{'still' if still else 'street'}-{size}-{fps}fps-{seconds}s.mp4"
        if not path.exists():
            print(f"bench: making {path.name}", flush=True)
            command = [sys.executable, HERE / "clip.py", "--cache", self.cache, "--size", size]
            command += ["--fps", fps, "--seconds", seconds, *(["--still"] if still else []), path]
            subprocess.run([str(part) for part in command], check=True)
        return path

    def peer(self, device, video, every, real_time=False):
        who = self.stack.device(device)
        command = [
            sys.executable, HERE / "peer/faces_to_kafka.py", video, "--model", self.model,
            "--input-width", INPUT_WIDTH_PX, "--every", every, "--quality", QUALITY,
            "--brokers", self.stack.brokers, "--topic-prefix", self.stack.prefix, "--device", device,
            "--ca", who["ca"], "--certificate", who["certificate"], "--key", who["key"],
        ]  # fmt: skip
        return [str(part) for part in command + (["--real-time"] if real_time else [])]

    def state(self, device):
        return self.folder / device / "state"

    def agent(self, device, cameras, brokers=None):
        """A new agent, as after its installation: no state."""
        who = self.stack.device(device)
        folder = self.folder / device
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        config = folder / "agent.toml"
        config.write_text(self.agent_config(device, who, cameras, brokers or self.stack.brokers))
        return [str(self.agent_program), "run", "--config", str(config)]

    def agent_config(self, device, who, cameras, brokers):
        def quoted(value):
            return json.dumps(str(value))

        return f"""device = {quoted(device)}
state_dir = {quoted(self.state(device))}

[detect]
model = {quoted(self.model)}
runtime_library = {quoted(self.runtime)}
input_width_px = {INPUT_WIDTH_PX}

[uplink]
brokers = [{quoted(brokers)}]
topic_prefix = {quoted(self.stack.prefix)}
ca_file = {quoted(who["ca"])}
certificate_file = {quoted(who["certificate"])}
key_file = {quoted(who["key"])}

[ops]
listen = "127.0.0.1:0"

{cameras}"""

    def kernels(self, video, every):
        return [str(part) for part in (self.kernels_program, video, self.model, self.runtime, every)]


def camera(name, video, sampling, pace="none", gate=None, repeat=False):
    """A camera of the agent that reads a video; `gate` as the product has it by default."""
    motion = "" if gate is None else f"motion = {{ gate = {json.dumps(gate)} }}"
    return f"""[[camera]]
name = {json.dumps(name)}
sampling = {{ {sampling} }}
publish = {{ quality = {QUALITY} }}
{motion}

[camera.source.file]
path = {json.dumps(str(video))}
pace = {json.dumps(pace)}
repeat = {json.dumps(repeat)}

"""

