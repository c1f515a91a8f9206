"""An image without Docker: the steps of a Dockerfile, run as they stand in the file tree that they make.

Each tree is a root of its own in a mount namespace. Its base image is what this machine has: /etc and /usr, but as
/usr/local this Python, bare but for pip. What steps write goes into the tree's own folders. Takes root on Linux, and a
Python that is installed in a folder of its own.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from dockerfile_parse import DockerfileParser

_NAMESPACE = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child")
_PATH = "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin"
_PACKAGES = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
_NETWORK = re.compile("PIP_(?!FIND_LINKS).*|.*_proxy", re.IGNORECASE)  # how packages are reached from here
_NOTHING: Mapping[str, str] = {}

_MOUNTS = """\
set -eu
mount --bind "$TREE/root" "$TREE/root"
mount --bind -o ro /usr "$TREE/root/usr"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$TREE/etc,workdir=$TREE/etc.work" "$TREE/root/etc"
mount -t overlay overlay -o "lowerdir=$BASE,upperdir=$TREE/local,workdir=$TREE/local.work" "$TREE/root/usr/local"
mount -t proc proc "$TREE/root/proc"
mount -t tmpfs -o mode=755 tmpfs "$TREE/root/dev"
for device in null zero full random urandom; do
    touch "$TREE/root/dev/$device"
    mount --bind "/dev/$device" "$TREE/root/dev/$device"
done
"""
_READ_ONLY = """\
for place in "" /etc /usr/local /dev; do mount -o remount,bind,ro "$TREE/root$place"; done
mount -t tmpfs -o mode=1777 tmpfs "$TREE/root/tmp"
"""


class Step(NamedTuple):
    """One instruction of a Dockerfile, and what follows its name."""

    instruction: str
    value: str


def steps(text: str) -> list[list[Step]]:
    """The stages of a Dockerfile, each from its FROM on; what comes before the first FROM is left out."""
    found: list[list[Step]] = []
    for one in DockerfileParser(fileobj=io.StringIO(text)).structure:
        if one["instruction"] == "FROM":
            found.append([])
        if one["instruction"] != "COMMENT" and found:
            found[-1].append(Step(one["instruction"], one["value"]))
    return found


def missing() -> str:
    """Why there can be no tree here; empty when there can be."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it takes root on Linux"
    if Path(sys.base_prefix) == Path("/usr"):
        return "it takes a Python that is not the system's own"
    tried = subprocess.run([*_NAMESPACE, "true"], capture_output=True, text=True, check=False)
    overlay = "overlay" in Path("/proc/filesystems").read_text()
    return tried.stderr if tried.returncode else "" if overlay else "there is no overlay file system"


