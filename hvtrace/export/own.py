"""What the exporter says of its own two processes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from prometheus_client import ProcessCollector

from hvtrace.export.families import Family, from_metrics


def own(refused: Counter[str]) -> Iterator[Family]:
    """For the process that serves, whose parent is the keeper: memory, CPU time, refusals.

    `refused` counts clients by reason.
    """
    yield Family(
        "hvtrace_http_refused",
        "counter",
        "Clients that were refused or cut off, by reason.",
        ("reason",),
        [(reason,) for reason in refused],
        list(refused.values()),
    )
    yield from from_metrics(ProcessCollector(registry=None).collect())
    keeper = ProcessCollector("hvtrace_keeper", os.getppid, registry=None)
    yield from from_metrics(keeper.collect())
