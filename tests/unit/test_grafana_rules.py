"""Recording rules and alerts: by Prometheus' own tool, and by our rules for them."""

from __future__ import annotations

import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RULES = sorted((ROOT / "grafana" / "rules").glob("*.yml"))
LIMIT = re.compile(r"hvtrace:limit:\w+")


def rules(path: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load(path.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


EVERY = [rule for path in RULES for rule in rules(path)]
ALERTS = [rule for rule in EVERY if "alert" in rule]
TESTS = sorted(path.name for path in HERE.glob("*.test.yml"))


def promtool(*arguments: str) -> str:
    done = subprocess.run(
        ["promtool", *arguments], cwd=HERE, capture_output=True, text=True, check=False
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


def test_promtool_finds_nothing_in_the_rules() -> None:
    assert len(RULES) == 3
    said = promtool("check", "rules", "--lint=all", "--lint-fatal", *map(str, RULES))
    assert f"{len(ALERTS)} rules found" in said


@pytest.mark.parametrize("name", TESTS)
def test_promtool_agrees(name: str) -> None:
    promtool("test", "rules", name)


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    fires, quiet = set(), set()
    for name in TESTS:
        for test in yaml.safe_load((HERE / name).read_text())["tests"]:
            for case in test.get("alert_rule_test", ()):
                (fires if case.get("exp_alerts") else quiet).add(case["alertname"])
    assert fires == quiet == {rule["alert"] for rule in ALERTS}


def test_every_record_is_seen() -> None:
    tests = yaml.safe_load((HERE / "records.test.yml").read_text())["tests"]
    seen = {case["expr"].partition("{")[0] for test in tests for case in test["promql_expr_test"]}
    (records,) = (path for path in RULES if path.name == "records.yml")
    assert seen == {rule["record"] for rule in rules(records)}


def test_every_limit_is_used_and_none_is_missing() -> None:
    limits = [rule for rule in EVERY if rule.get("record", "").startswith("hvtrace:limit:")]
    assert all(re.fullmatch(r"vector\([0-9.]+\)", limit["expr"]) for limit in limits)
    used = {name for rule in ALERTS for name in LIMIT.findall(rule["expr"])}
    assert used == {limit["record"] for limit in limits}


def test_each_limit_says_why() -> None:
    lines = (ROOT / "grafana/rules/limits.yml").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if "- record:" in line:
            assert before.lstrip().startswith("#"), line


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_alert_has_what_a_person_needs(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"Hvtrace[A-Z]\w+", rule["alert"])
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    # Thresholds are in limits.yml.
    assert set(re.findall(r"[<>=]=?\s*([0-9.]+)", rule["expr"])) <= {"0"}
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    assert "$labels" in notes["summary"]
    assert notes["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_runbook_has_a_section_for_each_alert_in_order() -> None:
    text = (ROOT / "docs/runbook.md").read_text()
    sections = re.findall(r"^### (.+?)\n\n\*(\w+)\*\.(.*?)(?=^##|\Z)", text, re.M | re.S)
    assert [(name, severity) for name, severity, _ in sections] == [
        (rule["alert"], rule["labels"]["severity"]) for rule in ALERTS
    ]
    for name, _, body in sections:
        for part in ("What it means", "Look", "Do", "No problem"):
            assert f"**{part}.**" in body, (name, part)


def test_runbook_names_limits_that_exist() -> None:
    named = set(LIMIT.findall((ROOT / "docs/runbook.md").read_text()))
    assert named
    assert named <= {rule.get("record") for rule in EVERY}
