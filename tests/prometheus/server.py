"""A Prometheus that runs for a test, and its answers."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.prometheus.package import Package

Labels = tuple[tuple[str, str], ...]


class Prometheus:
    """A server that is up, at `url`."""

    def __init__(self, package: Package, url: str) -> None:
        self.package, self.url = package, url

    def get(self, path: str, **parameters: str) -> Any:
        """`data` of the answer to /api/v1/PATH. A query that is wrong is an AssertionError."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query; each has "metric", and "value" or "histogram"."""
        found = self.get("query", query=expression)
        assert found["resultType"] in ("vector", "scalar"), found["resultType"]
        return found["result"] if found["resultType"] == "vector" else [{"value": found["result"]}]

    def values(self, expression: str, *by: str) -> dict[tuple[str, ...], float]:
        """Values of an instant query by these labels."""
        return {
            tuple(one["metric"].get(label, "") for label in by): float(one["value"][1])
            for one in self.query(expression)
        }

    def value(self, expression: str) -> float:
        """The one value of an instant query."""
        [one] = self.query(expression)
        return float(one["value"][1])


@contextmanager
def running(
    package: Package, folder: Path, config: str, port: int, *options: str
) -> Iterator[Prometheus]:
    """A server with this configuration and its data in `folder`, until the end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(config)
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                package.prometheus,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                *options,
            ],
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_ready(process, url, folder / "log")
        yield Prometheus(package, url)
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"no Prometheus:\n{log.read_text()}")
