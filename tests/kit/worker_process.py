"""A real worker process to start, ask, signal and kill; it never outlives the thread that starts it.

Its admin port is any free one, found in its log. Plugins come from folders that hold a package and its dist-info, put
on the path of the process: nothing needs to be installed for a test.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kit.leash import leashed
from kit.waiting import wait_for

ANSWER = 10.0
"""Seconds within which an admin port answers."""

START = 30.0
"""Seconds within which a worker has its admin port, and is ready if it can be."""

_ADDRESS = re.compile(r'metrics"?[=:] ?"?(http://[^/\s]+)/metrics')
_PORT = "--admin-port"


class WorkerProcess:
    """A worker, running from here on. `folder`: its working directory, with its `log`; made if it is missing.

    arguments: those of `kworker`. env: added to the environment, of which no KWORKER_ variable is passed on but these.
    site: folders of plugins, each with `<module>.py` and `<name>-<version>.dist-info`.
    output: where its standard output and error go, when not to `log`; then it must be given an --admin-port.
    under: a command that becomes the worker, with limits of its own say.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        site: Sequence[Path] = (),
        output: int | None = None,
        under: Sequence[str] = (),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "log"
        given = [*arguments, *(() if _PORT in arguments else (_PORT, "0"))]
        self._port = int(given[given.index(_PORT) + 1])
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                leashed(*under, sys.executable, "-m", "kworker", *given),
                stdin=subprocess.DEVNULL,
                stdout=log if output is None else output,
                stderr=log if output is None else output,
                cwd=folder,
                env=_environment(env or {}, site),
                process_group=0,  # Ctrl-C is pytest's
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it lives; minus the number of the signal that killed it."""
        return self.process.poll()

    def logged(self) -> str:
        """All that it has logged."""
        return self.log.read_text("utf-8", "replace")

    # -- its admin port -----------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The address of its admin port, without a slash at the end; waits until it has one."""
        return wait_for(self._address, START, "the address of the admin port in the log")

    def _address(self) -> str:
        if self._port:
            return f"http://127.0.0.1:{self._port}"
        found = _ADDRESS.findall(self.logged())
        assert found or self.exit_code is None, f"the worker ended with {self.exit_code}:\n{self.logged()[-3000:]}"
        return found[-1] if found else ""

    def get(self, path: str) -> tuple[int, str]:
        """Ask the admin port: (HTTP status, text). Raises OSError when it does not answer."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=ANSWER) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def status(self) -> Any:
        """What /status shows."""
        return json.loads(self.get("/status")[1])

    def metrics(self) -> str:
        """What /metrics shows."""
        return self.get("/metrics")[1]

    def ready(self) -> bool:
        """Whether /readyz says so."""
        return self.get("/readyz")[0] == 200

    def wait_ready(self, timeout: float = START) -> None:
        """Wait until it has joined its group and is ready."""
        wait_for(self.ready, timeout, "readiness of the worker")

    def resident(self, field: str = "VmRSS") -> int:
        """Bytes of its memory, as /proc tells: VmRSS now, VmHWM at most so far."""
        (kib,) = re.findall(rf"^{field}:\s+(\d+) kB$", Path(f"/proc/{self.pid}/status").read_text(), re.M)
        return int(kib) * 1024

    # -- its end ------------------------------------------------------------------------------------------------

    def signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        self.process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM: it drains, commits and leaves."""
        self.signal(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP, until `thaw`."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT after `freeze`."""
        self.signal(signal.SIGCONT)

    def kill9(self) -> None:
        """SIGKILL (-9), and wait until it is gone; frozen or not."""
        self.process.kill()
        self.process.wait(ANSWER)

    def wait(self, timeout: float = START) -> int:
        """Wait for its end; returns its exit code. AssertionError when it has not ended within `timeout` seconds."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not end within {timeout:g} s:\n{self.logged()[-3000:]}") from None

    def close(self) -> None:
        """Kill it if it lives."""
        if self.exit_code is None:
            self.kill9()


def _environment(env: Mapping[str, str], site: Sequence[Path]) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KWORKER_")}
    path = [*site, *map(Path, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)))]
    return inherited | {"PYTHONPATH": os.pathsep.join(str(folder.resolve()) for folder in path), **env}
