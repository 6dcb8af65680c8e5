"""A fleet of simulated hosts and one real Prometheus: what it costs to watch them all.

    python -m benchmarks.fleet [--hosts 200] [--minutes 3] [--write]

Hosts are simulated up to their counters (hosts.py). From there on all is real: collector,
encoders, HTTP server, and a Prometheus that scrapes each host, with the rules and the queries
of the dashboard. Once with classic histograms, once with native ones. What Prometheus has in
the end must be what the hosts have counted, to the last call.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import __main__ as bench
from benchmarks import fleet_page
from benchmarks.hosts import SimulatedHost
from benchmarks.results import Results
from benchmarks.simulation import FORMS, SCRAPE_SECONDS, Fleet, watched
from hvtrace.errors import HvtraceError
from hvtrace.lab.progress import Progress
from tests.prometheus import package
from tests.prometheus.package import Package
from tests.prometheus.server import Prometheus

MOST_BYTES = 12 << 30  # of Prometheus' memory
RUNS, POINTS = 3, 720  # of each query: what Grafana asks for to show six hours, a value each 30 s
# Bytes on disk, from a few hosts whose clocks run as fast as they are scraped more often.
DISK_HOSTS, DISK_SECONDS, DISK_SPEED = 3, 130, SCRAPE_SECONDS


def own_metrics(prometheus: Prometheus) -> dict[str, float]:
    """What Prometheus says of itself: sums over labels, and NAME/LABEL where one is of interest."""
    with urllib.request.urlopen(f"{prometheus.url}/metrics", timeout=60) as response:
        text = response.read().decode()
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
            if group := sample.labels.get("rule_group"):
                found[f"{sample.name}/{group.partition(';')[2]}"] = sample.value
    return found


def measure(
    fleet: Fleet, prometheus: Prometheus, seconds: float, scrape_seconds: float = SCRAPE_SECONDS
) -> dict[str, float]:
    """{measure: value} of so many seconds in which nobody asks Prometheus anything."""
    before, cpu, machine = own_metrics(prometheus), time.process_time(), _busy_seconds()
    began = time.monotonic()
    while (left := began + seconds - time.monotonic()) > 0:
        time.sleep(min(left, 5))
        resident = own_metrics(prometheus)["process_resident_memory_bytes"]
        if resident > MOST_BYTES:
            raise HvtraceError(f"Prometheus takes {resident / 1e9:.1f} GB: too many hosts for here")
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    after, machine = own_metrics(prometheus), _busy_seconds() - machine
    scraped = prometheus.value("sum(scrape_samples_scraped)")
    recorded = 'count({__name__=~"[a-z_]+:hvtrace_.+|hvtrace:.+|ALERTS.*"})'
    samples = "prometheus_tsdb_head_samples_appended_total"
    watching = after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
    groups = "prometheus_rule_group_last_duration_seconds/"
    hosts = len(fleet.hosts)
    return {
        "series of a host": scraped / hosts,
        "series of all hosts": scraped,
        "series of rules": prometheus.value(recorded),
        "series in the head": after["prometheus_tsdb_head_series"],
        "samples a second": (after[samples] - before[samples]) / took,
        "Prometheus, resident, GB": after["process_resident_memory_bytes"] / 1e9,
        "Prometheus, of one CPU, %": watching / took * 100,
        "serving, of one CPU, %": cpu / took * 100,
        "serving, CPU ms of a scrape": cpu / (took / scrape_seconds * hosts) * 1e3,
        "others here, of one CPU, %": (machine - watching - cpu) / took * 100,
        "a scrape, ms": prometheus.value("avg(avg_over_time(scrape_duration_seconds[5m]))") * 1e3,
        "the longest scrape, ms": prometheus.value(
            "max(max_over_time(scrape_duration_seconds[5m]))"
        )
        * 1e3,
        **{
            f"rules, {name.removeprefix(groups)}, s": value
            for name, value in after.items()
            if name.startswith(groups)
        },
        "missed rule evaluations": after.get("prometheus_rule_group_iterations_missed_total", 0.0),
    }


def _busy_seconds() -> float:
    """CPU time of everything on this machine since its start: proc_stat(5)."""
    words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq = map(int, words[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def sizes(fleet: Fleet, form: str) -> dict[str, float]:
    """Bytes of one host's scrape, as it is and as it goes over the wire."""
    accept = {
        "classic": "application/openmetrics-text;version=1.0.0",
        "native": "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;"
        "encoding=delimited",
    }[form]
    found = {}
    for what, encoding in (("a scrape, kB", "identity"), ("a scrape, gzip, kB", "gzip")):
        headers = {"Accept": accept, "Accept-Encoding": encoding}
        request = urllib.request.Request(next(iter(fleet.urls.values())), headers=headers)
        with urllib.request.urlopen(request, timeout=60) as response:
            found[what] = len(response.read()) / 1e3
    return found


