"""`hvtrace exporter`: the counters for Prometheus, until it is told to end.

HTTP is served by a process of its own, without privileges (export/keeper.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from hvtrace.commands.interrupts import Interrupts
from hvtrace.commands.options import tracing
from hvtrace.errors import HvtraceError
from hvtrace.export.bounds import Limits
from hvtrace.export.own import say, trim
from hvtrace.stats.snapshot import Source

DEFAULT_LISTEN = "127.0.0.1:10942"
"""A port that neither IANA nor Prometheus' list of exporters gives to anything else."""

POLL_SECONDS = 1.0
"""How often to look between scrapes: VMs are to be known by name before they are gone."""

KEEP_ENDED_SECONDS = 300.0
"""A VM's series end so long after it: time for every Prometheus to see its last counts."""

EXAMPLES = """\b
Examples:
  hvtrace exporter
  hvtrace exporter --listen [::]:10942 --web.config.file web.yml
  hvtrace exporter --pin /sys/fs/bpf/hvtrace
  hvtrace exporter --textfile /var/lib/node_exporter/hvtrace.prom
  curl http://127.0.0.1:10942/metrics
"""

Open = Callable[[], AbstractContextManager[Source]]


@click.command(epilog=EXAMPLES)
@click.option(
    "--listen",
    default=DEFAULT_LISTEN,
    show_default=True,
    metavar="HOST:PORT",
    help="Serve here; an empty HOST stands for every address of this machine.",
)
@click.option(
    "--web.config.file",
    "web_config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TLS and passwords, as all exporters of Prometheus take them.",
)
@click.option(
    "--user",
    metavar="NAME",
    help="Serve as this user; nobody, where we are root.",
)
@click.option(
    "--textfile",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Serve nothing: write to FILE, for the textfile collector of node_exporter.",
)
@click.option(
    "-i",
    "--interval",
    type=click.FloatRange(1, 3600),
    default=15.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to write the file.",
)
@click.option(
    "--pin",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Let the kernel count on after our end: keep all in DIR, in a BPF file system.",
)
@click.option("--vcpus", is_flag=True, help="Also the time of each vCPU: a series more for each.")
@click.option("--probe-cost", is_flag=True, help="Let the kernel measure our programs.")
@click.option("--max-vms", type=click.IntRange(1), default=Limits().vms, show_default=True)
@click.option("--max-codes", type=click.IntRange(1), default=Limits().codes, show_default=True)
@click.option("--max-series", type=click.IntRange(100), default=Limits().series, show_default=True)
@tracing
def command(
    *,
    listen: str,
    web_config: Path | None,
    user: str | None,
    textfile: Path | None,
    interval: float,
    pin: Path | None,
    vcpus: bool,
    probe_cost: bool,
    max_vms: int,
    max_codes: int,
    max_series: int,
    **traced: Any,  # noqa: ANN401 (of `tracing`, and for `open_source`)
) -> int:
    """Serve the counters of all hypercalls to Prometheus, at /metrics.

    Ends with status 0 on Ctrl-C or SIGTERM. What is beyond --max-vms,
    --max-codes (of a VM) and --max-series is served as "other".
    """
    from hvtrace.kernel import live

    @contextmanager
    def open_source() -> Iterator[Source]:
        with (
            live.open_source(
                **traced, pin=pin, vcpu_times=vcpus, keep_ended_seconds=KEEP_ENDED_SECONDS
            ) as source,
            _measured() if probe_cost else nullcontext(),
        ):
            yield source

    _refuse(("listen", "web_config", "user") if textfile else ("interval",), bool(textfile))
    limits = Limits(max_vms, max_codes, max_series)
    if textfile:
        _write(textfile, interval, open_source, limits)
    else:
        _serve(listen, web_config, user, open_source, limits)
    return 0


def _refuse(names: Sequence[str], is_file: bool) -> None:
    """Say that an option that was given is for the other outlet: it would do nothing."""
    context = click.get_current_context()
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name in names and source is not ParameterSource.DEFAULT:
            other = "is for HTTP, and --textfile serves none" if is_file else "is for --textfile"
            raise click.UsageError(f"{option.opts[-1]} {other}")


def _serve(
    listen: str, web_config: Path | None, user: str | None, open_source: Open, limits: Limits
) -> None:
    """Hold the counters, while another process serves them."""
    # All that the front needs, too: as another user it may not be able to read our files.
    from hvtrace.export import front, keeper, privileges
    from hvtrace.web.server import Server

    who = privileges.find_user(user)
    with Server(listen) as server:  # before anything is attached: the port may be taken
        run = partial(front.run, server, web_config, limits)
        with (
            keeper.Front(run, who, (server.fileno(),)) as child,
            open_source() as source,
            Interrupts() as interrupts,
        ):
            child.begin(source)
            while not interrupts.wait(POLL_SECONDS, child.fileno()):
                child.answer(source)
                source.look()
                trim()


def _write(path: Path, interval: float, open_source: Open, limits: Limits) -> None:
    """Write the counters to a file, again and again."""
    from hvtrace.export.collector import SourceCollector
    from hvtrace.export.formats import render
    from hvtrace.export.textfile import TextFile

    with TextFile(path) as file, open_source() as source, Interrupts() as interrupts:
        collector = SourceCollector(source, say, limits)
        say(f"writing {path} every {interval:g} s")
        problem, due = "", 0.0
        while not interrupts.wait(POLL_SECONDS if due else 0):
            source.look()  # first: what ends it all is raised here, and not served as a fault
            if time.monotonic() < due:
                continue
            due = time.monotonic() + interval
            text = render(collector.families(), "")[1]
            before, problem = problem, ""
            try:
                file.write(text)
            except OSError as error:
                problem = f"cannot write {path}: {error.strerror}; what it was before stays"
            if problem != before:
                say(problem or f"{path} is written again")
            trim()


@contextmanager
def _measured() -> Iterator[None]:
    """While the kernel measures all programs: ours, and those of others."""
    from hvtrace.kernel import bpf

    try:
        descriptor = bpf.enable_statistics()
    except OSError as error:
        raise HvtraceError(
            f"--probe-cost: the kernel does not measure programs for us ({error.strerror}):"
            " run as root, or set sysctl kernel.bpf_stats_enabled=1"
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
