"""SASL and TLS with a CA of one's own: worker, publish and check; a wrong password; and no secret shown anywhere."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its types do not re-export them
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from kit import Broker, read_all
from kit.broker import _free_ports
from kit.secured import second_listener
from kit.stage import Stage
from kit.worker_process import WorkerProcess

USER = "worker"
PASSWORD = 'hunter2 "of" the=worker, ünïcode'
WRONG = "hunter2-is-wrong"
LATE = "hunter2-comes-late"
KEY_PASSWORD = "hunter2-of-the-key"
SECRETS = ("hunter2", "BEGIN")
"""What none of the outputs may hold: each secret has the first, each private key the second."""


@dataclass(frozen=True)
class Secured:
    """A broker with a listener that wants TLS and a password, and one that wants neither, for the tests themselves."""

    broker: Broker
    address: str
    ca: Path


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("security")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate = ca.issue_cert("127.0.0.1")
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # the only form that Kafka reads
    (folder / "keystore.pem").write_bytes(pem + b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    broker = Broker()
    address = second_listener(broker, "SECURED", "SASL_SSL")
    broker.properties |= {
        "listener.name.secured.ssl.keystore.type": "PEM",
        "listener.name.secured.ssl.keystore.location": str(folder / "keystore.pem"),
        "listener.name.secured.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.secured.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram."
        "ScramLoginModule required;",
    }
    with broker:
        add_user(broker, USER, PASSWORD)
        yield Secured(broker, address, folder / "ca.pem")


def add_user(broker: Broker, name: str, password: str) -> None:
    credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    change = UserScramCredentialUpsertion(name, credential, password.encode())
    for future in admin.alter_user_scram_credentials([change]).values():
        future.result(10)


@pytest.fixture
def stage(secured: Secured, tmp_path: Path) -> Iterator[Stage]:
    """Its own records go through the open listener; workers are given the other one."""
    with Stage(tmp_path, secured.broker.bootstrap) as stage:
        yield stage


def properties(secured: Secured, password: Path) -> dict[str, str]:
    return {
        "security.protocol": "sasl_ssl",
        "ssl.ca.location": str(secured.ca),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": USER,
        "sasl.password.file": str(password),
    }


def toml(values: dict[str, str]) -> str:
    return "[kafka]\n" + "".join(f"'{name}' = '{value}'\n" for name, value in values.items())


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    """One command to its end, within bounded time: its exit code and all it printed."""
    answer = subprocess.run(
        [sys.executable, "-m", "kworker", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return answer.returncode, answer.stdout + answer.stderr


def assert_silent(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text, f"{secret} in {text[max(0, text.index(secret) - 300) :][:600]}"


def everything_shown(worker: WorkerProcess) -> str:
    return worker.logged() + "".join(worker.get(path)[1] for path in ("/status", "/metrics", "/readyz", "/livez", "/"))


@pytest.mark.parametrize("where", ["-X", "kworker.toml"])
def test_a_worker_and_a_publisher_behind_tls_and_scram(secured: Secured, stage: Stage, where: str) -> None:
    topic = stage.topic()
    password = stage.folder / "password"
    password.write_text(PASSWORD + "\n", "utf-8")
    given = properties(secured, password)
    flags = [word for name, value in given.items() for word in ("-X", f"{name}={value}")]
    if where == "kworker.toml":
        file = stage.folder / "kworker.toml"
        file.write_text(toml(given))
        flags = ["--config", str(file)]
    place = ("--bootstrap", secured.address)
    worker = stage.start(*place, *flags, "--log-level", "debug", topics=[topic])
    code, printed = run(stage.folder, "publish", "probe.note", '{"n": 1}', "--topic", topic, *place, *flags)
    assert (code, printed) == (0, f"{topic}/0/0\n")
    code, refused = run(stage.folder, "publish", "probe.fail", '{"n": 2}', "--topic", topic, *place, *flags)
    assert code == 0, refused
    stage.wait_noted("ran", [1], worker)
    stage.wait_all_committed(topic, worker)
    assert len(read_all(stage.bootstrap, f"{topic}.dlq")) == 1  # it was made, and written, through the same listener
    code, checked = run(stage.folder, "check", "--group", stage.group, "--topic", topic, *place, *flags)
    assert code == 0, checked
    worker.signal(signal.SIGUSR2)
    stage.wait(lambda: "stack of MainThread" in worker.logged(), "the dump", worker)
    assert_silent(everything_shown(worker) + printed + checked)
    worker.terminate()
    assert worker.wait() == 0
    assert_silent(worker.logged())


def test_a_wrong_password_is_told_and_the_worker_waits_for_the_right_one(secured: Secured, stage: Stage) -> None:
    """It may be the broker that is wrong, for a while: ending would only make its supervisor start it again."""
    topic = stage.topic()
    stage.publish(topic, "note", [1])
    password = stage.folder / "password"
    password.write_text(LATE)
    given = properties(secured, password) | {"sasl.username": "late"}
    worker = stage.start("--bootstrap", secured.address, topics=[topic], kafka=given)
    stage.wait(lambda: worker.logged().count("uthentication failed") > 1, "lines that say so", worker)
    status, text = worker.get("/readyz")
    assert status == 503
    assert "group: not joined yet" in text
    assert worker.get("/livez")[0] == 200
    add_user(secured.broker, "late", LATE)
    stage.wait_noted("ran", [1], worker)
    stage.wait(worker.ready, "readiness", worker)
    assert worker.logged().count("uthentication failed") < 20, "each attempt is a line"
    assert_silent(everything_shown(worker))
    worker.terminate()
    assert worker.wait() == 0
    assert_silent(worker.logged())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"sasl.password.file": "wrong"}, "Authentication failed"),
        ({"ssl.ca.location": "other.pem"}, "certificate verify failed"),
        ({"security.protocol": "ssl"}, ""),
        ({"security.protocol": "plaintext"}, ""),
    ],
    ids=["password", "CA", "no SASL", "no TLS"],
)
def test_publish_and_check_end_with_the_reason(
    secured: Secured, stage: Stage, change: dict[str, str], why: str
) -> None:
    (stage.folder / "password").write_text(PASSWORD)
    (stage.folder / "wrong").write_text(WRONG)
    trustme.CA().cert_pem.write_to_path(str(stage.folder / "other.pem"))
    given = properties(secured, stage.folder / "password") | change
    if given["security.protocol"] in ("ssl", "plaintext"):
        given = {name: value for name, value in given.items() if not name.startswith("sasl.")}
    if given["security.protocol"] == "plaintext":
        del given["ssl.ca.location"]
    flags = [word for name, value in given.items() for word in ("-X", f"{name}={value}")]
    flags += ["--bootstrap", secured.address, "--topic", "tasks"]
    code, printed = run(stage.folder, "publish", "t", "{}", *flags, "--timeout", "2s")
    assert code == 1
    assert why in printed
    code, checked = run(stage.folder, "check", *flags)
    assert code == 2
    assert [line for line in checked.splitlines() if line.startswith("FAIL  broker ") and why in line], checked
    assert_silent(printed + checked)


def test_no_secret_is_in_what_is_said_of_bad_settings(tmp_path: Path) -> None:
    (tmp_path / "kworker.toml").write_text(
        toml(
            {
                "sasl.password": PASSWORD,
                "ssl.key.password": KEY_PASSWORD,
                "ssl.key.pem": "-----BEGIN PRIVATE KEY-----\\nhunter2\\n-----END PRIVATE KEY-----",
                "ssl.certificate.pem": "hunter2 is no certificate",
                "sasl.mechanism": "PLAIN",
                "enable.auto.commit": "true",
            }
        )
    )
    for command in (("run", "--group", "g"), ("check", "--group", "g"), ("publish", "t")):
        code, printed = run(tmp_path, *command, "--bootstrap", f"127.0.0.1:{_free_ports(1)[0]}")
        assert code == 2, printed
        assert "enable.auto.commit" in printed
        assert_silent(printed)


def test_a_password_file_that_is_missing_is_told(tmp_path: Path) -> None:
    code, printed = run(tmp_path, "run", "--group", "g", "-X", "sasl.password.file=nowhere")
    assert code == 2
    assert printed.startswith("kworker: -X sasl.password.file: cannot read 'nowhere': ")
