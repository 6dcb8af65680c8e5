"""Building a patched KVM: what it is known by, how it is laid out, how it fails."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.lab.progress import Progress
from tests.kvm import base, build

RELEASE = "6.12.117+deb12-amd64"
SOURCE = "one\ntwo\nthree\n"
PATCHED = "one\n2\nthree\n"
FIRST = """\
--- a/arch/x86/kvm/hyperv.c
+++ b/arch/x86/kvm/hyperv.c
@@ -1,3 +1,3 @@
 one
-two
+2
 three
"""
SECOND = FIRST.replace("-two\n+2\n three", " 2\n-three\n+3").replace("-1,3 +1,3", "-1,3 +1,3")

# As make is called: -jN -C HEADERS -f MAKEFILE M=FOLDER ...
MAKE = """\
#!/bin/sh
echo "$@" >>"$CALLS"
for word; do case $word in M=*) cd "${word#M=}" || exit;; esac; done
test -f "$3/.config" && test -f "$5" || exit 9
for name in kvm kvm-amd; do { echo $name; cat hyperv.c; } >$name.ko; done
"""
STRIP = """\
#!/bin/sh
[ "$1 $2" = "--strip-debug -o" ] && cp "$4" "$3"
"""
DEPMOD = """\
#!/bin/sh
cd "$2/lib/modules/$3" && echo new >.index && mv .index modules.dep
"""


class Machine:
    """A cache with Debian's kernel in it, and programs that only seem to build."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.calls = folder / "calls"
        self.calls.touch()
        self.patches = folder / "patches"
        self.patches.mkdir()
        self.kvm = folder / "cache/kvm"
        self.root = self.kvm / "base-bookworm"
        self.modules = self.root / "lib/modules" / RELEASE
        self.tree = self.root / "usr/src/linux-headers-6.12.117+deb12-common"
        self.write(self.root / "boot" / f"vmlinuz-{RELEASE}", "image")
        self.write(self.modules / "modules.dep", "old")
        self.write(self.modules / "kernel/fs/9p.ko.xz", "9p")
        for name in ("kvm", "kvm-amd", "kvm-intel"):
            self.write(self.modules / f"kernel/arch/x86/kvm/{name}.ko.xz", "stock")
        self.write(self.tree / "Makefile", "")
        self.write(self.tree / "arch/x86/kvm/hyperv.c", SOURCE)
        self.write(self.root / f"usr/src/linux-headers-{RELEASE}/.config", "")
        self.write(self.patches / "0001-forward.patch", FIRST)
        self.write(self.patches / "0002-grown.patch", SECOND)
        for name, text in {"make": MAKE, "strip": STRIP, "depmod": DEPMOD}.items():
            self.program(name, text)
        for name in ("gcc", "pahole"):
            self.program(name, "#!/bin/sh\nexit 9\n")

    def write(self, file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def program(self, name: str, text: str) -> None:
        self.write(self.bin / name, text)
        (self.bin / name).chmod(0o755)

    @property
    def builds(self) -> int:
        return len(self.calls.read_text().splitlines())


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("HVTRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CALLS", str(made.calls))
    monkeypatch.setenv("PATH", f"{made.bin}:{os.environ['PATH']}")
    monkeypatch.setattr(build, "PATCHES", made.patches)
    monkeypatch.setattr(base, "_codename", lambda: "bookworm")
    return made


def kernel(variant: str) -> tuple[build.kernels.Kernel, str]:
    """The variant's kernel, and what was reported on the way."""
    out = io.StringIO()
    return build.kernel(variant, Progress(out)), out.getvalue()


def test_a_variant_is_debians_kernel_with_two_modules_replaced(machine):
    built, said = kernel("forward")
    assert built.release == RELEASE
    assert built.image.samefile(machine.root / "boot" / f"vmlinuz-{RELEASE}")
    kvm = built.modules / "kernel/arch/x86/kvm"
    assert {file.name: file.read_text() for file in kvm.iterdir()} == {
        "kvm.ko": "kvm\n" + PATCHED,
        "kvm-amd.ko": "kvm-amd\n" + PATCHED,
    }
    assert (built.modules / "kernel/fs/9p.ko.xz").samefile(machine.modules / "kernel/fs/9p.ko.xz")
    assert (built.modules / "modules.dep").read_text() == "new\n"
    assert f"building KVM for {RELEASE}, variant forward\nbuilt in 0 s\n" == said


def test_patches_come_one_upon_the_other(machine):
    built, _ = kernel("grown")
    text = (built.modules / "kernel/arch/x86/kvm/kvm.ko").read_text()
    assert text == "kvm\none\n2\n3\n"


def test_nothing_of_the_base_changes(machine):
    before = {file: file.stat().st_mtime_ns for file in machine.root.rglob("*") if file.is_file()}
    texts = {file: file.read_text() for file in before}
    kernel("grown")
    after = [file for file in machine.root.rglob("*") if file.is_file()]
    assert {file: file.read_text() for file in after} == texts
    assert {file: file.stat().st_mtime_ns for file in after} == before


def test_the_second_time_nothing_is_built(machine):
    first, _ = kernel("forward")
    assert kernel("forward") == (first, "")
    assert machine.builds == 1


def test_a_changed_patch_is_another_kernel(machine):
    first, _ = kernel("forward")
    machine.write(machine.patches / "0001-forward.patch", FIRST.replace("+2", "+zwei"))
    second, _ = kernel("forward")
    assert machine.builds == 2
    assert "zwei" in (second.modules / "kernel/arch/x86/kvm/kvm.ko").read_text()
    assert first.modules.exists()  # a VM may be running on it
    assert (machine.kvm / "forward").resolve() in second.modules.parents


@pytest.mark.parametrize(
    ("variant", "release", "text"),
    [("grown", RELEASE, "a"), ("forward", "6.12.118+deb12-amd64", "a"), ("forward", RELEASE, "b")],
)
def test_what_a_variant_is_known_by(tmp_path, variant, release, text):
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_text("a")
    other.write_text(text)
    known = build.key("forward", RELEASE, [one])
    assert build.key("forward", RELEASE, [one]) == known
    assert build.key(variant, release, [other]) != known


def test_where_a_patch_ends_counts(tmp_path):
    files = [tmp_path / name for name in "abcd"]
    for file, text in zip(files, ("xy", "z", "x", "yz"), strict=True):
        file.write_text(text)
    assert build.key("grown", RELEASE, files[:2]) != build.key("grown", RELEASE, files[2:])


def test_a_patch_that_does_not_fit(machine):
    machine.write(machine.patches / "0001-forward.patch", FIRST.replace("-two", "-zwei"))
    with pytest.raises(HvtraceError) as error:
        kernel("forward")
    log = machine.kvm / "forward.log"
    assert str(error.value) == (
        f"0001-forward.patch does not fit {RELEASE}: Hunk #1 FAILED at 1. (all of it: {log})"
    )
    assert "saving rejects" in log.read_text()
    assert not [file for file in machine.kvm.iterdir() if file.is_dir() and file != machine.root]


def test_a_build_that_fails(machine):
    complaint = "hyperv.c:2: error: no such thing\nhyperv.c:3: error: nor this\nmake: *** stop"
    machine.program("make", f"#!/bin/sh\nprintf '%s\\n' begin '{complaint}' >&2; exit 2\n")
    with pytest.raises(HvtraceError) as error:
        kernel("forward")
    log = machine.kvm / "forward.log"
    assert str(error.value) == (
        f"KVM variant forward does not build: hyperv.c:2: error: no such thing (all of it: {log})"
    )
    assert log.read_text().endswith("begin\n" + complaint + "\n")
    assert not (machine.kvm / "forward").exists()


def test_half_a_build_never_counts(machine, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(build, "_lay_out", interrupted)
        with pytest.raises(KeyboardInterrupt):
            kernel("forward")
    assert {file.name for file in machine.kvm.iterdir()} == {
        ".lock",
        "base-bookworm",
        "forward.log",
    }
    assert kernel("forward")[0].release == RELEASE


def test_what_a_killed_run_left_is_cleared_away(machine):
    (machine.kvm / ".new-killed/work").mkdir(parents=True)
    kernel("forward")
    assert not (machine.kvm / ".new-killed").exists()


def test_a_kernel_that_was_damaged_says_so(machine):
    built, _ = kernel("forward")
    (built.modules / "modules.dep").unlink()
    with pytest.raises(HvtraceError, match="is damaged: delete it, and it is built again"):
        kernel("forward")


def test_programs_that_are_missing_are_named_at_once(machine, monkeypatch):
    missing = {"pahole", "strip"}
    monkeypatch.setattr(
        shutil, "which", lambda name, **_: None if name in missing else f"/bin/{name}"
    )
    with pytest.raises(HvtraceError) as error:
        kernel("forward")
    assert str(error.value) == (
        "building KVM needs programs that are not installed: apt-get install -y pahole binutils"
    )


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("  CC x.o\nx.c:1:2: error: bad\nmake: *** [x] Error 1\n", "x.c:1:2: error: bad"),
        ('ERROR: modpost: "f" undefined!\nmake: *** Error\n', 'ERROR: modpost: "f" undefined!'),
        (
            "make: *** No rule to make target 'x'.  Stop.\n\n",
            "make: *** No rule to make target 'x'.  Stop.",
        ),
        ("", "no reason given"),
    ],
)
def test_why_a_build_failed(said, why):
    assert build.reason(said) == why


def test_every_patch_is_used_and_under_the_licence_of_linux():
    used = {name for names in build.VARIANTS.values() for name in names}
    files = {file.name: file.read_text() for file in (build.PATCHES).iterdir()}
    assert set(files) == used
    for text in files.values():
        assert text.startswith("SPDX-License-Identifier: GPL-2.0\nSubject: KVM: x86: hyper-v: ")
