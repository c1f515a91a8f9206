"""The workers of the demo: real processes, `kworker --group demo` each, with one kworker.toml between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any

from plan import COMMAND

GROUP = "demo"

_STOP_WITHIN = 30.0
_CONFIG = """\
bootstrap = {bootstrap}
log_format = "json"
concurrency = 16

[plugins.http]
allow = [{receiver}]
allow_internal = ["127.0.0.1/32"]   # the receiver is on this machine; such addresses are refused otherwise
secrets = [{secret}]

[tasks."http.deliver"]
max_attempts = 3

[plugins.shell.commands.{command}]
argv = ["sh", "-c", 'printf "%s %s\\n" "$KWORKER_TASK_ID" "$(wc -lc)" >> {counts}']
cwd = {folder}
"""

# The kernel ends a worker with the demo, however that goes. No `preexec_fn`: it may deadlock where there are threads.
_LEASH = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Worker:
    """One worker process. `address`: of its admin port, '' until it is known."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.address = ""
        self._log = folder / f"{name.replace(' ', '-')}.log"
        # Its own process group: Ctrl-C is the demo's to handle, which stops its workers one by one.
        command = [sys.executable, "-m", "kworker", "--group", GROUP]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-c", _LEASH, str(os.getpid()), *command],
                cwd=folder,
                env={name: value for name, value in os.environ.items() if not name.startswith("KWORKER_")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
            )
        self.pid = self._process.pid

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        found = []
        for line in self._log.read_text("utf-8", "replace").splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:  # half a line, or what was written before logging began
                found.append({"message": line})
        return found

    def locate(self) -> bool:
        """True once its admin port is known."""
        if not self.address:
            found = [line["metrics"] for line in self.lines() if "metrics" in line]
            self.address = found[0].removesuffix("/metrics") if found else ""
        return bool(self.address)

    def status(self) -> dict[str, Any]:
        """Its status page."""
        with urllib.request.urlopen(f"{self.address}/status", timeout=10) as page:
            answer: dict[str, Any] = json.load(page)
            return answer

    def partitions(self) -> str:
        """The partitions it has, as one text."""
        return " ".join(f"{item['topic']}/{item['partition']}" for item in self.status()["assignment"])

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()

    def ask_to_stop(self) -> None:
        """SIGTERM: it drains, commits and leaves."""
        if self.code is None:
            self._process.send_signal(signal.SIGTERM)

    def wait(self, timeout: float) -> int:
        """Its exit code; kills it when it has not ended in time."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()


class Crew:
    """The workers, in a folder of their own. Leaving the `with` block ends whatever still runs."""

    def __init__(self, folder: Path, bootstrap: str, receiver: str, key: bytes) -> None:
        self.folder = folder
        self.counts = folder / "counts.txt"
        self.counts.touch()
        self.workers: list[Worker] = []
        values = {"bootstrap": bootstrap, "receiver": receiver + "/hooks/", "folder": str(folder)}
        values["secret"] = "whsec_" + b64encode(key).decode()
        quoted = {name: json.dumps(value) for name, value in values.items()}
        config = _CONFIG.format(**quoted, command=COMMAND, counts=self.counts.name)
        (folder / "kworker.toml").write_text(config, "utf-8")

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def hire(self) -> Worker:
        """Start one more worker."""
        worker = Worker(f"worker {len(self.workers) + 1}", self.folder)
        self.workers.append(worker)
        return worker

    @property
    def living(self) -> list[Worker]:
        """Those that run."""
        return [worker for worker in self.workers if worker.code is None]

    def stop(self) -> list[int]:
        """SIGTERM to all that run; returns their exit codes."""
        stopped = self.living
        deadline = time.monotonic() + _STOP_WITHIN
        try:
            for worker in stopped:
                worker.ask_to_stop()
            return [worker.wait(max(0.1, deadline - time.monotonic())) for worker in stopped]
        except BaseException:  # a second Ctrl-C: no more patience
            for worker in stopped:
                worker.kill()
            raise
