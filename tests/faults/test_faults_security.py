"""FAULTS.md "Faults" 40: what a worker may do is taken away in mid-life and given back; a certificate expires.

The worker comes through a listener with TLS and a password; the tests themselves through one with neither, where
nobody has a name and everything is allowed.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but its types do not re-export them
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from faults.storm import Backlog
from kit import Broker
from kit.secured import AUTHORIZED, second_listener
from kit.trial import Trial
from kit.worker_process import WorkerProcess

pytestmark = [pytest.mark.long, pytest.mark.kafka, pytest.mark.timeout(300)]

USER, PASSWORD, ANOTHER = "worker", "as agreed", "as changed"
PARTITIONS = 4
NOTICED = 60.0
"""Seconds within which a worker that may do nothing any more has said so."""


@dataclass(frozen=True)
class Secured:
    """A broker, and what a worker is given to come in by the listener that is guarded."""

    broker: Broker
    folder: Path
    ca: trustme.CA
    arguments: tuple[str, ...]

    @property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.broker.bootstrap})

    def certify(self, *, expired: bool = False) -> None:
        """Give the broker, while it is down, a certificate that is good, or one that was good until a minute ago."""
        now = datetime.datetime.now(datetime.UTC)
        certificate = self.ca.issue_cert("127.0.0.1", not_after=now + datetime.timedelta(minutes=-1 if expired else 60))
        key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # the only form that Kafka reads
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        (self.folder / "keystore.pem").write_bytes(pem + chain)

    def set_password(self, password: str) -> None:
        """The password of the worker, from now on."""
        change = UserScramCredentialUpsertion(
            USER, ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096), password.encode()
        )
        admin = self.admin
        for future in admin.alter_user_scram_credentials([change]).values():
            future.result(10)

    def allow(self, kind: ResourceType) -> None:
        """The worker may do everything with all of this kind."""
        admin = self.admin
        for future in admin.create_acls([AclBinding(*_everything(kind))]).values():
            future.result(10)

    def forbid(self, kind: ResourceType) -> None:
        """It may do nothing with them."""
        admin = self.admin
        for future in admin.delete_acls([AclBindingFilter(*_everything(kind))]).values():
            assert future.result(10)


Everything = tuple[ResourceType, str, ResourcePatternType, str, str, AclOperation, AclPermissionType]


def _everything(kind: ResourceType) -> Everything:
    name = "kafka-cluster" if kind is ResourceType.BROKER else "*"
    user = f"User:{USER}"
    return kind, name, ResourcePatternType.LITERAL, user, "*", AclOperation.ALL, AclPermissionType.ALLOW


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[Secured]:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    (tmp_path / "password").write_text(PASSWORD)
    broker = Broker()
    address = second_listener(broker, "SECURED", "SASL_SSL")
    broker.properties |= AUTHORIZED | {
        "listener.name.secured.ssl.keystore.type": "PEM",
        "listener.name.secured.ssl.keystore.location": str(tmp_path / "keystore.pem"),
        "listener.name.secured.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.secured.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram."
        "ScramLoginModule required;",
        "listener.name.secured.scram-sha-512.connections.max.reauth.ms": "3000",  # a password is asked for again
    }
    properties = {
        "security.protocol": "sasl_ssl",
        "ssl.ca.location": str(tmp_path / "ca.pem"),
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": USER,
        "sasl.password.file": str(tmp_path / "password"),
    }
    flags = [word for name, value in properties.items() for word in ("-X", f"{name}={value}")]
    secured = Secured(broker, tmp_path, ca, ("--bootstrap", address, *flags))
    secured.certify()
    with broker:
        secured.set_password(PASSWORD)
        for kind in (ResourceType.TOPIC, ResourceType.GROUP, ResourceType.BROKER):
            secured.allow(kind)
        yield secured


def at_work(trial: Trial, backlog: Backlog, secured: Secured, *arguments: str) -> WorkerProcess:
    """A worker that works and commits."""
    backlog.fill()
    worker = trial.start(*secured.arguments, *arguments)
    trial.wait(lambda: trial.commits.last.held > 500, "commits")
    return worker


def cut_off(trial: Trial, worker: WorkerProcess, why: str) -> None:
    """Wait until it has said why it can do nothing; it lives, and nothing more is committed."""
    trial.wait(lambda: why in worker.logged(), f"{why!r} in the log", NOTICED)
    trial.wait(lambda: trial.commits.unchanged > 5, "the end of the commits")
    assert worker.get("/livez")[0] == 200


def recovers(trial: Trial, backlog: Backlog, worker: WorkerProcess) -> None:
    """What is published now is worked by the same worker, and it is ready."""
    new = backlog.publish(200)
    trial.wait(lambda: new <= trial.ledger.over.keys(), "new work to be done")
    trial.wait(worker.ready, "readiness")
    trial.finish()
    assert trial.living == [worker]


@pytest.mark.parametrize("kind", [ResourceType.GROUP, ResourceType.TOPIC], ids=["group", "topics"])
def test_fault_40_acl_taken_away(secured: Secured, tmp_path: Path, kind: ResourceType) -> None:
    """It may not use the group, or the topics, any more: neither those it reads nor those of its dead letters."""
    with Trial(tmp_path, secured.broker.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 2000, trouble=True)
        worker = at_work(trial, backlog, secured)
        before = trial.commits.now()
        secured.forbid(kind)
        cut_off(trial, worker, "uthorization failed")
        trial.wait(lambda: not worker.ready(), "no readiness")
        trial.expose(before, worker)
        secured.allow(kind)
        recovers(trial, backlog, worker)


def test_fault_40_with_kip_848_a_worker_without_its_group_ends(secured: Secured, tmp_path: Path) -> None:
    """Its client calls that fatal: it ends with 3 and commits nothing. The next one waits until it may."""
    with Trial(tmp_path, secured.broker.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 2000, trouble=True)
        protocol = ("-X", "group.protocol=consumer")
        worker = at_work(trial, backlog, secured, *protocol)
        before = trial.commits.now()
        secured.forbid(ResourceType.GROUP)
        assert worker.wait(NOTICED) == 3
        assert "uthorization failed" in worker.logged()
        at_the_end = trial.commits.now()
        trial.expose(before, worker)
        after = trial.start(*secured.arguments, *protocol)
        cut_off(trial, after, "uthorization failed")
        assert not after.ready()
        assert trial.commits.now().committed == at_the_end.committed
        secured.allow(ResourceType.GROUP)
        recovers(trial, backlog, after)


def test_fault_40_password_changed(secured: Secured, tmp_path: Path) -> None:
    """Its connections are closed when they are to authenticate again, and it cannot make new ones."""
    with Trial(tmp_path, secured.broker.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 2000, trouble=True)
        worker = at_work(trial, backlog, secured)
        before = trial.commits.now()
        secured.set_password(ANOTHER)
        cut_off(trial, worker, "uthentication failed")
        trial.expose(before, worker)
        secured.set_password(PASSWORD)
        recovers(trial, backlog, worker)


def test_fault_40_expired_certificate(secured: Secured, tmp_path: Path) -> None:
    """The broker comes back with a certificate that has expired, and once more with a good one."""
    with Trial(tmp_path, secured.broker.bootstrap, PARTITIONS) as trial:
        backlog = Backlog(trial, 2000, trouble=True)
        worker = at_work(trial, backlog, secured)
        secured.broker.stop()
        before = trial.commits.last
        secured.certify(expired=True)
        secured.broker.start()
        cut_off(trial, worker, "certificate")
        trial.expose(before, worker)
        secured.broker.stop()
        secured.certify()
        secured.broker.start()
        recovers(trial, backlog, worker)
