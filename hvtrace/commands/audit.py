"""`hvtrace audit`: what each guest was given, what it does with it, and what follows."""

from __future__ import annotations

import json
import os
import sys
import time
from fnmatch import fnmatchcase

import click

from hvtrace.audit import report, text
from hvtrace.audit.facts import Guest
from hvtrace.commands import options
from hvtrace.commands.interrupts import Interrupts

EXAMPLES = """\b
Examples:
  hvtrace audit                      all VMs of this host, ten seconds of each
  hvtrace audit --vm 'win*' -d 60
  hvtrace audit --evidence --json | jq '.guests[].findings'
"""


@click.command(epilog=EXAMPLES)
@click.option(
    "-d",
    "--duration",
    "seconds",
    type=click.FloatRange(0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Watch the guests for this time.",
)
@options.anyway
@options.slots
@options.pid
@options.vms
@options.evidence
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    *,
    seconds: float,
    pid: int | None,
    slots: int,
    anyway: bool,
    vms: tuple[str, ...],
    evidence: bool,
    as_json: bool,
) -> int:
    """Say how each guest's Hyper-V features and its hypercalls go together.

    For each VM: the features that its VMM exposes, QEMU's flags beside them,
    the calls that it makes and in which form (parameters in memory, in general
    registers, in XMM registers), and findings, each with its reason and the
    flag to set. docs/findings.md says more of each. Ctrl-C ends the watch and
    shows what was seen. The status is 0 also with findings.
    """
    from hvtrace.kernel.audit import observe  # needs Linux: not for --help, not for tests

    with Interrupts() as interrupts:  # Ctrl-C: enough has been seen
        host, guests, lost = observe(
            pid,
            seconds,
            evidence=evidence,
            anyway=anyway,
            slots=slots,
            say=_say,
            wait=interrupts.wait,
        )
    shown = _only(guests, vms)
    if as_json:
        start = time.time() - host.duration_s
        click.echo(json.dumps(report.as_json(host, shown, lost, start)))
        return 0
    out = sys.stdout
    color = out.isatty() and "NO_COLOR" not in os.environ
    rendered = text.render(host, shown, lost, color)
    click.echo(rendered.encode(out.encoding, "replace").decode(out.encoding), nl=False, color=color)
    return 0


def _only(guests: list[Guest], wanted: tuple[str, ...]) -> list[Guest]:
    """The guests whose name matches, all where nothing is wanted; says so where there are none."""
    if not wanted:
        return guests
    found = [one for one in guests if any(fnmatchcase(one.vm.name, name) for name in wanted)]
    if guests and not found:
        names = ", ".join(sorted({one.vm.name for one in guests}))
        _say(f"no VM of this name ran; these did: {names}")
    return found


def _say(line: str) -> None:
    click.echo(f"hvtrace: {line}", err=True)
