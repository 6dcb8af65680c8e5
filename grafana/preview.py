"""A dashboard as a plain page, from the answers to its queries: what Grafana would show, nearly.

It draws what the committed dashboards use and nothing else; what it does not know is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from grafana import plot
from grafana.queries import panels
from grafana.units import written

MARK = "Preview, not a Grafana screenshot"
COLUMN, UNIT, GAP = 49.33, 30, 8  # pixels of Grafana's grid, as in preview.css
TITLE_PIXELS, LEGEND_SHARE, LEGEND_ROW = 34, 0.35, 22
COLORS = {
    "text": "#ccccdc",
    "green": "#73bf69",
    "red": "#f2495c",
    "orange": "#ff9830",
    "blue": "#5794f2",
}

Result = Sequence[Mapping[str, Any]]  # of Prometheus' API: a vector or a matrix


@dataclass(frozen=True, slots=True)
class Answers:
    """What Prometheus said.

    Attributes:
        times: Unix seconds of the steps of all range queries.
        results: by title of panel and name of query.
        source: where it is from, in words.
        chosen: values of the dashboard's variables that are not all.
    """

    times: Sequence[float]
    results: Mapping[tuple[str, str], Result]
    source: str
    chosen: Mapping[str, str] = field(default_factory=dict)


def page(dashboard: Mapping[str, Any], answers: Answers) -> str:
    """The whole page, in HTML."""
    style = (Path(__file__).parent / "preview.css").read_text()
    title = escape(dashboard["title"])
    choices = "".join(
        f'<span class="choice"><b>{escape(one["label"])}</b>'
        f"<span>{escape(answers.chosen.get(one['name'], 'All'))}</span></span>"
        for one in dashboard["templating"]["list"]
        if one["type"] == "query"
    )
    drawn = {panel["id"]: _panel(panel, answers) for panel in panels(dashboard)}
    body = "\n".join(
        f'<section{" class=row" if panel["id"] not in drawn else ""} style="{_place(panel)}">'
        f"{drawn.get(panel['id'], escape(panel['title']))}</section>"
        for panel in dashboard["panels"]
    )
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>\n{style}</style>\n"
        f'<header><h1>{title}</h1>{choices}<span class="mark">{MARK}: '
        f"{escape(answers.source)}</span></header>\n<main>\n{body}\n</main></html>\n"
    )


def height(dashboard: Mapping[str, Any]) -> int:
    """Of the whole page, in pixels."""
    rows: int = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    return 75 + rows * (UNIT + GAP)


def _place(panel: Mapping[str, Any]) -> str:
    at = panel["gridPos"]
    return f"grid-area: {at['y'] + 1} / {at['x'] + 1} / span {at['h']} / span {at['w']}"


def _panel(panel: Mapping[str, Any], answers: Answers) -> str:
    found = [
        (target, answers.results[panel["title"], target["refId"]]) for target in panel["targets"]
    ]
    head = (
        f"<h2>{escape(panel['title'])} "
        f'<i title="{escape(panel["description"], quote=True)}">i</i></h2>'
    )
    if not any(result for _, result in found):
        nothing = panel["fieldConfig"]["defaults"].get("noValue", "No data")
        return f'{head}<div class="nothing">{escape(nothing)}</div>'
    at = panel["gridPos"]
    width = int(at["w"] * COLUMN + (at["w"] - 1) * GAP) - 2
    inner = at["h"] * (UNIT + GAP) - GAP - TITLE_PIXELS
    if panel["type"] == "table":
        return head + _table(panel, found)
    if panel["type"] == "heatmap":
        return head + _heatmap(panel, answers, found, width, inner)
    shown = _lines(answers.times, found, _overrides(panel, "color"))
    if panel["type"] == "stat":
        return head + _stat(panel, shown, width, inner)
    assert panel["type"] == "timeseries", panel["type"]
    return head + _series(panel, answers.times, shown, width, inner)


_Found = Sequence[tuple[Mapping[str, Any], Result]]


def _overrides(panel: Mapping[str, Any], what: str) -> dict[str, Any]:
    """One property of the fields that have it for themselves, by their names."""
    return {
        one["matcher"]["options"]: part["value"]
        for one in panel["fieldConfig"]["overrides"]
        for part in one["properties"]
        if part["id"] == what
    }


def _lines(
    times: Sequence[float], found: _Found, colors: Mapping[str, Mapping[str, str]]
) -> list[plot.Line]:
    place = {round(at): number for number, at in enumerate(times)}
    shown: list[plot.Line] = []
    for target, result in found:
        for one in result:
            values = np.full(len(times), np.nan)
            for at, value in one["values"]:
                values[place[round(at)]] = float(value)
            name = _legend(target["legendFormat"], one["metric"])
            color = plot.PALETTE[len(shown) % len(plot.PALETTE)]
            if name in colors:
                color = COLORS[colors[name]["fixedColor"]]
            shown.append(plot.Line(name, color, values))
    return shown


def _legend(template: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda label: labels.get(label[1], ""), template)


def _series(
    panel: Mapping[str, Any],
    times: Sequence[float],
    shown: Sequence[plot.Line],
    width: int,
    inner: int,
) -> str:
    defaults, legend = panel["fieldConfig"]["defaults"], panel["options"]["legend"]
    custom = defaults["custom"]
    look = plot.Look(
        defaults["unit"],
        log=custom.get("scaleDistribution", {}).get("type") == "log",
        percent=custom.get("stacking", {}).get("mode") == "percent",
    )
    assert look.log == (defaults.get("min") is None)
    assert look.percent == (custom["fillOpacity"] == 40)
    assert (legend["displayMode"], legend["calcs"]) == ("table", ["mean", "max"])
    assert legend["placement"] == "bottom"
    rows = min(LEGEND_ROW * (len(shown) + 1), int(LEGEND_SHARE * inner))
    table = _legend_table(shown, look.unit)
    chart = plot.lines(shown, times, look, width, inner - rows)
    return f'{chart}<div class="legend" style="height:{rows}px">{table}</div>'


def _legend_table(shown: Sequence[plot.Line], unit: str) -> str:
    reduced = []
    for line in shown:
        there = line.values[np.isfinite(line.values)]
        mean, most = (float(there.mean()), float(there.max())) if len(there) else (np.nan, np.nan)
        reduced.append((line, mean, most))
    reduced.sort(key=lambda one: -np.nan_to_num(one[2], nan=-1.0))
    body = "".join(
        f'<tr><td><u style="background:{line.color}"></u>{escape(line.name)}</td>'
        f"<td>{written(mean, unit)}</td><td>{written(most, unit)}</td></tr>"
        for line, mean, most in reduced
    )
    return f"<table><tr><th>Name</th><th>Mean</th><th>Max ▾</th></tr>{body}</table>"


def _stat(panel: Mapping[str, Any], shown: Sequence[plot.Line], width: int, inner: int) -> str:
    defaults = panel["fieldConfig"]["defaults"]
    [line] = shown
    there = line.values[np.isfinite(line.values)]
    value = float(there[-1]) if len(there) else np.nan
    color = COLORS[_step(value, defaults["thresholds"]["steps"])]
    background = plot.spark(line.values, color, width, inner // 2)
    number = f'<b style="color:{color}">{written(value, defaults["unit"])}</b>'
    return f'<div class="figure">{background}{number}</div>'


def _step(value: float, steps: Sequence[Mapping[str, Any]]) -> str:
    passed = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return str(passed[-1])


Row = dict[str, str | float]


def merged(frames: Sequence[tuple[str, Result]]) -> list[Row]:
    """What Grafana's transformation "merge" makes of instant queries, by their names.

    Rows whose fields of all frames are the same become one, unless another field of both differs.
    """
    frames = [(ref, result) for ref, result in frames if result]
    value = {ref: f"Value #{ref}" if len(frames) > 1 else "Value" for ref, _ in frames}
    common = set.intersection(*({label for one in r for label in one["metric"]} for _, r in frames))
    made: list[Row] = []
    for ref, result in frames:
        for one in result:
            row: Row = {**one["metric"], value[ref]: float(one["value"][1])}
            for earlier in made:
                if all(earlier.get(name) == row.get(name) for name in common) and all(
                    earlier[name] == row[name] for name in row.keys() & earlier.keys()
                ):
                    earlier.update(row)
                    break
            else:
                made.append(row)
    return made


def _table(panel: Mapping[str, Any], found: _Found) -> str:
    merge, organize = panel["transformations"]
    assert (merge["id"], organize["id"]) == ("merge", "organize")
    options = organize["options"]
    rows = merged([(target["refId"], result) for target, result in found])
    fields = dict.fromkeys(name for row in rows for name in row)
    kept = [name for name in fields if not options["excludeByName"].get(name)]
    kept.sort(key=lambda name: options["indexByName"].get(name, len(fields)))
    units, links = _overrides(panel, "unit"), _overrides(panel, "links")
    names = {name: options["renameByName"].get(name, name) for name in kept}
    for order in reversed(panel.get("options", {}).get("sortBy", [])):
        by = next((name for name in kept if names[name] == order["displayName"]), None)
        if by is not None:
            rows.sort(key=lambda row: row.get(by, -1.0), reverse=order.get("desc", False))
    numeric = {name for name in kept if any(isinstance(row.get(name), float) for row in rows)}
    head = "".join(
        f"<th{' class=number' if name in numeric else ''}>{escape(names[name])}</th>"
        for name in kept
    )
    cells = [
        [
            _cell(row.get(name, ""), units.get(names[name], "short"), names[name] in links)
            for name in kept
        ]
        for row in rows
    ]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    return f'<table class="rows"><tr>{head}</tr>{body}</table>'


def _cell(value: str | float, unit: str, is_link: bool) -> str:
    if isinstance(value, float):
        return f'<td class="number">{written(value, unit)}</td>'
    return f"<td{' class=link' if is_link else ''}>{escape(value)}</td>"


def _heatmap(
    panel: Mapping[str, Any], answers: Answers, found: _Found, width: int, inner: int
) -> str:
    place = {round(at): number for number, at in enumerate(answers.times)}
    cells = [
        (place[round(at)], lower, upper, value)
        for target, result in found
        for at, lower, upper, value in (
            classic_cells(result) if target.get("format") == "heatmap" else native_cells(result)
        )
        if value > panel["options"]["filterValues"]["le"]
    ]
    unit = panel["options"]["yAxis"]["unit"]
    return plot.heatmap(cells, answers.times, unit, width, inner)


Cells = list[tuple[float, float, float, float]]  # time, lower and upper bound, calls a second


def classic_cells(result: Result) -> Cells:
    """Of cumulative buckets; the first and the last get a width that can be drawn."""
    by_bound = sorted((float(one["metric"]["le"]), dict(one["values"])) for one in result)
    cells: Cells = []
    below: dict[float, str] = {}
    lower = by_bound[0][0] / 2 if by_bound else 0.0
    for upper, values in by_bound:
        for at, value in values.items():
            count = float(value) - float(below.get(at, 0))
            cells.append((at, lower, min(upper, 2 * lower), count))
        lower, below = upper, values
    return cells


def native_cells(result: Result) -> Cells:
    """Of native histograms; the zero bucket is as wide as the one above it."""
    return [
        (at, max(float(lower), float(upper) / 2), float(upper), float(count))
        for one in result
        for at, histogram in one["histograms"]
        for _, lower, upper, count in histogram["buckets"]
    ]
