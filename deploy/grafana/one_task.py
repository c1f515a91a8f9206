"""One task in all workers."""

from __future__ import annotations

from grafana.panels import Dashboard, Panel, Query, Row, Variable
from grafana.queries import BY_TASK, JOB, dead_letters, failing, quantiles, rate, rise, stat

DASHBOARD = Dashboard(
    "kworker-task",
    "kworker / One task",
    "One task in all workers: how often, how long, how it fails.",
    [JOB, Variable("task", "kworker_task_duration_seconds_count")],
    [
        Row(
            "Now",
            [
                stat("Succeeded", rate("kworker_tasks_succeeded_total", BY_TASK), "ops"),
                stat("Failing", failing(BY_TASK), "percentunit", "The part of attempts that fails.", (0.05, 0.5)),
                stat("Half are done within", quantiles("kworker_task_duration_seconds", BY_TASK)[0].expr, "s"),
                stat("19 of 20 are done within", quantiles("kworker_task_duration_seconds", BY_TASK)[1].expr, "s"),
                stat("Half start within", quantiles("kworker_task_wait_seconds", BY_TASK)[0].expr, "s"),
                dead_letters(BY_TASK),
            ],
        ),
        Row(
            "How often",
            [
                Panel(
                    "What became of it",
                    [
                        Query(rate("kworker_tasks_succeeded_total", BY_TASK), "succeeded"),
                        Query(rate("kworker_tasks_retried_total", BY_TASK), "to be tried again"),
                        Query(rate("kworker_tasks_delayed_total", BY_TASK), "of these, in the delay log"),
                        Query(rate("kworker_tasks_postponed_total", BY_TASK), "waits for the schema registry"),
                    ],
                    "ops",
                ),
                Panel(
                    "Failed attempts",
                    [Query(rate("kworker_tasks_failed_total", BY_TASK, "error"), "{{error}}")],
                    "ops",
                    stacked=True,
                ),
                Panel(
                    "Dead letters",
                    [Query(rise("kworker_tasks_dead_lettered_total", BY_TASK, "reason"), "{{reason}}")],
                    stacked=True,
                ),
                Panel(
                    "Attempts, by worker",
                    [Query(rate("kworker_task_duration_seconds_count", BY_TASK, "instance"), "{{instance}}")],
                    "ops",
                    width=24,
                    stacked=True,
                ),
            ],
        ),
        Row(
            "How long",
            [
                Panel("An attempt runs", quantiles("kworker_task_duration_seconds", BY_TASK), "s", width=12),
                Panel(
                    "From publishing to the first attempt",
                    quantiles("kworker_task_wait_seconds", BY_TASK),
                    "s",
                    width=12,
                ),
                Panel(
                    "Attempts by how long they ran",
                    [Query(rise("kworker_task_duration_seconds_bucket", BY_TASK, "le"))],
                    "s",
                    "heatmap",
                    12,
                    9,
                ),
                Panel(
                    "First attempts by how long they waited",
                    [Query(rise("kworker_task_wait_seconds_bucket", BY_TASK, "le"))],
                    "s",
                    "heatmap",
                    12,
                    9,
                ),
                Panel(
                    "Time spent in it",
                    [Query(rate("kworker_task_duration_seconds_sum", BY_TASK, "instance"), "{{instance}}")],
                    help="Seconds of slots in a second: how many slots it keeps busy.",
                    width=24,
                    stacked=True,
                ),
            ],
        ),
    ],
)
