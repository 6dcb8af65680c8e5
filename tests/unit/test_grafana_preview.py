"""Previews of dashboards: numbers as Grafana writes them, merged tables, and whole pages."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from goldens import check

from grafana import plot, preview, queries
from grafana.units import written
from tests.unit.test_grafana_rules import ROOT

TIMES = [1_000_000.0 + 5 * step for step in range(5)]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0 s"),
        (3.7e-7, "s", "370 ns"),
        (2.345e-5, "s", "23.4 µs"),
        (0.001, "s", "1 ms"),
        (0.0123, "s", "12.3 ms"),
        (7, "s", "7 s"),
        (90, "s", "1.50 mins"),
        (7200, "s", "2 hours"),
        (172800, "s", "2 days"),
        (999, "cps", "999 c/s"),
        (1234, "cps", "1.23K c/s"),
        (2_000_000, "cps", "2M c/s"),
        (0.0512, "cps", "0.0512 c/s"),
        (1234, "short", "1.23 K"),
        (5_000_000, "short", "5 Mil"),
        (-3.25, "short", "-3.25"),
        (58_720_256, "bytes", "56 MiB"),
        (1023, "bytes", "1023 B"),
        (0.07, "percentunit", "7.00%"),
        (1, "percentunit", "100%"),
        (0.125, "suffix:vCPUs", "0.125 vCPUs"),
        (math.nan, "s", "NaN"),
    ],
)
def test_units(value: float, unit: str, text: str) -> None:
    assert written(value, unit) == text


def test_every_unit_of_a_panel_can_be_written() -> None:
    units = {query.unit for query in queries.queries()}
    text = json.dumps(queries.dashboards())
    units |= set(re.findall(r'"id": "unit", "value": "(\w+)"', text)) - {"string"}
    assert len(units) == 7
    assert all(written(1.0, unit) for unit in units)
    with pytest.raises(KeyError):
        written(1.0, "furlong")


def instant(value: float, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [TIMES[-1], str(value)]}


def test_rows_of_common_labels_are_merged() -> None:
    found = preview.merged(
        [
            ("info", [instant(1, vm="a", pid="7"), instant(1, vm="b", pid="8")]),
            ("rate", [instant(11, vm="b"), instant(13, vm="a"), instant(17, vm="c")]),
        ]
    )
    assert found == [
        {"vm": "a", "pid": "7", "Value #info": 1, "Value #rate": 13},
        {"vm": "b", "pid": "8", "Value #info": 1, "Value #rate": 11},
        {"vm": "c", "Value #rate": 17},
    ]


def test_rows_that_contradict_each_other_are_not() -> None:
    """So it is in Grafana, and so a metric's name that a query keeps splits rows in two."""
    named = [(name, [instant(2, vm="a", __name__=name)]) for name in "xy"]
    assert len(preview.merged([*named, ("z", [instant(3, vm="a")])])) == 2


def test_values_of_a_query_alone_have_no_name() -> None:
    found = preview.merged([("a", [instant(2, vm="a")]), ("b", [])])
    assert found == [{"vm": "a", "Value": 2}]


def drawn(values: list[float], look: plot.Look) -> str:
    line = plot.Line("x", "#abcdef", np.array(values))
    return plot.lines([line], TIMES, look, 400, 200)


def test_a_line_has_gaps_where_there_are_no_values() -> None:
    whole = drawn([1, 2, 3, 4, 5], plot.Look("short"))
    broken = drawn([1, 2, math.nan, 4, 5], plot.Look("short"))
    assert whole.count('class="line"') == 1
    assert broken.count('class="line"') == 2


def test_a_value_alone_is_a_point() -> None:
    svg = drawn([1, 2, math.nan, 4, math.nan], plot.Look("short"))
    assert (svg.count('class="line"'), svg.count("<circle")) == (1, 1)


