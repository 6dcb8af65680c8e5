"""`hvtrace top`: what VMs call now, or what a recording says, live or as text."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click
from click.core import ParameterSource

from hvtrace.commands.interrupts import Interrupts
from hvtrace.commands.options import slow, tracing
from hvtrace.stats.snapshot import RecordingEnded, Source

KEEP_ENDED_SECONDS = 150.0
"""How long the source keeps VMs that have ended: for more than an interval, or calls get lost."""

EXAMPLES = """\b
Examples:
  hvtrace top                          press ? for keys and columns
  hvtrace top -i 5 --code 0x5c         one call only, every five seconds
  hvtrace top --slow 1ms               also single calls of 1 ms and longer
  hvtrace top --once                   one table
  hvtrace top --batch --json > FILE    an object for each second...
  hvtrace top --replay FILE            ...and how they looked
"""

_LIVE = ("pid", "code", "slots", "anyway", "round_trip", "slow_ns")
"""Options of the running kernel: what a recording has of them was decided before."""


def _say(text: str) -> None:
    click.echo(f"hvtrace: {text}", err=True)


@click.command(epilog=EXAMPLES)
@click.option(
    "-i",
    "--interval",
    "interval_seconds",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two pictures.",
)
@tracing
@slow
@click.option(
    "--replay",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Show what --batch --json wrote; needs no privileges.",
)
@click.option("--batch", is_flag=True, help="Print a table for each interval; needs no terminal.")
@click.option("--once", is_flag=True, help="Print one table and end: --batch -n 1.")
@click.option(
    "-n",
    "intervals",
    type=click.IntRange(1),
    metavar="N",
    help="With --batch: end after N intervals.",
)
@click.option("--json", "as_json", is_flag=True, help="With --batch: a JSON object in each line.")
@click.option("--no-mouse", is_flag=True, help="Leave the mouse to the terminal.")
@click.pass_context
def command(
    context: click.Context,
    *,
    interval_seconds: float,
    pid: int | None,
    code: int | None,
    slots: int,
    anyway: bool,
    round_trip: bool,
    slow_ns: int | None,
    replay: Path | None,
    batch: bool,
    once: bool,
    intervals: int | None,
    as_json: bool,
    no_mouse: bool,
) -> int:
    """Show the hypercalls of all VMs as they happen: a line for each call of each VM.

    --batch prints the table of `hvtrace stat`, or the object of `hvtrace stat
    --json`, at the end of each interval, until Ctrl-C. --replay shows an
    interval of a recording in each SECONDS; with --batch, all at once.
    """
    if once and intervals:
        raise click.UsageError("--once is one interval: give it or -n, not both")
    as_text = batch or once
    if not as_text and (as_json or intervals):
        raise click.UsageError("-n and --json are for --batch")
    if as_text and no_mouse:
        raise click.UsageError("--no-mouse is not for --batch")
    if replay:
        _refuse(context, _LIVE, "is for the running kernel, not for --replay")
        if as_text:
            _refuse(context, ("interval_seconds",), "means nothing here: --batch does not wait")

    def open_source(say: Callable[[str], None]) -> Source:
        if replay:
            from hvtrace.top.replay import Replay

            return Replay(replay)
        from hvtrace.kernel import live  # needs Linux: not for --help, not for tests

        keep = max(KEEP_ENDED_SECONDS, 3 * interval_seconds)
        return live.open_source(
            pid=pid,
            code=code,
            slots=slots,
            anyway=anyway,
            say=say,
            keep_ended_seconds=keep,
            round_trip=round_trip,
            slow_ns=slow_ns if as_text else slow_ns or 0,  # None: it cannot be set later
            sizes=not as_text,
            measure=not as_text,
        )

    if not as_text:
        from hvtrace.top import app  # Textual: 200 ms and 30 MiB that --batch does not need

        given = _is_given(context, "interval_seconds")
        return app.run(
            open_source,
            interval_seconds if given else None,  # it remembers one
            mouse=not no_mouse,
            slow_ns=slow_ns or 0,
            recording=replay.name if replay else None,
        )

    from hvtrace.top import batch as text

    source = open_source(_say)
    try:
        with Interrupts(at_once=replay is not None) as interrupts:
            text.run(
                source,
                sys.stdout,
                interval_seconds=0 if replay else interval_seconds,
                intervals=1 if once else intervals,
                as_json=as_json,
                nap=lambda seconds: bool(interrupts.wait(seconds)),
                slow=slow_ns is not None or getattr(source, "slow", False),
            )
    except RecordingEnded as end:
        if problem := str(end):
            _say(problem)
    finally:
        source.close()
    return 0


def _refuse(context: click.Context, names: Iterable[str], why: str) -> None:
    """Raises UsageError where one of these parameters was given."""
    for parameter in context.command.params:
        name = parameter.name or ""
        if name in names and _is_given(context, name):
            raise click.UsageError(f"{parameter.opts[-1]} {why}")


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE
