"""The chart on a real API server: installed, upgraded, rolled back and removed, with restricted pods enforced.

Run by `make test-cluster`, on the cluster of KWORKER_TEST_KUBECONFIG (one to spare, with the CRDs of KEDA and of the
Prometheus operator) or on one that the tool named in CLUSTER builds, starts and stops.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from kit import charttools, wait_for

ROOT = Path(__file__).parents[3]
CHART = ROOT / "deploy" / "helm" / "kworker"
EXAMPLES = sorted(path.stem for path in (CHART / "examples").glob("*.yaml"))
KINDS = (
    "deployments,statefulsets,jobs,pods,configmaps,services,serviceaccounts,poddisruptionbudgets,networkpolicies,"
    "horizontalpodautoscalers,scaledobjects.keda.sh,podmonitors.monitoring.coreos.com,"
    "prometheusrules.monitoring.coreos.com"
)
OTHERS = """
apiVersion: v1
kind: Secret
metadata: {name: NAME}
stringData: {password: x, ca.crt: x, kworker.toml: ""}
"""
CLAIM = """
apiVersion: v1
kind: PersistentVolume
metadata: {name: SPACE-models}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadOnlyMany]
  hostPath: {path: /models}
  claimRef: {namespace: SPACE, name: models}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: models}
spec:
  storageClassName: ""
  accessModes: [ReadOnlyMany]
  resources: {requests: {storage: 1Gi}}
