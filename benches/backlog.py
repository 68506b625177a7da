#!/usr/bin/env python3
"""The spool beside Python's sqlite3: how fast it keeps and drains, what it writes, what a backlog costs.

    benches/backlog.py --product SPOOL_WORK --agent AGENT [--rounds 3] [--frames 1500] [--observations 30000]
                       [--backlog-gb 10] [--folder DIR]

The product's side is `spool_work.rs`: the agent's own spool, without cameras and without a link. The peer is
`peer/sqlite_spool.py`. They take turns, each on a new folder. Rates are wall time, up to the last commit; what
was written is what the kernel booked on the process (write_bytes of /proc/PID/io), so the folder must be on a
disk. The backlog is made by the product; then the page cache is dropped (root only) before each start.
"""

import argparse
import base64
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import measure

HERE = pathlib.Path(__file__).resolve().parent
PICTURE_BYTES = 100_000
FRAME_BYTES = PICTURE_BYTES + 1400
AGENT_S = 20
GOALS = {"link": 1.4, "outage": 2.2}
PEERS = ("product", "sqlite3")


class Sides:
    """The programs, each with a folder of its own."""

    def __init__(self, options, folder):
        self.folder = folder
        self.commands = {
            "product": [str(options.product)],
            "sqlite3": [sys.executable, str(HERE / "peer/sqlite_spool.py")],
            "encrypted": [str(options.product)],
        }
        key = folder / "encrypted.key"
        key.touch(mode=0o600)
        key.write_bytes(base64.b64encode(os.urandom(32)))

    def run(self, side, *work):
        """One work in this side's folder, in a process of its own; what it says."""
        os.sync()
        command = [*self.commands[side], str(self.folder / side), *map(str, work)]
        ended = subprocess.run(command, capture_output=True, text=True)
        if ended.returncode != 0:
            raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stderr}")
        return json.loads(ended.stdout)

    def clear(self, side):
        shutil.rmtree(self.folder / side, ignore_errors=True)


def rates(sides, pair, rounds, what, count, picture_bytes):
    """Prints the frames a second of two sides that take turns, by work, and their ratio in a round."""
    found = {(side, work): [] for side in pair for work in ("put", "drain")}
    for turn in range(rounds):
        # Whoever comes second may find the disk busy with what the first has left.
        for side in pair[:: 1 if turn % 2 == 0 else -1]:
            sides.clear(side)
            found[side, "put"].append(count / sides.run(side, "put", count, picture_bytes)["s"])
            found[side, "drain"].append(count / sides.run(side, "drain")["s"])
            sides.clear(side)
    for work in ("put", "drain"):
        one, other = (found[side, work] for side in pair)
        ratio = statistics.median(a / b for a, b in zip(one, other))
        medians = f"{statistics.median(one):.0f} | {statistics.median(other):.0f}"
        print(f"| {what} | {work} | {medians} | {ratio:.2f} | {spread(one)} | {spread(other)} |", flush=True)


def spread(figures):
    return ", ".join(f"{figure:.0f}" for figure in figures)


def written(sides, what, count, picture_bytes):
    """Bytes written for one kept, by side and scenario."""
    for scenario, goal in GOALS.items():
        ratio = {}
        for side in PEERS:
            sides.clear(side)
            said = sides.run(side, scenario, count, picture_bytes)
            ratio[side] = said["written"] / said["payload"]
            sides.clear(side)
        if ratio["product"] < 0.5:
            raise SystemExit(f"{sides.folder} is on no disk: name another --folder")
        verdict = "met" if ratio["product"] <= goal else "not met"
        print(f"| {what} | {scenario} | {ratio['product']:.2f} | {ratio['sqlite3']:.2f} | {goal} | {verdict} |", flush=True)


def forget_pages():
    """Whether what is read next comes from the disk."""
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    except PermissionError:
        return False
    return True


def config(folder, state):
    """An agent whose broker is away."""
    cache = HERE.parent / ".cache"
    model, runtime = cache / "models/yunet.onnx", cache / f"runtime/{os.uname().machine}/libonnxruntime.so"
    path = folder / f"{state.name}.toml"
    path.write_text(
        f'device = "gate"\nstate_dir = {json.dumps(str(state))}\n'
        f"[detect]\nmodel = {json.dumps(str(model))}\nruntime_library = {json.dumps(str(runtime))}\n"
        f'[spool]\nmax_bytes = {64 << 30}\n[uplink]\nbrokers = ["127.0.0.1:9"]\nallow_plaintext = true\n'
        '[ops]\nlisten = "127.0.0.1:0"\n'
        '[[camera]]\nname = "north"\nsource.test-pattern = {}\nsampling.fps = 5\n'
    )
    return path


