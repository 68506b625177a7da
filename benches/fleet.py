"""The centre under a fleet: how much it takes, what that costs, and how it grows.

    fleet.py throughput     the aggregator and a Python consumer, in turns, over the same records
    fleet.py growth         10, 100 and 1000 cameras; one and two aggregators; with outages

A generator (`fleet_records.rs`) writes what the fleet's agents would have sent to the real Kafka, and then
whoever is measured reads all of it into an empty database of the real MongoDB. At the end the database is
counted: a figure whose counts are not what was sent is void.
"""

import argparse
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

import centre

HERE = pathlib.Path(__file__).resolve().parent
READ_LIMIT_S = 900


@dataclass
class Figures:
    """What reading the whole fleet took: per second, and CPU seconds for 1000 observations."""

    observations_s: float
    cpu_s: float
    mongodb_cpu_s: float
    steady_mib: float
    peak_mib: float


@dataclass
class Fleet:
    cameras: int
    fps: float
    seconds: float
    faces: float
    away: float = 0.0

    @property
    def devices(self):
        return max(1, self.cameras // 4)


def write(bench, options, fleet):
    """Fills the topic; returns what was sent."""
    bench.remake_topics()
    who = bench.stack.settings["admin"]
    command = [
        options.records, "--brokers", bench.stack.brokers, "--topic-prefix", bench.stack.prefix,
        "--ca", who["ca"], "--certificate", who["certificate"], "--key", who["key"],
        "--devices", fleet.devices, "--cameras", fleet.cameras, "--fps", fleet.fps,
        "--seconds", fleet.seconds, "--faces", fleet.faces, "--away", fleet.away,
    ]  # fmt: skip
    done = subprocess.run([str(part) for part in command], check=True, stdout=subprocess.PIPE, text=True)
    sent = json.loads(done.stdout)
    print(
        f"{fleet.cameras} cameras on {fleet.devices} devices at {fleet.fps:g} fps for {fleet.seconds:g} s, "
        f"{sent['detections'] / sent['observations']:.1f} faces a frame: {sent['observations']} observations, "
        f"{sent['backlog']} of them late, {sent['bytes'] / sent['records']:.0f} bytes each",
        flush=True,
    )
    return sent


def peer(bench, fleet, group):
    who = bench.stack.settings["aggregator"]
    return [
        sys.executable, HERE / "peer/fleet_to_mongo.py", "--brokers", bench.stack.brokers,
        "--topic-prefix", bench.stack.prefix, "--group", group, "--fps", fleet.fps,
        "--ca", who["ca"], "--certificate", who["certificate"], "--key", who["key"],
        "--mongodb-uri-file", bench.uri_file, "--database", bench.name,
    ]  # fmt: skip


def read(bench, sent, name, commands, group, others):
    """Has `commands` read all that was sent; `others` is how many records beside observations they store."""
    bench.empty()
    observations = bench.database["observations"]
    with contextlib.ExitStack() as programs:
        running = [
            programs.enter_context(centre.Running(command, bench.folder / f"{name}-{number}.log"))
            for number, command in enumerate(commands)
        ]

        def stored(least):
            for program in running:
                program.expect_running()
            return observations.estimated_document_count() >= least

        centre.wait(lambda: stored(1), f"the first observation by {name}", READ_LIMIT_S)
        first_s, servers = time.time(), bench.server_cpu_s()
        least = sent["observations"] + others
        centre.wait(lambda: stored(least), f"{least} documents by {name}", READ_LIMIT_S)
        # Provisional tracks become final after the last record is there.
        provisional = {"kind": "observation", "final": False}
        centre.wait(lambda: observations.find_one(provisional) is None, "final tracks", READ_LIMIT_S)
        wall_s = time.time() - first_s
        mongodb = bench.server_cpu_s()["mongod"] - servers["mongod"]
    # They have ended in order: the last batch and its checkpoints are part of the work.
    used = [program.measured for program in running]
    cpu_s = sum(run.samples[-1][1] - run.cpu_until(first_s * 1000) for run in used)
    if unread := bench.unread(group, f"{bench.stack.prefix}.observations"):
        raise SystemExit(f"void: {name} has not said that it is done with {unread} records")
    check(bench, sent, name)
    count = sent["observations"]
    return Figures(
        observations_s=count / wall_s,
        cpu_s=1000 * cpu_s / count,
        mongodb_cpu_s=1000 * mongodb / count,
        steady_mib=sum(run.steady_mib() for run in used),
        peak_mib=sum(max(peak for *_, peak in run.samples) for run in used),
    )


def check(bench, sent, name):
    """What is in the database is what was sent, or there is no figure."""
    observations = bench.database["observations"]
    group = {
        "_id": {"device": "$device", "camera": "$camera"},
        "count": {"$sum": 1},
        "detections": {"$sum": {"$size": "$detections"}},
        "bad": {"$sum": {"$cond": [{"$and": ["$final", {"$not": "$late"}]}, 0, 1]}},
    }
    cameras = list(observations.aggregate([{"$match": {"kind": "observation"}}, {"$group": group}]))
    found = {
        "observations": sum(camera["count"] for camera in cameras),
        "detections": sum(camera["detections"] for camera in cameras),
        "cameras": len(cameras),
        "cameras with another count": sum(camera["count"] != sent["each_camera"] for camera in cameras),
        "late or provisional": sum(camera["bad"] for camera in cameras),
    }
    expected = {
        "observations": sent["observations"],
        "detections": sent["detections"],
        "cameras": sent["observations"] // sent["each_camera"],
        "cameras with another count": 0,
        "late or provisional": 0,
    }
    if found != expected:
        raise SystemExit(f"void: {name} stored {found}, sent was {expected}")
    if not bench.database["tracks"].estimated_document_count():
        raise SystemExit(f"void: {name} stored no tracks")


def aggregators(bench, sent, fleet, count):
    # Each camera's epoch record is a document as well.
    commands = [bench.command()] * count
    return read(bench, sent, f"aggregators-{count}", commands, centre.GROUP, fleet.cameras)


def throughput(bench, options):
    fleet = Fleet(options.cameras, options.fps, options.seconds, options.faces)
    sent = write(bench, options, fleet)
    rounds = []
    for number in range(options.rounds):
        group = f"{bench.stack.prefix}-peer-{number}"
        turn = {
            "peer": read(bench, sent, "peer", [peer(bench, fleet, group)], group, 0),
            "aggregator": aggregators(bench, sent, fleet, 1),
        }
        rounds.append(turn)
        for name, figures in turn.items():
            print(
                f"round {number + 1}: {name}: {figures.observations_s:.0f} observations/s, {figures.cpu_s:.3f} "
                f"CPU s per 1000, MongoDB's {figures.mongodb_cpu_s:.3f}, {figures.steady_mib:.0f} MiB",
                flush=True,
            )
    report(rounds)


def report(rounds):
    def values(name, field):
        return [getattr(turn[name], field) for turn in rounds]

    names = ("peer", "aggregator")
    rows = [
        ("observations/s", "observations_s", 0),
        ("CPU s per 1000 observations", "cpu_s", 3),
        ("MongoDB's CPU s for the same", "mongodb_cpu_s", 3),
        ("resident memory, steady, MiB", "steady_mib", 0),
        ("resident memory, peak, MiB", "peak_mib", 0),
    ]
    print("\n| | Python consumer | aggregator |\n|---|---:|---:|")
    for title, field, digits in rows:
        cells = [statistics.median(values(name, field)) for name in names]
        print(f"| {title} | " + " | ".join(f"{cell:.{digits}f}" for cell in cells) + " |")
    print("\n| aggregator / Python consumer | goal | median | of the rounds | |\n|---|---:|---:|---|---|")
    for title, field, goal in [("observations/s", "observations_s", 5), ("CPU per observation", "cpu_s", 0.2)]:
        ratios = [ours / theirs for theirs, ours in zip(values("peer", field), values("aggregator", field))]
        median = statistics.median(ratios)
        met = median >= goal if goal > 1 else median <= goal
        spread = f"{min(ratios):.3g} to {max(ratios):.3g}"
        print(f"| {title} | {goal} | {median:.3g} | {spread} | {'met' if met else 'not met'} |")


def growth(bench, options):
    rows = []
    for cameras, away in [(10, 0), (100, 0), (1000, 0), (100, options.away)]:
        seconds = options.total / (cameras * options.fps)
        fleet = Fleet(cameras, options.fps, seconds, options.faces, away)
        sent = write(bench, options, fleet)
        for count in (1, 2):
            rows.append((fleet, count, aggregators(bench, sent, fleet, count)))
    print("\n| cameras | late | aggregators | observations/s | CPU s per 1000 | MongoDB's | memory, MiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for fleet, count, figures in rows:
        print(
            f"| {fleet.cameras} | {100 * fleet.away:.0f} % | {count} | {figures.observations_s:.0f} | "
            f"{figures.cpu_s:.3f} | {figures.mongodb_cpu_s:.3f} | {figures.steady_mib:.0f} |"
        )


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("what", choices=("throughput", "growth"))
    arguments.add_argument("--cache", type=pathlib.Path, default=pathlib.Path(".cache"))
    arguments.add_argument("--aggregator", type=pathlib.Path, required=True)
    arguments.add_argument("--records", type=pathlib.Path, required=True, help="the generator")
    arguments.add_argument("--stack-program", type=pathlib.Path, required=True)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--cameras", type=int, default=100)
    arguments.add_argument("--fps", type=float, default=10)
    arguments.add_argument("--seconds", type=float, default=40)
    arguments.add_argument("--faces", type=float, default=3)
    arguments.add_argument("--total", type=int, default=60000, help="observations of each row of growth")
    arguments.add_argument("--away", type=float, default=0.2, help="share that comes late in the last of them")
    options = arguments.parse_args()
    with centre.started(options) as bench:
        {"throughput": throughput, "growth": growth}[options.what](bench, options)


if __name__ == "__main__":
    main()
