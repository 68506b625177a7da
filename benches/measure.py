"""Runs one program and measures it from outside: what the kernel booked on it, not what it says."""

import os
import statistics
import subprocess
import threading
import time
from dataclasses import dataclass, field

SAMPLE_S = 0.05
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Run:
    """CPU in seconds, memory in MiB, wall times in milliseconds since 1970."""

    started_ms: float = 0
    wall_s: float = 0
    cpu_s: float = 0
    peak_mib: float = 0
    status: int = 0
    # (wall time, CPU used until then, resident memory, its peak until then)
    samples: list = field(default_factory=list)

    def cpu_until(self, at_ms):
        """CPU used until a moment, between the samples around it."""
        before = (self.started_ms, 0.0)
        for sample_ms, cpu_s, *_ in self.samples:
            if sample_ms >= at_ms:
                share = (at_ms - before[0]) / max(sample_ms - before[0], 1e-9)
                return before[1] + share * (cpu_s - before[1])
            before = (sample_ms, cpu_s)
        return before[1]

    def steady_mib(self):
        """The median of the run's second half."""
        resident = [mib for _, _, mib, _ in self.samples]
        return statistics.median(resident[len(resident) // 2 :]) if resident else 0.0


def run(command, log, env=None, stop_after_s=None):
    """Runs to the program's own end, or asks it to end after a time."""
    measured = Run()
    with open(log, "wb") as output:
        measured.started_ms = time.time() * 1000
        began = time.monotonic()
        child = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=env)
        ended = threading.Event()
        sampler = threading.Thread(target=sample, args=(child.pid, measured.samples, ended))
        sampler.start()
        stopper = threading.Timer(stop_after_s, child.terminate) if stop_after_s else None
        if stopper:
            stopper.start()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        ended.set()
        sampler.join()
        if stopper:
            stopper.cancel()
    measured.wall_s = time.monotonic() - began
    measured.cpu_s = usage.ru_utime + usage.ru_stime
    # Not the kernel's ru_maxrss: that begins with what this process had when it forked.
    measured.peak_mib = max((peak for *_, peak in measured.samples), default=0.0)
    measured.status = child.returncode
    if child.returncode != 0:
        with open(log, errors="replace") as text:
            tail = "".join(text.readlines()[-15:])
        raise SystemExit(f"{command[0]} ended with {child.returncode}:\n{tail}")
    return measured


def sample(pid, samples, ended):
    while not ended.wait(SAMPLE_S):
        try:
            with open(f"/proc/{pid}/stat") as stat, open(f"/proc/{pid}/status") as status:
                fields = stat.read().rsplit(")", 1)[1].split()
                memory = dict(line.split(":", 1) for line in status if line.startswith("Vm"))
        except (FileNotFoundError, ProcessLookupError):
            return
        if "VmRSS" not in memory:  # It has ended and was not waited for yet.
            return
        cpu_s = (int(fields[11]) + int(fields[12])) * TICK_S
        resident, peak = (int(memory[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
        samples.append((time.time() * 1000, cpu_s, resident, peak))
