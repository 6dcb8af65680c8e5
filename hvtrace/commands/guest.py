"""`hvtrace guest`: real guests that make known hypercalls, and a ledger of them."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from pathlib import Path

import click

from hvtrace.errors import HvtraceError
from hvtrace.guest import ledger as ledgers
from hvtrace.guest import mixfile as mixes
from hvtrace.guest.session import Orders, Session

EPILOG = """\b
Examples:
  hvtrace guest --mix windows-busy                 until Ctrl-C
  hvtrace guest --mix everything --vms 2 --vcpus 2 --ledger ledger.json
  hvtrace stat -- hvtrace guest --mix everything   both sides of the truth
"""


def _list(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        for name in mixes.names():
            click.echo(f"{name:14} {mixes.load(name).about}")
        context.exit()


@click.command(epilog=EPILOG)
@click.option(
    "--mix",
    "mix_name",
    default="windows-busy",
    show_default=True,
    metavar="NAME|FILE",
    help="What the guests do: a mix by name, or a file.",
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="Show the mixes that come with hvtrace.",
)
@click.option("--vms", type=click.IntRange(1, 256), default=1, show_default=True)
@click.option(
    "--vcpus", type=click.IntRange(1, 64), default=1, show_default=True, help="vCPUs of each VM."
)
@click.option(
    "--vms-per-process",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="More than one: one process owns several VMs.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How often the table of calls is made, where there is no rate.",
)
@click.option("--rate", type=click.FloatRange(0), help="Calls a second of each vCPU.")
@click.option(
    "-d",
    "--duration",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="Stop after that time; Ctrl-C stops, too.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="For the draws of a rate.")
@click.option("--name", default="", help="Name of the VMs; the mix's by default.")
@click.option(
    "--ledger",
    "ledger_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the ledger to a file, as JSON.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the ledger as one line of JSON.")
@click.option(
    "--pause", is_flag=True, help="Say when the guests are ready and begin at a line on stdin."
)
@click.option(
    "--hold", is_flag=True, help="Keep the VMs after the ledger until stdin has a line or ends."
)
def command(
    *,
    mix_name: str,
    vms: int,
    vcpus: int,
    vms_per_process: int,
    rounds: int,
    rate: float | None,
    duration: float | None,
    seed: int,
    name: str,
    ledger_file: Path | None,
    as_json: bool,
    pause: bool,
    hold: bool,
) -> None:
    """Run tiny guests that make real hypercalls, and say which.

    The guests need /dev/kvm of a kernel whose KVM has Hyper-V, and nothing
    else. The ledger at the end is what they counted in their own memory.
    """
    mix = mixes.load(mix_name)
    orders = Orders(
        mix=mix,
        vms=vms,
        vcpus=vcpus,
        vms_per_process=vms_per_process,
        rounds=rounds,
        rate=mix.rate if rate is None else rate,
        seed=seed,
        name=name,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Session(orders) as session:
        ready = session.wait_ready()
        if pause:
            _say_ready(ready, as_json)
            sys.stdin.readline()
        session.go()
        session.wait_idle(duration)
        ledger = session.ledger()
        _write(ledger, ledger_file, as_json)
        if hold:
            with contextlib.suppress(KeyboardInterrupt):
                sys.stdin.readline()
        session.close()
    if ledger.problems:
        raise HvtraceError(
            f"{len(ledger.problems)} results are not what the mix expects on {ledger.kernel}:"
            f" {ledger.problems[0]}"
        )


def _say_ready(vms: list[ledgers.LedgerVm], as_json: bool) -> None:
    if as_json:
        facts = [{"pid": vm.pid, "fd": vm.fd, "name": vm.name, "vcpus": vm.vcpus} for vm in vms]
        click.echo(json.dumps({"ready": facts}))
    else:
        names = ", ".join(f"{vm.name} (process {vm.pid})" for vm in vms)
        click.echo(f"ready: {names}; press Enter to begin", err=True)


def _write(ledger: ledgers.Ledger, file: Path | None, as_json: bool) -> None:
    line = json.dumps(ledgers.as_json(ledger))
    if file is not None:
        try:
            file.write_text(line + "\n", encoding="utf-8")
        except OSError as error:
            raise HvtraceError(f"cannot write {file}: {error.strerror}") from None
    if as_json:
        click.echo(line)
    elif file is None:
        for text in ledgers.as_text(ledger):
            click.echo(text)
    sys.stdout.flush()
