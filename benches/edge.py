"""The agent beside the script that people would otherwise write, and beside the bare kernels.

All three do the same work on the same 1080p file: decode every frame, look at each n-th, make a JPEG of
those with somebody on it; agent and script send both to the same Kafka over mutual TLS. They take turns,
so that what else the machine does hits all three alike, and the medians are compared. `benches/README.md`
tells how to read it.
"""

import json
import statistics
import sys
from dataclasses import dataclass

import measure
import programs

# What the design asks for: the most that agent / other may be.
GOALS = {
    "CPU s per 1000 source frames, against the script": 0.5,
    "resident memory (steady), against the script": 0.25,
    "start to first observation in Kafka, against the script": 0.1,
    "CPU, against the bare kernels": 1.15,
}


@dataclass
class Measured:
    cpu_s_per_1000: float
    steady_mib: float = 0
    peak_mib: float = 0
    first_ms: float = 0
    looked_at: int = 0
    pictures: int = 0


def of_sender(bench, command, key, frames):
    """Runs agent or script; both are judged by what arrived at the broker."""
    device = key.split("/")[0]
    before = bench.stack.ends()
    run = measure.run(command, bench.folder / f"{device}.log")
    arrived = bench.stack.since(before, {key})
    looked_at = [message for message in arrived["observations"] if message.kind in (None, "observation")]
    first_at = looked_at[0].at_ms
    return Measured(
        # The start is measured by itself: a daemon starts once. Frames until then: one.
        cpu_s_per_1000=(run.cpu_s - run.cpu_until(first_at)) / (frames - 1) * 1000,
        steady_mib=run.steady_mib(),
        peak_mib=run.peak_mib,
        first_ms=first_at - run.started_ms,
        looked_at=len(looked_at),
        pictures=len(arrived["frames"]),
    )


def of_kernels(bench, command):
    log = bench.folder / "kernels.log"
    run = measure.run(command, log)
    told = json.loads(log.read_text().splitlines()[-1])
    return Measured(
        cpu_s_per_1000=told["cpu_s"] / (told["frames"] - 1) * 1000,
        steady_mib=run.steady_mib(),
        peak_mib=run.peak_mib,
        looked_at=told["looked_at"],
        pictures=told["with_faces"],
    )


def same_work(rounds, frames, every):
    """Whoever skipped something would look fast."""
    wanted = len(range(0, frames, every))
    for name, measured in rounds:
        if measured.looked_at != wanted:
            sys.exit(f"{name} looked at {measured.looked_at} of {wanted} frames: no comparison")
    pictures = [measured.pictures for _, measured in rounds]
    if max(pictures) - min(pictures) > 0.03 * max(pictures):
        sys.exit(f"pictures made differ by more than 3 %: {pictures}: no comparison")


def median(rounds, name, value):
    return statistics.median(getattr(measured, value) for of, measured in rounds if of == name)


def report(rounds, frames, every):
    names = ["script", "agent", "kernels"]
    print(f"\n{frames} frames of 1920x1080, each {every}. looked at, medians of {len(rounds) // len(names)} rounds\n")
    rows = [
        ("CPU s per 1000 source frames", "cpu_s_per_1000", 2),
        ("resident memory, steady, MiB", "steady_mib", 0),
        ("resident memory, peak, MiB", "peak_mib", 0),
        ("start to first observation in Kafka, ms", "first_ms", 0),
        ("frames looked at", "looked_at", 0),
        ("pictures published", "pictures", 0),
    ]
    print("| | " + " | ".join(names) + " |\n|---|---:|---:|---:|")
    for title, value, digits in rows:
        cells = [median(rounds, name, value) for name in names]
        print(f"| {title} | " + " | ".join(f"{cell:.{digits}f}" if cell else "" for cell in cells) + " |")

    def ratio(value, other):
        return median(rounds, "agent", value) / median(rounds, other, value)

    measured = dict(zip(GOALS, [
        ratio("cpu_s_per_1000", "script"), ratio("steady_mib", "script"), ratio("first_ms", "script"),
        ratio("cpu_s_per_1000", "kernels"),
    ]))  # fmt: skip
    print("\n| agent / other | goal | measured | |\n|---|---:|---:|---|")
    for title, goal in GOALS.items():
        met = "met" if measured[title] <= goal else "not met"
        print(f"| {title} | {goal:.2f} | {measured[title]:.2f} | {met} |")


def main():
    arguments = programs.parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--seconds", type=int, default=20, help="of video")
    arguments.add_argument("--every", type=int, default=3, help="look at each n-th frame")
    options = arguments.parse_args()
    with programs.started(options) as bench:
        frames = options.seconds * 30
        video = bench.video("1920x1080", 30, options.seconds)
        rounds = []
        for _ in range(options.rounds):
            peer = bench.peer("script", video, options.every)
            rounds.append(("script", of_sender(bench, peer, "script/cam", frames)))
            agent = bench.agent("agent", programs.camera("cam", video, f"every = {options.every}"))
            rounds.append(("agent", of_sender(bench, agent, "agent/cam", frames)))
            rounds.append(("kernels", of_kernels(bench, bench.kernels(video, options.every))))
            for name, measured in rounds[-3:]:
                print(f"{name}: {measured.cpu_s_per_1000:.2f} CPU s per 1000 frames", flush=True)
        same_work(rounds, frames, options.every)
        report(rounds, frames, options.every)


if __name__ == "__main__":
    main()
