"""The packages are installed, upgraded, downgraded, removed and purged by apt on a Debian 12.

Run by `make test-package` as root, with two versions of the packages: OLDER and NEWER say which.
"""

import contextlib
import functools
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

import deb
import machine

ARCH = deb.output("dpkg", "--print-architecture").strip()
CACHE = pathlib.Path(os.environ.get("PICKET_CACHE", deb.REPOSITORY / ".cache"))
AGENT, AGGREGATOR = "picket-edge-agent", "picket-aggregator"
STATE = "/var/lib/picket-edge-agent"
SITE = "/etc/picket/edge-agent.conf.d/site.toml"
ENABLED = "/etc/systemd/system/multi-user.target.wants/picket-edge-agent.service"


OLDER, NEWER = os.environ["OLDER"], os.environ["NEWER"]
# What the newer packages' default configs have at their end.
CHANGED = "# as of the newer version\n"
REPACKED = tempfile.TemporaryDirectory()


@functools.cache
def package(name, version):
    built = deb.folder(ARCH) / f"{name}_{version}_{ARCH}.deb"
    return deb.Deb(with_changed_default(name, built) if version == NEWER and name in (AGENT, AGGREGATOR) else built)


def with_changed_default(name, built):
    """A service's package with another default config, as a newer version may have one."""
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder) / "tree"
        subprocess.run(["dpkg-deb", "--raw-extract", built, tree], check=True)
        config = tree / f"usr/share/{name}/{name.removeprefix('picket-')}.toml"
        former = hashlib.md5(config.read_bytes()).hexdigest()
        config.write_text(config.read_text() + CHANGED)
        sums = tree / "DEBIAN/md5sums"
        sums.write_text(sums.read_text().replace(former, hashlib.md5(config.read_bytes()).hexdigest()))
        done = pathlib.Path(REPACKED.name) / built.name
        command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", tree, done]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return done


def readme_commands():
    """The blocks of shell commands in the README's chapter about the package."""
    readme = (deb.REPOSITORY / "README.md").read_text()
    chapter = re.search(r"^## On a box: the package\n(.*?)^## ", readme, re.DOTALL | re.MULTILINE)[1]
    return re.findall(r"^```sh\n(.*?)^```\n", chapter, re.DOTALL | re.MULTILINE)

# Without TLS, and to a port where nobody listens: the agent has a whole config, and a broker that is away.
COMPLETE = """
device = "gate-1"
uplink = { brokers = ["127.0.0.1:9"], allow_plaintext = true, drain_timeout_ms = 0 }
ops.listen = "127.0.0.1:0"
[[folder]]
path = "/srv/recordings"
pace = "none"
start_time = "2026-01-31T08:00:00Z"
"""

# The clip has 120 frames.
ALL_SPOOLED = "captured 120 = spooled 120 "

# What the packaged config says is enough, and a name, as the test's machine has that of its host.
PREPARED = """
uplink.brokers = ["kafka.example.net:9093"]
device = "gate-1"
[[camera]]
name = "door"
source.v4l2 = { device = "/dev/video0" }
"""


