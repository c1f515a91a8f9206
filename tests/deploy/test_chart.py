"""The Helm chart: what it makes of values, what it refuses, and that Kubernetes and Prometheus take it."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from kit import charttools
from kworker import cli
from kworker.config import Config
from kworker.config.options import OPTIONS
from kworker.schedules.misfire import Policy
from kworker.schedules.schedule import Schedule
from kworker.schedules.trigger import Cron, Every

CHART = charttools.CHART
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))

pytestmark = pytest.mark.timeout(1200)  # the tools are built once


def template(*arguments: str | Path, values: str = "") -> str:
    """What the chart makes; `values` are YAML over those of the arguments."""
    answer = charttools.template(*arguments, values=values)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def objects(text: str) -> dict[tuple[str, str], Any]:
    """Every object by kind and name."""
    found = {}
    for document in yaml.safe_load_all(text):
        if document:
            place = document["kind"], document["metadata"]["name"]
            assert place not in found
            found[place] = document
    return found


def environment(pod: Any) -> dict[str, str]:
    return {one["name"]: one.get("value", "") for one in pod["spec"]["template"]["spec"]["containers"][0]["env"]}


def example(name: str) -> dict[tuple[str, str], Any]:
    return objects(template("-f", CHART / "examples" / f"{name}.yaml"))


def test_lint() -> None:
    for values in EXAMPLES:
        answer = charttools.run("helm", "lint", "--strict", CHART, "-f", values)
        assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_kubernetes_takes_what_the_examples_make(values: Path) -> None:
    places = [part for place in charttools.schemas() for part in ("-schema-location", place)]
    answer = charttools.run("kubeconform", "-strict", "-summary", *places, given=template("-f", values))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "Valid: 0" not in answer.stdout
    assert "Skipped: 0" in answer.stdout


def test_kubeconform_would_find_a_wrong_key() -> None:
    places = [part for place in charttools.schemas() for part in ("-schema-location", place)]
    wrong = template("-f", CHART / "examples" / "pools.yaml").replace("pollingInterval", "pollInterval")
    answer = charttools.run("kubeconform", "-strict", *places, given=wrong)
    assert answer.returncode == 1
    assert "pollInterval" in answer.stdout


@pytest.mark.parametrize("values", EXAMPLES, ids=lambda path: path.stem)
def test_workers_understand_the_configuration_they_are_given(values: Path, tmp_path: Path) -> None:
    made = objects(template("-f", values))
    known = {option.variable for option in OPTIONS} | {"KWORKER_CONFIG"}
    pods = [
        one for (kind, name), one in made.items() if kind in ("Deployment", "StatefulSet") and "backlog" not in name
    ]
    assert pods
    for pod in pods:
        environ = environment(pod)
        own = {name: value for name, value in environ.items() if name.startswith("KWORKER_")}
        assert {name for name in own if not name.startswith("KWORKER_KAFKA_")} <= known
        settings = made.get(("ConfigMap", pod["metadata"]["name"]))
        file = tmp_path / "kworker.toml"
        file.write_text(settings["data"]["kworker.toml"] if settings else "")
        own.pop("KWORKER_CONFIG")
        own |= {name: str(file) for name in own if name.endswith("_FILE")}  # the secret is not here
        config, faults = Config.read({}, own, file)
        assert faults == []
        assert config.group == environ["KWORKER_GROUP"]
        assert config.admin_port == 9464


def test_a_pool_says_what_is_different_and_the_rest_is_the_default() -> None:
    made = objects(
        template(
            values="{defaults: {concurrency: 7, plugins: [a]}, workers: {x: {plugins: [b, c]}, w: {enabled: false}}}"
        )
    )
    assert ("Deployment", "r-kworker-w") not in made
    environ = environment(made["Deployment", "r-kworker-x"])
    assert environ["KWORKER_CONCURRENCY"] == "7"
    assert environ["KWORKER_PLUGIN"] == "b,c"
    assert environ["KWORKER_GROUP"] == "x"


@pytest.mark.parametrize(("drain", "grace"), [("25s", 40), ("500ms", 16), ("1.5m", 105), ("2h", 7215)])
def test_the_grace_period_covers_the_drain(drain: str, grace: int) -> None:
    made = objects(template(values=f"workers: {{x: {{drainTimeout: {drain}}}}}"))
    assert made["Deployment", "r-kworker-x"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == grace


def test_static_members_are_pods_of_a_stateful_set_by_their_names() -> None:
    pod = example("pools")["StatefulSet", "r-kworker-orders"]
    (instance,) = [
        one for one in pod["spec"]["template"]["spec"]["containers"][0]["env"] if one["name"].endswith("INSTANCE_ID")
    ]
    assert instance["name"] == "KWORKER_KAFKA_GROUP_INSTANCE_ID"
    assert instance["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


def test_scaling_from_none_asks_the_exporter_for_the_group() -> None:
    made = example("pools")
    scaled = made["ScaledObject", "r-kworker-webhooks"]["spec"]
    assert scaled["minReplicaCount"] == 0
    (trigger,) = scaled["triggers"]
    assert trigger["type"] == "metrics-api"
    assert trigger["metadata"]["url"] == "http://r-kworker-backlog.default.svc:9464/status"
    assert trigger["metadata"]["valueLocation"] == 'groups.#(group=="webhooks").unfinished'
    assert "replicas" not in made["Deployment", "r-kworker-webhooks"]["spec"]
    arguments = made["Deployment", "r-kworker-backlog"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--group=webhooks=webhooks,^webhooks[.].+" in arguments
    assert {"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}} in made["Deployment", "r-kworker-backlog"]["spec"][
        "template"
    ]["spec"]["volumes"]  # where what waits in the delay log is kept
    assert "--group=orders=orders" in arguments


def test_pods_are_what_the_restricted_standard_wants() -> None:
    for (kind, _), one in example("pools").items():
        if kind not in ("Deployment", "StatefulSet", "Job"):
            continue
        spec = one["spec"]["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_another_configuration_restarts_the_pods_and_the_same_one_does_not() -> None:
    def checksum(values: str) -> str:
        pod = objects(template(values=values))["Deployment", "r-kworker-x"]
        found: str = pod["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        return found

    assert checksum("workers: {x: {config: 'a = 1'}}") == checksum("workers: {x: {config: 'a = 1', replicas: 3}}")
    assert checksum("workers: {x: {config: 'a = 1'}}") != checksum("workers: {x: {config: 'a = 2'}}")
    schedule = "schedules: {a: {every: 5m, task: t}}"
    assert checksum("workers: {x: {}}") != checksum(f"workers: {{x: {{{schedule}}}}}")


def test_secrets_are_mounted_and_never_written_down() -> None:
    made = example("secure")
    for name in ("r-kworker-invoices", "r-kworker-backlog"):
        pod = made["Deployment", name]
        assert {key: value for key, value in environment(pod).items() if key.startswith("KWORKER_KAFKA_")} == {
            "KWORKER_KAFKA_SASL_MECHANISM": "SCRAM-SHA-512",
            "KWORKER_KAFKA_SASL_PASSWORD_FILE": "/etc/kworker-secrets/sasl.password",
            "KWORKER_KAFKA_SASL_USERNAME": "kworker",
            "KWORKER_KAFKA_SECURITY_PROTOCOL": "sasl_ssl",
            "KWORKER_KAFKA_SOCKET_TIMEOUT_MS": "1000000",
            "KWORKER_KAFKA_SSL_CA_LOCATION": "/etc/kworker-secrets/ssl.ca.location",
        }
        spec = pod["spec"]["template"]["spec"]
        volumes = {one["name"]: one for one in spec["volumes"]}
        sources = volumes["kafka-secrets"]["projected"]["sources"]
        assert {one["secret"]["name"] for one in sources} == {"kafka-login", "kafka-ca"}
        mounts = spec["containers"][0]["volumeMounts"]
        assert {"name": "kafka-secrets", "mountPath": "/etc/kworker-secrets", "readOnly": True} in mounts


def test_what_is_around_the_workers_is_where_it_belongs() -> None:
    made = example("secure")
    spec = made["Deployment", "r-kworker-invoices"]["spec"]["template"]
    assert spec["metadata"]["labels"]["billing"] == "yes"
    assert spec["metadata"]["labels"]["team"] == "billing"
    assert spec["metadata"]["annotations"]["example.org/owner"] == "billing"
    pod = spec["spec"]
    assert pod["priorityClassName"] == "batch"
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert pod["tolerations"] == [{"key": "batch", "operator": "Exists"}]
    assert "nodeAffinity" in pod["affinity"]
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    worker, proxy = pod["containers"]
    assert worker["image"].endswith("@sha256:" + "0123456789abcdef" * 4)
    assert {"name": "TZ", "value": "Europe/Berlin"} in worker["env"]
    assert worker["envFrom"] == [{"secretRef": {"name": "billing"}}]
    assert {"name": "models", "mountPath": "/models", "readOnly": True} in worker["volumeMounts"]
    assert "models" in [one["name"] for one in pod["volumes"]]
    for beside in (proxy, *pod["initContainers"]):  # as restricted as the worker
        assert beside["securityContext"] == worker["securityContext"]
    assert made["ServiceAccount", "r-kworker"]["metadata"]["annotations"] == {"example.org/role": "kworker"}
    assert made["ConfigMap", "r-extra"]["data"] == {"a": "b"}
    policy = made["NetworkPolicy", "r-kworker"]["spec"]
    assert policy["ingress"][0]["from"] == [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]
    assert [rule["ports"][0]["port"] for rule in policy["egress"]] == [53, 9093]
    assert policy["podSelector"]["matchLabels"].items() <= spec["metadata"]["labels"].items()


def test_a_container_may_say_itself_how_restricted_it_is() -> None:
    given = "{name: a, image: a, securityContext: {readOnlyRootFilesystem: false}}"
    pod = objects(template(values=f"workers: {{x: {{sidecars: [{given}]}}}}"))["Deployment", "r-kworker-x"]
    assert pod["spec"]["template"]["spec"]["containers"][1]["securityContext"] == {"readOnlyRootFilesystem": False}


def test_every_way_to_scale() -> None:
    made = example("pools")
    hpa = made["HorizontalPodAutoscaler", "r-kworker-images"]["spec"]
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (2, 8)
    assert hpa["metrics"][0]["resource"]["target"] == {"type": "Utilization", "averageUtilization": 75}
    assert hpa["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "r-kworker-images"}
    assert "replicas" not in made["Deployment", "r-kworker-images"]["spec"]
    assert made["StatefulSet", "r-kworker-orders"]["spec"]["replicas"] == 3
    both = objects(template(values="workers: {x: {stateful: true, scaling: {kind: keda}}}"))
    assert both["ScaledObject", "r-kworker-x"]["spec"]["scaleTargetRef"]["kind"] == "StatefulSet"


def test_updates_and_evictions_take_one_pod_after_the_other() -> None:
    made = objects(template(values="workers: {x: {}, w: {podDisruptionBudget: {enabled: false}}}"))
    deployment = made["Deployment", "r-kworker-x"]["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert deployment["minReadySeconds"] > 0
    budget = made["PodDisruptionBudget", "r-kworker-x"]["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"] == deployment["selector"]
    assert ("PodDisruptionBudget", "r-kworker-w") not in made
    stateful = example("pools")["StatefulSet", "r-kworker-orders"]["spec"]
    assert stateful["updateStrategy"] == {"type": "RollingUpdate"}
    assert stateful["serviceName"] == "r-kworker-orders"
    assert ("Service", "r-kworker-orders") in example("pools")


def test_pods_spread_and_are_asked_by_our_endpoints() -> None:
    own = "[{maxSkew: 2, topologyKey: rack, whenUnsatisfiable: DoNotSchedule}]"
    made = objects(template(values=f"workers: {{x: {{}}, w: {{topologySpreadConstraints: {own}}}}}"))
    pod = made["Deployment", "r-kworker-x"]["spec"]["template"]
    spread = pod["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    for one in spread:
        assert one["labelSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    other = made["Deployment", "r-kworker-w"]["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert other == yaml.safe_load(own)
    container = pod["spec"]["containers"][0]
    paths = {probe: container[probe]["httpGet"]["path"] for probe in container if probe.endswith("Probe")}
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def test_a_pool_says_how_patient_its_probes_are() -> None:
    made = objects(template(values="workers: {x: {probes: {startup: {failureThreshold: 300}}}}"))
    container = made["Deployment", "r-kworker-x"]["spec"]["template"]["spec"]["containers"][0]
    asked = {"httpGet": {"path": "/livez", "port": "admin"}, "periodSeconds": 2, "timeoutSeconds": 5}
    assert container["startupProbe"] == asked | {"failureThreshold": 300}
    assert container["livenessProbe"]["failureThreshold"] == 3


def test_what_is_scraped_are_the_pods_of_the_release() -> None:
    made = example("pools")
    monitor = made["PodMonitor", "r-kworker"]["spec"]
    for name in ("r-kworker-webhooks", "r-kworker-backlog"):
        pod = made["Deployment", name]["spec"]["template"]
        assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        ports = [port["name"] for port in pod["spec"]["containers"][0]["ports"]]
        assert monitor["podMetricsEndpoints"][0]["port"] in ports


def test_what_is_for_the_monitoring_has_labels_and_annotations_of_its_own() -> None:
    own = "{enabled: true, labels: {release: prom}, annotations: {a: own}}"
    monitoring = f"{{podMonitor: {own}, rules: {own}, dashboards: {own}}}"
    made = objects(
        template(values=f"{{annotations: {{a: all, b: all}}, labels: {{team: t}}, monitoring: {monitoring}}}")
    )
    for place in (("PodMonitor", "r-kworker"), ("PrometheusRule", "r-kworker"), ("ConfigMap", "r-kworker-dashboards")):
        metadata = made[place]["metadata"]
        assert metadata["annotations"] == {"a": "own", "b": "all"}
        assert {"team": "t", "release": "prom"}.items() <= metadata["labels"].items()


def test_configuration_that_exists_is_used_instead_of_ours() -> None:
    made = objects(template(values="workers: {x: {existingConfigMap: a}, w: {existingConfigSecret: b}, z: {}}"))
    volume = {name: made["Deployment", f"r-kworker-{name}"]["spec"]["template"]["spec"]["volumes"][0] for name in "xwz"}
    assert volume["x"] == {"name": "config", "configMap": {"name": "a"}}
    assert volume["w"] == {"name": "config", "secret": {"secretName": "b"}}
    assert volume["z"] == {"name": "config", "configMap": {"name": "r-kworker-z"}}
    assert [name for kind, name in made if kind == "ConfigMap"] == ["r-kworker-z"]


SCHEDULES = r"""
workers:
  x:
    topics: [reports]
    config: |
      [tasks."report.build"]
      max_attempts = 2
    schedules:
      nightly: {cron: "0 3 * * *", tz: Europe/Berlin, task: report.build, jitter: 90s, misfire: all, most: 3, key: k}
      "poll.now": {every: 30s, task: poll, topic: polls, payload: [1, 1.5, true, "a\"b\\c <ä>", {"k l": {}, m: []}]}
      launch: {at: 2030-01-31T09:00:00+01:00, task: launch, payload: 9007199254740}
  w: {schedules: {}}
  z: {}
