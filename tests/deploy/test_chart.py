"""The Helm chart: what it makes of values, what it refuses, and that Kubernetes and Prometheus take it."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit import charttools
from kworker.config import Config
from kworker.config.options import OPTIONS

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "kworker"
EXAMPLES = sorted((CHART / "examples").glob("*.yaml"))
VERSION = "--kube-version=1.33.0"

pytestmark = pytest.mark.timeout(1200)  # the tools are built once


def template(*arguments: str | Path, values: str = "") -> str:
    """What the chart makes; `values` are YAML over those of the arguments."""
    answer = charttools.run("helm", "template", "r", CHART, VERSION, *arguments, "-f", "-", given=values or "{}")
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
        table = tomllib.loads(file.read_text()).get("kafka", {})
        own.pop("KWORKER_CONFIG")
        secrets = [name for name in table if name.endswith(".file")]
        text = file.read_text()
        for name in secrets:
            text = text.replace(str(table[name]), str(file))
        file.write_text(text)
        config, faults = Config.read({}, own, file)
        assert faults == []
        assert config.group == environ["KWORKER_GROUP"]
        assert config.admin_port == 9464


def test_a_pool_says_what_is_different_and_the_rest_is_the_default() -> None:
    made = objects(
        template(
            values="{defaults: {concurrency: 7, plugins: [a]}, workers: {x: {plugins: [b, c]}, y: {enabled: false}}}"
        )
    )
    assert ("Deployment", "r-kworker-y") not in made
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
    assert "--group=webhooks=webhooks" in arguments  # a regular expression names no topic to look at before
    assert "--group=orders=orders" in arguments


def test_pods_are_what_the_restricted_standard_wants() -> None:
    for (kind, _), one in example("pools").items():
        if kind not in ("Deployment", "StatefulSet"):
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
    assert checksum("workers: {x: {}}") != checksum("{workers: {x: {}}, kafka: {properties: {client.id: z}}}")


def test_secrets_are_mounted_and_never_written_down() -> None:
    made = example("secure")
    text = made["ConfigMap", "r-kworker-invoices"]["data"]["kworker.toml"]
    assert tomllib.loads(text)["kafka"] == {
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.password.file": "/etc/kworker-secrets/sasl.password",
        "sasl.username": "kworker",
        "security.protocol": "sasl_ssl",
        "socket.timeout.ms": "1000000",
        "ssl.ca.location": "/etc/kworker-secrets/ssl.ca.location",
    }
    volumes = {
        one["name"]: one for one in made["Deployment", "r-kworker-invoices"]["spec"]["template"]["spec"]["volumes"]
    }
    assert {source["secret"]["name"] for source in volumes["kafka-secrets"]["projected"]["sources"]} == {
        "kafka-login",
        "kafka-ca",
    }


WRONG = {
    "workers: {x: {concurency: 3}}": "concurency",
    "workers: {x: {concurrency: many}}": "concurrency",
    "workers: {x: {concurrency: 0}}": "concurrency",
    "workers: {x: {topics: []}}": "topics",
    "workers: {x: {topics: ['a b']}}": "topics",
    "workers: {x: {order: random}}": "order",
    "workers: {x: {drainTimeout: 25}}": "drainTimeout",
    "workers: {x: {drainTimeout: 25 s}}": "drainTimeout",
    "workers: {x: {scaling: {kind: cpu}}}": "scaling",
    "workers: {X_Y: {}}": "X_Y",
    "worker: {x: {}}": "worker",
    "image: {digest: abc}": "digest",
    "kafka: {properties: {enable.auto.commit: true}}": "kafka",
    "kafka: {properties: {group.id: x}}": "kafka",
    "kafka: {secretProperties: {sasl.password: hunter2}}": "sasl.password",
    "backlog: {interval: often}": "interval",
    "monitoring: {rules: {enable: true}}": "enable",
    "{backlog: {enabled: false}, workers: {x: {scaling: {kind: keda}}}}": "set backlog.enabled",
}


@pytest.mark.parametrize("values", WRONG)
def test_wrong_values_are_refused_and_the_key_is_named(values: str) -> None:
    answer = charttools.run("helm", "template", "r", CHART, VERSION, "-f", "-", given=values)
    assert answer.returncode != 0, answer.stdout
    assert WRONG[values] in answer.stderr


def test_alerts_fire_when_they_should_and_not_when_they_should_not(tmp_path: Path) -> None:
    shutil.copy(CHART / "files" / "alerts.yaml", tmp_path)
    shutil.copy(Path(__file__).parent / "chart" / "alerts_test.yaml", tmp_path)
    for arguments in (("check", "rules", "alerts.yaml"), ("test", "rules", "alerts_test.yaml")):
        answer = charttools.run("promtool", *arguments[:2], tmp_path / arguments[2])
        assert answer.returncode == 0, answer.stdout + answer.stderr


def test_every_alert_has_a_test_of_its_own_a_page_and_a_link_to_it() -> None:
    rules = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((Path(__file__).parent / "chart" / "alerts_test.yaml").read_text())["tests"]
    tested = {case["alertname"] for one in tests for case in one["alert_rule_test"]}
    pages = (CHART.parents[2] / "docs" / "runbook.md").read_text()
    made = example("pools")["PrometheusRule", "r-kworker"]["spec"]["groups"][0]["rules"]
    for rule, rendered in zip(rules, made, strict=True):
        assert rule["alert"] in tested
        assert f"## {rule['alert']}\n" in pages
        link = rendered["annotations"]["runbook_url"]
        assert link == f"https://wiki.example.org/kworker#{rule['alert'].lower()}"
