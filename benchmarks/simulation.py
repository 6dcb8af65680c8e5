"""Simulated hosts that serve their metrics as real ones do, and a Prometheus that scrapes them."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType

from benchmarks.hosts import SimulatedHost
from hvtrace.errors import HvtraceError
from hvtrace.export.collector import SourceCollector
from hvtrace.export.formats import render
from hvtrace.export.own import own
from hvtrace.web.server import Server
from tests.prometheus.package import Package
from tests.prometheus.server import Prometheus, running

RULES = Path(__file__).parents[1] / "grafana" / "rules"
FORMS = ("classic", "native")
SCRAPE_SECONDS, RULE_SECONDS = 15, 60  # the second is Prometheus' default
NATIVE_FLAG = "--enable-feature=native-histograms"

_CONFIG = """\
global:
  scrape_interval: {scrape}s
  scrape_timeout: {timeout}s
  evaluation_interval: {rules}s
rule_files: ["{folder}/*.yml"]
scrape_configs:
  - job_name: hvtrace
{native}    static_configs:
"""


class Fleet:
    """Hosts that serve their metrics on ports of the loopback interface, while it is entered."""

    def __init__(self, hosts: Sequence[SimulatedHost]) -> None:
        """Listen. Raises HvtraceError."""
        self.hosts = hosts
        self.said: list[str] = []
        self._servers = [Server("127.0.0.1:0") for _ in hosts]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    @property
    def urls(self) -> dict[str, str]:
        """Where the metrics of each host are, by its name."""
        return {f"hv{i:03d}": server.url for i, server in enumerate(self._servers)}

    def calls(self) -> dict[str, int]:
        """What the hosts have counted: all calls, completed ones, and failures."""
        return {
            "calls": sum(host.calls for host in self.hosts),
            "completed": sum(host.calls_completed for host in self.hosts),
            "failed": sum(host.calls_failed for host in self.hosts),
        }

    def freeze(self) -> None:
        """Let all hosts count no more."""
        for host in self.hosts:
            host.freeze()

    def __enter__(self) -> Fleet:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join()
        for server in self._servers:
            server.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._all = [
            self._loop.create_task(server.serve(_metrics(host, server, self.said.append), print))
            for host, server in zip(self.hosts, self._servers, strict=True)
        ]
        self._loop.run_until_complete(asyncio.gather(*self._all, return_exceptions=True))
        self._loop.close()

    def _end(self) -> None:
        for task in self._all:
            task.cancel()


def _metrics(
    host: SimulatedHost, server: Server, say: Callable[[str], None]
) -> Callable[[str], tuple[str, bytes]]:
    """What a server serves: as in hvtrace/commands/exporter.py."""
    collector = SourceCollector(host, say, own=partial(own, server.refused))
    return lambda accept: render(collector.families(), accept)


@contextmanager
def watched(
    fleet: Fleet,
    which: Package,
    folder: Path,
    form: str,
    *,
    scrape_seconds: float = SCRAPE_SECONDS,
    rule_seconds: float = RULE_SECONDS,
) -> Iterator[Prometheus]:
    """A Prometheus of its own that scrapes all of the fleet, until it is left."""
    # Since 3.9 an option, and the flag does nothing; up to 3.7 nobody knows the option.
    flagged = tuple(map(int, which.version.split(".")[:2])) < (3, 8)
    native = form == "native"
    config = _CONFIG.format(
        scrape=scrape_seconds,
        timeout=min(10, scrape_seconds),
        rules=rule_seconds,
        folder=RULES,
        native="    scrape_native_histograms: true\n" if native and not flagged else "",
    )
    for name, url in fleet.urls.items():
        address = url.removeprefix("http://").removesuffix("/metrics")
        config += f'      - {{targets: ["{address}"], labels: {{instance: {name}}}}}\n'
    options = ["--web.enable-admin-api"]
    if native and flagged:
        options.append(NATIVE_FLAG)
    with running(which, folder, config, free_port(), *options) as prometheus:
        deadline = time.monotonic() + 16 * scrape_seconds  # the first time makes all series
        while missing := _not_scraped(fleet, prometheus):
            if time.monotonic() > deadline:
                raise HvtraceError(f"{len(missing)} hosts are not scraped: {missing[0]}")
            time.sleep(1)
        yield prometheus


def _not_scraped(fleet: Fleet, prometheus: Prometheus) -> list[str]:
    """Hosts that have not been scraped yet, or not well the last time, and why."""
    missing = dict.fromkeys(fleet.urls, "not yet")
    for target in prometheus.get("targets")["activeTargets"]:
        name = target["labels"]["instance"]
        if target["health"] == "up":
            del missing[name]
        else:
            missing[name] = target["lastError"] or "not yet"
    return [f"{name}: {why}" for name, why in missing.items()]


def free_port() -> int:
    """A port of the loopback interface that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
