"""Runs the hvtrace command line with a fake source: for tests that need a process of its own.

    python fake_hvtrace.py <file> stat -d 1

The source counts 7 calls between its first and its second snapshot, and writes
a line to <file> for everything that happens to it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from samples import FakeSource, row, snapshot

from hvtrace.cli import main
from hvtrace.kernel import live
from hvtrace.stats.snapshot import Snapshot


class ToldSource(FakeSource):
    """Tells what happens to it."""

    def __init__(self, log: Path) -> None:
        super().__init__(
            snapshot([row(latencies_ns=[700] * 2)]),
            snapshot([row(latencies_ns=[700] * 9)], time=1_700_000_010.0),
        )
        self.log = log

    def tell(self, text: str) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def snapshot(self) -> Snapshot:
        self.tell("snapshot")
        return super().snapshot()

    def look(self) -> None:
        self.tell("look")

    def close(self) -> None:
        self.tell("close")
        super().close()


if __name__ == "__main__":
    source = ToldSource(Path(sys.argv.pop(1)))
    live.open_source = lambda **_: source  # type: ignore[assignment]
    main()
