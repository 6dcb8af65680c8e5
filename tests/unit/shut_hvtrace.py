"""The hvtrace command line, whose serving process finds no module any more.

    python shut_hvtrace.py <file> exporter ...

As where hvtrace lies in somebody's home: whom the exporter serves as may not read it. Names of
modules that are looked for nevertheless are written to <file>.
"""

from __future__ import annotations

import sys
from pathlib import Path

from samples import FakeSource, row, snapshot

from hvtrace.cli import main
from hvtrace.export import privileges
from hvtrace.kernel import live

LOG = Path(sys.argv.pop(1))


class NoMoreImports:
    """Stands before all finders."""

    @staticmethod
    def find_spec(name: str, *_: object) -> None:
        with LOG.open("a") as file:
            file.write(f"{name}\n")
        raise ImportError(name)


if __name__ == "__main__":
    LOG.touch()
    source = FakeSource(snapshot([row(latencies_ns=[700] * 7, statuses={2: 3})]))
    live.open_source = lambda **_: source  # type: ignore[assignment,return-value]
    privileges.drop = lambda _: sys.meta_path.insert(0, NoMoreImports)  # type: ignore[arg-type]
    main()
