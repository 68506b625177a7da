#!/usr/bin/env python3
"""Runs the tests that docs/faults.md names, in their long form, and prints its table with what came of each.

    tests/faults/run.py                  all rows
    tests/faults/run.py power            the rows that have the word in them

The exit status is 1 if a test fails or does not exist.
"""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from typing import NamedTuple

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "build"))
from packages import packages_for  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TABLE = REPOSITORY / "docs" / "faults.md"
# Of one row, with all that is built for it: the longest take a good half hour on a machine at leisure.
LIMIT_S = 3 * 3600
ROW = re.compile(r"^\| (?P<fault>.+?) \| (?P<shown>.+?) \| `(?P<test>\S+)` \|$")


class Row(NamedTuple):
    """A fault, what is shown, and the test that shows it."""

    fault: str
    shown: str
    package: str
    target: str
    name: str

    def command(self):
        target = ["--lib"] if self.target == "lib" else ["--test", self.target]
        filters = ["--", "--exact", "--nocapture", "--test-threads=1", self.name]
        return ["cargo", "test", "--locked", *packages_for(self.package), *target, *filters]


class TableError(Exception):
    """A line of the table that cannot be read."""


def rows(text):
    """The rows of all tables in the page."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.startswith("|") or line.startswith(("| Fault ", "|---")):
            continue
        match = ROW.match(line)
        parts = match["test"].split("::", 2) if match else []
        if len(parts) != 3:
            raise TableError(f"{TABLE.name}:{number}: not `| fault | shown | `package::target::test` |`: {line}")
        found.append(Row(match["fault"], match["shown"], *parts))
    return found


def run(row):
    """Whether the row's test ran and passed, and its seconds."""
    print(f"\n== {row.fault}: {row.target}::{row.name}", flush=True)
    began = time.monotonic()
    environment = {**os.environ, "PICKET_FAULTS": "long"}
    # A group of its own, so that a test that hangs ends with its cargo, and what the test started with it.
    test = subprocess.Popen(
        row.command(), cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True, process_group=0
    )
    limit = threading.Timer(LIMIT_S, end, [test, f"not at its end after {LIMIT_S} s"])
    limit.start()
    ran = False
    try:
        with test:
            for line in test.stdout:
                print(line, end="", flush=True)
                ran = ran or re.match(r"test result: ok\. 1 passed", line) is not None
    except KeyboardInterrupt:
        end(test, "interrupted")
        raise
    finally:
        limit.cancel()
    return test.returncode == 0 and ran, time.monotonic() - began


def end(test, why):
    """Ends a test that has not ended, with all of its group."""
    print(f"faults: {why}: killed", file=sys.stderr, flush=True)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(test.pid, signal.SIGKILL)


def main(words):
    chosen = [row for row in rows(TABLE.read_text()) if all(word in " ".join(row) for word in words)]
    if not chosen:
        print(f"faults: no row of {TABLE.name} has {words} in it", file=sys.stderr)
        return 1
    results = [(row, *run(row)) for row in chosen]
    print("\n| Fault | What is shown | Result |\n|---|---|---|")
    for row, passed, seconds in results:
        print(f"| {row.fault} | {row.shown} | {'held' if passed else 'FAILED'}, {seconds:.0f} s |")
    failed = [row for row, passed, _ in results if not passed]
    print(f"\nfaults: {len(results) - len(failed)} of {len(results)} held")
    for row in failed:
        print(f"faults: FAILED {row.package}::{row.target}::{row.name}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
