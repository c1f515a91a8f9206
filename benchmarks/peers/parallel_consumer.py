"""Confluent Parallel Consumer, of Java: its jars and a compiler come from Maven once, into ~/.cache/kworker."""

from __future__ import annotations

import subprocess
import tempfile
from functools import cache
from pathlib import Path

from benchmarks.peer import Missing, Peer
from benchmarks.place import Place
from kit.distribution import BrokerError, fetched, java

VERSION = "0.5.3.2"
COMPILER = "3.40.0"
SOURCE = Path(__file__).parent / "ParallelConsumer.java"

POM = f"""\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>kworker</groupId><artifactId>bench-parallel-consumer</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>io.confluent.parallelconsumer</groupId><artifactId>parallel-consumer-core</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>com.fasterxml.jackson.core</groupId><artifactId>jackson-databind</artifactId><version>2.20.0</version></dependency>
    <dependency><groupId>org.eclipse.jdt</groupId><artifactId>ecj</artifactId><version>{COMPILER}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""

_classes = tempfile.TemporaryDirectory(prefix="kworker-bench-java-")


@cache
def _compiled() -> str:
    """The class path of the compiled adapter. Raises Missing."""
    try:
        tool, libs = java(), fetched(Path("~/.cache/kworker/parallel-consumer").expanduser(), POM)
    except BrokerError as error:
        raise Missing(str(error)) from None
    path = ":".join(map(str, [_classes.name, *sorted(libs.glob("*.jar"))]))
    compiler = [tool, "-jar", str(libs / f"ecj-{COMPILER}.jar"), "-17", "-nowarn", "-cp", path, "-d", _classes.name]
    answer = subprocess.run([*compiler, str(SOURCE)], capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise Missing(f"{SOURCE.name} does not compile: {answer.stderr[-2000:]}")
    return path


def _versions() -> str:
    _compiled()
    said = subprocess.run([java(), "-version"], capture_output=True, text=True, check=True).stderr.splitlines()[0]
    return f"parallel-consumer-core {VERSION}, {said}"


def _peer(name: str, order: str, workloads: set[str]) -> Peer:
    def command(place: Place) -> list[str]:
        given = [place.bootstrap, place.topic, place.group, str(place.effect), place.body, str(place.slots), order]
        return [java(), "-cp", _compiled(), SOURCE.stem, *given]

    return Peer(
        name=name,
        workloads=frozenset(workloads),
        command=command,
        versions=_versions,
        settings=f"{order}, maxConcurrency: slots, PERIODIC_CONSUMER_ASYNCHRONOUS every second; Jackson; JVM defaults",
    )


PEERS = (
    _peer("Parallel Consumer", "UNORDERED", {"W1", "W2-64", "W2-256", "W3", "W4", "W5", "W10", "W1-kill"}),
    _peer("Parallel Consumer, key", "KEY", {"W1", "W4"}),
)
