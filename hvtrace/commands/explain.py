"""``hvtrace explain``: what a call, an input value, a status or a result means. Offline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import click

from hvtrace.hyperv import codes, statuses
from hvtrace.hyperv.explain import (
    Document,
    explain_all,
    explain_code,
    explain_input,
    explain_result,
    explain_status,
)
from hvtrace.hyperv.text import render
from hvtrace.hyperv.values import MAX_REP, MAX_VAR
from hvtrace.hyperv.wording import parse_unsigned

EXAMPLES = """\b
Examples:
  hvtrace explain 0x13
  hvtrace explain GetVpRegisters --rep 4
  hvtrace explain --input 0x100010003
  hvtrace explain --status 5
  hvtrace explain --result 0x500000000
"""


@click.command(epilog=EXAMPLES)
@click.argument("call", required=False)
@click.option("--rep", metavar="N", type=click.IntRange(0, MAX_REP), help="Reps of CALL.  [1]")
@click.option(
    "--var",
    metavar="N",
    type=click.IntRange(0, MAX_VAR),
    help="Variable header of CALL, in units of 8 bytes.  [0]",
)
@click.option("--input", "input_value", metavar="VALUE", help="Decode an input value (RCX).")
@click.option("--result", metavar="VALUE", help="Decode a result value (RAX).")
@click.option("--status", metavar="STATUS", help="Explain a status, by number or name.")
@click.option("--list", "list_all", is_flag=True, help="List all calls and statuses.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *,
    call: str | None,
    rep: int | None,
    var: int | None,
    input_value: str | None,
    result: str | None,
    status: str | None,
    list_all: bool,
    as_json: bool,
) -> None:
    """Say what is known of a hypercall: sizes, registers, and what KVM does with it.

    CALL is a code (0x13, 19) or a name of the TLFS or of Linux, with or
    without its prefix. Nothing is asked of the kernel or the network.
    """
    if call is None and (rep is not None or var is not None):
        raise click.UsageError("--rep and --var go with a CALL")
    asked: dict[str, Callable[[], Document]] = {}
    if call is not None:
        reps = 1 if rep is None else rep
        asked["CALL"] = lambda: explain_code(codes.parse(call), var or 0, reps)
    if input_value is not None:
        asked["--input"] = lambda: explain_input(parse_unsigned(input_value, 64, "input value"))
    if result is not None:
        asked["--result"] = lambda: explain_result(parse_unsigned(result, 64, "result value"))
    if status is not None:
        asked["--status"] = lambda: explain_status(statuses.parse(status))
    if list_all:
        asked["--list"] = explain_all
    if len(asked) != 1:
        given = f", not {' and '.join(asked)}" if asked else ""
        raise click.UsageError(f"give one of CALL, --input, --result, --status, --list{given}")
    document = next(iter(asked.values()))()
    if as_json:
        click.echo(json.dumps(document, indent=2))
    else:
        click.echo("\n".join(_styled(render(document).split("\n"))))


def _styled(lines: list[str]) -> Iterator[str]:
    """Headings in bold; click takes that off again where the output is no terminal."""
    previous = ""
    for line in lines:
        yield click.style(line, bold=True) if line and not previous else line
        previous = line
