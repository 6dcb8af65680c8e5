"""The live view as text: a table or a JSON object for each interval. No Textual in here."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from typing import TextIO

from hvtrace.stats import report, table
from hvtrace.stats.snapshot import Snapshot, Source, delta, rollup

POLL_SECONDS = 1.0
"""How often to look in longer intervals: VMs are to be known by name before they are gone."""


def run(
    source: Source,
    out: TextIO,
    *,
    interval_seconds: float,
    intervals: int | None,
    as_json: bool,
    nap: Callable[[float], bool],
    slow: bool = False,
) -> None:
    """Write a table, or a line of JSON, for each interval, and flush it.

    Ends after that many `intervals` (None: never), when `nap` (which sleeps so
    many seconds) says True, or when nobody reads `out` any more ("| head"). An
    interval of 0 does not wait. `slow`: the source was asked for slow calls.
    Raises RecordingEnded.
    """
    before = rollup(source.snapshot())
    due = time.monotonic()
    done = 0
    while intervals is None or done < intervals:
        due += interval_seconds
        while (left := due - time.monotonic()) > 0:
            if nap(min(left, POLL_SECONDS)):
                return
            if left > POLL_SECONDS:
                source.look()
        after = rollup(source.snapshot())
        counted, seconds = delta(before, after), _seconds(before, after)
        if as_json:
            # Not the time of `before`: recordings have gaps.
            start = after.time - seconds
            text = json.dumps(report.as_json(counted, source.kernel, start, seconds, slow=slow))
        else:
            text = _table(counted, seconds, out)
        try:
            out.write(f"{text}\n")
            out.flush()
        except BrokenPipeError:
            return
        before = after
        done += 1


def _table(counted: Snapshot, seconds: float, out: TextIO) -> str:
    terminal = out.isatty()
    width = max(80, shutil.get_terminal_size().columns) if terminal else 80
    color = terminal and "NO_COLOR" not in os.environ
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(counted.time))
    return f"{clock}\n{table.render(counted, seconds, width, color)}"


def _seconds(before: Snapshot, after: Snapshot) -> float:
    return (after.monotonic_ns - before.monotonic_ns) / 1e9
