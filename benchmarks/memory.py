"""What a process that traces holds: resident memory, and the kernel's for its BPF objects."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hvtrace.errors import HvtraceError

Program = dict[str, Any]  # as `bpftool prog show` has it

MIB = 1 << 20
TOTAL, OF_EACH = "kernel memory, MiB", "kernel memory, "
_RESIDENT = {"VmRSS": "resident", "RssAnon": "anonymous", "RssFile": "file", "RssShmem": "shared"}


def resident(pid: int) -> dict[str, float]:
    """{"resident, MiB": ...} and its three parts, of a process: proc_pid_status(5)."""
    return _resident(Path(f"/proc/{pid}/status").read_text(encoding="ascii"))


def _resident(status: str) -> dict[str, float]:
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE))
    return {f"{name}, MiB": int(found[key]) / 1024 for key, name in _RESIDENT.items()}


def programs(pid: int, fds: Iterable[int] | None = None) -> list[Program]:
    """The BPF programs of which a process has a descriptor (`fds`: one of these), oldest first."""
    folder = Path(f"/proc/{pid}/fdinfo")
    files = folder.iterdir() if fds is None else (folder / str(fd) for fd in fds)
    found = set()
    for file in files:
        with suppress(FileNotFoundError):  # closed meanwhile
            text = file.read_text(encoding="ascii")
            # Links name their program, too, but take no memory of their own.
            if "memlock:" in text and (match := re.search(r"^prog_id:\s+(\d+)", text, re.M)):
                found.add(int(match[1]))
    return [_shown("prog", number) for number in sorted(found)]


def are_raw(shown: Iterable[Program]) -> bool:
    """Whether programs are for raw tracepoints, and can so be run without events."""
    return {program["type"] for program in shown} == {"raw_tracepoint"}


def kernel(shown: Sequence[Program]) -> dict[str, float]:
    """{"kernel memory, MiB": ...} of programs and their maps, then each map's.

    As the kernel accounts for it (bpftool's "bytes_memlock").
    """
    numbers = {number for program in shown for number in program.get("map_ids", ())}
    return _kernel(shown, [_shown("map", number) for number in sorted(numbers)])


def _kernel(shown: Sequence[Program], maps: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Figures of what bpftool shows of programs and maps, largest map first."""
    of_each = {"programs": sum(program["bytes_memlock"] for program in shown) / MIB}
    for one in sorted(maps, key=lambda one: -int(one["bytes_memlock"])):
        of_each[f"map {one['name']} ({one['type']})"] = one["bytes_memlock"] / MIB
    if len(of_each) != len(maps) + 1:
        raise HvtraceError("these programs are of more than one hvtrace")
    return {
        TOTAL: sum(of_each.values()),
        **{f"{OF_EACH}{name}, MiB": size for name, size in of_each.items()},
        "maps for every CPU": sum("percpu" in one["type"] for one in maps),
    }


def _shown(kind: str, number: int) -> dict[str, Any]:
    command = ["bpftool", "-j", kind, "show", "id", str(number)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shown: dict[str, Any] = json.loads(out)
    return shown
