"""The expressions that the dashboards are made of.

Workers carry no label of their group; `kworker_group_info` joins it to what a worker tells.
"""

from __future__ import annotations

from grafana.panels import Panel, Query, Variable

BY_JOB = 'job=~"$job"'
BY_TASK = f'task="$task", {BY_JOB}'
BY_GROUP = 'group="$group"'
OF_GROUP = f"* on (job, instance) group_left () kworker_group_info{{{BY_GROUP}}}"
QUANTILES = (0.5, 0.95, 0.99)


def rate(metric: str, labels: str = BY_JOB, by: str = "") -> str:
    """How much a counter rises in a second, summed."""
    return f"sum{_by(by)} (rate({metric}{{{labels}}}[$__rate_interval]))"


def rise(metric: str, labels: str = BY_JOB, by: str = "") -> str:
    """How much a counter rose between two points of the panel, summed."""
    return f"sum{_by(by)} (increase({metric}{{{labels}}}[$__rate_interval]))"


def of_group(metric: str, by: str = "") -> str:
    """A gauge of the group's workers, summed."""
    return f"sum{_by(by)} ({metric} {OF_GROUP})"


def rate_of_group(metric: str, by: str = "") -> str:
    """How much a counter of the group's workers rises in a second, summed."""
    return f"sum{_by(by)} (rate({metric}[$__rate_interval]) {OF_GROUP})"


def rise_of_group(metric: str, by: str = "") -> str:
    """How much a counter of the group's workers rose between two points of the panel, summed."""
    return f"sum{_by(by)} (increase({metric}[$__rate_interval]) {OF_GROUP})"


def quantiles(metric: str, labels: str = BY_JOB) -> list[Query]:
    """The middle, and what one of twenty and one of a hundred exceed."""
    buckets = rate(f"{metric}_bucket", labels, "le")
    return [Query(f"histogram_quantile({part}, {buckets})", f"p{part * 100:.0f}") for part in QUANTILES]


def failing(labels: str = BY_JOB, by: str = "") -> str:
    """The part of attempts that fails; nothing while there are none."""
    succeeded = rate("kworker_tasks_succeeded_total", labels, by)
    failed = f"({rate('kworker_tasks_failed_total', labels, by)} or 0 * {succeeded})"
    return f"1 - {succeeded} / ({succeeded} + {failed} > 0)"


def dead_letters(labels: str = BY_JOB) -> Panel:
    """How many there were in the time that is shown."""
    expr = f"sum(increase(kworker_tasks_dead_lettered_total{{{labels}}}[$__range])) or vector(0)"
    return stat("Dead letters", expr, help="In the time that is shown.", limits=(1, 100))


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""


def stat(title: str, expr: str, unit: str = "short", help: str = "", limits: tuple[float, ...] = ()) -> Panel:
    """One number."""
    return Panel(title, [Query(expr)], unit, "stat", 4, 4, help, limits=limits)


JOB = Variable("job", '{__name__=~"kworker_build_info|kworker_backlog_read_timestamp_seconds"}', many=True)
