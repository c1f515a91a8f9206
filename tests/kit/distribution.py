"""The Kafka that the tests start: Java is found, the jars come from Maven once and are cached.

The cache is $KWORKER_KAFKA_HOME, or ~/.cache/kworker/kafka-<version>.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from filelock import FileLock

VERSION = "4.3.1"
JAVA_VERSION = 17
INSTEAD = "or set KWORKER_TEST_BOOTSTRAP to the address of a running Kafka"

# slf4j-simple: without it the broker logs nothing that would explain a failing start.
POM = f"""\
<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>kworker</groupId><artifactId>test-kafka</artifactId><version>1</version>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{VERSION}</version></dependency>
    <dependency><groupId>org.slf4j</groupId><artifactId>slf4j-simple</artifactId><version>1.7.36</version></dependency>
  </dependencies>
</project>
"""


class BrokerError(AssertionError):
    """No Kafka could be started: what is missing or broken, and what to do."""


def java() -> str:
    """The path of a Java that can run Kafka. Raises BrokerError when there is none."""
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=str(Path(home, "bin")) if home else None)
    install = f"install it (Debian: apt-get install openjdk-{JAVA_VERSION}-jre-headless), {INSTEAD}"
    if found is None:
        where = f"in JAVA_HOME={home}" if home else "on PATH"
        raise BrokerError(
            f"the tests start a Kafka and need Java {JAVA_VERSION}+, but there is no java {where}: {install}"
        )
    answer = subprocess.run([found, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', answer.stderr)
    if version is None or int(version[1]) < JAVA_VERSION:
        said = next(iter(answer.stderr.splitlines()), "nothing")
        raise BrokerError(f"the tests start a Kafka and need Java {JAVA_VERSION}+, but {found} says {said}: {install}")
    return found


def jars() -> Path:
    """The folder of Kafka's jars, fetched when it is not there yet. Raises BrokerError when that fails."""
    home = Path(os.environ.get("KWORKER_KAFKA_HOME") or Path("~/.cache/kworker", f"kafka-{VERSION}")).expanduser()
    return fetched(home, POM)


def fetched(home: Path, pom: str) -> Path:
    """The folder below `home` of the jars that `pom` depends on; as `jars`."""
    home.mkdir(parents=True, exist_ok=True)
    libs, complete = home / "libs", home / "complete"
    with FileLock(home / "lock"):
        if not (complete.exists() and complete.read_text() == pom):
            (home / "pom.xml").write_text(pom)
            _fetch(home, libs)
            complete.write_text(pom)
    return libs


def _fetch(home: Path, libs: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerError(
            f"the tests fetch the jars of {home.name} with Maven, but there is no mvn on PATH: "
            f"install it (Debian: apt-get install maven), {INSTEAD}"
        )
    shutil.rmtree(libs, ignore_errors=True)
    command = [maven, "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={libs}"]
    answer = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
    if answer.returncode != 0:
        raise BrokerError(
            f"Maven could not fetch the jars of {home.name} into {home}, {INSTEAD}:\n{answer.stdout[-2000:]}"
        )
