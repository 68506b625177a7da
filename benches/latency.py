"""From capture to MongoDB, on the whole path: four cameras of 1280x720 in one agent, looked at 10 times a
second, with decoding, detection, spool, Kafka, the aggregator, and MongoDB.

When an observation is in MongoDB is not asked of the aggregator: a change stream, which shows what a majority
of the set has, is read beside it, and the moment at which the document comes out of that is taken. The clocks
are one machine's.
"""

import argparse
import pathlib
import statistics
import threading
import time
from dataclasses import dataclass

import centre
import programs
import pymongo.errors

CAMERAS = [f"cam{number}" for number in range(1, 5)]
SIZE, FPS, SAMPLED_FPS = "1280x720", 30, 10
VIDEO_S = 20
GOAL_MS = 250
READY_S = 120


@dataclass
class Passage:
    """When, in milliseconds since 1970."""

    captured: float
    at_broker: float
    read: float
    in_store: float


class Watcher:
    """Notes when each observation can be read in MongoDB."""

    def __init__(self, observations):
        pipeline = [{"$match": {"operationType": "insert", "fullDocument.kind": "observation"}}]
        self.stream = observations.watch(pipeline, max_await_time_ms=500)
        self.passages, self.ended = [], threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self):
        while not self.ended.is_set():
            event = self.stream.try_next()
            if event is None:
                continue
            now_ms, document = time.time() * 1000, event["fullDocument"]
            ingest = document["ingest"]
            self.passages.append(
                Passage(
                    captured=document["captured_ns"] / 1e6,
                    at_broker=ingest["broker_time"].timestamp() * 1000,
                    read=ingest["stored_at"].timestamp() * 1000,
                    in_store=now_ms,
                )
            )

    def end(self):
        self.ended.set()
        self.thread.join()
        self.stream.close()


def milliseconds(values):
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return cuts[49], cuts[98], max(values)


def report(passages, seconds, load):
    print(f"\n{len(CAMERAS)} cameras, {SIZE}, {SAMPLED_FPS} fps, {seconds} s, load {load:.1f} at the end")
    print(f"{len(passages)} observations\n")
    print("| ms | p50 | p99 | most |\n|---|---:|---:|---:|")
    steps = [
        ("capture to broker (agent)", "captured", "at_broker"),
        ("broker to aggregator, with the wait for its batch", "at_broker", "read"),
        ("aggregator to MongoDB", "read", "in_store"),
        ("capture to MongoDB", "captured", "in_store"),
    ]
    for title, first, last in steps:
        values = milliseconds([getattr(passage, last) - getattr(passage, first) for passage in passages])
        print(f"| {title} | " + " | ".join(f"{value:.0f}" for value in values) + " |")
    verdict = "met" if values[1] < GOAL_MS else "not met"
    print(f"\np99 of capture to MongoDB below {GOAL_MS} ms: {verdict}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--cache", type=pathlib.Path, default=pathlib.Path(".cache"))
    arguments.add_argument("--agent", type=pathlib.Path, required=True)
    arguments.add_argument("--aggregator", type=pathlib.Path, required=True)
    arguments.add_argument("--stack-program", type=pathlib.Path, required=True)
    arguments.add_argument("--seconds", type=int, default=60)
    arguments.add_argument("--warm", type=int, default=10, help="seconds that are left out at the start")
    options = arguments.parse_args()
    options.kernels = None
    with centre.started(options) as bench:
        agents = programs.Bench(options, bench.stack)
        video = agents.video(SIZE, FPS, VIDEO_S)
        cameras = "".join(
            programs.camera(name, video, f"fps = {SAMPLED_FPS}", pace="timestamps", repeat=True) for name in CAMERAS
        )
        command = agents.agent("four", cameras)
        bench.empty()
        observations = bench.database["observations"]
        topic = f"{bench.stack.prefix}.observations"
        watcher = Watcher(observations)
        try:
            with centre.Running(bench.command(), bench.folder / "aggregator.log"):
                with centre.Running(command, bench.folder / "agent.log") as agent:
                    centre.wait(lambda: watcher.passages, "the first observation", READY_S)
                    from_ms = (time.time() + options.warm) * 1000
                    time.sleep(options.warm + options.seconds)
                    agent.expect_running()
                    until_ms = time.time() * 1000
                    load = centre.os.getloadavg()[0]
                centre.wait(lambda: bench.unread(centre.GROUP, topic) == 0, "the rest", every_s=0.5)
                stored = observations.count_documents({"kind": "observation"})
                centre.wait(lambda: len(watcher.passages) == stored, f"{stored} observations to be seen")
        finally:
            try:
                watcher.end()
            except pymongo.errors.PyMongoError as error:
                print(f"bench: the change stream ended: {error}")
        within = [passage for passage in watcher.passages if from_ms <= passage.captured < until_ms]
        if len(within) < 100:
            raise SystemExit(f"void: {len(within)} observations in {options.seconds} s")
        report(within, options.seconds, load)


if __name__ == "__main__":
    main()
