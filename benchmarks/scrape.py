"""A scrape of the exporter: from the rows that its server gets to the bytes that Prometheus gets.

The two processes are the exporter's own, and so is all that is between them; what the keeper holds
is a simulated host, and the server writes for nobody. Between two scrapes the guests have made
calls for 15 seconds, so nearly all numbers change. Milliseconds are CPU time, the least of several
times: what disturbs only adds. The server gets its rows rolled up: what that takes is the keeper's,
and a figure of its own.
"""

from __future__ import annotations

import gc
import gzip
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from multiprocessing.connection import Connection

import numpy as np
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from benchmarks import memory
from hvtrace.export.collector import SourceCollector
from hvtrace.export.formats import render
from hvtrace.export.keeper import Front, RemoteSource
from hvtrace.export.own import trim
from hvtrace.stats.snapshot import Snapshot, rollup

SIZES = (100, 500)
CODES, VCPUS = 10, 16
SCRAPES, STOCK_SCRAPES = 15, 3
INTERVAL_SECONDS = 15.0
FORMATS = {
    "native": "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;"
    "encoding=delimited",
    "text": "",
    "OpenMetrics": "application/openmetrics-text;version=1.0.0",
}

Figures = dict[str, float]


def figures() -> Figures:
    """{"scrape/100 VMs x 10 calls/text, ms": ...}: CPU milliseconds of a scrape, and its size."""
    found = {}
    for vms in SIZES:
        command = [sys.executable, "-m", "benchmarks.scrape", str(vms)]
        out = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        for measure, value in json.loads(out).items():
            found[f"scrape/{vms} VMs x {CODES} calls/{measure}"] = value
    return found


def keep(vms: int) -> Figures:
    """{measure: value} of so many VMs. A process can do this once, and before all else."""
    results, result = os.pipe()
    with Front(partial(serve, result), None, (result,)) as front:
        from benchmarks.hosts import SimulatedHost  # not in the server: it is half of its size

        source = SimulatedHost(7, vms, CODES, clock=count(1e9, INTERVAL_SECONDS).__next__)
        front.begin(source)
        while results not in select.select([front, results], [], [])[0]:
            front.answer(source)
        with os.fdopen(results) as file:
            found: Figures = json.loads(file.readline())
        return found | rolling_up(rollup(source.snapshot()))


def serve(result: int, keeper: Connection) -> None:
    """What the server does with what it gets, again and again; figures go to `result`."""
    collector = SourceCollector(RemoteSource(keeper), print)

    def scrape(accept: str) -> bytes:
        body = render(collector.families(), accept)[1]
        trim()  # as the exporter does
        return body

    found = _formats(scrape)
    registry = CollectorRegistry()
    registry.register(collector)
    for name, write in {"text": generate_latest, "OpenMetrics": generate_openmetrics}.items():
        times = [_ms(partial(write, registry)) for _ in range(STOCK_SCRAPES)]
        found[f"{name} by prometheus-client, ms"] = min(times)
    os.write(result, json.dumps(found).encode() + b"\n")


def _formats(scrape: Callable[[str], bytes]) -> Figures:
    """Each format, and what the process holds then."""
    found: Figures = {}
    for name, accept in FORMATS.items():
        found[f"{name}: the first, ms"] = _ms(partial(scrape, accept))
        times = [_ms(partial(scrape, accept)) for _ in range(SCRAPES)]
        found[f"{name}, ms"] = min(times)
        found[f"{name}, MiB"] = len(scrape(accept)) / memory.MIB
    found |= memory.resident(os.getpid())
    body = scrape("")
    found["text: lines"] = body.count(b"\n")
    times = [_ms(partial(gzip.compress, body, 1)) for _ in range(SCRAPES)]
    found["text: gzip, level 1, ms"] = min(times)
    found["text: gzip, MiB"] = len(gzip.compress(body, 1)) / memory.MIB
    return found


def rolling_up(rolled: Snapshot) -> Figures:
    """What the keeper does with a row for each vCPU thread."""
    rows = np.repeat(rolled.rows, VCPUS)
    rows["tid"] = np.tile(np.arange(1000, 1000 + VCPUS), len(rolled.rows))
    rows = rows[np.random.default_rng(7).permutation(len(rows))]
    snapshot = Snapshot(0.0, 0, rolled.vms, rows, rolled.statuses)
    times = [_ms(partial(rollup, snapshot)) for _ in range(SCRAPES)]
    return {"keeper: rows": len(rows), "keeper: rolling them up, ms": min(times)}


def _ms(work: Callable[[], object]) -> float:
    gc.collect()
    begin = time.process_time()
    work()
    return (time.process_time() - begin) * 1e3


if __name__ == "__main__":
    print(json.dumps(keep(int(sys.argv[1]))))
