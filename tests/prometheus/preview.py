"""Previews of the dashboards, from the answers of a real Prometheus to every query of them.

    python -m tests.prometheus.preview FOLDER [SECONDS]

A VM with real guests runs for some minutes and a Prometheus scrapes its exporter, and some
simulated hosts beside it, so that there is a fleet. FOLDER gets pages and pictures of the second
half of that time: before, rules that look back five minutes see a beginning. There are pages of
each scrape job: native histograms ("hvtrace") and classic ones ("text"). What was scraped stays
in FOLDER, too: the next time all is drawn without a VM, which is how a dashboard that has changed
is looked at again. Pictures need chromium and pngquant.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.hosts import SimulatedHost
from benchmarks.simulation import Fleet, free_port
from grafana import preview, queries
from hvtrace.lab.progress import Progress
from tests.prometheus import package
from tests.prometheus.scene import NATIVE, set_up
from tests.prometheus.server import Prometheus, running

SECONDS = 540.0
HOSTS, VMS, CODES = 11, 3, 10
# From the last of the guests' calls until the scene is complete: VMs end, two scrapes are made.
AFTER_SECONDS = 13.0
STEP_SECONDS = 5  # a scrape
WINDOW = "20s"  # Grafana's $__rate_interval: four scrapes
SERVER, JOBS = "3", ("hvtrace", "text")  # of scene.py
CHOSEN = {
    "hvtrace-fleet": {},
    "hvtrace-host": {"instance": "lab"},
    "hvtrace-vm": {"instance": "lab", "vm": "web-0"},
    "hvtrace-itself": {"instance": "lab"},
}
WIDTH = 1400


def record(folder: Path, seconds: float) -> None:
    """Let it all happen; when that was is in FOLDER/span.json."""
    with Fleet([SimulatedHost(seed, VMS, CODES) for seed in range(HOSTS)]) as simulated:
        others = {
            f"simulated-{number:02}": url.removeprefix("http://").removesuffix("/metrics")
            for number, url in enumerate(simulated.urls.values(), 1)
        }
        inside = ("tests.prometheus.day", str(seconds))
        with set_up(folder, inside, seconds + 300, others, (SERVER,)):
            end = time.time() - AFTER_SECONDS
    (folder / "span.json").write_text(json.dumps([end - seconds / 2, end]))


def draw(folder: Path, server: Prometheus, job: str, start: float, end: float) -> None:
    """A page and a picture of each dashboard, in FOLDER."""
    folder.mkdir(exist_ok=True)
    times = [start + STEP_SECONDS * i for i in range(round((end - start) / STEP_SECONDS) + 1)]
    for dashboard in queries.dashboards():
        uid = dashboard["uid"]
        chosen = {"job": job, **CHOSEN[uid]}
        found = dict(_ask(server, uid, chosen, times))
        source = f"answers of Prometheus {server.package.version}"
        answers = preview.Answers(times, found, source, chosen)
        page = folder / f"{uid}.html"
        page.write_text(preview.page(dashboard, answers))
        _photograph(page, preview.height(dashboard))


def _ask(
    server: Prometheus, uid: str, chosen: dict[str, str], times: list[float]
) -> Iterator[tuple[tuple[str, str], list[Any]]]:
    span = {"start": str(times[0]), "end": str(times[-1]), "step": str(STEP_SECONDS)}
    for query in queries.queries():
        if query.dashboard == uid:
            expression = queries.fill_in(query.expr, WINDOW, **chosen)
            if query.kind == "instant":
                found = server.get("query", query=expression, time=span["end"])
            else:
                found = server.get("query_range", query=expression, **span)
            yield (query.panel, query.ref), found["result"]


def _photograph(page: Path, height: int) -> None:
    command = ["chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"]
    picture = page.with_suffix(".png")
    size = f"--window-size={WIDTH},{height}"
    subprocess.run(
        [*command, size, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True
    )
    subprocess.run(["pngquant", "--force", "--output", picture, "64", picture], check=True)


def main() -> None:
    """Record, if that has not been done, and draw."""
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "span.json").exists():
        record(folder, float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS)
    span = json.loads((folder / "span.json").read_text())
    which = package.find(package.SUITES[-1], Progress(sys.stderr))
    with running(which, folder / SERVER, "global: {}\n", free_port(), NATIVE) as server:
        for job in JOBS:
            draw(folder / job, server, job, *span)


if __name__ == "__main__":
    main()