def test_a_logarithmic_axis_has_powers_of_ten() -> None:
    svg = drawn([2e-6, 2e-5, 2e-4, 2e-4, 2e-4], plot.Look("s", log=True))
    labels = re.findall(r'class="right">([^<]+)<', svg)
    assert labels == ["1 µs", "10 µs", "100 µs", "1 ms"]
    [line] = re.findall(r'd="M([^"]+)" class="line"', svg)
    heights = [float(point.partition(",")[2]) for point in line.split("L")]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)
    assert heights[2] == heights[3]


def test_nothing_below_zero_is_on_a_logarithmic_axis() -> None:
    svg = drawn([1, 2, 0, 4, 5], plot.Look("s", log=True))
    assert svg.count('class="line"') == 2


def test_lines_that_are_stacked_fill_the_whole() -> None:
    two = [plot.Line(n, c, np.full(5, v)) for n, c, v in (("a", "#aa", 1.0), ("b", "#bb", 3.0))]
    svg = plot.lines(two, TIMES, plot.Look("cps", percent=True), 400, 222)
    first, second = (float(y) for y in re.findall(r'd="M\d+,([\d.]+)L[^"]+" class="line"', svg))
    bottom, top = 200, 6
    assert second == top
    assert first == pytest.approx(bottom - (bottom - top) / 4)


def test_an_axis_of_bytes_has_powers_of_two() -> None:
    svg = drawn([3 * 2**20] * 5, plot.Look("bytes"))
    assert re.findall(r'class="right">([^<]+)<', svg) == ["0 B", "1 MiB", "2 MiB", "3 MiB"]


@pytest.mark.parametrize(("share", "color"), [(0, "#30123b"), (1, "#7a0403"), (0.25, "#a4fc3c")])
def test_colours_go_by_the_root(share: float, color: str) -> None:
    assert plot.turbo(share) == color


def bucket(le: str, count: float) -> dict[str, Any]:
    return {"metric": {"le": le}, "values": [[at, str(count)] for at in TIMES[2:]]}


def test_classic_and_native_histograms_have_the_same_cells() -> None:
    classic = [bucket("+Inf", 7), bucket("0.5", 5), bucket("0.25", 2)]
    buckets = [[3, "-0.25", "0.25", "2"], [0, "0.25", "0.5", "3"], [0, "0.5", "1", "2"]]
    histogram = {"count": "7", "sum": "2", "buckets": buckets}
    native = [{"metric": {}, "histograms": [[at, histogram] for at in TIMES[2:]]}]
    cells = preview.classic_cells(classic)
    assert sorted(cells) == sorted(preview.native_cells(native))
    assert cells[:2] == [(TIMES[2], 0.125, 0.25, 2.0), (TIMES[3], 0.125, 0.25, 2.0)]


def made_up(query: queries.Query) -> list[dict[str, Any]]:
    """An answer that a query could get."""
    labels = {"vm": "web<1>", "code": "HvFlush", "instance": "lab", "job": "hvtrace"}
    values = [[at, str(at % 17)] for at in TIMES]
    if query.kind == "instant":
        return [instant(3, **labels)]
    if query.ref == "native":
        return []
    if query.ref == "classic":
        return [bucket("+Inf", 7), bucket("0.5", 5), bucket("0.25", 2)]
    return [{"metric": labels, "values": values}]


def pages(answer: Any) -> dict[str, str]:
    made = {}
    for dashboard in queries.dashboards():
        results = {
            (query.panel, query.ref): answer(query)
            for query in queries.queries()
            if query.dashboard == dashboard["uid"]
        }
        answers = preview.Answers(TIMES, results, "made up", {"vm": "web<1>"})
        made[dashboard["uid"]] = preview.page(dashboard, answers)
    return made


def one_panel(title: str, *results: list[dict[str, Any]]) -> str:
    """A page with nothing but a panel and the answers to its queries."""
    dashboard, panel = next(
        (dashboard, panel)
        for dashboard in queries.dashboards()
        for panel in queries.panels(dashboard)
        if panel["title"] == title
    )
    refs = [target["refId"] for target in panel["targets"]]
    named = {(title, ref): result for ref, result in zip(refs, results, strict=True)}
    return preview.page({**dashboard, "panels": [panel]}, preview.Answers(TIMES, named, "made up"))


