"""Series of a host, by arithmetic, and the tables of docs/fleet.md. Pure but for its files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import page
from benchmarks.gates import number
from benchmarks.results import Results, from_json, part
from hvtrace.export.families import BOUNDS

DOCS = Path(__file__).parents[1] / "docs"
PAGE, KEPT = DOCS / "fleet.md", DOCS / "fleet.json"
DASHBOARD = DOCS.parent / "grafana" / "dashboards" / "hvtrace-fleet.json"
HOSTS, SCRAPE_SECONDS, DAYS = 1_000, 15, 15

HISTOGRAM = {"classic": len(BOUNDS) + 2, "native": 1}
"""Series of one histogram: buckets, count and sum; or all in one."""
OF_HOST = 49
"""hvtrace's own: losses, limits, refusals, programs, two processes, up, what runs here."""
OF_TARGET = 5
"""Prometheus' own for each target: up and four about the scrape."""
BLOCKS_A_DAY = 12  # of Prometheus' data, before larger ones are made of them


class Shape(NamedTuple):
    """How many things a host has that have series of their own."""

    vms: int
    calls: int  # (vm, code)
    variants: int  # (vm, code, fast, handler)
    verdicts: int  # (vm, code, verdict)
    failures: int = 0  # (vm, code, status)
    vcpus: int = 0  # with --vcpus
    histograms: int = 1  # of each variant: 2 with --round-trip

    def series(self, form: str) -> int:
        """What the exporter serves: the formula of docs/fleet.md."""
        of_variant = 1 + self.histograms * HISTOGRAM[form]
        of_call = 3 * self.calls + self.verdicts + self.failures
        return self.variants * of_variant + of_call + self.vms + self.vcpus + OF_HOST


def typical(vms: int, codes: int) -> Shape:
    """A host as the simulated ones: one code in seven is made fast and in memory."""
    calls = vms * codes
    both = calls // 7
    return Shape(vms, calls, calls + both, calls + both, vms)


SHAPES = {
    "20 VMs x 10 codes": typical(20, 10),
    "50 VMs x 10 codes": typical(50, 10),
    "100 VMs x 10 codes": typical(100, 10),
    "20 VMs x 30 codes": typical(20, 30),
    "20 VMs x 10 codes, --round-trip": typical(20, 10)._replace(histograms=2),
}


def cardinality() -> list[str]:
    """Series of a host and of a thousand."""
    rows = []
    for name, shape in SHAPES.items():
        each = [shape.series(form) for form in HISTOGRAM]
        all_ = [HOSTS * (series + OF_TARGET) for series in each]
        rows.append(
            [
                name,
                *(f"{series:,}" for series in each),
                *(f"{series / 1e6:.2f} M" for series in all_),
                *(f"{series / SCRAPE_SECONDS / 1e3:,.0f} k" for series in all_),
            ]
        )
    head = ["a host", "classic", "native", f"{HOSTS:,} hosts, classic", "native"]
    return page.table([*head, "samples/s, classic", "native"], rows)


def estimates(results: Results) -> list[str]:
    """What one Prometheus for a thousand such hosts would take, in proportion to the run."""
    forms = part(results.figures, "fleet")
    disk = part(results.figures, "disk")
    rows: dict[str, list[float]] = {}
    for form, found in forms.items():
        more = HOSTS * found["series of a host"] / found["series of all hosts"]
        series = more * found["series in the head"]
        samples = more * found["samples a second"]
        on_disk = (
            samples * 86_400 * disk[form]["bytes of a sample"]
            + series * BLOCKS_A_DAY * disk[form]["bytes of a series in the index"]
        )
        for what, value in {
            "series, M": series / 1e6,
            "samples a second, k": samples / 1e3,
            "resident, GB": more * found["Prometheus, resident, GB"],
            "CPUs, without queries": more * found["Prometheus, of one CPU, %"] / 100,
            f"disk for {DAYS} days, GB, at most": DAYS * on_disk / 1e9,
        }.items():
            rows.setdefault(what, []).append(value)
    head = [f"{HOSTS:,} hosts, one Prometheus", *forms]
    return page.table(head, [[what, *map(number, values)] for what, values in rows.items()])


def measured(results: Results) -> list[str]:
    """The tables of a run."""
    lines = [f"- {what}: {text}" for what, text in results.machine.items()]
    return [
        f"One run of {results.date}:",
        "",
        *lines,
        "",
        *page.subjects(results.figures, "fleet"),
        *page.subjects(results.figures, "disk"),
        *estimates(results),
        "Milliseconds of each query of the *Fleet* dashboard, 720 values each:",
        "",
        *page.subjects(results.figures, "queries"),
    ]


def fleet_queries() -> dict[str, str]:
    """Each query of the *Fleet* dashboard for all jobs and hosts, by its panel's title."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = {}
    for panel in _panels(dashboard["panels"]):
        targets = panel.get("targets", ())
        for target in targets:
            title = f"{panel['title']}, {target['refId']}" if len(targets) > 1 else panel["title"]
            windows = re.sub(r"\$__(rate_interval|range)\b", "5m", target["expr"])
            found[title] = re.sub(r"\$\w+", ".*", windows)
    return found


def _panels(panels: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels", ()))


def write(results: Results) -> None:
    """Put a run into docs/fleet.md, and keep it beside it."""
    KEPT.write_text(results.to_json(), encoding="utf-8")
    kept = from_json(results.to_json()) or results  # the page is of what is kept: rounded
    text = PAGE.read_text(encoding="utf-8")
    text = with_block(text, "cardinality", cardinality())
    PAGE.write_text(with_block(text, "measured", measured(kept)), encoding="utf-8")


def with_block(text: str, name: str, lines: Sequence[str]) -> str:
    """`text` with `lines` between the marks of this name, which must be there."""
    marks = re.compile(rf"(<!-- {name}: .*?-->\n).*?(<!-- end of {name} -->)", re.S)
    inside = "\n".join(lines).rstrip("\n")
    found, count = marks.subn(lambda mark: f"{mark[1]}\n{inside}\n\n{mark[2]}", text)
    if count != 1:
        raise ValueError(f"{PAGE.name} has {count} blocks {name}")
    return found
