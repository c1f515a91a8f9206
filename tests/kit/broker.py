"""A real Kafka for a session or one test: stopped, killed, frozen and restarted at will, it never outlives pytest."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from kit.distribution import BrokerError, jars, java
from kit.leash import leashed

START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
# Below the range from which systems take the ports of outgoing connections: nothing takes it while the broker is down.
PORTS = range(20_000, 32_000)


@dataclass(frozen=True, slots=True)
class Kafka:
    """The Kafka that tests share (fixture `kafka`): nobody may stop or freeze it."""

    bootstrap: str


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback address on which nothing listens."""
    ports: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise BrokerError(f"no free port between {PORTS.start} and {PORTS.stop} on 127.0.0.1")


class Broker:
    """One Kafka node (KRaft) with ports and data of its own, which it keeps over a restart.

    `server_properties` are added to, or replace, those of server.properties; they can be changed in `properties`
    between a stop and a start. Use it as a context manager, or call `start()` and `close()`; both in a thread that
    stays, since the broker dies with the thread that started it. Each start raises BrokerError when it fails.
    """

    def __init__(self, server_properties: Mapping[str, str] | None = None) -> None:
        self.port, self.controller_port = _free_ports(2)
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.folder = Path(tempfile.mkdtemp(prefix="kworker-broker-"))
        self.properties = self._defaults() | dict(server_properties or {})
        # Hexadecimal: a base64 id that begins with "-", one in 64, is taken for an option.
        self.cluster_id = uuid.uuid4().hex[:22]
        self._process: subprocess.Popen[bytes] | None = None

    def _defaults(self) -> dict[str, str]:
        single = {
            f"{topic}.{setting}": "1"
            for topic, setting in (
                ("offsets.topic", "replication.factor"),
                ("transaction.state.log", "replication.factor"),
                ("transaction.state.log", "min.isr"),
                ("share.coordinator.state.topic", "replication.factor"),
                ("share.coordinator.state.topic", "min.isr"),
            )
        }
        return single | {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self.controller_port}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.num.partitions": "4",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "broker.session.timeout.ms": "3000",  # a killed broker may register again when this has passed
            "broker.heartbeat.interval.ms": "500",
            "log.cleaner.backoff.ms": "200",  # a test of compaction need not wait 15 s for the cleaner
        }

    def start(self) -> Self:
        """Start it, on the same port and data as before, and return when it answers."""
        self.launch()
        self.wait_until_up()
        return self

    def launch(self) -> None:
        """Start it without waiting for an answer: a node of a cluster gives none before the others are there."""
        assert self._process is None, "the broker runs already"
        tool, libs = java(), jars()
        settings = self.folder / "server.properties"
        settings.write_text("".join(f"{name}={value}\n" for name, value in self.properties.items()))
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(tool, libs, settings)
        quick = ("-Xmx768m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
        log_level = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        command = leashed(tool, *quick, log_level, "-cp", f"{libs}/*", "kafka.Kafka", str(settings))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, process_group=0
            )

    def _format(self, tool: str, libs: Path, settings: Path) -> None:
        command = [tool, "-XX:TieredStopAtLevel=1", "-cp", f"{libs}/*", "kafka.tools.StorageTool", "format"]
        command += ["-t", self.cluster_id, "-c", str(settings)]
        if "controller.quorum.voters" not in self.properties:
            command.append("--standalone")
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode != 0:
            raise BrokerError(f"Kafka's storage could not be formatted:\n{answer.stdout}{answer.stderr}"[-3000:])

    def wait_until_up(self) -> None:
        """Return when it answers. Raises BrokerError when it has ended, or does not within 60 s."""
        assert self._process is not None, "the broker does not run"
        client = AdminClient({"bootstrap.servers": self.bootstrap, "reconnect.backoff.ms": 20, "log_level": 0})
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                if client.list_topics(timeout=0.5).brokers:
                    return
            except KafkaException as error:
                if (status := self._process.poll()) is not None:
                    raise BrokerError(f"Kafka ended at its start with {status}; its log:\n{self.log_tail()}") from None
                if time.monotonic() > deadline:
                    raise BrokerError(
                        f"Kafka did not answer within {START_TIMEOUT:g} s ({error}); its log:\n{self.log_tail()}"
                    ) from None

    @property
    def pid(self) -> int:
        """The process id of the running broker."""
        assert self._process is not None, "the broker does not run"
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its process lives (a frozen one does)."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """SIGTERM, as an operator stops it, and wait; AssertionError when it takes longer than 30 s."""
        self._signal(signal.SIGTERM)
        self._reap(STOP_TIMEOUT)

    def kill(self) -> None:
        """SIGKILL (-9), and wait until it is gone; frozen or not."""
        self._signal(signal.SIGKILL)
        self._reap(STOP_TIMEOUT)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers, until `thaw`."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT after `freeze`."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop it and start it again, on the same port and data."""
        self.stop()
        self.start()

    def log_tail(self, lines: int = 40) -> str:
        """The last lines that the broker logged, from warnings up."""
        if not self._log.exists():
            return ""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def close(self) -> None:
        """Kill it if it runs, and delete its data."""
        if self._process is not None:
            self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _log(self) -> Path:
        return self.folder / "log"

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)

    def _reap(self, timeout: float) -> None:
        assert self._process is not None, "the broker does not run"
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the broker did not end within {timeout:g} s; its log:\n{self.log_tail()}") from None
        self._process = None