class Packages(unittest.TestCase):
    """Each test has a machine of its own on which the older agent is installed, without a site's config."""

    @classmethod
    def setUpClass(cls):
        cls.stack = contextlib.ExitStack()
        cls.addClassCleanup(cls.stack.close)
        base = machine.debian(CACHE)
        cls.installed = cls.stack.enter_context(machine.over([base]))
        done = cls.installed.apt_install(package(AGENT, OLDER))
        assert done.returncode == 0, done.stdout
        cls.said = done.stdout

    def setUp(self):
        self.box = self.enterContext(machine.over(self.installed.layers))

    def capture_with_no_broker(self):
        """Runs the agent over the clip until all is in the spool, and ends it. Returns what the spool holds."""
        self.lay_recording()
        self.box.write("/etc/picket/edge-agent.toml", COMPLETE)
        self.capture_until_all_is_spooled()
        return self.spooled()

    def capture_until_all_is_spooled(self):
        with self.box.running(AGENT, "run", user=AGENT) as agent:
            deadline = time.monotonic() + 120
            while ALL_SPOOLED not in (held := self.box.run(AGENT, "spool", "stat", user=AGENT).stdout):
                self.assertLess(time.monotonic(), deadline, held)
                self.assertIsNone(agent.poll(), held)

    def lay_recording(self):
        folder = self.box.root / "srv/recordings"
        folder.mkdir()
        shutil.copy(CACHE / "video/carphone_pristine.mp4", folder / "clip.mp4")

    def spooled(self):
        """What the spool says of itself, but for its age."""
        said = self.box.must(AGENT, "spool", "stat", user=AGENT).splitlines()
        return [line for line in said if not line.startswith("oldest ")]

    def test_a_fresh_install_makes_the_user_and_its_private_state(self):
        self.assertEqual(self.box.must("id", "--name", "--groups", AGENT).split()[0], AGENT)
        for group in ("video", "render"):
            self.assertIn(group, self.box.must("id", "--name", "--groups", AGENT).split())
        self.assertEqual(self.box.stat(STATE), f"700 {AGENT} {AGENT}")
        self.assertEqual(self.box.stat(f"{STATE}/identity"), f"700 {AGENT} {AGENT}")
        self.assertRegex(self.box.must("getent", "passwd", AGENT), r"/usr/sbin/nologin$")

    def test_a_fresh_install_without_a_site_config_stays_off_and_says_what_is_missing(self):
        self.assertFalse(self.box.exists(ENABLED))
        self.assertIn("not started: its config is not complete", self.said)
        self.assertIn("/etc/picket/edge-agent.toml: camera: there is none: add a [[camera]]", self.said)
        self.assertIn("systemctl enable --now picket-edge-agent.service", self.said)

    def test_the_packaged_runtime_and_model_load_without_being_named(self):
        self.lay_recording()
        self.box.write("/etc/picket/edge-agent.toml", COMPLETE)
        self.assertIn("is valid", self.box.must(AGENT, "check-config", user=AGENT))

    def test_a_box_that_was_prepared_is_enabled_by_the_install(self):
        self.box.must("apt-get", "purge", "--yes", AGENT)
        self.prepare(self.box)
        done = self.box.apt_install(package(AGENT, OLDER))
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertTrue(self.box.exists(ENABLED), done.stdout)
        self.assertEqual(self.box.stat(f"{STATE}/identity/device.key"), f"600 {AGENT} {AGENT}")

    def test_a_prepared_pc_named_by_its_serial_number_is_enabled_and_obeys_while_the_service_is_down(self):
        self.box.must("apt-get", "purge", "--yes", AGENT)
        # As a PC's firmware shows it: to root alone.
        number = "/sys/class/dmi/id/product_serial"
        self.box.write(number, "8CC0230XYZ\n")
        self.box.must("chmod", "0400", number)
        self.prepare(self.box, device="${serial}")
        done = self.box.apt_install(package(AGENT, OLDER))
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertTrue(self.box.exists(ENABLED), done.stdout)
        self.assertEqual(self.box.stat(number), f"440 root {AGENT}")
        for user in (AGENT, None):
            self.assertIn("device 8cc0230xyz,", self.box.must(AGENT, "check-config", user=user))
        said = self.box.must(AGENT, "reset-identity", user=AGENT)
        self.assertIn("belongs to device 8cc0230xyz on this board (serial 8cc0230xyz)", said)
        self.assertIn("serial 8cc0230xyz, its own", self.box.run(AGENT, "doctor", user=AGENT).stdout)
        # Of the config it has nothing to say; there is no spool yet.
        self.assertIn("cannot open the spool", self.box.run(AGENT, "spool", "stat", user=AGENT).stdout)
        other = self.box.run(AGENT, "check-config", user="nobody")
        self.assertNotEqual(other.returncode, 0)
        self.assertIn(f"may not read this machine's serial number in {number}: run the command as root", other.stdout)

    def test_the_readmes_commands_for_a_box_work_as_they_are_written(self):
        authority, box = readme_commands()
        self.box.must("apt-get", "purge", "--yes", AGENT)
        home = self.box.root / "root"
        shutil.copy(package(AGENT, OLDER).path, home)
        with tempfile.TemporaryDirectory() as folder:
            programs = package("picket-pki", OLDER).unpacked() / "usr/bin"
            subprocess.run(
                ["sh", "-e", "-c", authority], cwd=folder, check=True, stdout=subprocess.DEVNULL,
                env={"PATH": f"{programs}:{os.environ['PATH']}"},
            )  # fmt: skip
            for path in ("ca.crt", "device/gate-1.crt", "device/gate-1.key"):
                shutil.copy(pathlib.Path(folder) / "pki" / path, home)
        # The doctor must fail, as the broker is not there; and no service manager is, to start what is enabled.
        box = box.replace("picket-edge-agent doctor\n", "if picket-edge-agent doctor; then exit 99; fi\n")
        box = box.replace("systemctl enable --now ", "systemctl enable ")
        # With a name as people write it.
        done = self.box.run("unshare", "--uts", "sh", "-e", "-c", f"hostname Gate-1\ncd /root\n{box}")
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertRegex(done.stdout, r"(?m)^device +gate-1$")
        self.assertEqual(re.findall(r"(?m)^(\w+) +PROBLEM", done.stdout), ["broker"], done.stdout)
        self.assertTrue(self.box.exists(ENABLED), done.stdout)
        self.assertEqual(self.box.stat(f"{STATE}/identity/device.key"), f"600 {AGENT} {AGENT}")

    def prepare(self, box, device="gate-1"):
        """A site's lines of config, and the certificate, laid there by root before the package comes."""
        box.write(SITE, PREPARED.replace("gate-1", device))
        pki = package("picket-pki", OLDER)
        picket = pki.unpacked() / "usr/bin/picket"
        with tempfile.TemporaryDirectory() as folder:
            deb.output(picket, "pki", "init", "--dir", folder)
            deb.output(picket, "pki", "device", "gate-1", "--dir", folder)
            issued = {path.name: path for path in pathlib.Path(folder).rglob("*")}
            for name, place in (
                ("ca.crt", "/etc/picket/ca.crt"),
                ("gate-1.crt", f"{STATE}/identity/device.crt"),
                ("gate-1.key", f"{STATE}/identity/device.key"),
            ):
                (box.root / place.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(issued[name], box.root / place.lstrip("/"))

    def test_an_upgrade_keeps_the_backlog_and_a_changed_config(self):
        held = self.capture_with_no_broker()
        self.box.write(SITE, "spool.max_bytes = 1000000000\n")
        done = self.box.apt_install(package(AGENT, NEWER))
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(NEWER, self.box.must("dpkg-query", "--show", AGENT))
        self.assertEqual(self.box.read("/etc/picket/edge-agent.toml"), COMPLETE)
        self.assertEqual(self.box.read(SITE), "spool.max_bytes = 1000000000\n")
        self.assertEqual(self.spooled(), held)
        self.assertFalse(self.box.exists(ENABLED), "an upgrade does not enable what was off")
        self.assertIn("the service is off, as before", done.stdout)

    def test_an_upgrade_without_a_terminal_keeps_a_changed_config_and_lays_the_new_default_beside_it(self):
        self.box.write("/etc/picket/edge-agent.toml", COMPLETE)
        # As over ssh: somebody is there, who says nothing and does not go.
        silent, somebody = os.pipe()
        self.addCleanup(os.close, somebody)
        self.addCleanup(os.close, silent)
        for frontend, stdin in (("noninteractive", subprocess.DEVNULL), (None, subprocess.DEVNULL), (None, silent)):
            with self.subTest(frontend=frontend, stdin=stdin):
                box = self.enterContext(machine.over(self.box.layers))
                how = {"environment": {"DEBIAN_FRONTEND": frontend}, "stdin": stdin}
                done = box.apt_install(package(AGENT, NEWER), **how)
                self.assertEqual(done.returncode, 0, done.stdout)
                self.assertEqual(box.state_of(AGENT), "installed")
                self.assertEqual(box.read("/etc/picket/edge-agent.toml"), COMPLETE)
                self.assertTrue(box.read("/etc/picket/edge-agent.toml.ucf-dist").endswith(CHANGED))
                box.must("apt-get", "purge", "--yes", AGENT)
                self.assertFalse(box.exists("/etc/picket"))

    def test_an_upgrade_replaces_a_default_config_that_nobody_changed(self):
        done = self.box.apt_install(package(AGENT, NEWER))
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertTrue(self.box.read("/etc/picket/edge-agent.toml").endswith(CHANGED))
        self.assertEqual(self.box.must("find", "/etc/picket", "-name", "*.ucf-*"), "")

    def downgrade(self):
        return self.box.apt_install(package(AGENT, OLDER), options=("--allow-downgrades",))

    def set_spool_aside(self):
        """What the refusal says is to be done."""
        self.box.must("sh", "-c", f"mkdir {STATE}/newer && mv {STATE}/spool.sqlite* {STATE}/newer/")

    def test_a_downgrade_is_refused_and_the_newer_one_stays_whole(self):
        held = self.capture_with_no_broker()
        self.assertEqual(self.box.apt_install(package(AGENT, NEWER)).returncode, 0)
        done = self.downgrade()
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(f"{OLDER} is older than {NEWER}", done.stdout)
        self.assertIn(NEWER, self.box.must("dpkg-query", "--show", AGENT))
        self.assertEqual(self.box.state_of(AGENT), "installed")
        self.assertEqual(self.spooled(), held)

    def test_removing_the_newer_one_first_is_no_way_around_the_refusal(self):
        self.capture_with_no_broker()
        self.assertEqual(self.box.apt_install(package(AGENT, NEWER)).returncode, 0)
        self.box.must("apt-get", "remove", "--yes", AGENT)
        done = self.downgrade()
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(f"{OLDER} is older than {NEWER}", done.stdout)
        self.assertFalse(self.box.exists("/usr/bin/picket-edge-agent"))
        self.set_spool_aside()
        done = self.downgrade()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(OLDER, self.box.must("dpkg-query", "--show", AGENT))

    def test_with_its_spool_set_aside_the_older_one_installs_and_goes_on_as_the_same_device(self):
        self.capture_with_no_broker()
        self.assertEqual(self.box.apt_install(package(AGENT, NEWER)).returncode, 0)
        self.box.write(f"{STATE}/identity/device.crt", "a certificate")
        epoch = self.box.read(f"{STATE}/epoch")
        self.set_spool_aside()
        done = self.downgrade()
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(OLDER, self.box.must("dpkg-query", "--show", AGENT))
        self.assertEqual(self.box.read(f"{STATE}/identity/device.crt"), "a certificate")
        self.assertEqual(self.box.read("/etc/picket/edge-agent.toml"), COMPLETE)
        self.capture_until_all_is_spooled()
        self.assertGreater(int(self.box.read(f"{STATE}/epoch")), int(epoch))

    def test_a_removed_agent_leaves_its_state_and_goes_on_when_installed_again(self):
        held = self.capture_with_no_broker()
        self.box.must("apt-get", "remove", "--yes", AGENT)
        self.assertFalse(self.box.exists("/usr/bin/picket-edge-agent"))
        self.assertEqual(self.box.state_of(AGENT), "config-files")
        self.assertEqual(self.box.read("/etc/picket/edge-agent.toml"), COMPLETE)
        self.assertEqual(self.box.apt_install(package(AGENT, NEWER)).returncode, 0)
        self.assertEqual(self.spooled(), held)

    def test_a_purged_agent_leaves_nothing_but_its_user_and_what_the_site_wrote(self):
        self.capture_with_no_broker()
        self.box.write(SITE, "device = 'gate-1'\n")
        done = self.box.run("apt-get", "purge", "--yes", AGENT)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn(f"removing {STATE} with all that is in it", done.stdout)
        self.assertFalse(self.box.exists(STATE))
        self.assertFalse(self.box.exists("/etc/picket/edge-agent.toml"))
        self.assertEqual(self.box.read(SITE), "device = 'gate-1'\n")
        left = [path for path in self.installed_paths(AGENT, OLDER) if self.box.exists(path)]
        self.assertEqual(left, [])
        self.box.must("id", AGENT)

    def test_purging_an_agent_that_was_enabled_takes_its_link_away(self):
        self.box.must("systemctl", "enable", AGENT)
        self.assertTrue(self.box.exists(ENABLED))
        self.box.must("apt-get", "purge", "--yes", AGENT)
        self.assertFalse(self.box.exists(ENABLED))

    def test_a_state_on_a_disk_of_its_own_is_emptied_by_a_purge_and_the_disk_stays_mounted(self):
        state = self.box.root / STATE.lstrip("/")
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", state], check=True)
        self.addCleanup(subprocess.run, ["umount", state], check=True)
        self.box.write(f"{STATE}/identity/device.key", "a key")
        self.box.write(f"{STATE}/.hidden", "as well")
        done = self.box.run("apt-get", "purge", "--yes", AGENT)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(self.box.state_of(AGENT), "not-installed")
        self.assertTrue(state.is_mount())
        self.assertEqual(list(state.iterdir()), [])

    def test_a_state_behind_a_link_is_emptied_by_a_purge_and_its_folder_stays(self):
        self.box.must("mv", STATE, "/srv/state")
        self.box.must("ln", "-s", "/srv/state", STATE)
        self.box.write("/srv/state/identity/device.key", "a key")
        done = self.box.run("apt-get", "purge", "--yes", AGENT)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertFalse(self.box.exists(STATE))
        self.assertEqual(list((self.box.root / "srv/state").iterdir()), [])

    def installed_paths(self, name, version):
        return [path for _, _, path in package(name, version).files() if not path.endswith("/")]

    def test_the_aggregator_installs_stays_off_without_config_and_purges(self):
        done = self.box.apt_install(package(AGGREGATOR, OLDER))
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertEqual(self.box.stat(f"/var/lib/{AGGREGATOR}"), f"700 {AGGREGATOR} {AGGREGATOR}")
        self.assertIn("picket-aggregator: installed, and not started", done.stdout)
        self.assertFalse(self.box.exists(ENABLED.replace(AGENT, AGGREGATOR)))
        self.assertEqual(self.box.apt_install(package(AGGREGATOR, NEWER)).returncode, 0)
        self.box.must("apt-get", "purge", "--yes", AGGREGATOR)
        left = [path for path in self.installed_paths(AGGREGATOR, OLDER) if self.box.exists(path)]
        self.assertEqual(left, [])
        self.assertFalse(self.box.exists(f"/var/lib/{AGGREGATOR}"))

    def test_both_services_share_a_box(self):
        done = self.box.apt_install(package(AGGREGATOR, OLDER), package("picket-pki", OLDER))
        self.assertEqual(done.returncode, 0, done.stdout)
        self.box.must("apt-get", "purge", "--yes", AGGREGATOR)
        self.assertTrue(self.box.exists("/etc/picket/edge-agent.toml"))
        self.assertEqual(self.box.stat("/etc/picket/credentials"), f"750 root {AGENT}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
