"""Four cameras in one agent: what they cost, how late their observations are, what is lost.

Four 1280x720 streams at 30 fps, decoded whole, sampled at 10 fps, at their own pace, with the product's
defaults (motion gate, pictures of frames with somebody on them). Twice: with the broker, which gives the
way from capture to Kafka; and with none, which leaves every record in the spool, where the moment of its
commit stands beside that of its capture. What became of each frame is counted in Kafka, not asked of the
agent.
"""

import json
import sqlite3
import statistics

import measure
import programs
import stack

CAMERAS = [f"cam{number}" for number in range(1, 5)]
SIZE, FPS, SAMPLED_FPS = "1280x720", 30, 10
NOBODY = "127.0.0.1:1"


def percentiles(latencies_ms):
    if len(latencies_ms) < 2:
        return "none", "none"
    cuts = statistics.quantiles(latencies_ms, n=100, method="inclusive")
    return f"{cuts[49]:.0f}", f"{cuts[98]:.0f}"


def spooled_latencies(state):
    """Capture to commit, of what lies in the spool."""
    latencies = []
    with sqlite3.connect(f"file:{state / 'spool.sqlite'}?mode=ro", uri=True) as spool:
        rows = spool.execute("SELECT headers, committed_at_ms FROM records WHERE kind = 'observation'")
        for headers, committed_at_ms in rows:
            captured_at = dict(json.loads(headers)).get("picket-captured-at")
            if captured_at and committed_at_ms is not None:
                latencies.append(committed_at_ms - stack.epoch_ms(captured_at))
    return latencies


def main():
    arguments = programs.parser(__doc__)
    arguments.add_argument("--seconds", type=int, default=40)
    options = arguments.parse_args()
    with programs.started(options) as bench:
        video = bench.video(SIZE, FPS, options.seconds)
        cameras = "".join(
            programs.camera(name, video, f"fps = {SAMPLED_FPS}", pace="timestamps") for name in CAMERAS
        )
        before = bench.stack.ends()
        run = measure.run(bench.agent("four", cameras), bench.folder / "four.log")
        arrived = bench.stack.since(before, {f"four/{name}" for name in CAMERAS})
        measure.run(
            bench.agent("offline", cameras, brokers=NOBODY),
            bench.folder / "offline.log",
            stop_after_s=options.seconds / 2,
        )
        spooled = spooled_latencies(bench.state("offline"))
        report(options.seconds, run, arrived, spooled)


def report(seconds, run, arrived, spooled):
    records = arrived["observations"]
    observations = [record for record in records if record.kind == "observation"]
    skipped = sum(record.frames for record in records if record.kind == "skip")
    dropped = sum(record.frames for record in records if record.kind == "gap")
    first_at = observations[0].at_ms
    core = (run.cpu_s - run.cpu_until(first_at)) / (run.wall_s - (first_at - run.started_ms) / 1000)
    captured = len(CAMERAS) * seconds * SAMPLED_FPS
    to_kafka = percentiles([record.latency_ms for record in observations if record.latency_ms is not None])
    to_spool = percentiles(spooled)
    print(f"\n{len(CAMERAS)} cameras, {SIZE} at {FPS} fps, sampled at {SAMPLED_FPS} fps, {seconds} s\n")
    print("| | |\n|---|---:|")
    rows = [
        ("CPU, % of one core", f"{100 * core:.0f}"),
        ("memory, steady and peak, MiB", f"{run.steady_mib():.0f}, {run.peak_mib:.0f}"),
        ("frames captured", captured),
        ("looked at", len(observations)),
        ("skipped (motion gate, busy detector)", skipped),
        ("dropped", dropped),
        ("unaccounted for", captured - len(observations) - skipped - dropped),
        ("pictures", len(arrived["frames"])),
        ("capture to spool, p50 and p99, ms", ", ".join(to_spool)),
        ("capture to Kafka, p50 and p99, ms", ", ".join(to_kafka)),
    ]
    for title, value in rows:
        print(f"| {title} | {value} |")


if __name__ == "__main__":
    main()
