"""The dashboards as they are committed: made by the code, valid for Grafana, and by our rules."""

from __future__ import annotations

import enum
import json
import re
import subprocess
import typing
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.cog.variants import Dataquery as Variant
from grafana_foundation_sdk.models.dashboard import Dashboard
from grafana_foundation_sdk.models.prometheus import Dataquery

from grafana import __main__ as code
from grafana import queries
from tests.unit.test_grafana_rules import EVERY, ROOT

DASHBOARDS = {dashboard["uid"]: dashboard for dashboard in queries.dashboards()}
PANELS = [
    pytest.param(panel, id=f"{uid} {panel['title']}")
    for uid, dashboard in DASHBOARDS.items()
    for panel in queries.panels(dashboard)
]
NAME = re.compile(r"\b(?:\w+:)*(?:hvtrace|process|node)_\w+(?::\w+)*")
SUFFIX = re.compile(r"_(bucket|sum|count)$")
UNITS = {"bytes", "cps", "percentunit", "s", "short", "suffix:CPUs", "suffix:vCPUs"}


def documented() -> set[str]:
    """Metrics in the tables of docs/exporter.md, the process's own, and what rules record."""
    text = (ROOT / "docs/exporter.md").read_text()
    ours = set(re.findall(r"^\| `(hvtrace_\w+)`", text, re.M))
    assert len(ours) > 15
    process = {"process_resident_memory_bytes", "process_cpu_seconds_total"}
    process |= {f"hvtrace_keeper_{name}" for name in process}
    process.add("hvtrace_keeper_process_start_time_seconds")
    node = {"node_textfile_mtime_seconds"}
    return ours | process | node | {rule["record"] for rule in EVERY if "record" in rule}


def test_committed_dashboards_are_what_the_code_makes() -> None:
    made = {f"{one.uid}.json": code.text(one) for one in code.dashboards()}
    committed = {path.name: path.read_text() for path in code.FOLDER.iterdir()}
    assert committed == made, "python -m grafana writes them"


def read(dashboard: dict[str, Any]) -> Dashboard:
    """By the SDK's types, which have the schemas of panels and queries, too."""
    register_default_plugins()
    return Dashboard.from_json(dashboard)


def violations(value: Any, kind: Any, where: str) -> list[str]:
    """Where a value that the SDK has read is not of its type; reading itself checks nothing."""
    wrong = [f"{where}: {value!r} is no {kind}"]
    inside, parts = typing.get_origin(kind), typing.get_args(kind)
    if kind in (Any, object) or kind is Variant:
        kind = type(value)
    if isinstance(value, dict) and hasattr(kind, "from_json"):
        value = kind.from_json(value)  # the SDK leaves some as they are
    if inside is typing.Union:
        tried = [violations(value, part, where) for part in parts]
        return min(tried, key=len)
    if inside is typing.Literal:
        return [] if value in parts else wrong
    if inside is list or inside is dict:
        if not isinstance(value, inside):
            return wrong
        pairs = value.items() if inside is dict else enumerate(value)
        return [bad for at, one in pairs for bad in violations(one, parts[-1], f"{where}/{at}")]
    if issubclass(kind, enum.Enum):
        return [] if value in {choice.value for choice in kind} else wrong
    if kind is float:
        kind = (int, float)
    if not isinstance(value, kind):
        return wrong
    members = typing.get_type_hints(kind) if hasattr(kind, "from_json") else {}
    return [
        bad
        for name, of in members.items()
        for bad in violations(getattr(value, name), of, f"{where}/{name}")
    ]


