#!/usr/bin/env python3
"""Puts the faults of MUTANTS.toml into a copy of the sources, and requires the named test to fail on each.

    tests/mutants/run.py                 all of them
    tests/mutants/run.py epoch           those that have the word in their fault, file or test

The copy is made of what git knows, as it stands. It has a target folder of its own, since what is built
with a fault must never be taken for the product; other people's crates are taken over from the checkout's
by hard links, so that only Picket's own are built again, and once for all faults: a variable of the
environment switches one on. A test must hold with none of them: otherwise its failing says nothing of the
fault. The exit status is 1 if a fault is not noticed.
"""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from typing import NamedTuple

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "build"))
from packages import packages_for  # noqa: E402

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TABLE = pathlib.Path(__file__).with_name("MUTANTS.toml")
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")).resolve()
COPY = TARGET / "mutants" / "tree"
BUILD = TARGET / "mutants" / "target"
SWITCH = "PICKET_MUTANT"
# Of one test, with all that is built for it. One that hangs has not said that it noticed anything.
LIMIT_S = 3600


class Mutant(NamedTuple):
    """A fault, how it is put in, and the test that must notice."""

    name: str
    fault: str
    file: str
    find: str
    replace: str
    test: str


class MutantError(Exception):
    """A mutant that cannot be made or run."""


def mutants(text):
    """The table; an error names what is wrong in it."""
    found = []
    for entry in tomllib.loads(text)["mutant"]:
        wrong = set(entry) ^ set(Mutant._fields)
        if wrong:
            raise MutantError(f"{TABLE.name}: {entry.get('fault', entry)}: {', '.join(sorted(wrong))}")
        found.append(Mutant(**entry))
    return found


def mutated(source, mutant):
    """The source with the fault in it."""
    count = source.count(mutant.find)
    if count != 1:
        raise MutantError(f"{mutant.file} has {mutant.find!r} {count} times, not once: {mutant.fault}")
    on = f'(std::env::var("{SWITCH}").as_deref() == Ok("{mutant.name}"))'
    return source.replace(mutant.find, mutant.replace.replace("{on}", on))


def copy_sources(chosen):
    """Brings the copy up to date; a file that has not changed keeps its time, so that it is not built again."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY, check=True, capture_output=True, text=True,
    )
    names = {name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()}
    for name in names:
        content = (REPOSITORY / name).read_bytes()
        for mutant in chosen:
            if mutant.file == name:
                content = mutated(content.decode(), mutant).encode()
        there = COPY / name
        if not there.is_file() or there.read_bytes() != content:
            there.parent.mkdir(parents=True, exist_ok=True)
            there.write_bytes(content)
            shutil.copymode(REPOSITORY / name, there)
    for path in [path for path in COPY.rglob("*") if path.is_file() and not path.is_symlink()]:
        if str(path.relative_to(COPY)) not in names:
            path.unlink()
    cache = COPY / ".cache"
    if not cache.is_symlink():
        cache.symlink_to(REPOSITORY / ".cache")


def take_over_builds():
    """Links what the checkout has built of other people's crates, which no fault changes."""
    for folder in ("deps", "build", ".fingerprint"):
        built, linked = TARGET / "debug" / folder, BUILD / "debug" / folder
        if linked.exists() or not built.is_dir():
            continue
        linked.mkdir(parents=True)
        for path in built.iterdir():
            if "picket" in path.name:
                continue
            if path.is_dir():
                shutil.copytree(path, linked / path.name, copy_function=os.link, symlinks=True)
            elif path.suffix in (".rlib", ".rmeta", ".so", ".d"):
                os.link(path, linked / path.name)


def holds(test, fault=""):
    """Whether the test passes on the copy with a fault or none; an error if it does not run to an end."""
    package, target, name = test.split("::", 2)
    chosen = ["--lib"] if target == "lib" else ["--test", target]
    # A unit test is named by its last part: the modules before it are the crate's own affair.
    exact = [] if target == "lib" else ["--exact"]
    command = ["cargo", "test", "--locked", *packages_for(package), *chosen, "--", *exact, name]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(BUILD), SWITCH: fault}
    # A group of its own, so that a test that hangs ends with its cargo.
    running = subprocess.Popen(
        command, cwd=COPY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        process_group=0,
    )
    try:
        said, _ = running.communicate(timeout=LIMIT_S)
    except BaseException as error:
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise MutantError(f"{test} was not at its end after {LIMIT_S} s") from error
        raise
    # One line for each crate that was asked for a test of this name.
    results = re.findall(r"^test result: \w+\. (\d+) passed; (\d+) failed", said, re.MULTILINE)
    passed, failed = (sum(map(int, column)) for column in zip(*results)) if results else (0, 0)
    if passed + failed != 1:
        raise MutantError(f"{test} did not run:\n{said[-4000:]}")
    return passed == 1


def main(words):
    chosen = [mutant for mutant in mutants(TABLE.read_text()) if all(word in " ".join(mutant) for word in words)]
    if not chosen:
        print(f"mutants: none of {TABLE.name} has {words} in it", file=sys.stderr)
        return 1
    # All of them, whichever are asked for: fewer would be another build.
    copy_sources(mutants(TABLE.read_text()))
    take_over_builds()
    results = []
    for test in sorted({mutant.test for mutant in chosen}):
        print(f"mutants: {test} without a fault", flush=True)
        if not holds(test):
            raise MutantError(f"{test} fails without a fault")
    for mutant in chosen:
        print(f"mutants: {mutant.fault}", flush=True)
        results.append((mutant, not holds(mutant.test, mutant.name)))
    print("\n| Fault put in | Test | Result |\n|---|---|---|")
    for mutant, noticed in results:
        print(f"| {mutant.fault} | `{mutant.test}` | {'noticed' if noticed else 'NOT NOTICED'} |")
    missed = sum(not noticed for _, noticed in results)
    print(f"\nmutants: {len(results) - missed} of {len(results)} noticed")
    return 1 if missed else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except MutantError as error:
        print(f"mutants: {error}", file=sys.stderr)
        sys.exit(1)
