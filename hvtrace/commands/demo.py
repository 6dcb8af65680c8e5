"""`hvtrace demo`: real guests and `hvtrace top`, on this host or in the VM lab."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from hvtrace.errors import HvtraceError
from hvtrace.kernel import kvm
from hvtrace.lab import front, kernels, tools
from hvtrace.lab.progress import Progress
from hvtrace.lab.vm import Vm

# Our own command line, also where no script is on the path (sudo, the lab's VM).
_HVTRACE = (sys.executable, "-m", "hvtrace")
_GUEST = (*_HVTRACE, "guest", "--mix", "windows-busy", "--vms", "2", "--vcpus", "2")
_BATCH = ("--batch", "-n", "5", "-i", "2")
# Emulated, the two guests' processes take seconds to end.
_GUEST_END_SECONDS = 60.0

EPILOG = """\b
Examples:
  hvtrace demo                        on this host where its KVM has Hyper-V
  hvtrace demo --kernel sid           in an emulated VM, under another kernel
  hvtrace demo | cat                  no terminal: five tables, then the end
"""


@click.command(epilog=EPILOG)
@click.option(
    "--kernel",
    metavar="KERNEL",
    help="Use the VM lab with the kernel of a Debian suite"
    f" ({', '.join(kernels.SUITES)}) or an installed release."
    f"  [default: {kernels.DEFAULT}, where this host's KVM can not serve]",
)
@click.option("--in-place", is_flag=True, hidden=True, help="Never use the lab: we are in it.")
def command(*, kernel: str | None, in_place: bool) -> None:
    """See hvtrace at work on real hypercalls: nothing is simulated.

    Two small VMs make the calls of a busy Windows guest, and `hvtrace top` shows
    them. Where this host's KVM has no Hyper-V, both run in an emulated VM with a
    Debian kernel (downloaded once, about 110 MB; nothing is installed).
    """
    if in_place or (kernel is None and _host_can_serve()):
        sys.exit(_beside_guests())
    sys.exit(_in_lab(kernel or kernels.DEFAULT))


def _host_can_serve() -> bool:
    """Whether guests here would make hypercalls, and we may trace them."""
    return os.geteuid() == 0 and kvm.DEVICE.exists() and kvm.has_hyperv()


def _beside_guests() -> int:
    """`hvtrace top` with guests running beside it; its exit status."""
    view = () if sys.stdin.isatty() and sys.stdout.isatty() else _BATCH
    with _guests():
        # Loading takes top as long as it takes the guests to start: together, then.
        return subprocess.run([*_HVTRACE, "top", *view], check=False).returncode


@contextmanager
def _guests() -> Iterator[None]:
    """Guests that run for the length of the block.

    Raises:
        HvtraceError: they ended by themselves before the block did.
    """
    with tempfile.TemporaryFile("w+") as complaints:
        # A session of its own: Ctrl-C ends the view, and the view's end ends the guests.
        process = subprocess.Popen(
            _GUEST,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            start_new_session=True,
        )
        try:
            yield
            ended_early = process.poll() is not None
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_GUEST_END_SECONDS)
        finally:
            process.kill()
            process.wait()
        if ended_early:
            complaints.seek(0)
            lines = complaints.read().strip().splitlines()
            reason = lines[-1].removeprefix("hvtrace: ") if lines else "they gave no reason"
            raise HvtraceError(f"the demo's guests ended before the view did: {reason}")


def _in_lab(name: str) -> int:
    """The same inside a VM of the lab; the status of `hvtrace top` there."""
    progress = Progress()
    tools.check()
    kernel = kernels.find(name, progress)
    user = front.here()
    keys = "; Ctrl-] ends the VM at any time" if user.window else ""
    progress.say(f"booting {kernel.release} in a VM, half a minute to the first picture{keys}")
    with tempfile.TemporaryDirectory(prefix="hvtrace-demo-") as share:
        return Vm(kernel, Path(share), user, progress).run([*_HVTRACE, "demo", "--in-place"])