@pytest.mark.parametrize("uid", DASHBOARDS)
def test_grafanas_schema_knows_every_field_and_choice(uid: str) -> None:
    dashboard = read(DASHBOARDS[uid])
    # A field that no schema has is dropped when it is read.
    assert json.loads(json.dumps(dashboard, cls=JSONEncoder)) == DASHBOARDS[uid]
    assert violations(dashboard, Dashboard, "") == []
    targets = [t for panel in dashboard.panels or () for t in getattr(panel, "targets", None) or ()]
    assert targets
    assert all(isinstance(target, Dataquery) for target in targets)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("graphTooltip", 7),
        ("panels/1/options/calculate", "no"),
        ("panels/1/options/color/mode", "rainbow"),
        ("panels/2/fieldConfig/defaults/custom/showPoints", "sometimes"),
        ("panels/2/targets/0/format", "graph"),
        ("panels/2/targets/0/expr", 1),
        ("templating/list/1/sort", 99),
    ],
)
def test_grafanas_schema_finds_what_is_wrong(path: str, value: object) -> None:
    dashboard = json.loads(json.dumps(DASHBOARDS["hvtrace-vm"]))
    at = dashboard
    *way, last = path.split("/")
    for step in way:
        at = at[int(step) if isinstance(at, list) else step]
    at[last] = value
    (found,) = violations(read(dashboard), Dashboard, "")
    assert repr(value) in found


