"""QEMU's command line for the lab: an emulated AMD machine whose SVM works nested."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hvtrace.lab.tools import tool

# TCG emulates SVM with nested paging well enough for kvm_amd. One thread for all
# CPUs: with two, QEMU 7.2 now and then runs kernel 7.2 into a half-patched
# instruction (int3 in __schedule) and it panics. No AVX2: QEMU 7.2 emulates it wrongly, and
# NumPy's argsort, which takes it where it is, left arrays of 15 numbers and more unsorted.
# Without AVX, ERMS and five levels of page tables the C library and the kernel take the ways
# that cost an emulated CPU least: a command takes 10 to 40 % less time.
_MACHINE = (
    *("-nodefaults", "-no-user-config", "-machine", "q35", "-display", "none"),
    *("-accel", "tcg,thread=single", "-cpu", "max,+svm,-avx2,-avx,-erms,-la57", "-m", "2G"),
)
# The guest's clock is a count of its instructions, 1 ns each, and stands still for
# nothing: latencies in there are instruction counts. It takes one CPU.
_ICOUNT = ("-icount", "shift=0,sleep=off")
# A panic must end QEMU: panic=-1 reboots at once, -no-reboot makes that an exit.
_KERNEL = "console=ttyS0 loglevel=4 panic=-1"


@dataclass(frozen=True)
class Wiring:
    """What joins a VM and the host.

    Attributes:
        folders: what the VM sees of this machine, read-only, by mount tag.
        share: the folder both see, at the same path, read-write.
        console: a file for the kernel's console.
        initrd: the RAM disk.
        terminal, size: descriptors of our sockets' other ends: the guest's hvc0, and
            the port that carries changes of the window's size.
        ports: TCP ports of the VM by the port of this machine's loopback that leads there.
    """

    folders: Mapping[str, Path]
    share: Path
    console: Path
    initrd: Path
    terminal: int
    size: int
    ports: Mapping[int, int] = field(default_factory=dict)


def command(image: Path, wiring: Wiring, *, cpus: int, icount: bool) -> list[str]:
    """The command to run. The VM ends with the process that starts it, however that ends.

    Args:
        image: the kernel to boot.
        wiring: what joins it with the host.
        cpus: how many; one where ``icount`` makes its clock count instructions.
        icount: whether it does.
    """
    return [
        *(tool("setpriv"), "--pdeathsig", "KILL", tool("qemu-system-x86_64")),
        *(*_MACHINE, "-smp", str(cpus), *(_ICOUNT if icount else ()), "-no-reboot"),
        *("-kernel", str(image), "-initrd", str(wiring.initrd), "-append", _KERNEL),
        *("-chardev", f"file,id=console,path={_option(wiring.console)}"),
        *("-serial", "chardev:console"),
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=terminal,fd={wiring.terminal}"),
        *("-device", "virtconsole,chardev=terminal"),
        *("-chardev", f"socket,id=size,fd={wiring.size}"),
        *("-device", "virtserialport,chardev=size,name=hvtrace.size"),
        *(word for tag in wiring.folders.items() for word in _folder(*tag, ",readonly=on")),
        *_folder("share", wiring.share, ""),
        *_network(wiring.ports),
    ]


def _network(ports: Mapping[int, int]) -> tuple[str, ...]:
    """A way in, none out; the VM is 10.0.2.15 (init.sh)."""
    if not ports:
        return ()
    forward = "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in ports.items())
    return ("-netdev", f"user,id=net,restrict=on{forward}", "-device", "virtio-net-pci,netdev=net")


def _folder(tag: str, path: Path, more: str) -> tuple[str, ...]:
    # multidevs=remap: / has many file systems below it, with inode numbers in common.
    fsdev = f"local,id={tag},path={_option(path)},security_model=none,multidevs=remap{more}"
    return ("-fsdev", fsdev, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}")


def _option(path: Path) -> str:
    """A path inside a comma-separated option; QEMU reads two commas as one."""
    return str(path).replace(",", ",,")
