"""`hvtrace top`: what VMs call now, live or as text."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click

from hvtrace.commands.interrupts import Interrupts
from hvtrace.commands.options import tracing
from hvtrace.stats.snapshot import Source

KEEP_ENDED_SECONDS = 150.0
"""How long the source keeps VMs that have ended: for more than an interval, or calls get lost."""

EXAMPLES = """\b
Examples:
  hvtrace top                          press ? for keys and columns
  hvtrace top -i 5 --code 0x5c         one call only, every five seconds
  hvtrace top --batch -n 3             three tables
  hvtrace top --batch --json | jq .    an object for each second
"""


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
@click.option("--batch", is_flag=True, help="Print a table for each interval; needs no terminal.")
@click.option(
    "-n",
    "intervals",
    type=click.IntRange(1),
    metavar="N",
    help="With --batch: end after N intervals.",
)
@click.option("--json", "as_json", is_flag=True, help="With --batch: a JSON object in each line.")
def command(
    *,
    interval_seconds: float,
    pid: int | None,
    code: int | None,
    slots: int,
    anyway: bool,
    round_trip: bool,
    batch: bool,
    intervals: int | None,
    as_json: bool,
) -> int:
    """Show the hypercalls of all VMs as they happen: a line for each call of each VM.

    --batch prints the table of `hvtrace stat`, or the object of `hvtrace stat
    --json`, at the end of each interval, until Ctrl-C.
    """
    if not batch and (as_json or intervals):
        raise click.UsageError("-n and --json are for --batch")

    def open_source(say: Callable[[str], None]) -> Source:
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
        )

    if not batch:
        from hvtrace.top import app  # Textual: 200 ms and 30 MiB that --batch does not need

        return app.run(open_source, interval_seconds)

    from hvtrace.top import batch as text

    source = open_source(lambda line: click.echo(f"hvtrace: {line}", err=True))
    try:
        with Interrupts() as interrupts:
            text.run(
                source,
                sys.stdout,
                interval_seconds=interval_seconds,
                intervals=intervals,
                as_json=as_json,
                nap=lambda seconds: bool(interrupts.wait(seconds)),
            )
    finally:
        source.close()
    return 0
