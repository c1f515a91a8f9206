"""A network that misbehaves: toxiproxy between a worker and its broker, with faults that come and go.

Its server is built by Go once and cached in ~/.cache/kworker/toxiproxy-<version>. It never outlives pytest.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from filelock import FileLock

from kit.broker import Broker, _free_ports
from kit.leash import leashed
from kit.waiting import wait_for

VERSION = "2.12.0"
MODULE = f"github.com/Shopify/toxiproxy/v2/cmd/server@v{VERSION}"

ANSWER = 10.0
"""Seconds within which toxiproxy starts, and answers."""

Stream = Literal["upstream", "downstream"]
"""upstream: what the worker sends; downstream: what the broker answers."""


def toxiproxy() -> Path:
    """Toxiproxy's server, built when it is not there yet. Raises AssertionError with what is missing."""
    folder = Path(f"~/.cache/kworker/toxiproxy-{VERSION}").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    server = folder / "server"
    with FileLock(folder / "lock"):
        if not server.exists():
            go = shutil.which("go")
            assert go, f"the tests of networks build toxiproxy {VERSION}, but there is no go on PATH: install Go 1.23+"
            answer = subprocess.run(
                [go, "install", MODULE],
                env=os.environ | {"GOBIN": str(folder)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert answer.returncode == 0, f"go install {MODULE} failed:\n{answer.stderr[-2000:]}"
    return server


class Proxy:
    """One address that leads to another, faultless until it is given toxics; see toxiproxy's README for their kinds."""

    def __init__(self, api: str, name: str, address: str) -> None:
        self.address = address
        self._url = f"{api}/proxies/{name}"

    @contextmanager
    def harmed(self, kind: str, *streams: Stream, **attributes: int) -> Iterator[None]:
        """While it is open, connections have this fault, those that exist, too.

        Toxiproxy closes those of a `timeout` (nothing passes) at its end, as a network that has lost bytes must.
        """
        for stream in streams:
            toxic = {"name": stream, "type": kind, "stream": stream, "attributes": attributes}
            ask("POST", f"{self._url}/toxics", toxic)
        try:
            yield
        finally:
            for stream in streams:
                ask("DELETE", f"{self._url}/toxics/{stream}")


class Toxiproxy:
    """The server, running while it is open."""

    def __init__(self) -> None:
        self._port = _free_ports(1)[0]
        self._api = f"http://127.0.0.1:{self._port}"
        self._names = 0

    def __enter__(self) -> Self:
        command = leashed(str(toxiproxy()), "-host", "127.0.0.1", "-port", f"{self._port}")
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet, process_group=0)
        wait_for(self._answers, ANSWER, "an answer of toxiproxy")
        return self

    def _answers(self) -> bool:
        assert self._process.poll() is None, f"toxiproxy ended with {self._process.poll()}"
        try:
            ask("GET", f"{self._api}/version")
        except OSError:
            return False
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(ANSWER)

    def before(self, broker: Broker) -> Proxy:
        """A proxy before a listener of its own of a broker that was not started yet.

        Whoever begins at the proxy's address is sent through it for ever: it is what that listener advertises.
        """
        self._names += 1
        inner, outer = (f"127.0.0.1:{port}" for port in _free_ports(2))
        name = f"PROXIED{self._names}"
        for setting, more in (
            ("listeners", f",{name}://{inner}"),
            ("advertised.listeners", f",{name}://{outer}"),
            ("listener.security.protocol.map", f",{name}:PLAINTEXT"),
        ):
            broker.properties[setting] += more
        ask("POST", f"{self._api}/proxies", {"name": name, "listen": outer, "upstream": inner, "enabled": True})
        return Proxy(self._api, name, outer)


def ask(method: str, url: str, body: object = None) -> None:
    """One request to toxiproxy. Raises OSError when it is not answered, or refused."""
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=ANSWER):
        pass