"""


def test_schedules_are_those_that_workers_read(tmp_path: Path) -> None:
    made = objects(template(values=SCHEDULES))
    file = tmp_path / "kworker.toml"
    file.write_text(made["ConfigMap", "r-kworker-x"]["data"]["kworker.toml"])
    config, faults = Config.read({}, {"KWORKER_GROUP": "x", "KWORKER_TOPIC": "reports"}, file)
    assert faults == []
    assert config.tasks == {"report.build": {"max_attempts": 2}}
    found = {schedule.name: schedule for schedule in config.schedules or ()}
    assert found["nightly"] == Schedule(
        name="nightly",
        task="report.build",
        trigger=Cron("0 3 * * *", "Europe/Berlin"),
        topic="reports",
        jitter=90.0,
        misfire=Policy.ALL,
        most=3,
        key="k",
    )
    assert found["poll.now"].trigger == Every(30.0)
    assert json.loads(found["poll.now"].payload or "") == [1, 1.5, True, 'a"b\\c <ä>', {"k l": {}, "m": []}]
    assert found["launch"].payload == "9007199254740"
    tables = {name: tomllib.loads(made["ConfigMap", f"r-kworker-{name}"]["data"]["kworker.toml"]) for name in "wz"}
    assert tables == {"w": {"schedules": {}}, "z": {}}  # an empty table removes what stood there; none does not


def test_topics_are_made_by_a_hook_that_brings_what_it_needs() -> None:
    assert "topics" not in "".join(name for _, name in example("small"))
    made = example("pools")
    one = made["Job", "r-kworker-orders-topics"]
    hook = one["metadata"]["annotations"]
    assert hook["helm.sh/hook"] == "pre-install,pre-upgrade"
    pod = one["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["args"] == ["topics", "--partitions=24", "--replication=3"]
    given = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert (given["KWORKER_GROUP"], given["KWORKER_TOPIC"]) == ("orders", "orders")
    assert pod["serviceAccountName"] == "default"  # the release's own is not there yet
    (config,) = [volume for volume in pod["volumes"] if volume["name"] == "config"]
    own = made["ConfigMap", config["configMap"]["name"]]
    assert own["metadata"]["annotations"]["helm.sh/hook"] == hook["helm.sh/hook"]
    assert int(own["metadata"]["annotations"]["helm.sh/hook-weight"]) < int(hook.get("helm.sh/hook-weight", 0))
    assert own["data"] == made["ConfigMap", "r-kworker-orders"]["data"]


def test_the_command_of_the_hook_is_one() -> None:
    arguments = example("pools")["Job", "r-kworker-orders-topics"]["spec"]["template"]["spec"]["containers"][0]["args"]
    command = cli.kworker.get_command(click.Context(cli.kworker), arguments[0])
    assert command is not None
    with command.make_context(arguments[0], arguments[1:]) as parsed:
        assert (parsed.params["partitions"], parsed.params["replication"]) == (24, 3)


def test_the_readme_is_what_helm_docs_makes_of_the_values(tmp_path: Path) -> None:
    chart = tmp_path / "kworker"
    shutil.copytree(CHART, chart)
    answer = charttools.run("helm-docs", "--chart-search-root", chart, "--sort-values-order", "file")
    assert answer.returncode == 0, answer.stderr
    assert (chart / "README.md").read_text() == (CHART / "README.md").read_text(), (
        "run .tools/bin/helm-docs --chart-search-root deploy/helm --sort-values-order file"
    )


def test_the_values_of_the_guide_are_what_kubernetes_and_its_operators_take(tmp_path: Path) -> None:
    page = (charttools.ROOT / "docs" / "how-to" / "deploy.md").read_text("utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.S)
    assert len(blocks) == 2  # the second goes over the first
    for number, block in enumerate(blocks):
        (tmp_path / f"{number}.yaml").write_text(block)
    made = template("-f", tmp_path / "0.yaml", "-f", tmp_path / "1.yaml")
    places = [part for place in charttools.schemas() for part in ("-schema-location", place)]
    answer = charttools.run("kubeconform", "-strict", *places, given=made)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    rules = objects(made)["PrometheusRule", "r-kworker"]["spec"]["groups"][0]["rules"]
    assert "KworkerSlotsHeld" not in {rule["alert"] for rule in rules}
    assert {rule["labels"]["team"] for rule in rules} == {"billing"}
