"""A built package, read with dpkg's own tools."""

import hashlib
import os
import pathlib
import re
import subprocess
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
NAMES = ["picket-aggregator", "picket-edge-agent", "picket-pki"]


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def folder(arch):
    target = os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")
    return pathlib.Path(target) / "deb" / arch


def built(arch):
    """The packages of the last build for an architecture, as build.sh listed them."""
    listed = folder(arch) / "built.txt"
    if not listed.exists():
        raise FileNotFoundError(f"{listed} is missing: run `make deb ARCH={arch}` first")
    return [Deb(pathlib.Path(line)) for line in listed.read_text().splitlines()]


def newer(a, b):
    return subprocess.run(["dpkg", "--compare-versions", a, "gt", b]).returncode == 0


class Deb:
    def __init__(self, path):
        self.path = path
        self.name = output("dpkg-deb", "--field", path, "Package").strip()
        self._unpacked = None

    def field(self, name):
        return output("dpkg-deb", "--field", self.path, name).strip()

    def relations(self, field):
        """Each (name, least version or None) of a field; of alternatives the first, which apt prefers."""
        found = []
        for relation in filter(None, self.field(field).split(",")):
            match = re.fullmatch(r"\s*([a-z0-9.+-]+)(?: \(>= ([^)]+)\))?\s*", relation.split("|")[0])
            if not match:
                raise ValueError(f"{self.name}: {field} has {relation!r}; only `name (>= version)` is expected")
            found.append(match.groups())
        return found

    def files(self):
        """(mode and kind, owner, path) of each file and folder."""
        for line in output("dpkg-deb", "--contents", self.path).splitlines():
            mode, owner, _, _, _, path = line.split(maxsplit=5)
            yield mode, owner, path.removeprefix(".")

    def unpacked(self):
        if self._unpacked is None:
            self._unpacked = tempfile.TemporaryDirectory()
            subprocess.run(["dpkg-deb", "--extract", self.path, self._unpacked.name], check=True)
        return pathlib.Path(self._unpacked.name)

    def binaries(self):
        for path in sorted(self.unpacked().rglob("*")):
            if path.is_file() and not path.is_symlink() and path.read_bytes()[:4] == b"\x7fELF":
                yield path

    def sha256(self, path):
        return hashlib.sha256((self.unpacked() / path).read_bytes()).hexdigest()
