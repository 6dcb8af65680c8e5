"""The initial RAM disk of the lab's VM: busybox, a few modules and one script.

The kernels are distribution kernels, so everything that is needed to reach the
root file system (9p over virtio, overlayfs) is a module and travels in here.
"""

from __future__ import annotations

import lzma
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from hvtrace.errors import HvtraceError

# What the first script needs before it has a root file system. Some kernels have a
# few of them built in, so a name that is not a module is not an error by itself.
MODULES = ("virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay", "kvm_amd")
# And where ports of the VM are to be reached.
NETWORK = ("virtio_net",)


def module_files(folder: Path, wanted: Sequence[str] = MODULES) -> list[Path]:
    """The files to load for some modules, each after what it depends on.

    Args:
        folder: the kernel's module folder, with ``modules.dep`` in it
            (depmod(8): ``file: dependency...``, the first one to load is the last).
        wanted: module names; one that ``modules.builtin`` names needs no file.

    Raises:
        HvtraceError: this kernel has no such module.
    """
    dependencies: dict[str, list[str]] = {}
    for line in (folder / "modules.dep").read_text().splitlines():
        file, _, needs = line.partition(":")
        dependencies[_module_name(file)] = [*reversed(needs.split()), file]
    # Debian's newer packages keep modules.builtin apart from the modules.
    builtin = folder / "modules.builtin"
    names = builtin.read_text().split() if builtin.exists() else []
    built_in = {_module_name(name) for name in names}
    files: dict[Path, None] = {}
    for name in wanted:
        if name in dependencies:
            files.update((folder / file, None) for file in dependencies[name])
        elif name not in built_in:
            raise HvtraceError(
                f"the kernel in {folder} has no module {name}, which the VM lab needs;"
                " take a kernel of Debian (--kernel bookworm, trixie or sid)"
            )
    return list(files)


def _module_name(file: str) -> str:
    return file.rpartition("/")[2].partition(".")[0].replace("-", "_")


def _module_bytes(file: Path) -> bytes:
    """A module's ELF image; Debian compresses modules with xz since 6.6."""
    data = file.read_bytes()
    return lzma.decompress(data) if file.suffix == ".xz" else data


def write(
    out: IO[bytes], *, busybox: Path, script: str, config: str, modules: Sequence[Path]
) -> None:
    """Write the RAM disk (cpio, "newc": kernel Documentation/driver-api/early-userspace)."""
    for entry in _entries(busybox, script, config, modules):
        out.write(entry)


def _entries(busybox: Path, script: str, config: str, modules: Sequence[Path]) -> Iterator[bytes]:
    for folder in ("bin", "dev", "proc", "modules", "lower", "rw", "newroot"):
        yield _entry(folder, stat.S_IFDIR | 0o755)
    yield _entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    yield _entry("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    yield _entry("bin/sh", stat.S_IFLNK | 0o777, b"busybox")
    yield _entry("init", stat.S_IFREG | 0o755, script.encode())
    yield _entry("config", stat.S_IFREG | 0o644, config.encode())
    for order, file in enumerate(modules):
        # The number keeps the order when the script goes through them by name.
        yield _entry(f"modules/{order:02}.ko", stat.S_IFREG | 0o644, _module_bytes(file))
    yield _entry("TRAILER!!!", 0)


def _entry(name: str, mode: int, body: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    """One cpio member: magic, 13 hexadecimal fields, name and body padded to four bytes."""
    path = name.encode() + b"\0"
    # ino, mode, uid, gid, nlink, mtime, size, device of the file, of the node, name, check
    fields = (0, mode, 0, 0, 1, 0, len(body), 0, 0, *device, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + path) + _padded(body)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
