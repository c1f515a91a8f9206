"""Every metric of kworker, in one table: a contract, which the README lists."""

from __future__ import annotations

from typing import Literal, NamedTuple

from kworker.bulletin import Labels


class MetricSpec(NamedTuple):
    """One row of the table. `merge` says how the values of one series add up over several processes."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: Labels
    help: str
    unit: str = ""
    merge: Literal["sum", "max", "min", "last"] = "sum"
    buckets: tuple[float, ...] = ()


_DURATION = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_WAIT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 28800.0, 86400.0)

ROWS = (
    MetricSpec("kworker_tasks_received_total", "counter", ("topic",), "Records read from a topic."),
    MetricSpec("kworker_tasks_succeeded_total", "counter", ("task",), "Tasks that succeeded."),
    MetricSpec("kworker_tasks_failed_total", "counter", ("task", "error"), "Attempts that failed, by what failed."),
    MetricSpec("kworker_tasks_retried_total", "counter", ("task",), "Failed attempts that will be tried again."),
    MetricSpec(
        "kworker_tasks_delayed_total",
        "counter",
        ("task",),
        "Retries that went to the delay log, which frees the offset.",
    ),
    MetricSpec(
        "kworker_tasks_postponed_total", "counter", ("task",), "Runs put off until the schema registry answers again."
    ),
    MetricSpec(
        "kworker_tasks_dead_lettered_total",
        "counter",
        ("task", "reason"),
        "Records set aside as dead letters and acknowledged by the broker.",
    ),
    MetricSpec(
        "kworker_tasks_abandoned_total",
        "counter",
        (),
        "Tasks still running when the budget of a revoke or a stop ended; they run again elsewhere.",
    ),
    MetricSpec(
        "kworker_replies_refused_total",
        "counter",
        (),
        "Messages that asked for their result to go to a topic that is not one of the reply topics.",
    ),
    MetricSpec(
        "kworker_late_results_total",
        "counter",
        (),
        "Results that came after their partition had gone to another worker, and were ignored.",
    ),
    MetricSpec(
        "kworker_task_duration_seconds",
        "histogram",
        ("task",),
        "How long one attempt ran.",
        unit="seconds",
        buckets=_DURATION,
    ),
    MetricSpec(
        "kworker_task_wait_seconds",
        "histogram",
        ("task",),
        "From publishing a task to the start of its first attempt.",
        unit="seconds",
        buckets=_WAIT,
    ),
    MetricSpec("kworker_tasks_in_flight", "gauge", (), "Tasks read and not yet finished."),
    MetricSpec(
        "kworker_delayed_tasks", "gauge", (), "Tasks that wait for their due time, in the partitions held here."
    ),
    MetricSpec("kworker_delayed_due_tasks", "gauge", (), "Delayed tasks that are due and not handed over yet."),
    MetricSpec(
        "kworker_delayed_ended_total",
        "counter",
        ("outcome",),
        "Delayed tasks whose wait ended, by how; and schedules that were removed or set aside.",
    ),
    MetricSpec(
        "kworker_delay_lateness_seconds",
        "histogram",
        (),
        "From the due time of a delayed task to its hand-over.",
        unit="seconds",
        buckets=_WAIT,
    ),
    MetricSpec("kworker_delay_partitions", "gauge", (), "Partitions of the delay log that are held here."),
    MetricSpec(
        "kworker_delay_takeover_seconds",
        "gauge",
        (),
        "How long the last take-over of a partition of the delay log took.",
        unit="seconds",
        merge="max",
    ),
    MetricSpec(
        "kworker_delay_takeover_timestamp_seconds",
        "gauge",
        (),
        "When a partition of the delay log was taken over last, in seconds since the epoch; 0: none was.",
        unit="seconds",
        merge="max",
    ),
    MetricSpec(
        "kworker_delay_log_partitions", "gauge", (), "Partitions that the delay log has, as seen here.", merge="max"
    ),
    MetricSpec("kworker_schedules", "gauge", (), "Schedules in the partitions of the delay log that are held here."),
    MetricSpec(
        "kworker_schedules_unreadable", "gauge", (), "Schedules held here that wait for a newer worker to hold them."
    ),
    MetricSpec("kworker_schedule_runs_total", "counter", (), "Tasks that schedules published."),
    MetricSpec(
        "kworker_schedule_missed_total",
        "counter",
        (),
        "How often a schedule left out times that had passed, as its misfire policy says.",
    ),
    MetricSpec(
        "kworker_schedule_lateness_seconds",
        "histogram",
        (),
        "From the due time of a schedule's run, with its jitter, to its publication.",
        unit="seconds",
        buckets=_WAIT,
    ),
    MetricSpec(
        "kworker_schedule_overdue_seconds",
        "gauge",
        (),
        "By how much the schedule is late that is due for longest and did not fire; 0: none is.",
        unit="seconds",
        merge="max",
    ),
    MetricSpec("kworker_slots", "gauge", ("executor",), "Slots that can run tasks."),
    MetricSpec("kworker_slots_busy", "gauge", ("executor",), "Slots that are running a task."),
    MetricSpec(
        "kworker_threads_lost_total", "counter", (), "Threads given up because a task hung in them; each was replaced."
    ),
    MetricSpec("kworker_children_started_total", "counter", (), "Child processes that were started."),
    MetricSpec("kworker_children_killed_total", "counter", ("why",), "Child processes that were killed, by why."),
    MetricSpec(
        "kworker_consumer_lag",
        "gauge",
        ("topic", "partition"),
        "Log end minus committed offset of an assigned partition.",
        merge="max",
    ),
    MetricSpec(
        "kworker_committed_offset",
        "gauge",
        ("topic", "partition"),
        "Last committed offset of an assigned partition.",
        merge="max",
    ),
    MetricSpec(
        "kworker_completion_gap",
        "gauge",
        ("topic", "partition"),
        "Highest finished offset minus committed offset: how far the oldest open task holds the commit back.",
        merge="max",
    ),
    MetricSpec(
        "kworker_oldest_unfinished_seconds",
        "gauge",
        (),
        "Age of the task that has been unfinished for longest.",
        unit="seconds",
        merge="max",
    ),
    MetricSpec(
        "kworker_suspect_partitions",
        "gauge",
        (),
        "Assigned partitions whose records run apart from others, since one of them may have killed its workers.",
    ),
    MetricSpec(
        "kworker_crash_charges_total",
        "counter",
        (),
        "Deaths of workers that were charged to the record that ran alone, counted by the next owner of its partition.",
    ),
    MetricSpec(
        "kworker_paused_partitions", "gauge", (), "Assigned partitions from which nothing is taken at the moment."
    ),
    MetricSpec("kworker_rebalances_total", "counter", ("event",), "Rebalance events of the consumer group."),
    MetricSpec("kworker_commits_total", "counter", ("result",), "Offset commits, by result."),
    MetricSpec(
        "kworker_metadata_truncated_total",
        "counter",
        (),
        "Commits whose metadata could not hold every finished offset; a crash would run the others again.",
    ),
    MetricSpec(
        "kworker_consume_gaps_total",
        "counter",
        (),
        "Jumps in the received offsets after an error, each followed by a seek back.",
    ),
    MetricSpec(
        "kworker_offset_loss_total", "counter", ("topic",), "Offsets skipped because the log no longer had them."
    ),
    MetricSpec(
        "kworker_forward_failures_total",
        "counter",
        ("topic",),
        "Writes on behalf of a record (dead letter, retry, publication) that failed, by the topic it was read from.",
    ),
    MetricSpec(
        "kworker_last_poll_timestamp_seconds",
        "gauge",
        (),
        "When the consumer was last polled, in seconds since the epoch.",
        unit="seconds",
        merge="min",
    ),
    MetricSpec("kworker_workers", "gauge", (), "Worker processes that run under a supervisor."),
    MetricSpec("kworker_worker_restarts_total", "counter", (), "Worker processes that a supervisor started again."),
    MetricSpec("kworker_log_lines_dropped_total", "counter", (), "Log lines dropped to keep the log within its rate."),
    MetricSpec(
        "kworker_build_info",
        "gauge",
        ("version", "python", "librdkafka"),
        "Versions of this worker; the value is always 1.",
        merge="last",
    ),
    MetricSpec(
        "kworker_group_info", "gauge", ("group",), "The group of this worker; the value is always 1.", merge="last"
    ),
)

METRICS: dict[str, MetricSpec] = {row.name: row for row in ROWS}
"""The table, by name."""

PROCESS_METRICS = (
    MetricSpec("process_virtual_memory_bytes", "gauge", (), "Virtual memory size in bytes."),
    MetricSpec("process_resident_memory_bytes", "gauge", (), "Resident memory size in bytes."),
    MetricSpec("process_start_time_seconds", "gauge", (), "When it started, in seconds since the epoch.", merge="min"),
    MetricSpec("process_cpu_seconds_total", "counter", (), "User and system CPU time in seconds."),
    MetricSpec("process_open_fds", "gauge", (), "Number of open file descriptors."),
    MetricSpec("process_max_fds", "gauge", (), "Maximum number of open file descriptors.", merge="min"),
)
"""What prometheus_client tells of a process, and how it adds up over several."""
