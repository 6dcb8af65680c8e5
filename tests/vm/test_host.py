"""Hosts that are not as they should be, for real: one clear line each, or it goes on."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm import modules
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


def test_kvm_that_is_loaded_after_hvtrace_has_started(tmp_path: Path) -> None:
    modules.unload(lambda: None)
    ledger, counted = tmp_path / "ledger.json", tmp_path / "stat.json"
    guest = [HVTRACE, "guest", "--mix", "everything", "--ledger", str(ledger)]
    with subprocess.Popen(
        [HVTRACE, "stat", "--json", "-o", str(counted), "--", *guest],
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        assert waiting.stderr is not None
        assert "waiting for KVM" in waiting.stderr.readline()
        assert waiting.poll() is None
        modules.load()
        assert "KVM is loaded" in waiting.stderr.readline()
        assert waiting.wait() == 0
    made = sum(c["calls"] for c in json.loads(ledger.read_text())["calls"])
    assert sum(c["calls"] for c in json.loads(counted.read_text())["calls"]) == made > 1000


def guests_calls(ledger: Path) -> int:
    """Run guests to their end; how many of their calls are over."""
    command = [HVTRACE, "guest", "--mix", "everything", "--ledger", str(ledger)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return sum(c["calls"] for c in json.loads(ledger.read_text())["calls"])


def scraped(url: str) -> int:
    """The calls of all VMs, as Prometheus would see them."""
    with urllib.request.urlopen(url) as page:
        lines = page.read().decode().splitlines()
    values = [line.split()[-1] for line in lines if line.startswith("hvtrace_hypercalls_total{")]
    return sum(int(float(value)) for value in values)


@pytest.fixture
def exporter() -> Iterator[subprocess.Popen[str]]:
    """Started before KVM is loaded."""
    modules.unload(lambda: None)
    command = [HVTRACE, "exporter", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        yield process
        process.terminate()
        assert process.wait() == 0


def test_exporter_while_kvm_comes_and_goes(exporter: subprocess.Popen[str], tmp_path: Path) -> None:
    def said() -> str:
        assert exporter.stderr is not None
        return exporter.stderr.readline()

    assert "waiting for KVM" in said()
    modules.load()
    assert "KVM is loaded" in said()
    url = said().split()[-1]
    made = guests_calls(tmp_path / "first.json")
    assert scraped(url) == made > 1000
    modules.unload(lambda: None)
    assert "KVM was unloaded" in said()
    assert scraped(url) == made
    modules.load()
    made += guests_calls(tmp_path / "second.json")
    assert said() == "hvtrace: KVM is loaded again\n"
    assert scraped(url) == made


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