def check_truth(
    fleet: Fleet, prometheus: Prometheus, form: str, scrape_seconds: float = SCRAPE_SECONDS
) -> None:
    """Stop all counters: what Prometheus scrapes then must be all that was counted.

    Raises HvtraceError where it is not.
    """
    fleet.freeze()
    time.sleep(2 * scrape_seconds + 1)
    histogram = "hvtrace_hypercall_duration_seconds"
    completed = {
        "classic": f"sum({histogram}_count)",
        "native": f"histogram_count(sum({histogram}))",
    }[form]
    found = {
        "calls": prometheus.value("sum(hvtrace_hypercalls_total)"),
        "completed": prometheus.value(completed),
        "failed": prometheus.value("sum(hvtrace_hypercall_failures_total) or vector(0)"),
    }
    if found != fleet.calls() or fleet.said:
        raise HvtraceError(f"Prometheus has {found}, hosts {fleet.calls()} {fleet.said[:3]}")


def query_times(
    prometheus: Prometheus, queries: dict[str, str], minutes: float
) -> dict[str, float]:
    """Milliseconds of each query, as its client sees it: median of some runs.

    All are asked for so many values over all of the time that there is. Raises HvtraceError where
    one has no data.
    """
    found = {}
    for name, query in queries.items():
        end = time.time()
        asked = {
            "query": query,
            "start": f"{end - minutes * 60:.3f}",
            "end": f"{end:.3f}",
            "step": f"{minutes * 60 / POINTS:.3f}",
        }
        times = []
        for _ in range(RUNS):
            began = time.perf_counter()
            answer = prometheus.get("query_range", **asked)
            times.append((time.perf_counter() - began) * 1e3)
        found[name] = statistics.median(times)
        if not answer["result"] and "empty is good" not in name:
            raise HvtraceError(f"no data for {name}: {query}")
    return found


def disk(which: Package, folder: Path, seconds: float = DISK_SECONDS) -> dict[str, float]:
    """{"FORM/measure": value}: what blocks on disk take, from a block made of the head."""
    found: dict[str, float] = {}
    with ExitStack() as stack:
        servers = {}
        for form in FORMS:
            clock = partial(_fast, time.time())
            hosts = [SimulatedHost(seed, clock=clock) for seed in range(DISK_HOSTS)]
            fleet = stack.enter_context(Fleet(hosts))
            every = SCRAPE_SECONDS // DISK_SPEED
            servers[form] = stack.enter_context(
                watched(fleet, which, folder / form, form, scrape_seconds=every)
            )
        time.sleep(seconds)
        for form, prometheus in servers.items():
            url = f"{prometheus.url}/api/v1/admin/tsdb/snapshot"
            with urllib.request.urlopen(urllib.request.Request(url, method="POST")) as response:
                name = json.load(response)["data"]["name"]
            [block] = (folder / form / "data" / "snapshots" / name).iterdir()
            counts = json.loads((block / "meta.json").read_text())["stats"]
            chunks = sum(file.stat().st_size for file in (block / "chunks").iterdir())
            index = (block / "index").stat().st_size
            found[f"{form}/samples of a series"] = counts["numSamples"] / counts["numSeries"]
            found[f"{form}/bytes of a sample"] = chunks / counts["numSamples"]
            found[f"{form}/bytes of a series in the index"] = index / counts["numSeries"]
    return found


def _fast(began: float) -> float:
    return began + (time.time() - began) * DISK_SPEED


def run(hosts: int, minutes: float) -> Results:
    """All of it. Raises HvtraceError where something is not true, or too large."""
    which = package.find(package.SUITES[-1], Progress(sys.stderr))
    queries = fleet_page.fleet_queries()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="hvtrace-fleet-") as scratch:
        for form in FORMS:
            fleet = Fleet([SimulatedHost(seed) for seed in range(hosts)])
            folder = Path(scratch) / form
            with fleet, watched(fleet, which, folder, form) as prometheus:
                found = measure(fleet, prometheus, minutes * 60) | sizes(fleet, form)
                times = query_times(prometheus, queries, minutes)
                resident = own_metrics(prometheus)["process_resident_memory_bytes"]
                found["Prometheus, resident after queries, GB"] = resident / 1e9
                figures |= {f"fleet/{form}/{name}": value for name, value in found.items()}
                figures |= {f"queries/{form}/{name}": value for name, value in times.items()}
                check_truth(fleet, prometheus, form)
            shutil.rmtree(folder)
        found = disk(which, Path(scratch))
        figures |= {f"disk/{name}": value for name, value in found.items()}
    machine = bench.machine()
    about = {name: machine[name] for name in ("CPU", "kernel", "Python")}
    about["Prometheus"] = which.version
    about["hosts"] = f"{hosts}, each scraped every {SCRAPE_SECONDS} s, for {minutes:g} minutes"
    return Results(time.strftime("%Y-%m-%d"), about, figures)


@click.command()
@click.option("--hosts", type=click.IntRange(1, 1000), default=200, show_default=True)
@click.option("--minutes", type=click.FloatRange(2.5, 60), default=3.0, show_default=True)
@click.option("--write", is_flag=True, help="Put the figures into docs/fleet.md and .json.")
def main(hosts: int, minutes: float, write: bool) -> None:
    """Simulated hosts and a real Prometheus: prints what it measured, as Markdown and JSON."""
    results = run(hosts, minutes)
    print("\n".join(fleet_page.measured(results)))
    print(results.to_json(), end="")
    if write:
        fleet_page.write(results)


if __name__ == "__main__":
    try:
        main()
    except HvtraceError as error:
        sys.exit(f"hvtrace: {error}")
