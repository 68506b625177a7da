"""What a camera costs that looks at nothing: the agent with its motion gate, without it, and the script.

All three read the same still scene (with a sensor's noise) at its own pace, at the same time, so that
whatever else the machine does hits them alike.
"""

import threading

import measure
import programs

SIZE, FPS = "1280x720", 10


def cpu_percent(run, first_at):
    """Of one core, from the first message to the end."""
    return 100 * (run.cpu_s - run.cpu_until(first_at)) / (run.wall_s - (first_at - run.started_ms) / 1000)


def main():
    arguments = programs.parser(__doc__)
    arguments.add_argument("--seconds", type=int, default=40)
    options = arguments.parse_args()
    with programs.started(options) as bench:
        video = bench.video(SIZE, FPS, options.seconds, still=True)

        def camera(gate):
            return programs.camera("cam", video, "every = 1", pace="timestamps", gate=gate)

        commands = {
            "gate": bench.agent("gate", camera(True)),
            "nogate": bench.agent("nogate", camera(False)),
            "script": bench.peer("script", video, 1, real_time=True),
        }
        before = bench.stack.ends()
        runs = {}

        def run(name, command):
            runs[name] = measure.run(command, bench.folder / f"{name}.log")

        threads = [threading.Thread(target=run, args=item) for item in commands.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if missing := commands.keys() - runs.keys():
            raise SystemExit(f"did not run to the end: {', '.join(missing)}")
        cpu = {}
        print(f"\n{options.seconds} s of a still scene, {SIZE} at {FPS} fps, every frame captured\n")
        print("| | CPU, % of one core | frames looked at | skipped | memory, MiB |\n|---|---:|---:|---:|---:|")
        names = {"gate": "agent with the gate", "nogate": "agent without", "script": "script"}
        for name, title in names.items():
            arrived = bench.stack.since(before, {f"{name}/cam"})["observations"]
            looked_at = sum(message.kind in (None, "observation") for message in arrived)
            skipped = sum(message.frames for message in arrived if message.kind == "skip")
            cpu[name] = cpu_percent(runs[name], arrived[0].at_ms)
            print(f"| {title} | {cpu[name]:.2f} | {looked_at} | {skipped} | {runs[name].steady_mib():.0f} |")
        ratio = cpu["gate"] / cpu["script"]
        print(f"\ngate / without: {cpu['gate'] / cpu['nogate']:.2f}")
        print(f"gate / script: {ratio:.2f}, goal 0.25: {'met' if ratio <= 0.25 else 'not met'}")


if __name__ == "__main__":
    main()
