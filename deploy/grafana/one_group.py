"""One consumer group and its workers."""

from __future__ import annotations

from grafana.panels import Dashboard, Panel, Query, Row, Variable
from grafana.queries import BY_GROUP, OF_GROUP, of_group, rate_of_group, rise_of_group, stat

DASHBOARD = Dashboard(
    "kworker-group",
    "kworker / One group",
    "One consumer group: what it has left, and the workers that are its members.",
    [Variable("group", '{__name__=~"kworker_group_info|kworker_backlog_tasks"}')],
    [
        Row(
            "What is left",
            [
                stat("Workers", f"count(kworker_group_info{{{BY_GROUP}}})"),
                stat("Unfinished", f"sum(kworker_backlog_tasks{{{BY_GROUP}}})"),
                stat("Oldest", f"max(kworker_backlog_oldest_seconds{{{BY_GROUP}}})", "s", limits=(600, 3600)),
                stat("Done in", f"max(kworker_backlog_drain_seconds{{{BY_GROUP}}})", "s", "At the speed of late."),
                stat("Succeeded", rate_of_group("kworker_tasks_succeeded_total"), "ops"),
                stat(
                    "Last reading of the backlog",
                    f"time() - max(kworker_backlog_read_timestamp_seconds{{{BY_GROUP}}})",
                    "s",
                    limits=(60, 300),
                ),
                Panel("Unfinished", [Query(f"sum by (topic) (kworker_backlog_tasks{{{BY_GROUP}}})", "{{topic}}")]),
                Panel(
                    "Oldest unfinished",
                    [Query(f"max by (topic) (kworker_backlog_oldest_seconds{{{BY_GROUP}}})", "{{topic}}")],
                    "s",
                ),
                Panel("Read", [Query(rate_of_group("kworker_tasks_received_total", "topic"), "{{topic}}")], "ops"),
            ],
        ),
        Row(
            "Partitions",
            [
                Panel(
                    "Lag",
                    [
                        Query(
                            f"max by (topic, partition) (kworker_consumer_lag {OF_GROUP})",
                            "{{topic}}/{{partition}}",
                        )
                    ],
                    help="Log end minus committed offset; it counts what is done behind a slow task.",
                ),
                Panel(
                    "How far the oldest open task holds the commit back",
                    [
                        Query(
                            f"max by (topic, partition) (kworker_completion_gap {OF_GROUP})",
                            "{{topic}}/{{partition}}",
                        )
                    ],
                ),
                Panel(
                    "Committed in a second",
                    [
                        Query(
                            "sum by (topic, partition) (clamp_min(deriv(kworker_committed_offset[$__rate_interval]), 0)"
                            f" {OF_GROUP})",
                            "{{topic}}/{{partition}}",
                        )
                    ],
                    "ops",
                ),
                Panel("Rebalances", [Query(rise_of_group("kworker_rebalances_total", "event"), "{{event}}")]),
                Panel("Commits", [Query(rate_of_group("kworker_commits_total", "result"), "{{result}}")], "ops"),
                Panel(
                    "Partitions that are held up",
                    [
                        Query(of_group("kworker_paused_partitions"), "paused"),
                        Query(of_group("kworker_suspect_partitions"), "one record at a time"),
                    ],
                ),
            ],
        ),
        Row(
            "Workers",
            [
                Panel(
                    "Succeeded",
                    [Query(rate_of_group("kworker_tasks_succeeded_total", "instance"), "{{instance}}")],
                    "ops",
                ),
                Panel("In flight", [Query(of_group("kworker_tasks_in_flight", "instance"), "{{instance}}")]),
                Panel(
                    "Oldest unfinished",
                    [Query(of_group("kworker_oldest_unfinished_seconds", "instance"), "{{instance}}")],
                    "s",
                ),
                Panel(
                    "Busy slots",
                    [
                        Query(
                            f"{of_group('kworker_slots_busy', 'instance, executor')}"
                            f" / {of_group('kworker_slots', 'instance, executor')}",
                            "{{instance}} {{executor}}",
                        )
                    ],
                    "percentunit",
                ),
                Panel("CPU", [Query(rate_of_group("process_cpu_seconds_total", "instance"), "{{instance}}")]),
                Panel(
                    "Memory", [Query(of_group("process_resident_memory_bytes", "instance"), "{{instance}}")], "bytes"
                ),
                Panel(
                    "Failed attempts",
                    [Query(rate_of_group("kworker_tasks_failed_total", "task, error"), "{{task}}: {{error}}")],
                    "ops",
                ),
                Panel(
                    "Dead letters",
                    [Query(rise_of_group("kworker_tasks_dead_lettered_total", "task, reason"), "{{task}}: {{reason}}")],
                ),
                Panel(
                    "Trouble",
                    [
                        Query(rise_of_group("kworker_forward_failures_total", "topic"), "not written, from {{topic}}"),
                        Query(
                            rise_of_group("kworker_offset_loss_total", "topic"), "gone before it was read: {{topic}}"
                        ),
                        Query(rise_of_group("kworker_threads_lost_total"), "hung threads given up"),
                        Query(rise_of_group("kworker_children_killed_total", "why"), "child killed: {{why}}"),
                        Query(rise_of_group("kworker_crash_charges_total"), "records that killed a worker"),
                        Query(rise_of_group("kworker_tasks_abandoned_total"), "still running at a revoke or stop"),
                    ],
                ),
            ],
        ),
    ],
)
