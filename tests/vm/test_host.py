"""KVM that comes and goes, for real."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm import modules
from tests.vm.run import HVTRACE


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
