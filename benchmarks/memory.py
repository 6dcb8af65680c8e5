"""What a process that traces holds: resident memory, and the kernel's for its BPF objects."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

MIB = 1 << 20
_RESIDENT = {"VmRSS": "resident", "RssAnon": "anonymous", "RssFile": "file", "RssShmem": "shared"}


def resident(pid: int) -> dict[str, float]:
    """{"resident, MiB": ...} and its three parts, of a process: proc_pid_status(5)."""
    return _resident(Path(f"/proc/{pid}/status").read_text(encoding="ascii"))


def _resident(status: str) -> dict[str, float]:
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE))
    return {f"{name}, MiB": int(found[key]) / 1024 for key, name in _RESIDENT.items()}


def kernel(pid: int) -> dict[str, float]:
    """{"kernel memory, MiB": ...} of a process's programs and their maps, then each map's.

    As the kernel accounts for it (bpftool's "bytes_memlock").
    """
    programs = _programs(pid)
    maps = [_shown("map", n) for n in sorted({n for p in programs for n in p.get("map_ids", ())})]
    return _kernel(programs, maps)


def _kernel(programs: Iterable[dict[str, Any]], maps: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Figures of what bpftool shows of programs and maps, largest map first."""
    parts = {"programs": sum(program["bytes_memlock"] for program in programs) / MIB}
    for one in sorted(maps, key=lambda one: -int(one["bytes_memlock"])):
        parts[f"map {one['name']} ({one['type']})"] = one["bytes_memlock"] / MIB
    of_each = {f"kernel memory, {name}, MiB": size for name, size in parts.items()}
    per_cpu = sum("percpu" in one["type"] for one in maps)
    return {"kernel memory, MiB": sum(parts.values()), **of_each, "maps for every CPU": per_cpu}


def are_raw(pid: int) -> bool:
    """Whether a process's programs are for raw tracepoints, and can so be run without events."""
    return {program["type"] for program in _programs(pid)} == {"raw_tracepoint"}


def _programs(pid: int) -> list[dict[str, Any]]:
    return [_shown("prog", number) for number in sorted(program_ids(pid))]


def program_ids(pid: int) -> set[int]:
    """The BPF programs of which a process has a descriptor."""
    found = set()
    for file in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            text = file.read_text(encoding="ascii")
            # Links name their program, too, but take no memory of their own.
            if "memlock:" in text and (match := re.search(r"^prog_id:\s+(\d+)", text, re.M)):
                found.add(int(match[1]))
    return found


def _shown(kind: str, number: int) -> dict[str, Any]:
    command = ["bpftool", "-j", kind, "show", "id", str(number)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    shown: dict[str, Any] = json.loads(out)
    return shown
