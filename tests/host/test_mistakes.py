"""What users and hosts get wrong, for real: one clear line each, or it goes on.

That is hvtrace's own doing, whatever the kernel.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.run import HVTRACE

BCC = Path("/usr/lib/python3/dist-packages/bcc")


def stat(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, HVTRACE, "stat", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def refusal(result: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refusal."""
    assert result.returncode == 1
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("hvtrace: ")
    return line


def test_not_root() -> None:
    prefix = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert "needs root" in refusal(stat("-d", "1", prefix=prefix))


def test_what_is_not_mounted_gets_mounted() -> None:
    """debugfs goes first: it mounts tracefs below itself when somebody looks."""
    subprocess.run(["umount", "--recursive", "/sys/kernel/debug"], check=True)
    subprocess.run(["umount", "/sys/kernel/tracing"], check=True)
    assert not Path("/sys/kernel/tracing/events").exists()
    assert stat("-d", "0.1").returncode == 0
    assert Path("/sys/kernel/tracing/events/kvm").is_dir()
    assert Path("/sys/kernel/debug/kvm").is_dir()


@pytest.fixture
def without_bcc() -> Iterator[None]:
    """The lab's root is an overlay: the machine's own package stays where it is."""
    away = BCC.with_name("bcc-away")
    shutil.copytree(BCC, away)
    shutil.rmtree(BCC)
    yield
    shutil.rmtree(BCC, ignore_errors=True)
    shutil.move(away, BCC)


@pytest.mark.usefixtures("without_bcc")
def test_bcc_missing() -> None:
    assert "apt install python3-bpfcc" in refusal(stat("-d", "1"))


@pytest.mark.usefixtures("without_bcc")
def test_the_wrong_bcc() -> None:
    BCC.mkdir()
    (BCC / "__init__.py").write_text("def binomial(n, k): ...")
    assert f"the bcc in {BCC} is PyPI's unrelated project" in refusal(stat("-d", "1"))


@pytest.mark.parametrize("program", ["/nonexistent", "/etc/passwd", "/tmp"])
def test_command_that_cannot_be_started(program: str) -> None:
    assert f"cannot start {program}" in refusal(stat("--", program))


def test_unknown_call_name() -> None:
    result = stat("--code", "FlushEverything", "-d", "1")
    assert result.returncode in (1, 2)
    assert "FlushEverything" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
