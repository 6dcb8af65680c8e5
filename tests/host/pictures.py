"""The pictures of docs/top.md: taken in the VM lab, each read against the JSON of its moment.

    make pictures

A second hvtrace writes lines of `top --batch --json` while the pictures are taken. What a picture
says was counted up to its second: it has to lie between the sums of the lines up to then and those
of the lines a second later, at most. What does not is an error, and the picture is not kept.
"""

from __future__ import annotations

import calendar
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hvtrace.hyperv import codes
from hvtrace.stats.text import short_names
from tests.host.made import MIX
from tests.host.reading import Row, is_count, nanoseconds, rows
from tests.tmux import HVTRACE, Terminal, terminal
from tests.unit.screens import text_of

LIMIT = "2ms"
MINUTE = 75.0
"""So that the sparklines are full."""

COUNTS: dict[str, Callable[[dict[str, Any]], int]] = {
    "calls": lambda call: call["calls"],
    "fail": lambda call: sum(n for name, n in call["statuses"].items() if name != "SUCCESS"),
    "unfin": lambda call: call["unfinished"],
}


@dataclass
class Picture:
    """A picture, and what it says; `of` tells which kind."""

    path: Path
    name: str
    of: str
    lines: list[str]

    @property
    def second(self) -> float:
        """Unix time of its frame, whose fraction it does not say."""
        day = time.strftime("%Y-%m-%d ", time.gmtime())
        clock = re.search(r"\d\d:\d\d:\d\d", self.lines[0])
        assert clock, self.lines[0]
        return calendar.timegm(time.strptime(day + clock[0], "%Y-%m-%d %H:%M:%S"))


def take(view: Terminal, name: str, of: str) -> Picture:
    """Save what is on the screen by its key."""
    had = set(view.folder.glob("*.svg"))
    view.type("S")
    view.until(lambda _: len(set(view.folder.glob("*.svg"))) > len(had))
    time.sleep(0.5)
    [path] = set(view.folder.glob("*.svg")) - had
    # That it was saved is said on the screen for three seconds.
    view.until(lambda lines: "saved" not in "\n".join(lines))
    return Picture(path, name, of, text_of(path.read_text(encoding="utf-8")).splitlines())


def pictures(view: Terminal) -> Iterator[Picture]:
    """All of them."""
    view.until("build-")
    time.sleep(MINUTE)
    for name, size in (("top-80x24", (80, 24)), ("top", (120, 40)), ("top-200x60", (200, 60))):
        view.resize(*size)
        view.until(lambda lines, size=size: len(lines) == size[1] and "Quit" in lines[-1])
        yield take(view, f"{name}.svg", "table")
    view.resize(120, 40)
    view.type("/")
    view.until("keeps the filter")
    view.write("lab-0 postm")
    view.type("Enter", "t")
    view.until(": 1 row")
    view.type("Enter")
    view.until(lambda lines: "Previous row" in lines[-1] and "total " in lines[0])
    yield take(view, "top-detail-120x40.svg", "detail")
    view.type("Escape")
    view.until("Group")
    view.type("t", "Escape")
    view.resize(80, 24)
    view.until(lambda lines: len(lines) == 24 and "Quit" in lines[-1])
    view.type("l")
    view.until(lambda lines: "Limit" in lines[-1])
    yield take(view, "top-slow-80x24.svg", "slow")
    view.type("Escape")


Sums = dict[tuple[str, str], dict[str, int]]


def sums(intervals: list[dict[str, Any]], until: float) -> Sums:
    """Counts of each VM and call in the intervals that had ended."""
    found: Sums = {}
    for one in intervals:
        if one["start"] + one["duration_s"] <= until:
            for call in one["calls"]:
                name = short_names([call["code"]], 1000)[call["code"]]
                of = found.setdefault((call["vm"]["name"], name), dict.fromkeys(COUNTS, 0))
                for key, count in COUNTS.items():
                    of[key] += count(call)
    return found


def between(text: str, low: int, high: int) -> bool:
    """Whether a number on the screen can be one of `low` to `high`."""
    return any(is_count(text, count) for count in range(low, high + 1))


def bounds(intervals: list[dict[str, Any]], second: float) -> tuple[Sums, Sums]:
    """Sums of the lines before a second, and of those up to the first one after it."""
    ends = [one["start"] + one["duration_s"] for one in intervals]
    return sums(intervals, second), sums(intervals, min(end for end in ends if end >= second + 1))


def named(row: Row, known: Sums) -> tuple[str, str]:
    """The VM and call of a row, in full: the screen may have cut the middle of a name out."""
    begin, _, end = row["call"].partition("…")
    vm = row["vm"].lstrip("+")
    found = [
        key
        for key in known
        if key[0] == vm and (key[1] == row["call"] or (end and key[1].startswith(begin)))
        if key[1].endswith(end)
    ]
    assert len(found) == 1, (row, found)
    return found[0]


