"""What one run measured, as it is kept in docs/benchmarks.json, and how two runs compare. Pure.

The file, schema 1:

    {"schema": 1,
     "date": "2026-11-22",
     "machine": {what: text},        # CPU, kernels, versions: whatever a figure may depend on
     "figures": {name: number}}

A figure's name is "part/subject/measure": "native/textbook/ns", "native/hvtrace: memory
call/of floor", "vm trixie/perf record/unknown code" (instructions added to that call, or for
the subject "nothing": of the call itself), "process/hvtrace stat/resident, MiB". Ratios
(measures that begin with "of", and "ratio") and instructions depend on the code alone, nearly;
all other figures depend on the machine, too, and are not compared.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Results:
    """One run: its date (ISO), what it ran on, and its figures by name."""

    date: str
    machine: dict[str, str]
    figures: dict[str, float]

    def to_json(self) -> str:
        """As it is kept: four significant digits more than anybody needs, one figure a line."""
        kept = asdict(self) | {"figures": {k: round(v, 4) for k, v in self.figures.items()}}
        return json.dumps({"schema": SCHEMA, **kept}, indent=1) + "\n"


def from_json(text: str) -> Results | None:
    """A run that was kept; None where it has another schema, and so cannot be compared."""
    found = json.loads(text)
    if found.get("schema") != SCHEMA:
        return None
    return Results(found["date"], found["machine"], found["figures"])


def part(figures: Mapping[str, float], name: str) -> dict[str, dict[str, float]]:
    """The figures of a part: {subject: {measure: value}}, in the order of the run."""
    found: dict[str, dict[str, float]] = {}
    for key, value in figures.items():
        where, subject, measure = key.split("/")
        if where == name:
            found.setdefault(subject, {})[measure] = value
    return found


def is_comparable(name: str) -> bool:
    """Whether a figure says something about the code on whatever machine it was measured."""
    where, _, measure = name.split("/")
    return where.startswith("vm ") or measure.startswith("of ") or measure == "ratio"


@dataclass(frozen=True, slots=True)
class Change:
    """A figure in two runs; None where a run has none of this name."""

    name: str
    then: float | None
    now: float | None

    @property
    def percent(self) -> float | None:
        """By how much it grew; None where that cannot be said."""
        if self.then is None or self.now is None or (not self.then and self.now):
            return None
        return (self.now / self.then - 1) * 100 if self.then else 0.0


def changes(then: Results, now: Results) -> list[Change]:
    """Every comparable figure of either run: this run's first, in its order."""
    names = dict.fromkeys([*now.figures, *then.figures])
    return [
        Change(name, then.figures.get(name), now.figures.get(name))
        for name in names
        if is_comparable(name)
    ]


def other_machine(then: Results, now: Results) -> list[str]:
    """What is not the same about what the two ran on, a line each."""
    names = dict.fromkeys([*now.machine, *then.machine])
    return [
        f"{name}: then {then.machine.get(name, 'none')}, now {now.machine.get(name, 'none')}"
        for name in names
        if then.machine.get(name) != now.machine.get(name)
    ]
