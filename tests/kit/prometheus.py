"""A real Prometheus that scrapes every second, and what it answers."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from kit.charttools import tool
from kit.leash import leashed
from kit.waiting import wait_for

INTERVAL = 1
"""Seconds between two scrapes."""

START = 30.0


class Series(NamedTuple):
    """One series of an answer, at the moment of the question."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """See the module. jobs: by the name of each, the addresses (host:port) that it scrapes."""

    def __init__(self, folder: Path, jobs: Mapping[str, Sequence[str]]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "prometheus.log"
        self._given = folder / "prometheus.json"  # JSON is YAML
        scrapes = [{"job_name": name, "static_configs": [{"targets": list(jobs[name])}]} for name in jobs]
        every = f"{INTERVAL}s"
        self._given.write_text(
            json.dumps({"global": {"scrape_interval": every, "scrape_timeout": every}, "scrape_configs": scrapes})
        )
        self._data = folder / "data"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"127.0.0.1:{free.getsockname()[1]}"

    def __enter__(self) -> Self:
        options = {"config.file": self._given, "storage.tsdb.path": self._data, "web.listen-address": self._address}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                leashed(tool("prometheus"), *(f"--{name}={value}" for name, value in options.items())),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for(self._ready, START, "Prometheus to be ready")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait(START)

    def _ready(self) -> bool:
        assert self._process.poll() is None, f"Prometheus ended: {self._log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def query(self, expr: str) -> list[Series]:
        """The series of an expression that have a value, now. AssertionError when it is none that Prometheus takes."""
        found = self._get("query", query=expr)["result"]
        series = [Series(one["metric"], float(one["value"][1])) for one in found]
        return [one for one in series if not math.isnan(one.value)]

    def label_values(self, label: str, series: str) -> list[str]:
        """The values of a label of these series."""
        values: list[str] = self._get(f"label/{label}/values", **{"match[]": series})
        return values

    def _get(self, path: str, **parameters: str) -> Any:
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{parameters}: {error.read().decode()}") from None
