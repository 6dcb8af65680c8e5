"""Measure everything and write docs/benchmarks.md: make bench (as root)."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks import instructions, native

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main() -> None:
    """One run, one page; it is printed, too."""
    lines = [
        "# Benchmarks",
        "",
        f"Written by `make bench`, one run of {time.strftime('%Y-%m-%d')}.",
        "",
        native.section(),
        instructions.section(),
    ]
    PAGE.write_text("\n".join(lines), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