def test_uids_and_titles_are_unique_and_stable() -> None:
    assert set(DASHBOARDS) == {"hvtrace-fleet", "hvtrace-host", "hvtrace-vm", "hvtrace-itself"}
    assert len({dashboard["title"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_dashboard(dashboard: dict[str, Any]) -> None:
    assert "id" not in dashboard  # an installation's own; another's would be overwritten
    assert dashboard["tags"] == ["hvtrace"]
    assert dashboard["schemaVersion"] >= 36
    assert dashboard["description"]
    assert dashboard["timezone"] == "browser"
    (link,) = dashboard["links"]
    assert (link["type"], link["tags"]) == ("dashboards", ["hvtrace"])
    assert link["includeVars"]
    assert link["keepTime"]
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert numbers == list(range(1, len(numbers) + 1))
    titles = Counter(panel["title"] for panel in queries.panels(dashboard))
    assert titles.most_common(1)[0][1] == 1
    assert len(titles) <= 13
    assert dashboard["panels"][0]["type"] == "row"


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_panels_fill_the_grid_and_do_not_overlap(dashboard: dict[str, Any]) -> None:
    cells: Counter[tuple[int, int]] = Counter()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells.update(
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        )
    assert set(cells.values()) == {1}
    assert len(cells) == 24 * (1 + max(y for _, y in cells))


@pytest.mark.parametrize("panel", PANELS)
def test_panel(panel: dict[str, Any]) -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert panel["datasource"] == source
    assert all(target["datasource"] == source for target in panel["targets"])
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    description = panel["description"]
    assert re.fullmatch(r".{60,}\.", description), description
    refs = [target["refId"] for target in panel["targets"]]
    assert len(set(refs)) == len(refs)
    for target in panel["targets"]:
        assert target["instant"] is (panel["type"] == "table")
        assert target["range"] is not target["instant"]
        # Windows follow the scrape interval; what looks back on purpose says how far.
        for window in re.findall(r"\[(.+?)\]", target["expr"]):
            assert window in ("$__rate_interval", "10m")
    if "empty is good" in panel["title"]:
        assert "Empty is good" in description
    if "Empty" in description:
        assert panel["fieldConfig"]["defaults"]["noValue"]


@pytest.mark.parametrize("panel", PANELS)
def test_columns_are_those_of_the_queries(panel: dict[str, Any]) -> None:
    if panel["type"] == "table":
        organize = panel["transformations"][1]["options"]
        fields = {f"Value #{target['refId']}" for target in panel["targets"]}
        named = {name for name in organize["renameByName"] if name.startswith("Value")}
        hidden = {name for name in organize["excludeByName"] if name.startswith("Value #")}
        assert named | hidden == (fields if len(fields) > 1 else set())
        columns = set(organize["renameByName"].values())
        overrides = panel["fieldConfig"]["overrides"]
        assert {one["matcher"]["options"] for one in overrides} == columns


def used(expr: str) -> set[str]:
    return {name.removeprefix("__") for name in NAME.findall(re.sub(r'"[^"]*"', "", expr))}


def test_every_metric_is_documented() -> None:
    known = documented()
    known |= {name for name in known if name.endswith("_seconds")}
    everything = [(query.dashboard + query.panel, query.expr) for query in queries.queries()]
    everything += [
        (values.dashboard + values.name, values.series) for values in queries.variables()
    ]
    everything += [(rule.name, rule.expr) for rule in queries.rules()]
    for where, expr in everything:
        for name in used(expr) or {"up" if "up{" in expr else "ALERTS"}:
            if name in ("up", "ALERTS") or expr.startswith("vector("):
                continue
            assert name in known or SUFFIX.sub("", name) in known, (where, name)


def test_every_metric_of_the_exporter_is_shown() -> None:
    shown = {name for query in queries.queries() for name in used(query.expr)}
    shown |= {name for rule in queries.rules() for name in used(rule.expr)}
    shown |= {values.series.partition("{")[0] for values in queries.variables()}
    shown |= {SUFFIX.sub("", name) for name in shown}
    ours = {name for name in documented() if name.startswith("hvtrace_")}
    assert ours - shown == {"hvtrace_hypercall_reps_total", "hvtrace_kvm_info"}


def test_fleet_reads_nothing_with_vm_or_buckets() -> None:
    # What a thousand hosts have one or a few of may be read as it is.
    few = {"hvtrace_up", "hvtrace_lost_total"}
    records = {rule["record"] for rule in EVERY if "record" in rule}
    for query in queries.queries():
        if query.dashboard == "hvtrace-fleet":
            assert used(query.expr) <= few | records, query


def test_links_lead_to_dashboards_with_variables_that_they_have() -> None:
    links = re.findall(r'"url": "([^"]+)"', "".join(map(json.dumps, DASHBOARDS.values())))
    assert len(links) >= 4
    for link in links:
        found = re.fullmatch(r"/d/([\w-]+)\?(.+)", link)
        assert found, link
        names = {one["name"] for one in DASHBOARDS[found[1]]["templating"]["list"]}
        given = re.findall(r"\$\{(\w+):queryparam\}|var-(\w+)=", found[2])
        assert {one or other for one, other in given} <= names
        assert "${__url_time_range}" in found[2]


@pytest.mark.parametrize("dashboard", DASHBOARDS.values(), ids=DASHBOARDS)
def test_variables(dashboard: dict[str, Any]) -> None:
    listed = dashboard["templating"]["list"]
    names = [one["name"] for one in listed]
    assert names[:2] == ["datasource", "job"]
    text = json.dumps(dashboard["panels"])
    for place, one in enumerate(listed[1:], 1):
        assert one["label"]
        assert f"${one['name']}" in text
        # It may depend on those before it only.
        assert set(re.findall(r"\$(\w+)", one["query"])) <= set(names[:place])
        if one["multi"]:
            assert (one["allValue"], one["current"]["value"]) == (".+", "$__all")


def test_queries_parse(tmp_path: Path) -> None:
    """By promtool: each as a rule, with its variables filled in."""
    filled = [queries.fill_in(query.expr, job="lab") for query in queries.queries()]
    assert not any("$" in expr for expr in filled)
    assert any('job=~"lab",instance=~".+"' in expr for expr in filled)
    rules = [{"record": f"q{number}", "expr": expr} for number, expr in enumerate(filled)]
    path = tmp_path / "all.yml"
    path.write_text(json.dumps({"groups": [{"name": "all", "rules": rules}]}))  # JSON is YAML
    done = subprocess.run(
        ["promtool", "check", "rules", path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_a_variable_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        queries.fill_in('up{job=~"$jbo"}')


def test_what_may_be_empty_says_why() -> None:
    empty = {(query.panel, query.ref): query.may_be_empty for query in queries.queries()}
    assert empty["Service times", "native"] == "the histograms are classic"
    assert empty["Round trips", "trip99"] == "Empty where the exporter runs without --round-trip"
    assert empty["Calls by code", "A"] is None
    assert sum(why is None for why in empty.values()) > len(empty) / 2
