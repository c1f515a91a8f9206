"""What the Helm chart refuses of values, and that it names the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit import charttools

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "kworker"
VERSION = "--kube-version=1.33.0"

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
}


@pytest.mark.parametrize("values", WRONG)
def test_wrong_values_are_refused_and_the_key_is_named(values: str) -> None:
    answer = charttools.run("helm", "template", "r", CHART, VERSION, "-f", "-", given=values)
    assert answer.returncode != 0, answer.stdout
    assert WRONG[values] in answer.stderr
