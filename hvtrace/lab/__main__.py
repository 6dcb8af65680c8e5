"""``python -m hvtrace.lab [--kernel K] [--root R] COMMAND...``: a command under another kernel."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import click

from hvtrace.errors import HvtraceError
from hvtrace.lab import front, kernels, roots, tools, vm
from hvtrace.lab.progress import Progress


@click.command(context_settings={"ignore_unknown_options": True})
@click.option("--kernel", default=kernels.DEFAULT, show_default=True, help="Suite or release.")
@click.option("--root", help="Suite whose files the VM has, instead of this machine's.")
@click.option("--with", "more", multiple=True, help="With --root: a Debian package to add.")
@click.option("--cpus", type=click.IntRange(1, 64), default=2, show_default=True)
@click.option("--share", type=click.Path(path_type=Path), help="Folder to write results to.")
@click.option("--timeout", type=float, help="Seconds the command may take.")
@click.option("--port", "ports", type=int, multiple=True, help="TCP port of the VM to reach here.")
@click.option("--icount", is_flag=True, help="One CPU; its clock counts instructions.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
def main(
    *,
    kernel: str,
    root: str | None,
    more: tuple[str, ...],
    cpus: int,
    share: Path | None,
    timeout: float | None,
    icount: bool,
    ports: tuple[int, ...],
    command: tuple[str, ...],
) -> None:
    """Run COMMAND as root in a VM, with a Debian kernel and this machine's files or a suite's."""
    progress = Progress()
    try:
        tools.check()
        found = kernels.find(kernel, progress)
        folder = roots.find(root, progress, more) if root else None
        with tempfile.TemporaryDirectory(prefix="hvtrace-lab-") as scratch:
            share = share or Path(scratch)
            share.mkdir(parents=True, exist_ok=True)
            machine = vm.Vm(
                *(found, share, front.here(), progress, icount, folder, cpus),
                ports={port: port for port in ports},
            )
            sys.exit(machine.run(command, timeout_seconds=timeout))
    except HvtraceError as error:
        click.echo(f"hvtrace: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
