"""Options that several commands share: what to trace."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from hvtrace.errors import HvtraceError
from hvtrace.hyperv import codes
from hvtrace.kernel.room import MOST_SLOTS, SLOTS


def tracing(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add what all that counts calls has; `kernel.live.open_source` takes it by these names."""
    return pid(code(slots(anyway(round_trip(command)))))


def _code(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    return None if text is None else codes.parse(text)


def _pid(context: click.Context, parameter: click.Parameter, pid: int | None) -> int | None:
    """`pid` as it is. Raises HvtraceError where nothing could ever be counted for it."""
    if pid is None:
        return None
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        raise HvtraceError(f"there is no process {pid}") from None
    fields = dict(line.split(":", 1) for line in lines.splitlines() if ":" in line)
    process = int(fields["Tgid"])
    if process != pid:
        raise HvtraceError(f"{pid} is a thread of process {process}: give --pid {process}")
    return pid


_UNITS_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9}
_MOST_NS = 3600 * 10**9


def _time_ns(context: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """A time with its unit, in whole ns. Raises HvtraceError."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?) ?([nuµμm]?s)", text, re.ASCII)
    nanoseconds = round(Decimal(found[1]) * _UNITS_NS[found[2]]) if found else 0
    if not 0 < nanoseconds <= _MOST_NS:
        raise HvtraceError(f'"{text}" is no time from 1ns to 3600s: give 250us, 1ms, 2s...')
    return nanoseconds


anyway = click.option("--anyway", is_flag=True, help="Go on where KVM has no Hyper-V.")
code = click.option(
    "--code",
    metavar="CODE",
    callback=_code,
    help="Only this call: a number, or its name in the TLFS.",
)
slots = click.option(
    "--slots",
    type=click.IntRange(1, MOST_SLOTS),
    default=SLOTS,
    show_default=True,
    metavar="N",
    help="Room: one slot for each call of each vCPU thread, 1 KiB each.",
)
vms = click.option(
    "--vm",
    "vms",
    multiple=True,
    metavar="NAME",
    help="Show only VMs of this name (* and ? as in a shell); more than one may be given.",
)
evidence = click.option(
    "--evidence",
    is_flag=True,
    help="Look at the exit of each forwarded call, too: costs more, needs BTF.",
)
round_trip = click.option(
    "--round-trip",
    is_flag=True,
    help="Also the time from a call's exit to the next entry: costs more, needs BTF.",
)
slow = click.option(
    "--slow",
    "slow_ns",
    metavar="LIMIT",
    callback=_time_ns,
    help="Also list calls that take this long or longer: 250us, 1ms, 2s.",
)
pid = click.option(
    "-p",
    "--pid",
    type=click.IntRange(1),
    metavar="PID",
    callback=_pid,
    help="Only calls of this VMM process.",
)
