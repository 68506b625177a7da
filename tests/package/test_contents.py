"""What the packages hold, and on which systems that can run. ARCH says which were built.

Run by `make check-deb`, after `make deb`.
"""

import os
import pathlib
import re
import subprocess
import tempfile
import tomllib
import unittest

import deb

OWN_ARCH = deb.output("dpkg", "--print-architecture").strip()
ARCH = os.environ.get("ARCH") or OWN_ARCH
MACHINE = {"amd64": "x86_64", "arm64": "aarch64"}[ARCH]
HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = {package.name: package for package in deb.built(ARCH)}

# glibc of Ubuntu 22.04, and so of JetPack 6.
NEWEST_GLIBC = (2, 35)
# Of debug builds; those of a release are smaller.
MOST_MIB = {"picket-edge-agent": 25, "picket-aggregator": 18, "picket-pki": 3}


def readelf(option, path):
    return deb.output("readelf", "--wide", option, path)


def every_binary():
    return [(package, path) for package in PACKAGES.values() for path in package.binaries()]


def jammy():
    lines = (line.partition("#")[0].split() for line in (HERE / "jammy.txt").read_text().splitlines())
    return dict(line for line in lines if line)


def allowed_libraries():
    """File names of libraries in the list that Depends is made from."""
    lines = (deb.REPOSITORY / "packaging/debian/shlibs.local").read_text().splitlines()
    return {f"{name}.so.{number}" for name, number, *_ in map(str.split, lines)}


class Contents(unittest.TestCase):
    def test_all_packages_are_built(self):
        self.assertEqual(sorted(PACKAGES), deb.NAMES)

    def test_each_binary_is_for_the_architecture_of_its_package(self):
        machine = {"amd64": "X86-64", "arm64": "AArch64"}[ARCH]
        self.assertEqual(len(every_binary()), 4)
        for package, path in every_binary():
            self.assertEqual(package.field("Architecture"), ARCH)
            self.assertIn(machine, readelf("--file-header", path), path.name)

    def test_files_and_their_modes_are_those_of_the_list(self):
        for package in PACKAGES.values():
            listed = (HERE / f"{package.name}.files").read_text().splitlines()
            found = [f"{mode} {owner} {path}" for mode, owner, path in package.files() if not path.endswith("/")]
            self.assertEqual(sorted(found), listed, package.name)

    def test_only_root_owns_files_and_nobody_else_may_write_them(self):
        for package in PACKAGES.values():
            for mode, owner, path in package.files():
                self.assertEqual(owner, "root/root", path)
                self.assertRegex(mode, r"^.....-..-.$", path)

    def test_runtime_and_model_are_those_of_the_manifest(self):
        manifest = tomllib.loads((deb.REPOSITORY / "models/MANIFEST.toml").read_text())
        agent = PACKAGES["picket-edge-agent"]
        runtime = next(entry for entry in manifest["runtime"] if entry["arch"] == MACHINE)
        model = next(entry for entry in manifest["model"] if entry["name"] == "yunet")
        self.assertEqual(agent.sha256("usr/lib/picket-edge-agent/libonnxruntime.so"), runtime["raw_sha256"])
        self.assertEqual(agent.sha256("usr/share/picket-edge-agent/yunet.onnx"), model["prepared_sha256"])

    def test_the_units_are_those_of_the_repository(self):
        for service in ("edge-agent", "aggregator", "aggregator-classify"):
            package = service.removesuffix("-classify")
            packed = PACKAGES[f"picket-{package}"].unpacked() / f"lib/systemd/system/picket-{service}.service"
            self.assertEqual(packed.read_text(), (deb.REPOSITORY / f"systemd/{service}.service").read_text())

    def test_default_configs_are_those_of_the_repository(self):
        for service in ("edge-agent", "aggregator"):
            packed = PACKAGES[f"picket-{service}"].unpacked() / f"usr/share/picket-{service}/{service}.toml"
            ours = deb.REPOSITORY / f"packaging/{service}/{service}.toml"
            self.assertEqual(packed.read_text(), ours.read_text())

    def test_lintian_finds_no_errors(self):
        # Not meant for Debian's archive, so no bug report is closed by a first upload.
        done = subprocess.run(
            ["lintian", "--allow-root", "--fail-on", "error", "--suppress-tags", "initial-upload-closes-no-bugs"]
            + [package.path for package in PACKAGES.values()],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stdout)

    def test_packages_are_small_enough_for_a_slow_link(self):
        for name, most in MOST_MIB.items():
            self.assertLessEqual(PACKAGES[name].path.stat().st_size, most << 20, name)


class Portability(unittest.TestCase):
    def test_no_symbol_is_newer_than_glibc_2_35(self):
        for _, path in every_binary():
            versions = re.findall(r"Name: GLIBC_(\d+)\.(\d+)", readelf("--version-info", path))
            self.assertTrue(versions, f"{path.name} names no version of glibc: was readelf understood?")
            newest = max((int(major), int(minor)) for major, minor in versions)
            self.assertLessEqual(newest, NEWEST_GLIBC, path.name)

    def test_no_symbol_is_newer_than_the_declared_glibc(self):
        for package, path in every_binary():
            declared = dict(package.relations("Depends"))["libc6"]
            for version in set(re.findall(r"Name: GLIBC_([\d.]+)", readelf("--version-info", path))):
                self.assertFalse(deb.newer(version, declared), f"{path.name} needs GLIBC_{version}")

    def test_only_libraries_are_needed_that_are_called_the_same_in_debian_12_and_ubuntu_22_04(self):
        for _, path in every_binary():
            needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", readelf("--dynamic", path)))
            self.assertTrue(needed, path.name)
            self.assertEqual(needed - allowed_libraries(), set(), path.name)

    def test_nothing_newer_is_asked_for_than_ubuntu_22_04_has(self):
        there = jammy()
        for package in PACKAGES.values():
            for field in ("Depends", "Recommends"):
                for name, least in package.relations(field):
                    self.assertIn(name, there, f"{package.name}: {field}")
                    if least:
                        self.assertFalse(deb.newer(least, there[name]), f"{package.name}: {field}: {name} {least}")


# Debian's lists of symbols on this machine are of its own architecture; the sources are the same for both.
class Symbols(unittest.TestCase):
    def test_declared_versions_cover_the_symbols_that_are_used(self):
        """Debian's lists say in which version of a library each symbol came."""
        for package in PACKAGES.values():
            with tempfile.TemporaryDirectory() as folder:
                os.mkdir(f"{folder}/debian")
                pathlib.Path(f"{folder}/debian/control").write_text(f"Source: x\n\nPackage: x\nArchitecture: {ARCH}\n")
                done = subprocess.run(
                    ["dpkg-shlibdeps", "-O", *[f"-e{path}" for path in package.binaries()]],
                    cwd=folder, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                )  # fmt: skip
            used = re.findall(r"([a-z0-9.+-]+) \(>= ([^)]+)\)", done.stdout)
            self.assertTrue(used, package.name)
            declared = dict(package.relations("Depends"))
            for name, least in used:
                self.assertIsNotNone(declared.get(name), f"{package.name}: {name}")
                self.assertFalse(deb.newer(least, declared[name]), f"{package.name} uses {name} {least}")


if ARCH != OWN_ARCH:
    del Symbols


if __name__ == "__main__":
    unittest.main(verbosity=2)
