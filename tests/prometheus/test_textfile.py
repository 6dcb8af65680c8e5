"""The file of `hvtrace exporter --textfile`, read by a real node_exporter."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hvtrace.lab.progress import Progress
from tests.prometheus import package

FAKE = Path(__file__).parents[1] / "unit" / "fake_hvtrace.py"
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def series(text: str) -> Series:
    """With bounds as numbers: whether it is le="4" or le="4.0" is the writer's taste."""
    found: Series = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = dict(sample.labels)
            if "le" in labels:
                labels["le"] = repr(float(labels["le"]))
            found[sample.name, tuple(sorted(labels.items()))] = sample.value
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a fake source's counters are written, by the real command."""
    file = tmp_path / "hvtrace.prom"
    command = [sys.executable, str(FAKE), str(tmp_path / "log"), "exporter"]
    with subprocess.Popen([*command, "--textfile", str(file), "-i", "3600"]) as process:
        while not file.exists():
            assert process.poll() is None
            time.sleep(0.05)
        yield tmp_path
        process.terminate()


@pytest.mark.parametrize("suite", package.SUITES)
def test_node_exporter_serves_all_of_it(folder: Path, suite: str) -> None:
    found = package.find(suite, Progress())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
    command = [found.node_exporter, f"--web.listen-address={where}"]
    options = ["--collector.disable-defaults", "--collector.textfile"]
    options += [f"--collector.textfile.directory={folder}"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        while "Listening on" not in (line := process.stderr.readline()):
            assert line, "node_exporter has ended"
        with urllib.request.urlopen(f"http://{where}/metrics", timeout=30) as response:
            served = series(response.read().decode())
        process.terminate()
    written = series((folder / "hvtrace.prom").read_text())
    assert len(written) > 40
    assert {key: served.get(key) for key in written} == written
    assert served["node_textfile_scrape_error", ()] == 0
    [name] = [key for key in served if key[0] == "node_textfile_mtime_seconds"]
    assert re.search(r"hvtrace\.prom$", dict(name[1])["file"])
