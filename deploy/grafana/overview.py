"""All workers and groups on one page."""

from __future__ import annotations

from grafana.panels import Dashboard, Panel, Query, Row
from grafana.queries import BY_JOB, JOB, dead_letters, failing, quantiles, rate, rise, stat

DASHBOARD = Dashboard(
    "kworker-overview",
    "kworker / Overview",
    "All workers, all groups: is work being done, what waits, what goes wrong.",
    [JOB],
    [
        Row(
            "Now",
            [
                stat("Workers", f"count(kworker_build_info{{{BY_JOB}}})", help="Admin ports that answer."),
                stat("Unfinished", f"sum(kworker_backlog_tasks{{{BY_JOB}}})", help="As `kworker backlog` counts."),
                stat("Oldest unfinished", f"max(kworker_backlog_oldest_seconds{{{BY_JOB}}})", "s", limits=(600, 3600)),
                stat("Succeeded", rate("kworker_tasks_succeeded_total"), "ops"),
                stat("Failing", failing(), "percentunit", "The part of attempts that fails.", (0.05, 0.5)),
                dead_letters(),
            ],
        ),
        Row(
            "Tasks",
            [
                Panel(
                    "Tasks by what became of them",
                    [
                        Query(rate("kworker_tasks_received_total"), "received"),
                        Query(rate("kworker_tasks_succeeded_total"), "succeeded"),
                        Query(rate("kworker_tasks_retried_total"), "to be tried again"),
                        Query(rate("kworker_tasks_delayed_total"), "of these, in the delay log"),
                        Query(rate("kworker_tasks_dead_lettered_total"), "dead letters"),
                    ],
                    "ops",
                ),
                Panel(
                    "Succeeded, by task",
                    [Query(rate("kworker_tasks_succeeded_total", by="task"), "{{task}}")],
                    "ops",
                    stacked=True,
                ),
                Panel(
                    "Failed attempts",
                    [Query(rate("kworker_tasks_failed_total", by="task, error"), "{{task}}: {{error}}")],
                    "ops",
                ),
                Panel("How long an attempt runs", quantiles("kworker_task_duration_seconds"), "s"),
                Panel(
                    "From publishing to the first attempt",
                    quantiles("kworker_task_wait_seconds"),
                    "s",
                ),
                Panel(
                    "Dead letters",
                    [Query(rise("kworker_tasks_dead_lettered_total", by="task, reason"), "{{task}}: {{reason}}")],
                ),
                Panel(
                    "Every task",
                    [
                        Query(rate("kworker_tasks_succeeded_total", by="task"), "succeeded"),
                        Query(rate("kworker_tasks_failed_total", by="task"), "failed"),
                        Query(failing(by="task"), "failing"),
                        Query(
                            f"histogram_quantile(0.95, {rate('kworker_task_duration_seconds_bucket', by='task, le')})",
                            "p95",
                        ),
                    ],
                    kind="table",
                    width=24,
                    units=[("succeeded", "ops"), ("failed", "ops"), ("failing", "percentunit"), ("p95", "s")],
                    link=("task", "kworker-task"),
                ),
            ],
        ),
        Row(
            "Backlog",
            [
                Panel(
                    "Unfinished, by group", [Query(f"sum by (group) (kworker_backlog_tasks{{{BY_JOB}}})", "{{group}}")]
                ),
                Panel(
                    "Oldest unfinished, by group",
                    [Query(f"max by (group) (kworker_backlog_oldest_seconds{{{BY_JOB}}})", "{{group}}")],
                    "s",
                ),
                Panel(
                    "Time until it is done",
                    [Query(f"max by (group) (kworker_backlog_drain_seconds{{{BY_JOB}}})", "{{group}}")],
                    "s",
                    help="At the speed of late; a group that finishes nothing has no line.",
                ),
                Panel(
                    "Every group",
                    [
                        Query(f"sum by (group) (kworker_backlog_tasks{{{BY_JOB}}})", "unfinished"),
                        Query(f"max by (group) (kworker_backlog_oldest_seconds{{{BY_JOB}}})", "oldest"),
                        Query(f"count by (group) (kworker_group_info{{{BY_JOB}}})", "workers"),
                    ],
                    kind="table",
                    width=16,
                    units=[("oldest", "s")],
                    link=("group", "kworker-group"),
                ),
                Panel(
                    "Readings of a backlog that failed",
                    [Query(rise("kworker_backlog_errors_total", by="group"), "{{group}}")],
                ),
            ],
        ),
        Row(
            "Workers",
            [
                Panel(
                    "Busy slots",
                    [
                        Query(
                            f"sum by (executor) (kworker_slots_busy{{{BY_JOB}}})"
                            f" / sum by (executor) (kworker_slots{{{BY_JOB}}})",
                            "{{executor}}",
                        )
                    ],
                    "percentunit",
                ),
                Panel("Tasks in flight", [Query(f"sum(kworker_tasks_in_flight{{{BY_JOB}}})", "read, not finished")]),
                Panel(
                    "Partitions that are held up",
                    [
                        Query(f"sum(kworker_paused_partitions{{{BY_JOB}}})", "paused"),
                        Query(f"sum(kworker_suspect_partitions{{{BY_JOB}}})", "one record at a time"),
                    ],
                ),
                Panel("CPU", [Query(rate("process_cpu_seconds_total", by="instance"), "{{instance}}")]),
                Panel(
                    "Memory",
                    [Query(f"sum by (instance) (process_resident_memory_bytes{{{BY_JOB}}})", "{{instance}}")],
                    "bytes",
                ),
                Panel(
                    "Open files, of those allowed",
                    [Query(f"process_open_fds{{{BY_JOB}}} / process_max_fds{{{BY_JOB}}}", "{{instance}}")],
                    "percentunit",
                ),
                Panel("Rebalances", [Query(rise("kworker_rebalances_total", by="event"), "{{event}}")]),
                Panel("Commits", [Query(rate("kworker_commits_total", by="result"), "{{result}}")], "ops"),
                Panel(
                    "Since the last poll",
                    [Query(f"time() - kworker_last_poll_timestamp_seconds{{{BY_JOB}}}", "{{instance}}")],
                    "s",
                    help="Grows while a worker has no room, or when it stands still.",
                ),
                Panel(
                    "Versions",
                    [
                        Query(
                            f"count by (version, python, librdkafka) (kworker_build_info{{{BY_JOB}}})",
                            "workers",
                        )
                    ],
                    kind="table",
                    width=12,
                ),
                Panel(
                    "Starts",
                    [
                        Query(f"sum(changes(process_start_time_seconds{{{BY_JOB}}}[$__rate_interval]))", "processes"),
                        Query(rise("kworker_worker_restarts_total"), "by a supervisor"),
                        Query(rise("kworker_children_started_total"), "child processes"),
                    ],
                    width=12,
                ),
            ],
        ),
        Row(
            "What should be nothing",
            [
                Panel(
                    "Ended by force",
                    [
                        Query(rise("kworker_children_killed_total", by="why"), "child killed: {{why}}"),
                        Query(rise("kworker_threads_lost_total"), "hung threads given up"),
                        Query(rise("kworker_crash_charges_total"), "records that killed a worker"),
                    ],
                ),
                Panel(
                    "To be run again",
                    [
                        Query(rise("kworker_tasks_abandoned_total"), "still running at a revoke or stop"),
                        Query(rise("kworker_late_results_total"), "results that came too late"),
                        Query(rise("kworker_metadata_truncated_total"), "commits that do not tell all"),
                    ],
                ),
                Panel(
                    "Refused and lost",
                    [
                        Query(rise("kworker_forward_failures_total", by="topic"), "not written, from {{topic}}"),
                        Query(rise("kworker_offset_loss_total", by="topic"), "gone before it was read: {{topic}}"),
                        Query(rise("kworker_replies_refused_total"), "reply topics not allowed"),
                        Query(rise("kworker_tasks_postponed_total"), "waits for the schema registry"),
                        Query(rise("kworker_consume_gaps_total"), "jumps in what was read"),
                        Query(rise("kworker_log_lines_dropped_total"), "log lines dropped"),
                    ],
                ),
            ],
        ),
    ],
)