class ImageTree:
    """See the module. context: what COPY copies from; ignored: patterns of paths in it that are not copied."""

    def __init__(self, folder: Path, context: Path, ignored: Sequence[str] = ()) -> None:
        self.folder, self.context, self._ignored = folder, context, ignored
        self.workdir, self.user, self.environment = "/", 0, {"PATH": _PATH}
        self.entrypoint: list[str] = []
        for name in ("usr", "etc", "proc", "dev", "tmp", "root"):
            (folder / "root" / name).mkdir(parents=True)
        (folder / "root" / "tmp").chmod(0o1777)
        for name in ("bin", "sbin", "lib", "lib64"):
            (folder / "root" / name).symlink_to(f"usr/{name}")
        for name in ("etc", "etc.work", "local", "local.work"):
            (folder / name).mkdir()
        packages = folder / "local" / _PACKAGES
        packages.mkdir(parents=True)
        os.setxattr(packages, "trusted.overlay.opaque", b"y")  # what is installed here is not in a base image
        self.run("ldconfig && python3 -m ensurepip --default-pip > /dev/null 2>&1")

    def build(self, stage: Sequence[Step], arguments: Mapping[str, str] = _NOTHING, **stages: ImageTree) -> None:
        """Do the steps of a stage; `stages` are those that COPY --from and FROM name."""
        known = dict(arguments)
        for instruction, value in stage:
            match instruction:
                case "RUN":
                    self.run(self._mounted(value), known)
                case "COPY":
                    self._copy(shlex.split(value), stages)
                case "WORKDIR":
                    self.workdir = value
                    (self.folder / "root" / value.lstrip("/")).mkdir(parents=True, exist_ok=True)
                case "ENV":
                    self.environment |= dict(word.split("=", 1) for word in shlex.split(value))
                case "ARG":
                    name, _, default = value.partition("=")
                    known.setdefault(name, default)
                case "USER":
                    self.user = int(value.partition(":")[0])
                case "ENTRYPOINT":
                    self.entrypoint = [word.strip('" ') for word in value.strip("[]").split(",")]
                case "FROM" | "LABEL" | "EXPOSE":
                    continue
                case _:
                    raise AssertionError(f"no such step is known here: {instruction} {value}")

    def run(self, command: str, environment: Mapping[str, str] = _NOTHING) -> str:
        """Run a command as RUN does; what it says. AssertionError when it fails."""
        network = {name: value for name, value in os.environ.items() if _NETWORK.fullmatch(name)}
        done = subprocess.run(
            self.command(["/bin/sh", "-c", command], network | dict(environment), read_only=False),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def command(
        self, command: Sequence[str], environment: Mapping[str, str] = _NOTHING, *, read_only: bool = True
    ) -> list[str]:
        """What runs a command in the tree, as its process 1 and its user, with no more rights than a pod has."""
        home = {"HOME": "/root" if self.user == 0 else "/nonexistent"}
        variables = [f"{name}={value}" for name, value in {**home, **self.environment, **environment}.items()]
        rights = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"] if self.user else []
        inside = ["chroot", str(self.folder / "root"), "/usr/bin/env", "-i", *variables]
        inside += ["setpriv", f"--reuid={self.user}", f"--regid={self.user}", "--clear-groups", *rights]
        inside += ["/usr/bin/env", "-C", self.workdir, *command]
        script = f"{_MOUNTS}{_READ_ONLY if read_only else ''}exec {shlex.join(inside)}"
        where = (f"TREE={self.folder}", f"BASE={sys.base_prefix}")
        return [*_NAMESPACE, "/usr/bin/env", *where, "/bin/sh", "-c", script]

    def _mounted(self, command: str) -> str:
        """A RUN's command; the context is copied to where `--mount=type=bind,target=` wants it."""
        while command.startswith("--mount="):
            mount, command = command.split(None, 1)
            options = dict(option.split("=", 1) for option in mount.removeprefix("--mount=").split(","))
            assert options.keys() == {"type", "target"}, mount
            self._put(self.context, options["target"])
            (self.folder / f"root{options['target']}").chmod(0o755)  # a folder of a test is its user's alone
        return command

    def _copy(self, words: list[str], stages: Mapping[str, ImageTree]) -> None:
        if words[0].startswith("--from="):
            origin = stages[words.pop(0).removeprefix("--from=")].folder / "root"
            sources = [origin / word.lstrip("/") for word in words[:-1]]
        else:
            sources = [self.context / word for word in words[:-1]]
        target = words[-1]
        for source in sources:
            self._put(source, f"{target}/{source.name}" if source.is_file() and target.endswith("/") else target)

    def _put(self, source: Path, target: str) -> None:
        place = Path(os.path.normpath(Path(self.workdir) / target))
        local = place.is_relative_to("/usr/local")
        there = self.folder / "local" / place.relative_to("/usr/local") if local else self.folder / f"root{place}"
        if source.is_file():
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, there)
            return
        shutil.copytree(source, there, symlinks=True, dirs_exist_ok=True, ignore=self._left_out)

    def _left_out(self, folder: str, names: list[str]) -> set[str]:
        if not Path(folder).is_relative_to(self.context):
            return set()
        here = Path(folder).relative_to(self.context)
        return {name for name in names for pattern in self._ignored if fnmatch(str(here / name), pattern)}
