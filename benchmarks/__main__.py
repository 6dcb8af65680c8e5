"""Measure everything, write docs/benchmarks.md and .json, compare, judge: make bench (as root)."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import gates, instructions, native, page, process, scale, scrape, top
from benchmarks.results import Results, from_json
from hvtrace.errors import HvtraceError

DOCS = Path(__file__).parents[1] / "docs"
PAGE, KEPT = DOCS / "benchmarks.md", DOCS / "benchmarks.json"


def main() -> str | None:
    """One run, one page; it is printed, too. The line to end with, where a gate is missed."""
    then = from_json(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else None
    # First what wants a quiet machine; a VM leaves it warm.
    figures = native.figures(native.run()) | scrape.figures() | process.figures()
    figures |= scale.figures() | top.figures()
    inside, instruction_figures = instructions.run()
    now = Results(time.strftime("%Y-%m-%d"), machine() | inside, figures | instruction_figures)
    verdicts = gates.judge(now.figures)
    text = page.page(now, then, verdicts)
    PAGE.write_text(text, encoding="utf-8")
    KEPT.write_text(now.to_json(), encoding="utf-8")
    print(text)
    return gates.missed_line(verdicts)


def machine() -> dict[str, str]:
    """What this machine is, and what it has."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = (line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return {
        "CPU": f"{next(models)}, {os.cpu_count()} of them",
        "kernel": platform.release(),
        "Python": platform.python_version(),
        "BCC": _output("/usr/bin/python3", "-c", "import bcc; print(bcc.__version__)"),
        "QEMU": _output("qemu-system-x86_64", "--version").removeprefix("QEMU emulator version "),
    }


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HvtraceError as error:
        sys.exit(f"hvtrace: {error}")
