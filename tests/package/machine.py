"""A Debian 12 in a folder, as root sees it, in which packages are installed by apt.

No service manager runs in there, as in an image that is being built; the device test has one. Each
machine is an overlay over another, so that a test begins with what it needs and changes nothing for
the next. Needs root.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile

# What the clean environment of a login would have; no locale is installed in there.
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


# A command that waits for somebody is an error, and not a test that never ends.
LIMIT_S = 900


class Failed(Exception):
    """A command that was expected to succeed."""


class Machine:
    def __init__(self, root, layers):
        self.root, self.layers = pathlib.Path(root), layers

    def command(self, *command, user=None, environment=None, stdin=subprocess.DEVNULL):
        """What to start, and how, for a command in there. A variable of the environment that is None is not set."""
        if user:
            command = ("runuser", "-u", user, "--", *command)
        proxies = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy")}
        wanted = {**ENVIRONMENT, **proxies, **(environment or {})}
        wanted = {key: value for key, value in wanted.items() if value is not None}
        return ["chroot", self.root, *command], {"env": wanted, "stdin": stdin}

    def run(self, *command, **how):
        """The finished command, its output and errors together in `stdout`."""
        command, how = self.command(*command, **how)
        return subprocess.run(
            command, **how, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            timeout=LIMIT_S,
        )  # fmt: skip

    @contextlib.contextmanager
    def running(self, *command, user=None):
        """A command that runs until the end of the block, then is told to end, and does."""
        command, how = self.command(*command, user=user)
        process = subprocess.Popen(command, **how, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(timeout=60)

    def must(self, *command, user=None):
        done = self.run(*command, user=user)
        if done.returncode != 0:
            raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}")
        return done.stdout

    def apt_install(self, *packages, options=(), **how):
        """`apt install ./file.deb`, as a field engineer does it."""
        for package in packages:
            shutil.copy(package.path, self.root / "tmp")
        files = [f"/tmp/{package.path.name}" for package in packages]
        # Files in /tmp are not read by apt's own user, of which it would warn.
        sandbox = ("-o", "APT::Sandbox::User=root")
        return self.run("apt-get", "install", "--yes", *sandbox, *options, *files, **how)

    def write(self, path, text):
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def read(self, path):
        return (self.root / path.lstrip("/")).read_text()

    def exists(self, path):
        return os.path.lexists(self.root / path.lstrip("/"))

    def stat(self, path):
        """Mode, owner and group as words, with the machine's own names."""
        return self.must("stat", "--format=%a %U %G", path).strip()

    def state_of(self, package):
        """dpkg's word for a package: installed, config-files, not-installed."""
        done = self.run("dpkg-query", "--show", "--showformat=${db:Status-Status}", package)
        return done.stdout if done.returncode == 0 else "not-installed"


@contextlib.contextmanager
def over(layers):
    """A machine that starts as what the layers hold, the uppermost first; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="picket-machine-") as folder:
        upper, work, root = (pathlib.Path(folder) / name for name in ("upper", "work", "root"))
        lower = ":".join(map(str, layers))
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        mounts = []
        try:
            # In memory: dpkg syncs each file, which on a disk is most of the time.
            subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
            mounts.append(folder)
            for made in (upper, work, root):
                made.mkdir()
            for command, where in (
                (["mount", "-t", "overlay", "overlay", "-o", options], root),
                (["mount", "-t", "proc", "proc"], root / "proc"),
                (["mount", "-t", "tmpfs", "tmpfs"], root / "run"),
            ):
                subprocess.run([*command, where], check=True)
                mounts.append(where)
            shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
            yield Machine(root, [upper, *layers])
        finally:
            for where in reversed(mounts):
                subprocess.run(["umount", where], check=True)


def debian(cache):
    """The layer below all others: a minimal Debian 12 with a service manager's files, made once."""
    base = pathlib.Path(cache) / "package-test" / "debian"
    if not base.exists():
        new = base.with_name("debian.new")
        shutil.rmtree(new, ignore_errors=True)
        new.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", "--include=systemd,ca-certificates",
             "--skip=cleanup/apt/lists", "bookworm", new], check=True,
        )  # fmt: skip
        new.rename(base)
    return base
