"""From a source to what Prometheus scrapes: one snapshot for each scrape."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.registry import Collector

from hvtrace import __version__
from hvtrace.export.bounds import Bounds, Limits
from hvtrace.export.families import Family, info, single, to_metrics
from hvtrace.export.labels import VmLabels
from hvtrace.export.metrics import Metrics
from hvtrace.hyperv.interface import Interface
from hvtrace.stats.snapshot import Snapshot, Source


class SourceCollector(Collector):
    """Serves a source, which one thread at a time may use, to scrapes in many threads."""

    def __init__(
        self,
        source: Source,
        say: Callable[[str], None],
        limits: Limits = Limits(),  # noqa: B008 (frozen)
        own: Callable[[], Iterable[Family]] = tuple,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`say` takes a line for the log when the source fails, and when it is back.

        `own` gives what the process says of itself; it is asked at each scrape.
        """
        self._source, self._say, self._clock, self._own = source, say, clock, own
        self._lock = threading.Lock()
        self._bounds, self._labels, self._metrics = Bounds(limits), VmLabels(), Metrics()
        self._up = True
        self._room = True

    def families(self) -> list[Family]:
        """All metrics; without the counters where the source has failed (hvtrace_up is 0)."""
        started = self._clock()
        with self._lock:
            snapshot = self._snapshot()
            self._advise(snapshot)
            counters = self._counters(snapshot) if snapshot else []
        took = "Time it took to read the counters and to make metrics of them."
        seconds = self._clock() - started
        kernel = self._source.kernel
        return [
            *counters,
            single("hvtrace_up", "Whether the counters can be read.", int(bool(snapshot))),
            single("hvtrace_scrape_duration_seconds", took, seconds, unit="seconds"),
            info("hvtrace_build", "What is running here.", version=__version__, kernel=kernel),
            _kvm(self._source.interface),
            *self._own(),
        ]

    def collect(self) -> Iterator[Metric]:
        """The same for prometheus-client."""
        return to_metrics(self.families())

    def _counters(self, snapshot: Snapshot) -> list[Family]:
        bounded = self._bounds.apply(snapshot)
        labels = self._labels.assign(bounded.by_variant.vms)
        return list(self._metrics.families(bounded, labels))

    def _advise(self, snapshot: Snapshot | None) -> None:
        """Say once what helps where calls are not counted for want of room."""
        if snapshot and (snapshot.lost.no_slot or snapshot.lost.no_thread) and self._room:
            self._say("no room for all calls (hvtrace_lost_total): start with a larger --slots")
            self._room = False

    def _snapshot(self) -> Snapshot | None:
        """The source's; None where it failed: a scrape must say so and not fail itself."""
        try:
            snapshot = self._source.snapshot()
        except Exception as error:
            if self._up:
                self._say(f"the counters cannot be read: {error}")
            self._up = False
            return None
        if not self._up:
            self._say("the counters can be read again")
        self._up = True
        return snapshot


def _kvm(interface: Interface) -> Family:
    size = interface.exit_bytes
    return info(
        "hvtrace_kvm",
        "How this KVM returns the output of fast hypercalls in registers.",
        xmm_output=interface.kind,
        offered="true" if interface.offered else "false",
        exit_bytes="" if size is None else str(size),
    )
