"""What the Helm chart refuses of values, and that it names the key."""

from __future__ import annotations

import pytest

from kit import charttools

pytestmark = pytest.mark.timeout(1200)  # the tools are built once

TWICE = "schedules: {a: {every: 5m, task: t}}"
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
    "kafka: {properties: {enable.auto.commit: true}}": "enable.auto.commit is set by kworker itself",
    "kafka: {properties: {group.id: x}}": "group.id is set by kworker itself",
    "kafka: {secretProperties: {sasl.password: hunter2}}": "sasl.password",
    "backlog: {interval: often}": "interval",
    "monitoring: {rules: {enable: true}}": "enable",
    "monitoring: {rules: {alerts: {KworkerBacklogGrow: {}}}}": "KworkerBacklogGrow",
    "monitoring: {rules: {alerts: {KworkerBacklogGrows: {threshold: many}}}}": "threshold",
    "monitoring: {rules: {alerts: {KworkerBacklogGrows: {threshold: -1}}}}": "threshold",
    "monitoring: {rules: {alerts: {KworkerBacklogGrows: {for: 30}}}}": "for",
    "monitoring: {rules: {alerts: {KworkerBacklogGrows: {for: soon}}}}": "for",
    "monitoring: {rules: {alerts: {KworkerBacklogGrows: {severity: ''}}}}": "severity",
    "monitoring: {rules: {alerts: {KworkerSlotsHeld: {threshold: 1}}}}": "threshold",
    "workers: {x: {probes: {startup: {failureThreshold: 0}}}}": "failureThreshold",
    "workers: {x: {probes: {start: {}}}}": "start",
    "{backlog: {enabled: false}, workers: {x: {scaling: {kind: keda}}}}": "set backlog.enabled",
    "workers: {x: {options: {drain-timeout: 1m}}}": "workers.x.drainTimeout",
    "workers: {x: {options: {admin_port: 1}}}": "the same for the whole release",
    "workers: {x: {scaling: {kind: hpa, min: 5, max: 2}}}": "max is less than min",
    "workers: {x: {maxSurge: 0}}": "no update could go on",
    "workers: {x: {existingConfigMap: a, config: b}}": "write them into it",
    "workers: {x: {existingConfigMap: a, existingConfigSecret: b}}": "leave one out",
    "workers: {x: {}, w: {group: x}}": "give each pool its own",
    "{workers: {x: {stateful: true}}, kafka: {properties: {group.protocol: consumer}}}": "the classic protocol",
    "workers: {x: {schedules: {a: {cron: '0 3 * *', task: t}}}}": "cron",
    "workers: {x: {schedules: {a: {cron: '0 3 * * *'}}}}": "task",
    "workers: {x: {schedules: {a: {cron: '0 3 * * *', every: 5m, task: t}}}}": "give one of cron",
    "workers: {x: {schedules: {a: {task: t}}}}": "give one of cron",
    "workers: {x: {schedules: {a: {every: 5m, tz: UTC, task: t}}}}": "tz",
    "workers: {x: {schedules: {a: {every: 5, task: t}}}}": "every",
    "workers: {x: {schedules: {a: {at: '2030-01-31T09:00:00', task: t}}}}": "at",
    "workers: {x: {schedules: {a: {every: 5m, task: t, misfire: never}}}}": "misfire",
    "workers: {x: {schedules: {a: {every: 5m, task: t, tusk: u}}}}": "tusk",
    "workers: {x: {schedules: {a b: {every: 5m, task: t}}}}": "a b",
    "workers: {x: {schedules: {a: {every: 5m, task: t, payload: [null]}}}}": "cannot hold null",
    f"workers: {{x: {{{TWICE}}}, w: {{{TWICE}}}}}": "name it otherwise",
    "defaults: {schedules: {a: {every: 5m, task: t}}}": "schedules",
    "topics: {create: true, partitions: 0}": "partitions",
    "topics: {crate: true}": "crate",
    "workers: {x: {scaling: {kind: keda, min: 0}, options: {timekeeper: false}}}": "workers.x.scaling.min",
    "workers: {x: {scaling: {kind: keda, min: 0}, config: 'timekeeper = false'}}": "workers.x.scaling.min",
    "workers: {x: {scaling: {kind: keda, min: 0}, options: {timekeeper: false}}, w: {replicas: 0}}": "x.scaling.min",
    "workers: {backlog: {}}": "name the pool otherwise",
    "workers: {dashboards: {}}": "name the pool otherwise",
    "workers: {topics: {}}": "name the pool otherwise",
    "workers: {monitoring: {}}": "name the pool otherwise",
    "workers: {workers: {}}": "name the pool otherwise",
    "workers: {x-topics: {}}": "name the pool otherwise",
    "{workers: {x: {}}, backlog: {interval: 999ms}}": "between 1s and 1h",
    "{workers: {x: {}}, backlog: {interval: 2h}}": "between 1s and 1h",
    "{networkPolicy: {enabled: true}, workers: {x: {scaling: {kind: keda}}}}": "say where KEDA is",
    "{networkPolicy: {enabled: true}, monitoring: {podMonitor: {enabled: true}}}": "say where Prometheus is",
}

FROM_NONE = "x: {options: {timekeeper: false}, scaling: {kind: keda, min: 0}}"
RIGHT = [
    "workers: {x: {scaling: {kind: keda, min: 0}}}",
    "workers: {x: {scaling: {kind: keda, min: 0}}, w: {options: {timekeeper: false}}}",
    f"workers: {{{FROM_NONE}, w: {{}}}}",
    f"workers: {{{FROM_NONE}, w: {{scaling: {{kind: hpa}}}}}}",
    f"workers: {{{FROM_NONE}, w: {{scaling: {{kind: keda, min: 1}}}}}}",
    "workers: {x: {options: {timekeeper: false}, scaling: {kind: keda, min: 0, timekeeperElsewhere: true}}}",
    "{workers: {x: {}}, backlog: {interval: 1h}}",
    "{networkPolicy: {enabled: true, from: [{podSelector: {}}]}, workers: {x: {scaling: {kind: keda}}}}",
]


@pytest.mark.parametrize("values", WRONG)
def test_wrong_values_are_refused_and_the_key_is_named(values: str) -> None:
    answer = charttools.template(values=values)
    assert answer.returncode != 0, answer.stdout
    assert WRONG[values] in answer.stderr


@pytest.mark.parametrize("values", RIGHT)
def test_values_beside_the_refused_ones_are_taken(values: str) -> None:
    answer = charttools.template(values=values)
    assert answer.returncode == 0, answer.stderr
    assert "kind: keda" not in values or "behavior: currentReplicasIfHigher" in answer.stdout


def test_there_is_no_image_that_everybody_could_pull_so_one_must_be_named() -> None:
    command = ("helm", "template", "r", charttools.CHART, "--kube-version=1.33.0", "-f", "-")
    answer = charttools.run(*command, given="workers: {x: {}}")
    assert answer.returncode != 0, answer.stdout
    assert "image.repository: name the image that you built with your plugins" in answer.stderr
    nothing = charttools.run(*command, given="{}")  # runs nothing: the notes say how to go on
    assert nothing.returncode == 0, nothing.stderr
    named = charttools.run(*command, given="{image: {repository: r.example.org/a, tag: '7'}, workers: {x: {}}}")
    assert named.stdout.count("image: r.example.org/a:7") == 2