def course(values: list[float], **labels: str) -> dict[str, Any]:
    return {
        "metric": labels,
        "values": [[at, str(value)] for at, value in zip(TIMES, values, strict=True)],
    }


def test_rows_are_sorted() -> None:
    hosts = [instant(value, job="j", instance=f"host{value}") for value in (5, 11, 7)]
    page = one_panel("Busiest hosts", hosts, *[[instant(1, job="j", instance="host5")]] * 4)
    assert re.findall(r"host\d+", page) == ["host11", "host7", "host5"]


def test_legends_are_sorted_and_names_are_filled_in() -> None:
    lines = [course([value] * 5, code=f"Code{value}") for value in (5, 11, 7)]
    page = one_panel("Calls by code", lines)
    assert re.findall(r"Code\d+</td><td>[^<]+", page) == [
        "Code11</td><td>11 c/s",
        "Code7</td><td>7 c/s",
        "Code5</td><td>5 c/s",
    ]


def test_lines_have_their_own_colours() -> None:
    verdicts = [course([3] * 5, verdict=name) for name in ("unknown", "refused", "claimed")]
    page = one_panel("Output in registers", verdicts)
    assert re.findall(r'class="line" stroke="([^"]+)"', page) == [
        plot.PALETTE[0],
        preview.COLORS["orange"],
        preview.COLORS["red"],
    ]


@pytest.mark.parametrize(("seconds", "color"), [(0.9, "green"), (1, "red"), (7, "red")])
def test_figures_are_red_from_their_threshold_on(seconds: float, color: str) -> None:
    page = one_panel("Slowest scrape", [course([0.1, 0.1, 0.1, 0.1, seconds])])
    assert f'<b style="color:{preview.COLORS[color]}">{written(seconds, "s")}</b>' in page


def test_every_panel_of_every_dashboard_can_be_drawn() -> None:
    for dashboard in queries.dashboards():
        page = pages(made_up)[dashboard["uid"]]
        assert preview.MARK in page
        for panel in dashboard["panels"]:
            assert panel["title"] in page
        assert "web<1>" not in page
        types = [panel["type"] for panel in queries.panels(dashboard)]
        assert page.count("<svg") == len(types) - types.count("table")
        assert page.count('class="rows"') == types.count("table")


def test_panels_without_data_say_so() -> None:
    for dashboard in queries.dashboards():
        page = pages(lambda query: [])[dashboard["uid"]]
        assert page.count('class="nothing"') == len(queries.panels(dashboard))
        assert "<svg" not in page
    assert "The exporter runs without --round-trip." in pages(lambda query: [])["hvtrace-vm"]


def test_page_is_as_it_was() -> None:
    """A dashboard of a row and one panel of each kind."""
    [vm] = [one for one in queries.dashboards() if one["uid"] == "hvtrace-vm"]
    [fleet] = [one for one in queries.dashboards() if one["uid"] == "hvtrace-fleet"]
    chosen = ["Service times", "Round trips", "Who serves the calls"]
    kept = [vm["panels"][0]]
    kept += [panel for panel in queries.panels(vm) if panel["title"] in chosen]
    kept += [panel for panel in queries.panels(fleet) if panel["title"] in ("VMs", "Busiest hosts")]
    results = {
        (query.panel, query.ref): made_up(query)
        for query in queries.queries()
        if query.panel in {panel["title"] for panel in kept}
    }
    answers = preview.Answers(TIMES, results, "made up", {"vm": "web<1>"})
    text = preview.page({**vm, "panels": kept}, answers)
    check("grafana-preview.html", text)


def test_pictures_of_all_dashboards_are_in_the_documentation() -> None:
    text = (ROOT / "docs/exporter.md").read_text()
    for uid in (one["uid"] for one in queries.dashboards()):
        name = f"images/{uid.replace('hvtrace', 'grafana')}.png"
        assert f"({name})" in text
        picture = (ROOT / "docs" / name).read_bytes()
        width = int.from_bytes(picture[16:20], "big")  # of PNG's first chunk
        assert (width, len(picture) < 300_000) == (1400, True)
