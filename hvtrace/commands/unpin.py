"""`hvtrace unpin`: the end of what was to outlive its process."""

from __future__ import annotations

from pathlib import Path

import click

EXAMPLES = """\b
Examples:
  hvtrace unpin /sys/fs/bpf/hvtrace
"""


@click.command(epilog=EXAMPLES)
@click.argument("folder", metavar="DIR", type=Path)
def command(*, folder: Path) -> int:
    """End the counting that `hvtrace exporter --pin DIR` began, and forget its counts.

    Everything that hvtrace has pinned in DIR is removed, and DIR too where
    nothing else is in it. Refused while an exporter uses DIR: end it first.
    """
    from hvtrace.kernel.pins import unpin

    unpin(folder)
    click.echo(f"hvtrace: nothing is counted in {folder} any more", err=True)
    return 0