---
apiVersion: scheduling.k8s.io/v1
kind: PriorityClass
metadata: {name: batch}
value: 100
"""

pytestmark = pytest.mark.timeout(3600)  # the tool builds Kubernetes once


class Cluster:
    """Commands against one cluster; each must succeed and may warn of nothing that pods are refused for."""

    def __init__(self, kubeconfig: str, kubectl: str) -> None:
        self.environ = os.environ | {"KUBECONFIG": kubeconfig}
        self._kubectl = kubectl

    def _run(self, *command: str, given: str = "") -> str:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=300, check=False, env=self.environ
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        assert "would violate PodSecurity" not in done.stderr, done.stderr
        return done.stdout

    def helm(self, *arguments: str | Path) -> str:
        """A command of helm that waits."""
        return self._run(charttools.tool("helm"), *map(str, arguments))

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """A command of kubectl."""
        return self._run(self._kubectl, *arguments, given=given)

    def objects(self, space: str, kinds: str = KINDS, selector: str = "") -> list[dict[str, Any]]:
        """What is there of these kinds."""
        text = self.kubectl("get", kinds, "-n", space, "-l", selector, "-o", "json")
        found: list[dict[str, Any]] = json.loads(text)["items"]
        return found


class Release:
    """One release in a namespace of its own."""

    def __init__(self, cluster: Cluster, space: str, name: str = "work") -> None:
        self.cluster, self.space, self.name = cluster, space, name
        self.selector = f"app.kubernetes.io/instance={name}"

    def install(self, *arguments: str | Path) -> None:
        self.cluster.helm("install", self.name, *arguments, "-n", self.space, "--wait", "--timeout", "120s")

    def upgrade(self, *arguments: str | Path) -> None:
        self.cluster.helm("upgrade", self.name, *arguments, "-n", self.space, "--wait", "--timeout", "120s")

    def rollback(self, revision: int) -> None:
        self.cluster.helm("rollback", self.name, str(revision), "-n", self.space, "--wait", "--timeout", "120s")

    def uninstall(self) -> None:
        self.cluster.helm("uninstall", self.name, "-n", self.space, "--wait", "--timeout", "120s")
        wait_for(lambda: not self.left(), 60, f"nothing of {self.name} is left")

    def left(self) -> list[str]:
        found = self.cluster.objects(self.space, selector=self.selector)
        return [f"{one['kind']}/{one['metadata']['name']}" for one in found]

    def workloads(self) -> dict[str, Any]:
        """What each workload makes pods of, by its name."""
        found = self.cluster.objects(self.space, "deployments,statefulsets", self.selector)
        return {one["metadata"]["name"]: one["spec"]["template"] for one in found}

    def pods(self) -> dict[str, str]:
        """The pods that are ready and not going: uid -> name."""
        return {
            one["metadata"]["uid"]: one["metadata"]["name"]
            for one in self.cluster.objects(self.space, "pods", self.selector)
            if "deletionTimestamp" not in one["metadata"]
            and any(
                part["type"] == "Ready" and part["status"] == "True" for part in one["status"].get("conditions", ())
            )
        }

    def settled(self) -> dict[str, str]:
        """The pods, once there are as many as the workloads want, and as an autoscaler will want."""
        wait_for(lambda: len(self.pods()) == self._wanted(), 60, f"all pods of {self.name}, and no others")
        return self.pods()

    def _wanted(self) -> int:
        scalers = self.cluster.objects(self.space, "horizontalpodautoscalers", self.selector)
        least = {one["spec"]["scaleTargetRef"]["name"]: one["spec"]["minReplicas"] for one in scalers}
        found = self.cluster.objects(self.space, "deployments,statefulsets", self.selector)
        return sum(max(one["spec"]["replicas"], least.get(one["metadata"]["name"], 0)) for one in found)

    def hooks(self) -> list[str]:
        """How the last run of each hook ended."""
        status = json.loads(self.cluster.helm("status", self.name, "-n", self.space, "-o", "json"))
        return [one["last_run"]["phase"] for one in status.get("hooks") or () if one["kind"] == "Job"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The cluster of the environment, or one that is started."""
    if given := os.environ.get("KWORKER_TEST_KUBECONFIG"):
        yield Cluster(given, shutil.which("kubectl") or pytest.fail("kubectl is missing"))
        return
    if not (tool := os.environ.get("CLUSTER")):
        pytest.fail("name a cluster to spare in KWORKER_TEST_KUBECONFIG, or in CLUSTER a tool that starts one")
    home = os.environ.get("CLUSTER_HOME") or str(Path(tempfile.gettempdir()) / "cluster")
    environ = os.environ | {"CLUSTER_HOME": home}
    if not Path(home, "bin", "kwok").exists():
        subprocess.run(["bash", tool, "build"], env=environ, check=True)
    try:
        with tempfile.TemporaryFile("w+") as told:  # not a pipe: what it starts keeps it open
            subprocess.run(["bash", tool, "up"], env=environ, check=True, stdout=told)
            told.seek(0)
            kubeconfig = told.read().split()[-1]
        yield Cluster(kubeconfig, str(Path(home, "bin", "kubectl")))
    finally:
        subprocess.run(["bash", tool, "down"], env=environ, check=True)
        for file in Path(home, "run").glob("*.pid"):
            with suppress(
                psutil.NoSuchProcess
            ):  # the API server takes its time: the next one would find its port taken
                psutil.Process(int(file.read_text())).wait(120)


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart of the last commit that had another version."""
    place = "deploy/helm/kworker"

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    def version(text: str) -> str:
        return str(yaml.safe_load(text)["version"])

    current = version((CHART / "Chart.yaml").read_text())
    revision = "HEAD"
    for commit in git("log", "--format=%H", "--", f"{place}/Chart.yaml").split():
        if version(git("show", f"{commit}:{place}/Chart.yaml")) != current:
            break
        revision = f"{commit}^"
    folder = tmp_path_factory.mktemp("previous")
    archive = subprocess.run(["git", "archive", revision, place], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    assert version((folder / place / "Chart.yaml").read_text()) != current
    return folder / place


@pytest.fixture
def space(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace that takes restricted pods only, with what the examples name as existing."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name).strip("-")[:50].strip("-")
    name = name.replace("_", "-").lower()
    cluster.kubectl("create", "namespace", name)
    levels = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
    cluster.kubectl("label", "namespace", name, *levels)
    for secret in ("emails-config", "kafka-login", "kafka-ca", "billing", "registry"):
        cluster.kubectl("apply", "-n", name, "-f", "-", given=OTHERS.replace("NAME", secret))
    cluster.kubectl("apply", "-n", name, "-f", "-", given=CLAIM.replace("SPACE", name))
    for node in cluster.kubectl("get", "nodes", "-o", "name").split():
        cluster.kubectl("label", node, "zone=a", "kubernetes.io/os=linux", "--overwrite")
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")
    cluster.kubectl("delete", "persistentvolume", f"{name}-models", "--wait=false")


def example(name: str, chart: Path = CHART) -> Path:
    return chart / "examples" / f"{name}.yaml"


def test_the_namespace_refuses_what_is_not_restricted(cluster: Cluster, space: str) -> None:
    command = ["run", "loose", "--image=x", "-n", space]
    with pytest.raises(AssertionError, match="violates PodSecurity"):
        cluster.kubectl(*command)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_from_install_to_uninstall(cluster: Cluster, space: str, name: str) -> None:
    release = Release(cluster, space)
    rendered = cluster.helm("template", "work", CHART, "--kube-version=1.33.0", "-n", space, "-f", example(name))
    cluster.kubectl("apply", "-n", space, "--dry-run=server", "--validate=strict", "-f", "-", given=rendered)

    release.install(CHART, "-f", example(name))
    assert set(release.hooks()) <= {"Succeeded"}
    first, pods = release.workloads(), release.settled()
    assert pods

    release.upgrade(CHART)
    assert release.workloads() == first
    assert release.settled() == pods  # nothing was replaced

    release.upgrade(CHART, "-f", example(name), "--set", "defaults.logLevel=debug")
    after = release.settled()
    backlog = {uid: pod for uid, pod in pods.items() if "-backlog-" in pod}
    assert after.keys() & pods.keys() == backlog.keys()  # every worker was replaced, and nothing else

    release.rollback(1)
    assert release.workloads() == first
    assert not release.settled().keys() & (after.keys() - backlog.keys())

    release.uninstall()


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_from_the_previous_chart(cluster: Cluster, previous: Path, space: str, name: str) -> None:
    release = Release(cluster, space)
    old = example(name, previous)
    prepared = yaml.safe_load(old.read_text())
    prepared.setdefault("image", {}).setdefault("repository", "kworker")  # the default before 0.3.0
    values = previous / f"{name}-prepared.yaml"
    values.write_text(yaml.safe_dump(prepared))

    release.install(previous, "-f", values)
    first = release.workloads()
    release.upgrade(CHART, "-f", values)
    assert release.workloads().keys() == first.keys()
    release.settled()
    release.upgrade(CHART, "-f", example(name))
    release.settled()
    release.rollback(1)
    assert release.workloads() == first
    release.uninstall()


def test_the_longest_names_fit(cluster: Cluster, space: str) -> None:
    release = Release(cluster, space, "r" * 53)
    pool = "p" * 20
    given = f"image.repository=kworker,topics.create=true,workers.{pool}.stateful=true,workers.{pool}.config=a"
    release.install(CHART, "--set", given)
    assert release.hooks() == ["Succeeded"]
    assert len(release.settled()) == 2
    release.uninstall()