def looked_at(agent, path, log):
    """Seconds and memory of what looks at the spool from outside, by command."""
    for command in ("stat", "list"):
        forget_pages()
        began = time.monotonic()
        run = measure.run([str(agent), "spool", command, "--config", str(path)], log)
        print(f"| `spool {command}`, s | {time.monotonic() - began:.2f} |")
        if run.peak_mib:
            print(f"| `spool {command}`, memory at its highest, MiB | {run.peak_mib:.0f} |")


def backlog(options, sides, folder):
    free = shutil.disk_usage(folder).free
    needed = options.backlog_gb * 1.05e9 + 2e9
    if free < needed:
        raise SystemExit(f"{folder} has {free / 1e9:.0f} GB free, and {needed / 1e9:.0f} are needed: --backlog-gb")
    frames = int(options.backlog_gb * 1e9 / FRAME_BYTES)
    made = sides.run("product", "put", frames, PICTURE_BYTES)
    state = folder / "product"
    held = sum(path.stat().st_size for path in state.rglob("*") if path.is_file())
    print(f"\nA backlog of {made['payload'] / 1e9:.1f} GB, {frames} frames with pictures, {held / 1e9:.1f} GB on disk\n")
    print("| | |\n|---|---:|")
    print(f"| made at, MB/s | {made['payload'] / made['s'] / 1e6:.0f} |")
    cold = forget_pages()
    starts = []
    for _ in range(options.rounds):
        forget_pages()
        starts.append(sides.run("product", "start"))
    slowest = max(start["s"] for start in starts)
    seconds = ", ".join(f"{start['s']:.3f}" for start in starts)
    verdict = "met" if slowest < 1 else "not met"
    print(f"| start to first record, {'cold' if cold else 'WARM'} page cache, s (goal 1: {verdict}) | {seconds} |")
    peak = max(start["peak_kib"] for start in starts)
    print(f"| its memory at its highest, MiB | {peak / 1024:.0f} |", flush=True)
    looked_at(options.agent, config(folder, state), folder / "look.log")
    empty = folder / "empty"
    for title, of in (("with this backlog", state), ("with an empty spool", empty)):
        run = measure.run(
            [str(options.agent), "run", "--config", str(config(folder, of))], folder / "agent.log", stop_after_s=AGENT_S
        )
        print(f"| the whole agent, link down, {title}: memory at its highest, MiB | {run.peak_mib:.0f} |", flush=True)
    forget_pages()
    drained = sides.run("product", "drain")
    print(f"| drained at, MB/s | {drained['payload'] / drained['s'] / 1e6:.0f} |")
    print(f"| its memory at its highest, MiB | {drained['peak_kib'] / 1024:.0f} |", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--product", type=pathlib.Path, required=True)
    arguments.add_argument("--agent", type=pathlib.Path, required=True)
    arguments.add_argument("--folder", type=pathlib.Path, default=pathlib.Path(".cache"))
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--frames", type=int, default=1500)
    arguments.add_argument("--observations", type=int, default=30_000)
    arguments.add_argument("--backlog-gb", type=float, default=10)
    options = arguments.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start\n")
    with tempfile.TemporaryDirectory(dir=options.folder.resolve(), prefix="backlog-") as folder:
        folder = pathlib.Path(folder)
        sides = Sides(options, folder)
        for pair in (PEERS, ("encrypted", "product")):
            one, other = pair
            print(f"\n| | | {one}, frames/s | {other}, frames/s | ratio | {one}, each | {other}, each |")
            print("|---|---|---:|---:|---:|---|---|")
            rates(sides, pair, options.rounds, "picture of 100 KB", options.frames, PICTURE_BYTES)
            rates(sides, pair, options.rounds, "observation of 500 B", options.observations, 0)
        print("\n| bytes written for one kept | | product | sqlite3 | goal | |\n|---|---|---:|---:|---:|---|")
        written(sides, "picture of 100 KB", options.frames // 2, PICTURE_BYTES)
        written(sides, "observation of 500 B", options.frames, 0)
        if options.backlog_gb > 0:
            backlog(options, sides, folder)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
