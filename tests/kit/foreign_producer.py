"""A producer in Java: ForeignProducer.java, compiled once with the libraries that Java people use, and run.

Its jars come from Maven once, the compiler among them, so that a Java without one is enough. They are cached in
~/.cache/kworker/foreign-producer.
"""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

from kit.distribution import VERSION, fetched, java

SOURCE = Path(__file__).parent / "ForeignProducer.java"
COMPILER = "3.40.0"

POM = f"""\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>kworker</groupId><artifactId>foreign-producer</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-clients</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.apache.avro</groupId><artifactId>avro</artifactId><version>1.12.1</version></dependency>
    <dependency><groupId>io.cloudevents</groupId><artifactId>cloudevents-kafka</artifactId><version>4.0.1</version></dependency>
    <dependency><groupId>io.cloudevents</groupId><artifactId>cloudevents-json-jackson</artifactId><version>4.0.1</version></dependency>
    <dependency><groupId>org.eclipse.jdt</groupId><artifactId>ecj</artifactId><version>{COMPILER}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-nop</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


@cache
def libraries() -> Path:
    """The folder of its jars. Raises BrokerError when they cannot be had."""
    return fetched(Path("~/.cache/kworker/foreign-producer").expanduser(), POM)


def run(classes: Path, *arguments: str) -> list[str]:
    """Compile it into the folder `classes` and run it; returns the lines that it prints."""
    tool, libs = java(), libraries()
    path = ":".join(map(str, [classes, *sorted(libs.glob("*.jar"))]))
    compiler = [tool, "-jar", str(libs / f"ecj-{COMPILER}.jar"), "-17", "-nowarn", "-cp", path, "-d", str(classes)]
    _done([*compiler, str(SOURCE)])
    return _done([tool, "-XX:TieredStopAtLevel=1", "-cp", path, SOURCE.stem, *arguments]).splitlines()


def _done(command: list[str]) -> str:
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert answer.returncode == 0, f"{command[1:3]}: {answer.stdout[-2000:]}{answer.stderr[-4000:]}"
    return answer.stdout
