"""Runs of pytest elsewhere: their lines, their reports, the last words on them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

from hvtrace.lab.front import Front

WIDTH = 80


class Lines(Front):
    """Shows whole lines, each behind a name: several VMs talk at once.

    Args:
        name: goes before each line.
        out: where to.
    """

    def __init__(self, name: str, out: TextIO) -> None:
        super().__init__(self._add)
        self._name = name
        self._out = out
        self._rest = b""

    def _add(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._put(line)

    def _put(self, line: bytes) -> None:
        # One write for one line, so that two threads never mix theirs.
        self._out.write(f"{self._name}{line.decode(errors='replace').rstrip()}\n")
        self._out.flush()

    def release(self) -> None:
        """The VM is gone: show what had no end of line."""
        if self._rest:
            self._put(self._rest)
            self._rest = b""


@dataclass(frozen=True)
class Outcome:
    """The tests of one folder under one kernel.

    Attributes:
        passed: how many did.
        bad: those that failed, could not run or were skipped: (test, first line of why).
        problem: why there is no report, or why a run without bad tests is not good.
        title, seconds: which run this was, and what it took.
    """

    passed: int = 0
    bad: tuple[tuple[str, str], ...] = ()
    problem: str = ""
    title: str = ""
    seconds: float = 0.0

    @property
    def is_good(self) -> bool:
        return self.passed > 0 and not self.bad and not self.problem

    def titled(self, title: str, seconds: float) -> Outcome:
        return replace(self, title=title, seconds=seconds)


def read_report(file: Path, status: int) -> Outcome:
    """A JUnit report of pytest, beside the status that pytest ended with.

    A skipped test is a bad one: here nothing is optional.
    """
    if not file.exists():
        return Outcome(problem=f"pytest ended with status {status} and left no report")
    cases = list(ET.parse(file).iter("testcase"))
    bad = tuple(
        (f"{case.get('classname')}::{case.get('name')}", _why(child))
        for case in cases
        for child in case
        if child.tag in {"failure", "error", "skipped"}
    )
    problem = ""
    if not cases:
        problem = "no test was found"
    elif status and not bad:
        problem = f"pytest ended with status {status}"
    return Outcome(passed=len(cases) - len({test for test, _ in bad}), bad=bad, problem=problem)


def _why(child: ET.Element) -> str:
    lines = (child.get("message") or child.text or "no reason given").strip().splitlines()
    return f"{'skipped: ' if child.tag == 'skipped' else ''}{lines[0]}"


def summary(outcomes: Sequence[Outcome], seconds: float) -> tuple[str, bool]:
    """The last words on all runs, which took that long together; whether every one is good."""
    lines = ["", " real hypercalls ".center(WIDTH, "=")]
    for one in outcomes:
        counts = f"{one.passed} passed" + (f", {len(one.bad)} not" if one.bad else "")
        verdict = "ok  " if one.is_good else "FAIL"
        lines.append(f"{verdict} {one.title:<42} {counts:<18} {one.seconds:5.0f} s")
        if one.problem:
            lines.append(f"     {one.problem}")
        lines += [f"     {test}\n       {why}" for test, why in one.bad]
    is_good = bool(outcomes) and all(one.is_good for one in outcomes)
    passed = sum(one.passed for one in outcomes)
    bad = sum(len(one.bad) or (not one.is_good) for one in outcomes)
    total = f"{f'{bad} failed, ' if bad else ''}{passed} passed in {seconds:.0f} s"
    lines.append(f" {total} ".center(WIDTH, "="))
    return "\n".join(lines), is_good
