"""What the committed dashboards and rules ask Prometheus: for those who execute all of it.

Nothing here comes from the code that made the dashboards: the JSON and YAML files are read, as
Grafana and Prometheus read them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

HERE = Path(__file__).parent

# Queries that may be empty beside others of their panel: of a histogram that comes in the other
# form, and of a column of failures.
_EMPTY_REFS = {
    "classic": "the histograms are native",
    "native": "the histograms are classic",
    "failing": "no call has failed",
}
_VARIABLE = re.compile(r"\$(\w+)")


@dataclass(frozen=True, slots=True)
class Query:
    """One query of one panel."""

    dashboard: str  # its uid
    panel: str  # its title
    ref: str
    expr: str  # with Grafana's variables in it
    kind: Literal["instant", "range"]
    may_be_empty: str | None  # why, where no data is no fault
    legend: str  # a template such as {{code}}
    panel_type: str  # timeseries, stat, table, heatmap
    unit: str  # Grafana's name of it, such as cps
    place: tuple[int, int, int, int]  # x, y, width, height in Grafana's grid of 24 columns
    definition: Mapping[str, Any]  # the whole panel


@dataclass(frozen=True, slots=True)
class Values:
    """Where the values of a dashboard's variable come from: a label of some series."""

    dashboard: str
    name: str
    series: str  # with other variables in it
    label: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A recording rule or an alert."""

    group: str
    name: str
    kind: Literal["record", "alert"]
    expr: str


def dashboards() -> list[dict[str, Any]]:
    """All committed dashboards."""
    return [json.loads(path.read_text()) for path in sorted(HERE.glob("dashboards/*.json"))]


def panels(dashboard: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All panels of a dashboard that show something; rows do not."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    """Every query of every panel."""
    return list(_queries())


def _queries() -> Iterator[Query]:
    for dashboard in dashboards():
        for panel in panels(dashboard):
            # The house's rule: a sentence of the description says when a panel is empty.
            why = re.search(r"(?:^|\. )(Empty [^.]+)", panel["description"])
            place = panel["gridPos"]
            for target in panel["targets"]:
                ref = target["refId"]
                yield Query(
                    dashboard["uid"],
                    panel["title"],
                    ref,
                    target["expr"],
                    "instant" if target["instant"] else "range",
                    why[1] if why else _EMPTY_REFS.get(ref),
                    target["legendFormat"],
                    panel["type"],
                    panel["fieldConfig"]["defaults"]["unit"],
                    (place["x"], place["y"], place["w"], place["h"]),
                    panel,
                )


def variables() -> list[Values]:
    """The variables of all dashboards but the choice of a Prometheus."""
    found = []
    for dashboard in dashboards():
        for variable in dashboard["templating"]["list"]:
            if variable["type"] == "query":
                ask = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"])
                assert ask, variable["query"]
                found.append(Values(dashboard["uid"], variable["name"], ask[1], ask[2]))
    return found


def rules() -> list[Rule]:
    """Every rule, in the order in which Prometheus reads the files."""
    found = []
    for path in sorted(HERE.glob("rules/*.yml")):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                kind: Literal["record", "alert"] = "record" if "record" in rule else "alert"
                found.append(Rule(group["name"], rule[kind], kind, rule["expr"]))
    return found


def fill_in(expr: str, window: str = "1m", **chosen: str) -> str:
    """An expression as Grafana sends it: variables are patterns, all (``.+``) if not `chosen`.

    `window` is for $__rate_interval, $__interval and $__range. Raises KeyError for a variable
    that no dashboard has.
    """
    known = {variable.name: ".+" for variable in variables()} | chosen
    known |= dict.fromkeys(("__rate_interval", "__interval", "__range"), window)
    return _VARIABLE.sub(lambda found: known[found[1]], expr)
