"""The exporter's own two processes: what they say, and what they give back."""

from __future__ import annotations

import ctypes
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

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


def say(text: str) -> None:
    """A line for the log. Who reads it may have gone: that is no reason to end."""
    with suppress(OSError):
        print(f"hvtrace: {text}", file=sys.stderr, flush=True)


def trim() -> None:
    """Give back what a scrape took for a moment: glibc would keep the megabytes."""
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
