"""`hvtrace doctor`: can this host be traced, and what of it can be seen."""

from __future__ import annotations

import json
import textwrap

import click

from hvtrace import __version__

SCHEMA = 1


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(*, as_json: bool) -> int:
    """Look at everything that hvtrace needs of this host.

    Among it: whether this KVM can return the output of fast hypercalls in
    registers (XMM output), and by which interface. The status is 1 where
    something is missing that hvtrace cannot do without.
    """
    from hvtrace.kernel.doctor import examine

    report = examine()
    if as_json:
        found = report.interface
        document = {
            "schema": SCHEMA,
            "hvtrace": __version__,
            "kernel": report.kernel,
            "ok": report.ok,
            "checks": [
                {"name": c.name, "ok": c.ok, "needed": c.needed, "text": c.text}
                for c in report.checks
            ],
            "xmm_output": found
            and {
                "kind": found.kind,
                "offered": found.offered,
                "function": found.symbol,
                "exit_bytes": found.exit_bytes,
                "parts_bytes": {name: part.size_bytes for name, part in found.parts.items()},
            },
        }
        click.echo(json.dumps(document))
        return 0 if report.ok else 1
    click.echo(f"hvtrace {__version__} on Linux {report.kernel}")
    for check in report.checks:
        word, color = ("ok", "green") if check.ok else ("NO", "red" if check.needed else "yellow")
        text = textwrap.fill(check.text, 80, initial_indent=" " * 16, subsequent_indent=" " * 16)
        click.echo(f"{check.name:11} {click.style(word, fg=color)}  {text.lstrip()}")
    return 0 if report.ok else 1
