"""Prometheus and node_exporter as Debian has them: downloaded and unpacked, not installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hvtrace.lab import apt
from hvtrace.lab.kernels import cache_folder, only_one
from hvtrace.lab.progress import Progress

SUITES = ("bookworm", "sid")  # 2.42, and the newest


@dataclass(frozen=True)
class Package:
    """One version of it."""

    version: str  # "2.42.0"
    prometheus: Path
    promtool: Path
    node_exporter: Path


def find(suite: str, progress: Progress) -> Package:
    """Prometheus of a Debian suite, from the cache if it is there.

    Raises HvtraceError where it can not be had.
    """
    folder = cache_folder() / "prometheus"
    root = folder / suite
    with only_one(folder / ".lock", progress):
        if not (root / "usr/bin/prometheus-node-exporter").exists():
            progress.say(f"fetching Prometheus of Debian {suite}")
            with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as scratch:
                _fetch(suite, Path(scratch), progress)
                (Path(scratch) / "root").rename(root)
    programs = root / "usr/bin"
    version = (root / "version").read_text().partition("+")[0]
    names = ("prometheus", "promtool", "prometheus-node-exporter")
    return Package(version, *(programs / name for name in names))


def _fetch(suite: str, scratch: Path, progress: Progress) -> None:
    private = apt.PrivateApt(scratch / "apt", suite, apt.archive())
    private.update()
    wanted = [private.package("prometheus"), private.package("prometheus-node-exporter")]
    if "promtool" in wanted[0].depends:  # since 3.x a package of its own
        wanted.append(private.package("promtool"))
    root = scratch / "root"
    root.mkdir()
    # Unpacked by dpkg-deb alone, so that no server starts on this machine.
    for file in private.download(wanted, scratch, progress):
        subprocess.run(["dpkg-deb", "-x", file, root], check=True)
    shutil.rmtree(root / "usr/share")
    (root / "version").write_text(wanted[0].version)
