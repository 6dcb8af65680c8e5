"""The RAM disk: an archive that another program can read, with the right modules in order."""

from __future__ import annotations

import io
import lzma
import subprocess
from pathlib import Path

import pytest
from cpio import read

from hvtrace.errors import HvtraceError
from hvtrace.lab import initramfs

DEP = """\
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet.ko.xz:
kernel/fs/netfs/netfs.ko.xz:
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz
kernel/fs/overlayfs/overlay.ko.xz:
kernel/arch/x86/kvm/kvm-amd.ko.xz: kernel/arch/x86/kvm/kvm.ko.xz kernel/drivers/irqbypass.ko.xz
kernel/arch/x86/kvm/kvm.ko.xz: kernel/drivers/irqbypass.ko.xz
kernel/drivers/irqbypass.ko.xz:
"""
BUILTIN = "kernel/drivers/virtio/virtio_pci.ko\nkernel/drivers/char/virtio_console.ko\n"


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "modules.dep").write_text(DEP)
    (tmp_path / "modules.builtin").write_text(BUILTIN)
    return tmp_path


def names(files: list[Path]) -> list[str]:
    return [file.name.partition(".")[0] for file in files]


def test_each_module_comes_after_what_it_needs(folder):
    assert names(initramfs.module_files(folder)) == [
        "9pnet",
        "9pnet_virtio",
        "netfs",
        "9p",
        "overlay",
        "irqbypass",
        "kvm",
        "kvm-amd",
    ]


def test_files_are_where_the_kernel_has_them(folder):
    assert initramfs.module_files(folder, ["overlay"]) == [
        folder / "kernel/fs/overlayfs/overlay.ko.xz"
    ]


def test_a_built_in_module_needs_no_file(folder):
    assert initramfs.module_files(folder, ["virtio_pci"]) == []


def test_dash_and_underscore_are_one(folder):
    assert names(initramfs.module_files(folder, ["kvm_amd"]))[-1] == "kvm-amd"


def test_a_kernel_without_a_module_is_refused(folder):
    (folder / "modules.builtin").unlink()
    with pytest.raises(HvtraceError, match="has no module virtio_pci"):
        initramfs.module_files(folder)


@pytest.fixture
def archive(tmp_path) -> bytes:
    plain, packed = tmp_path / "plain.ko", tmp_path / "packed.ko.xz"
    plain.write_bytes(b"\x7fELF plain")
    packed.write_bytes(lzma.compress(b"\x7fELF packed"))
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"\x7fELF busybox!")  # 13 bytes: needs padding
    out = io.BytesIO()
    initramfs.write(
        out, busybox=busybox, script="#!/bin/sh\n", config="a=b\n", modules=[packed, plain]
    )
    return out.getvalue()


def test_members(archive):
    found = read(archive)
    assert found["init"] == (0o100755, b"#!/bin/sh\n", (0, 0))
    assert found["config"][1] == b"a=b\n"
    assert found["bin/busybox"] == (0o100755, b"\x7fELF busybox!", (0, 0))
    assert found["bin/sh"] == (0o120777, b"busybox", (0, 0))
    assert found["dev/console"][0] == 0o020600
    assert found["dev/console"][2] == (5, 1)
    assert found["newroot"] == (0o040755, b"", (0, 0))


def test_modules_are_numbered_and_unpacked(archive):
    found = read(archive)
    assert found["modules/00.ko"][1] == b"\x7fELF packed"
    assert found["modules/01.ko"][1] == b"\x7fELF plain"


def test_a_folder_comes_before_what_is_in_it(archive):
    order = list(read(archive))
    for name in order:
        parent = name.rpartition("/")[0]
        assert not parent or order.index(parent) < order.index(name)


def test_the_scripts_are_sound():
    """A shell accepts them; whether they work is what each boot of the lab shows."""
    here = Path(initramfs.__file__).parent
    for name in ("init.sh", "inside.sh"):
        subprocess.run(["sh", "-n", here / name], check=True)


@pytest.mark.parametrize("name", ["init.sh", "inside.sh"])
def test_the_scripts_do_nothing_where_they_are_not_pid_1(name):
    """By their text: no test should run what mounts and powers off."""
    script = Path(initramfs.__file__).with_name(name).read_text()
    first = next(line for line in script.splitlines() if not line.startswith("#"))
    assert first.startswith("[ $$ = 1 ] || exit")
