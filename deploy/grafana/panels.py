"""Dashboards as short Python values, and the JSON that Grafana imports. Knows Grafana; knows nothing of kworker.

Panels stand in rows, from left to right, and begin a new line where the 24 columns of Grafana end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from string import ascii_uppercase
from typing import Any, NamedTuple

Json = dict[str, Any]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
SCHEMA = 39  # of Grafana 10.4; later ones migrate it when they load it


class Query(NamedTuple):
    """One PromQL expression. legend: what a series is called, with labels as {{label}}; of a table its column."""

    expr: str
    legend: str = ""


class Panel(NamedTuple):
    """One panel. kind: timeseries, stat, heatmap or table. unit: Grafana's name of it. width: of 24 columns.

    limits: values from which it turns orange, then red. units: of a table, by column. link: of a table, the label whose
    cells lead to another dashboard, and that one's uid.
    """

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    help: str = ""
    stacked: bool = False
    limits: Sequence[float] = ()
    units: Sequence[tuple[str, str]] = ()
    link: tuple[str, str] | None = None


class Row(NamedTuple):
    """Panels under one heading."""

    title: str
    panels: Sequence[Panel]


class Variable(NamedTuple):
    """A choice above the dashboard: the values of a label of these series. many: several at once, and all."""

    name: str
    series: str
    many: bool = False


class Dashboard(NamedTuple):
    """One dashboard."""

    uid: str
    title: str
    help: str
    variables: Sequence[Variable]
    rows: Sequence[Row]


def render(dashboard: Dashboard) -> Json:
    """What Grafana imports."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.help,
        "tags": ["kworker"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair for all panels
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "links": [
            {"type": "dashboards", "title": "kworker", "tags": ["kworker"], "asDropdown": True, "keepTime": True}
        ],
        "templating": {"list": [_source(), *map(_variable, dashboard.variables)]},
        "annotations": {"list": []},
        "panels": list(_laid_out(dashboard.rows)),
    }


def _source() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(variable: Variable) -> Json:
    query = f"label_values({variable.series}, {variable.name})"
    shown: Json = {
        "name": variable.name,
        "label": variable.name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "values"},
        "refresh": 2,  # whenever the time range changes
        "sort": 1,
    }
    if variable.many:
        shown |= {"multi": True, "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return shown


def _laid_out(rows: Sequence[Row]) -> Iterator[Json]:
    numbers, y = count(1), 0
    for row in rows:
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        yield {
            "id": next(numbers),
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": place,
            "panels": [],
        }
        y, x, tallest = y + 1, 0, 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                y, x, tallest = y + tallest, 0, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            yield {"id": next(numbers), "gridPos": place, **_panel(panel)}
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest


def _panel(panel: Panel) -> Json:
    defaults: Json = {"unit": panel.unit, "custom": {}}
    if panel.kind == "timeseries":
        defaults |= {"min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}
        if panel.stacked:
            defaults["custom"] = {
                "fillOpacity": 40,
                "showPoints": "never",
                "stacking": {"mode": "normal", "group": "A"},
            }
    if panel.limits:
        steps: list[Json] = [{"color": "green", "value": None}]
        steps += [
            {"color": color, "value": value} for color, value in zip(("orange", "red"), panel.limits, strict=False)
        ]
        defaults["thresholds"] = {"mode": "absolute", "steps": steps}
    made: Json = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": SOURCE,
        "targets": [
            _target(panel, letter, query) for letter, query in zip(ascii_uppercase, panel.queries, strict=False)
        ],
        "fieldConfig": {"defaults": defaults, "overrides": list(_overrides(panel))},
        "options": _OPTIONS[panel.kind] | ({"yAxis": {"unit": panel.unit}} if panel.kind == "heatmap" else {}),
    }
    if panel.kind == "table":
        names = {
            f"Value #{letter}": query.legend for letter, query in zip(ascii_uppercase, panel.queries, strict=False)
        }
        names = {"Value": panel.queries[0].legend} if len(panel.queries) == 1 else names
        made["transformations"] = [
            {"id": "merge", "options": {}},
            {"id": "organize", "options": {"excludeByName": {"Time": True}, "renameByName": names}},
        ]
    return made


def _target(panel: Panel, letter: str, query: Query) -> Json:
    target: Json = {"refId": letter, "datasource": SOURCE, "expr": query.expr}
    if panel.kind == "table":
        return target | {"format": "table", "instant": True}
    if panel.kind == "heatmap":
        return target | {"format": "heatmap", "legendFormat": "{{le}}"}
    return target | {"legendFormat": query.legend or "__auto"}


def _overrides(panel: Panel) -> Iterator[Json]:
    for column, unit in panel.units:
        yield _override(column, "unit", unit)
    if panel.link:
        label, uid = panel.link
        url = f"/d/{uid}?var-{label}=${{__value.raw}}&${{__url_time_range}}&${{datasource:queryparam}}"
        yield _override(label, "links", [{"title": f"This {label}", "url": url}])


def _override(column: str, key: str, value: object) -> Json:
    return {"matcher": {"id": "byName", "options": column}, "properties": [{"id": key, "value": value}]}


_OPTIONS: dict[str, Json] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"},
    "heatmap": {"calculate": False, "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64}},
    "table": {"showHeader": True, "cellHeight": "sm"},
}
