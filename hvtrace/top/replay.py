"""A recording as a source: the lines that `hvtrace top --batch --json` wrote, one a snapshot."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from hvtrace.errors import HvtraceError
from hvtrace.hyperv.interface import Interface
from hvtrace.hyperv.statuses import STATUSES
from hvtrace.stats.histogram import LE_NS
from hvtrace.stats.report import SCHEMA
from hvtrace.stats.snapshot import (
    HANDLERS,
    NO_MIN,
    ROW,
    STATUS,
    TRIP,
    VERDICTS,
    Array,
    Lost,
    RecordingEnded,
    SlowCall,
    Snapshot,
    Vm,
    concat,
    empty,
    rollup,
    select,
)

MOST_LINE_BYTES = 1 << 27
"""What is longer is no line: one with all the slots there can be has half of it."""

FORGET_SECONDS = 3600.0
"""How long a VM that is not in the recording any more has a place in the snapshots."""

_MOST_SECONDS = 2.0**33  # from 1970, or of an interval: 64 bits hold it in ns

_BUCKET = {le_ns: index for index, le_ns in enumerate(LE_NS)}
_VERDICT = {name: index for index, name in enumerate(VERDICTS)}
_STATUS = {status.name: status.value for status in STATUSES.values()}


class Wrong(Exception):
    """What is wrong with a line."""


class Replay:
    """Cumulative snapshots from a file, or from a stream that is being written.

    An interval of them says what its line says; a VM that no line has any more is idle.
    For one thread; it waits where the stream does. What exits were (--evidence) is not kept.
    """

    interface = Interface()

    def __init__(self, path: Path) -> None:
        """Open it and read the first line. Raises HvtraceError."""
        self.kernel = ""
        self.slow = False
        """Whether slow calls were asked for."""
        self._path = path
        self._line = 0
        self._cut = ""  # what to say of the last line
        self._now_ns = 0  # the end of this line: all durations added up
        self._vms: list[Vm] = []
        self._seen_ns: list[int] = []  # of each of them: the end of its last line
        self._index: dict[tuple[object, ...], int] = {}
        self._total: Snapshot | None = None
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise HvtraceError(f"cannot read {path}: {error.strerror}") from None
        try:
            self._ahead = self._interval()
            if self._ahead is None:
                raise HvtraceError(f"{path} is empty: it has no line of hvtrace top --batch --json")
        except BaseException:
            self.close()
            raise

    def snapshot(self) -> Snapshot:
        """All counters up to the end of the next line; first, none at the first line's start.

        Raises RecordingEnded, and HvtraceError that names a line that is none.
        """
        if self._total is None:
            assert self._ahead is not None
            self._total = replace(empty(), time=self._ahead.time - self._ahead.monotonic_ns / 1e9)
            return self._total
        interval, self._ahead = self._ahead or self._interval(), None
        if interval is None:
            raise RecordingEnded(self._cut)
        self._total = self._forget(self._add(self._total, interval))
        return self._total

    def look(self) -> None:
        """Nobody comes or goes between two lines."""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _interval(self) -> Snapshot | None:
        """What the next line counted. None at the end."""
        text = b"\n"
        while text and not text.strip():
            try:
                text = self._file.readline(MOST_LINE_BYTES)
            except OSError as error:
                raise HvtraceError(f"cannot read {self._path}: {error.strerror}") from None
            self._line += 1
        if not text:
            return None
        try:
            return self._said(json.loads(text))
        except KeyError as error:
            raise self._error(f"it has no {error.args[0]!r}") from None
        except Wrong as error:
            raise self._error(str(error)) from None
        except (TypeError, AttributeError):
            raise self._error("it is not made as it should be") from None
        except (ValueError, RecursionError):
            if self._line > 1 and not text.endswith(b"\n") and len(text) < MOST_LINE_BYTES:
                self._cut = f"line {self._line} of {self._path} is cut off: it is left out"
                return None
            raise self._error("it is no JSON object") from None

    def _error(self, what: str) -> HvtraceError:
        hint = "replay what hvtrace top --batch --json wrote"
        return HvtraceError(f"{self._path}, line {self._line}: {what} ({hint})")

    def _said(self, line: Mapping[str, Any]) -> Snapshot:
        if line["schema"] != SCHEMA:
            raise Wrong(f"schema {line['schema']!r} is not this hvtrace's {SCHEMA}")
        calls = line["calls"]
        if any("buckets" not in call for call in calls):
            raise Wrong(f"no buckets in it: hvtrace {line['hvtrace']} was too old")
        start, seconds = _seconds(line["start"]), _seconds(line["duration_s"])
        self.kernel = _text(line["kernel"])
        self.slow = "slow" in line
        self._now_ns += round(seconds * 1e9)
        rows, statuses = _rows(calls, self._caller)
        return Snapshot(
            time=start + seconds,
            monotonic_ns=self._now_ns,
            vms=(),
            rows=rows,
            statuses=statuses,
            lost=Lost(**{name: _whole(line["lost"].get(name, 0)) for name in asdict(Lost())}),
            in_flight=_whole(line["in_flight"]),
            trips=_trips(calls) if any("round_trips" in call for call in calls) else _none(TRIP, 0),
            slow=tuple(self._slow(one) for one in line.get("slow", ())),
        )

    def _vm(self, said: Mapping[str, Any]) -> int:
        """Index of a VM. A pid that has got another name is another VM."""
        pid, fd = _whole(said["pid"], 2**31), said.get("fd")
        key = (pid, None if fd is None else _whole(fd), _text(said["name"]), _text(said["vmm"]))
        index = self._index.setdefault(key, len(self._vms))
        if index == len(self._vms):
            # When it started is not known: its line tells it from others that had its pid.
            self._vms.append(Vm(pid, key[2], key[3], start_time=self._line, fd=key[1]))
            self._seen_ns.append(0)
        self._seen_ns[index] = self._now_ns
        return index

    def _caller(self, said: Mapping[str, Any]) -> int:
        """Index of a VM of "calls", where its vCPUs are said, too."""
        index, vcpus = self._vm(said), _whole(said.get("vcpus", 0))
        if vcpus != self._vms[index].vcpus:
            self._vms[index] = replace(self._vms[index], vcpus=vcpus)
        return index

    def _slow(self, said: Mapping[str, Any]) -> SlowCall:
        whole = ("tid", "code", "var_cnt", "rep_cnt", "reps", "duration_ns")
        return SlowCall(
            start=_seconds(said["start"]),
            vm=self._vms[self._vm(said["vm"])],
            vcpu=None if said["vcpu"] is None else _whole(said["vcpu"]),
            fast=bool(said["fast"]),
            handler=HANDLERS[_handler(said["handler"])],
            status=_status(said["status"]),
            **{name: _whole(said[name]) for name in whole},
        )

    def _add(self, total: Snapshot, interval: Snapshot) -> Snapshot:
        if len(total.trips) or len(interval.trips):
            total, interval = _with_trips(total), _with_trips(interval)
        lost, more = asdict(total.lost), asdict(interval.lost)
        return replace(
            rollup(concat(total, interval)),
            lost=Lost(**{name: lost[name] + more[name] for name in lost}),
            vms=tuple(self._vms),
        )

    def _forget(self, total: Snapshot) -> Snapshot:
        """Without VMs that were last seen long ago, or a recording of weeks takes up all memory."""
        limit_ns = total.monotonic_ns - FORGET_SECONDS * 1e9
        kept = [i for i, seen_ns in enumerate(self._seen_ns) if seen_ns >= limit_ns]
        if len(kept) == len(self._vms):
            return total
        moved = np.full(len(self._vms), -1, dtype=np.int32)
        moved[kept] = np.arange(len(kept))
        self._index = {key: int(moved[i]) for key, i in self._index.items() if moved[i] >= 0}
        self._vms = [self._vms[i] for i in kept]
        self._seen_ns = [self._seen_ns[i] for i in kept]
        total = select(total, moved[total.rows["vm"]] >= 0)
        total.rows["vm"] = moved[total.rows["vm"]]
        return replace(total, vms=tuple(self._vms))


def _rows(
    calls: Sequence[Mapping[str, Any]], vm_of: Callable[[Mapping[str, Any]], int]
) -> tuple[Array, Array]:
    """ROWs and STATUSes of elements of "calls"."""
    rows = _none(ROW, len(calls))
    rows["vm"] = [vm_of(call["vm"]) for call in calls]
    rows["code"] = [_whole(call["code"], 0xFFFF) for call in calls]
    rows["fast"] = [bool(call["fast"]) for call in calls]
    rows["handler"] = [_handler(call["handler"]) for call in calls]
    for name in ("unfinished", "reps", "xmm_input"):
        rows[name] = [_whole(call[name]) for call in calls]
    _count(rows["xmm_output"], [call["xmm_output"].items() for call in calls], _VERDICT)
    _fill(rows, calls, "completed", "latency_ns", "buckets")
    failures = [
        (i, _status(name), _whole(count))
        for i, call in enumerate(calls)
        for name, count in call["statuses"].items()
        if name != "SUCCESS"
    ]
    return rows, np.array(failures, dtype=STATUS)


def _trips(calls: Sequence[Mapping[str, Any]]) -> Array:
    trips = _none(TRIP, len(calls))
    _fill(trips, calls, "round_trips", "round_trip_ns", "round_trip_buckets")
    return trips


def _none(dtype: np.dtype[Any], count: int) -> Array:
    """Rows of ROW or TRIP in which nothing is counted."""
    rows = np.zeros(count, dtype=dtype)
    rows["min_ns"] = NO_MIN
    return rows


def _with_trips(snapshot: Snapshot) -> Snapshot:
    return (
        snapshot
        if len(snapshot.trips)
        else replace(snapshot, trips=_none(TRIP, len(snapshot.rows)))
    )


def _fill(
    rows: Array, calls: Sequence[Mapping[str, Any]], number: str, times: str, buckets: str
) -> None:
    """Set sums, extremes and buckets of ROWs or TRIPs from these three keys."""
    timed = [(i, call[times]) for i, call in enumerate(calls) if call[times] is not None]
    at = [i for i, _ in timed]
    for name in ("sum", "min", "max"):
        rows[f"{name}_ns"][at] = [_whole(one[name]) for _, one in timed]
    _count(rows["buckets"], [call[buckets] for call in calls], _BUCKET)
    if rows["buckets"].sum(axis=1).tolist() != [call[number] for call in calls]:
        raise Wrong(f"its {buckets} and its {number} do not agree")


def _count(
    out: Array, counts: Sequence[Iterable[tuple[Any, Any]]], places: Mapping[Any, int]
) -> None:
    """Set what `counts` has for each row of `out`: by names, whose columns `places` has."""
    for i, own in enumerate(counts):
        for name, count in own:
            if name not in places:
                raise Wrong(f"{name!r} is nothing that this hvtrace counts")
            out[i, places[name]] = _whole(count)


def _handler(name: object) -> int:
    if name in HANDLERS:
        return HANDLERS.index(name)
    raise Wrong(f"handler {name!r} is not known to this hvtrace")


def _status(name: str) -> int:
    """Its number. Raises Wrong."""
    if name in _STATUS:
        return _STATUS[name]
    if not re.fullmatch("0x[0-9a-f]{4}", name):
        raise Wrong(f"status {name!r} is not known to this hvtrace")
    return int(name, 16)


def _whole(value: object, most: int = 2**63 - 1) -> int:
    """A whole number of `most` at most. Raises Wrong."""
    if type(value) is int and 0 <= value <= most:
        return value
    raise Wrong(f"{value!r} is no number that can stand there")


def _seconds(value: object) -> float:
    """A time, or a duration. Raises Wrong."""
    if isinstance(value, int | float) and 0 <= value <= _MOST_SECONDS:
        return float(value)
    raise Wrong(f"{value!r} is no time")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise Wrong(f"{value!r} is no name")