def table(picture: Picture, intervals: list[dict[str, Any]]) -> str:
    """Every row's counts; what was compared."""
    low, high = bounds(intervals, picture.second)
    shown = rows(picture.lines)
    checked = 0
    for row in shown:
        name = named(row, high)
        for key in COUNTS.keys() & row.keys():
            least = low.get(name, dict.fromkeys(COUNTS, 0))[key]
            assert between(row[key], least, high[name][key]), (picture.name, row, least, high[name])
            checked += 1
    return f"{checked} counts of {len(shown)} rows"


def detail(picture: Picture, intervals: list[dict[str, Any]]) -> str:
    """Its calls, failures and statuses since the start."""
    low, high = bounds(intervals, picture.second)
    vm, call = picture.lines[1].split()[:2]
    text = "\n".join(picture.lines)
    found = {
        "calls": re.search(r"^calls ([\d,]+)", text, re.MULTILINE),
        "fail": re.search(r"^failed ([\d,]+)", text, re.MULTILINE),
    }
    for key, one in found.items():
        assert one, (key, text)
        count = int(one[1].replace(",", ""))
        assert low[vm, call][key] <= count <= high[vm, call][key], (key, count)
    statuses = dict(re.findall(r" ([A-Z_]{5,}) +([\d,]+) +\d+%", text))
    failed = sum(int(n.replace(",", "")) for name, n in statuses.items() if name != "SUCCESS")
    assert low[vm, call]["fail"] <= failed <= high[vm, call]["fail"], statuses
    return f"{vm} {call}: calls, failures and {len(statuses)} statuses"


def slow(picture: Picture, intervals: list[dict[str, Any]]) -> str:
    """Each call by itself. The two tracers read the clock apart, and now and then an emulated CPU
    does something else between the readings: nine in ten have to agree in their times."""
    told = [call for one in intervals for call in one["slow"]]
    form = re.compile(r"^(\d\d:\d\d:\d\d\.\d{3}) (\S+) +(\d+) (\S+) +(\S+) (vmm|kernel)")
    shown = [found for line in picture.lines if (found := form.match(line))]
    assert len(shown) >= 10
    agreed = 0
    for one in shown:
        near = [
            call
            for call in told
            if call["vm"]["name"] == one[2]
            and call["vcpu"] == int(one[3])
            and call["handler"] == one[6]
            and codes.name_of(call["code"]).endswith(one[4].rpartition("…")[2])
            and abs(call["start"] % 60 - float(one[1][6:])) < 0.005
        ]
        times = [abs(call["duration_ns"] / nanoseconds(one[5]) - 1) < 0.1 for call in near]
        agreed += times.count(True) == 1
    assert agreed >= 0.9 * len(shown), (agreed, len(shown))
    return f"VM, vCPU, call, moment and time of {agreed} of {len(shown)} calls"


READ = {"table": table, "detail": detail, "slow": slow}


@contextmanager
def guests(folder: Path) -> Iterator[None]:
    """Five VMs: one makes every kind of call, the others what Windows makes."""
    prime = folder / "prime.json"
    prime.write_text(json.dumps(MIX))
    busy = ("--mix", "windows-busy")
    running = [
        subprocess.Popen([HVTRACE, "guest", *options], stdout=subprocess.DEVNULL)
        for options in (
            ("--mix", str(prime), "--name", "lab", "--rate", "15"),
            (*busy, "--name", "web", "--vms", "2", "--vcpus", "2", "--rate", "40"),
            (*busy, "--name", "sql", "--vcpus", "4", "--rate", "25"),
            ("--mix", "windows-idle", "--name", "build", "--vcpus", "2"),
        )
    ]
    try:
        yield
    finally:
        for one in running:
            one.send_signal(signal.SIGINT)
            one.wait()


def main(images: Path) -> None:
    """In a VM of the lab: pictures in the folder, a line on each on stdout."""
    folder = Path("/run/pictures")
    folder.mkdir()
    lines = folder / "lines.json"
    with terminal(folder) as view, lines.open("w") as file:
        view.run("top", "-i", "5", "--slow", LIMIT)
        view.until("No VM makes")
        tracer = subprocess.Popen(
            [HVTRACE, "top", "--batch", "--json", "-i", "1", "--slow", LIMIT], stdout=file
        )
        view.until(lambda _: lines.stat().st_size)
        with guests(folder):
            taken = list(pictures(view))
            time.sleep(5)
        tracer.send_signal(signal.SIGINT)
        tracer.wait()
        view.type("q")
    intervals = [json.loads(line) for line in lines.read_text().splitlines()]
    for picture in taken:
        clock = time.strftime("%H:%M:%S", time.gmtime(picture.second))
        print(f"{picture.name} {clock}: {READ[picture.of](picture, intervals)}", flush=True)
        shutil.copy(picture.path, images / picture.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
