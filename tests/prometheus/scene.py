"""A VM in which the exporter counts what real guests call, and who scrapes it.

2.42          classic histograms, by text
2.42-native   native histograms, by protobuf
3             both: the job "hvtrace" as it comes, by protobuf, "text" by text
"""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvtrace.lab import kernels
from hvtrace.lab.front import Front
from hvtrace.lab.progress import Progress
from hvtrace.lab.vm import Vm
from tests.prometheus import package
from tests.prometheus.server import Prometheus, running

RULES = Path(__file__).parents[2] / "grafana" / "rules"
EXPORTER_PORT = 10942
TIMEOUT_SECONDS = 400.0
INSIDE = ("tests.prometheus.inside",)
SERVERS = ("2.42", "2.42-native", "3")
NATIVE = "--enable-feature=native-histograms"
CONFIG = """\
global:
  scrape_interval: 5s
  evaluation_interval: 5s
rule_files: ["{rules}/*.yml"]
scrape_configs:
"""
JOB = """\
  - job_name: {job}
    static_configs:
"""
TARGET = """\
      - {{targets: ["{address}"], labels: {{instance: {name}}}}}
"""
TEXT_ONLY = """\
    scrape_protocols: [OpenMetricsText1.0.0, PrometheusText0.0.4]
"""

# All that an exporter for which all is well says.
_EXPECTED = re.compile(r"hvtrace: (serving|counting goes on in|nothing is counted in) ")


@dataclass
class Scene:
    """After all calls have been made, while everything is still up."""

    ledgers: list[dict[str, Any]]
    servers: dict[str, Prometheus]

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What the guests say they have called, one entry for each (vm, code, fast, handler)."""
        return [call for ledger in self.ledgers for call in ledger["calls"]]


class _Machine:
    """The VM, in a thread."""

    def __init__(
        self, share: Path, port: int, inside: Sequence[str], seconds: float, progress: Progress
    ) -> None:
        self.share = share
        self.printed = b""
        self._port, self._progress = port, progress
        self._inside, self._seconds = inside, seconds
        self._outcome: int | Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        def take(data: bytes) -> None:
            self.printed += data

        try:
            kernel = kernels.find(kernels.DEFAULT, self._progress)
            ports = {self._port: EXPORTER_PORT}
            machine = Vm(kernel, self.share, Front(take), self._progress, ports=ports)
            command = [sys.executable, "-m", *self._inside, str(self.share)]
            self._outcome = machine.run(command, self._seconds)
        except Exception as error:
            self._outcome = error

    def wait_for(self, name: str) -> Path:
        """A file in the share, by that name."""
        while not (self.share / name).exists():
            if not self._thread.is_alive():
                raise AssertionError(f"{self._outcome}\n{self.printed.decode()}")
            time.sleep(0.1)
        return self.share / name

    def end(self) -> int | Exception | None:
        """Let it come to its end, and how that was."""
        (self.share / "end").touch()
        self._thread.join()
        return self._outcome


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@contextmanager
def set_up(
    folder: Path,
    inside: Sequence[str] = INSIDE,
    timeout_seconds: float = TIMEOUT_SECONDS,
    others: Mapping[str, str] | None = None,
    wanted: Sequence[str] = SERVERS,
) -> Iterator[Scene]:
    """Everything, in a folder for its files. The exporter must have ended well.

    `inside` is the module that runs in the VM, with arguments; `others` are addresses of further
    hosts by instance. The VM's exporter is the instance "lab", and `wanted` are the servers.
    """
    progress = Progress(sys.stderr)
    old, new = (package.find(suite, progress) for suite in package.SUITES)
    port = _free_port()
    share = folder / "share"
    share.mkdir()
    machine = _Machine(share, port, inside, timeout_seconds, progress)
    base = CONFIG.format(rules=RULES)
    hosts = {"lab": f"127.0.0.1:{port}", **(others or {})}
    targets = "".join(TARGET.format(name=name, address=hosts[name]) for name in hosts)
    job = JOB.format(job="hvtrace") + targets
    machine.wait_for("serving")
    both = f"{base}{job}{JOB.format(job='text')}{targets}{TEXT_ONLY}"
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(running(which, folder / name, config, _free_port(), *options))
            for name, which, config, options in (
                ("2.42", old, base + job, ()),
                ("2.42-native", old, base + job, (NATIVE,)),
                ("3", new, both, (NATIVE,)),
            )
            if name in wanted
        }
        _wait_for_scrapes(servers, 1)
        (share / "scraped").touch()
        ledgers = json.loads(machine.wait_for("ledgers.json").read_text())
        _wait_for_scrapes(servers, 2)
        yield Scene(ledgers, servers)
    assert machine.end() == 0, machine.printed.decode()
    for line in (share / "said").read_text().splitlines():
        assert _EXPECTED.match(line), line


def _wait_for_scrapes(servers: dict[str, Prometheus], more: int) -> None:
    """Until each job of each server has scraped so many times more, successfully."""
    began = time.time()
    for server in servers.values():
        while not all(count >= more for count in _scrapes(server, began)):
            assert time.time() < began + 60, server.get("targets")
            time.sleep(0.2)


def _scrapes(server: Prometheus, since: float) -> list[float]:
    seconds = max(1, int(time.time() - since))
    found = server.values(f"sum by (job) (sum_over_time(up[{seconds}s]))", "job")
    # Of the configuration: a server that has just begun has no targets yet.
    jobs = re.findall(r"job_name: (\S+)", server.get("status/config")["yaml"])
    assert jobs
    return [found.get((job,), 0.0) for job in jobs]
