"""Every query of every panel and rule, asked of real servers that scraped real calls."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import pytest

from grafana import preview, queries
from grafana.queries import Query, Rule
from tests.prometheus.scene import SERVERS, Scene
from tests.prometheus.server import Prometheus

pytestmark = pytest.mark.xdist_group("scene")

# Its other job has the same series once more.
CHOSEN = {"job": "hvtrace"}
WINDOW = "30s"  # some scrapes
# Of the two forms that a histogram can have, each server has one.
FORM = {"2.42": "classic", "2.42-native": "native", "3": "native"}
RECORDS = [rule for rule in queries.rules() if rule.kind == "record"]
ALERTS = [rule for rule in queries.rules() if rule.kind == "alert"]
# Series that only hosts have where something else is, and that alerts are nevertheless about.
ELSEWHERE = {"node_textfile_mtime_seconds", "node_textfile_scrape_error"}


def title(query: Query) -> str:
    return f"{query.dashboard}/{query.panel}/{query.ref}"


def answer(server: Prometheus, query: Query) -> list[list[str]]:
    """All values that are numbers, of all series."""
    expression = queries.fill_in(query.expr, WINDOW, **CHOSEN)
    now = time.time()
    if query.kind == "instant":
        found = server.get("query", query=expression, time=str(now))
        values = [one["value"] for one in found["result"] if "value" in one]
    else:
        span = {"start": str(now - 60), "end": str(now), "step": "5"}
        found = server.get("query_range", query=expression, **span)
        values = [value for one in found["result"] for value in one.get("values", [])]
        values += [[at, h["count"]] for one in found["result"] for at, h in histograms(one)]
    return [value for value in values if not math.isnan(float(value[1]))]


def histograms(series: dict[str, Any]) -> list[Any]:
    return series.get("histograms", [])


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("query", queries.queries(), ids=title)
def test_panel(scene: Scene, name: str, query: Query) -> None:
    values = answer(scene.servers[name], query)
    if query.ref in ("classic", "native"):
        assert bool(values) == (query.ref == FORM[name])
    elif not query.may_be_empty or not query.may_be_empty.startswith("Empty is good"):
        assert values, query.expr
    else:
        assert "empty is good" in query.panel.lower()


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize(("panel", "by"), [("Busiest hosts", "instance"), ("All VMs", "vm")])
def test_table_has_one_row_for_each(scene: Scene, name: str, panel: str, by: str) -> None:
    frames = [
        (query.ref, scene.servers[name].query(queries.fill_in(query.expr, WINDOW, **CHOSEN)))
        for query in queries.queries()
        if query.panel == panel
    ]
    rows = preview.merged(frames)
    assert len({row[by] for row in rows}) == len(rows) > 0
    columns = {column for row in rows for column in row}
    assert columns >= {f"Value #{ref}" for ref, _ in frames}
    assert "__name__" not in columns


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize("variable", queries.variables(), ids=lambda v: f"{v.dashboard}/{v.name}")
def test_variable(scene: Scene, name: str, variable: queries.Values) -> None:
    series = queries.fill_in(variable.series, WINDOW, **CHOSEN)
    found = scene.servers[name].get(f"label/{variable.label}/values", **{"match[]": series})
    assert found


@pytest.mark.parametrize("name", SERVERS)
def test_prometheus_evaluates_every_rule(scene: Scene, name: str) -> None:
    groups = scene.servers[name].get("rules")["groups"]
    health = {
        rule["name"]: (rule["health"], rule.get("lastError")) for g in groups for rule in g["rules"]
    }
    assert health == {rule.name: ("ok", None) for rule in queries.rules()}


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize(
    "rule", [r for r in queries.rules() if r.kind == "record"], ids=lambda r: r.name
)
def test_record(scene: Scene, name: str, rule: Rule) -> None:
    assert scene.servers[name].query(rule.expr)
    recorded = scene.servers[name].query(rule.name)
    assert any(not math.isnan(float(one["value"][1])) for one in recorded)


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize(
    "rule", [r for r in queries.rules() if r.kind == "alert"], ids=lambda r: r.name
)
def test_alert(scene: Scene, name: str, rule: Rule) -> None:
    """It can be evaluated, and every series that it is about is there."""
    server = scene.servers[name]
    server.query(rule.expr)
    names = set(re.findall(r"\b(?:hvtrace|node|process)_\w+|\b\w+:\w+:\w+\b|\bup\b", rule.expr))
    assert names
    for series in names - ELSEWHERE:
        classic = re.fullmatch(r"(hvtrace_\w+_seconds)_(bucket|sum|count)", series)
        there = classic[1] if classic and FORM[name] == "native" else series
        assert server.query(f"count({there})"), there
