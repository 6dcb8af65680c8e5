"""Rules on native histograms: only a new promtool can write such input."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from hvtrace.lab.progress import Progress
from tests.prometheus import package

ROOT = Path(__file__).parents[2]
RULES = sorted(ROOT.glob("grafana/rules/*.yml"))
TESTS = sorted(ROOT.glob("tests/unit/*.test.yml"))


@pytest.mark.parametrize("suite", package.SUITES)
def test_rules_are_rules(suite: str) -> None:
    promtool = package.find(suite, Progress()).promtool
    command = [promtool, "check", "rules", *RULES]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.name)
def test_each_does_what_it_should_in_the_newest(file: Path) -> None:
    promtool = package.find("sid", Progress()).promtool
    command = [promtool, "test", "rules", file]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout
