"""Delayed tasks and schedules."""

from __future__ import annotations

from grafana.panels import Dashboard, Panel, Query, Row
from grafana.queries import BY_JOB, JOB, quantiles, rate, rise, stat

DASHBOARD = Dashboard(
    "kworker-later",
    "kworker / Later",
    "Tasks that wait for their time, and schedules.",
    [JOB],
    [
        Row(
            "Now",
            [
                stat("Waiting", f"sum(kworker_delayed_tasks{{{BY_JOB}}})"),
                stat(
                    "Due, not handed over",
                    f"sum(kworker_delayed_due_tasks{{{BY_JOB}}})",
                    help="For longer than moments: nobody keeps time, or the broker refuses.",
                    limits=(1000, 10000),
                ),
                stat("Handed over", rate("kworker_delay_lateness_seconds_count"), "ops"),
                stat("Half are late by", quantiles("kworker_delay_lateness_seconds")[0].expr, "s", limits=(1, 10)),
                stat("1 of 100 is late by", quantiles("kworker_delay_lateness_seconds")[2].expr, "s", limits=(10, 60)),
                stat(
                    "Partitions that nobody holds",
                    f"max(kworker_delay_log_partitions{{{BY_JOB}}}) - sum(kworker_delay_partitions{{{BY_JOB}}})",
                    help="What is in them waits, for longer than moments: is there a worker that keeps time?",
                    limits=(1,),
                ),
            ],
        ),
        Row(
            "Delayed tasks",
            [
                Panel(
                    "Waiting",
                    [Query(f"sum by (instance) (kworker_delayed_tasks{{{BY_JOB}}})", "{{instance}}")],
                    stacked=True,
                ),
                Panel(
                    "Due, not handed over, by group",
                    [Query(f"sum by (group) (kworker_backlog_due_tasks{{{BY_JOB}}})", "{{group}}")],
                    help="As `kworker backlog` counts, also with no worker.",
                ),
                Panel(
                    "Not due yet, by topic",
                    [Query(f"max by (topic) (kworker_backlog_delayed_tasks{{{BY_JOB}}})", "{{topic}}")],
                    help="As `kworker backlog` counts, also with no worker.",
                ),
                Panel(
                    "Waits that ended", [Query(rate("kworker_delayed_ended_total", by="outcome"), "{{outcome}}")], "ops"
                ),
                Panel("Late by", quantiles("kworker_delay_lateness_seconds"), "s"),
                Panel(
                    "Hand-overs by how late they were",
                    [Query(rise("kworker_delay_lateness_seconds_bucket", by="le"))],
                    "s",
                    "heatmap",
                    12,
                    9,
                ),
                Panel(
                    "Partitions of the delay log, by worker",
                    [Query(f"sum by (instance) (kworker_delay_partitions{{{BY_JOB}}})", "{{instance}}")],
                    width=6,
                    height=9,
                    stacked=True,
                ),
                Panel(
                    "Take-overs of a partition",
                    [
                        Query(f"max by (instance) (kworker_delay_takeover_seconds{{{BY_JOB}}})", "{{instance}}: took"),
                        Query(
                            f"time() - (max by (instance) (kworker_delay_takeover_timestamp_seconds{{{BY_JOB}}}) > 0)",
                            "{{instance}}: since the last",
                        ),
                    ],
                    "s",
                    width=6,
                    height=9,
                ),
            ],
        ),
        Row(
            "Schedules",
            [
                stat("Schedules", f"sum(kworker_schedules{{{BY_JOB}}})"),
                stat(
                    "Overdue",
                    f"max(kworker_schedule_overdue_seconds{{{BY_JOB}}})",
                    "s",
                    "By how much the schedule is late that is due for longest and did not fire.",
                    (60, 300),
                ),
                stat(
                    "Wait for a newer worker",
                    f"sum(kworker_schedules_unreadable{{{BY_JOB}}})",
                    help="Schedules that only a newer version can read. They fire when one holds them.",
                    limits=(1,),
                ),
                stat(
                    "1 of 100 is late by", quantiles("kworker_schedule_lateness_seconds")[2].expr, "s", limits=(10, 60)
                ),
                Panel(
                    "Runs",
                    [
                        Query(rise("kworker_schedule_runs_total"), "published"),
                        Query(rise("kworker_schedule_missed_total"), "left out, as their policy says"),
                    ],
                    width=12,
                ),
                Panel("Late by", quantiles("kworker_schedule_lateness_seconds"), "s", width=12),
                Panel(
                    "Overdue",
                    [Query(f"max by (instance) (kworker_schedule_overdue_seconds{{{BY_JOB}}})", "{{instance}}")],
                    "s",
                    width=12,
                ),
            ],
        ),
    ],
)
