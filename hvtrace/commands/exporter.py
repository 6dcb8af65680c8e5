"""`hvtrace exporter`: the counters for Prometheus, until it is told to end."""

from __future__ import annotations

import ctypes

import click

from hvtrace.commands.interrupts import Interrupts
from hvtrace.commands.options import tracing

DEFAULT_LISTEN = "127.0.0.1:10942"
"""A port that neither IANA nor Prometheus' list of exporters gives to anything else."""

POLL_SECONDS = 1.0
"""How often to look between scrapes: VMs are to be known by name before they are gone."""

KEEP_ENDED_SECONDS = 300.0
"""A VM's series end so long after it: time for every Prometheus to see its last counts."""

EXAMPLES = """\b
Examples:
  hvtrace exporter
  hvtrace exporter --listen [::]:10942
  curl http://127.0.0.1:10942/metrics
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "--listen",
    default=DEFAULT_LISTEN,
    show_default=True,
    metavar="HOST:PORT",
    help="Serve here; an empty HOST stands for every address of this machine.",
)
@tracing
def command(
    *,
    listen: str,
    pid: int | None,
    code: int | None,
    slots: int,
    anyway: bool,
    round_trip: bool,
) -> int:
    """Serve the counters of all hypercalls to Prometheus, at /metrics.

    Ends with status 0 on Ctrl-C or SIGTERM.
    """
    from prometheus_client import CollectorRegistry, ProcessCollector

    from hvtrace.export.collector import SourceCollector
    from hvtrace.export.server import Server
    from hvtrace.kernel import live

    with (
        Server(listen) as server,  # before anything is attached: the port may be taken
        live.open_source(
            pid=pid,
            code=code,
            slots=slots,
            anyway=anyway,
            keep_ended_seconds=KEEP_ENDED_SECONDS,
            round_trip=round_trip,
        ) as source,
        Interrupts() as interrupts,
    ):
        registry = CollectorRegistry()
        collector = SourceCollector(source, _say)
        registry.register(collector)
        ProcessCollector(registry=registry)
        server.serve(registry)
        _say(f"serving {server.url}")
        trim = getattr(ctypes.CDLL(None), "malloc_trim", int)  # glibc's own
        try:
            while not interrupts.wait(POLL_SECONDS):
                collector.poll()
                trim(0)  # a scrape takes megabytes for a moment: glibc would keep them
        finally:
            collector.close()
    return 0


def _say(text: str) -> None:
    click.echo(f"hvtrace: {text}", err=True)
