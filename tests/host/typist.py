"""A minute of typing while real VMs come, call and end: the view lives, and what it shows is true.

Keys are drawn at random, always the same ones. VMs end all the time; a row of one that ended long
before the picture's own time would be stale.
"""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from hvtrace.top.columns import ENDED, NEW
from hvtrace.top.model import KEEP_ENDED_SECONDS
from tests.host.reading import rows
from tests.tmux import Terminal

SECONDS = 60.0
SLACK_SECONDS = 15.0
"""From the end of a VM to the picture that first says so, and to the last that shows it, at 5 s."""

LOOK_EVERY = 4
"""Keys from one look at the screen to the next: in there it takes a second."""

ONE_BY_ONE = """1 2 3 4 5 g Left Right < > s t r S p Space [ ] { } Up Down PPage NPage Home End
j k n N Tab BTab x 0 BSpace Escape"""
KEYS = (
    *zip(ONE_BY_ONE.split()),
    ("+", "-"),
    ("=", "-"),
    ("/", "g", "-", "1", "Enter"),
    ("/", "p", "o", "s", "t", "BSpace", "Escape"),
    ("l", "<", ">", "s", "o", ">", "Down", "Escape"),
    ("Enter", "n", "Down", "N", "t", "NPage", "Escape"),
    ("c", "Down", "Space", "j", "k", "Space", "Escape"),
    ("?", "Down", "j", "End", "Escape"),
)
"""What is typed together: a screen that is opened is closed, and intervals stay short."""


class Guests:
    """Guests one after the other, each with VMs of a name of its own, until stopped."""

    def __init__(self, guest: list[str]) -> None:
        self._guest, self._stopped = guest, False
        self.ended: dict[str, float] = {}  # names of VMs -> unix time
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        for number in itertools.count():
            if self._stopped:
                return
            made = subprocess.run(
                [*self._guest, "--name", f"g{number}", "--vms", "2"],
                check=True,
                stdout=subprocess.PIPE,
            )
            for vm in json.loads(made.stdout)["vms"]:
                self.ended[vm["name"]] = time.time()

    def stop(self) -> None:
        self._stopped = True
        self._thread.join()


@contextmanager
def guests(guest: list[str]) -> Iterator[Guests]:
    running = Guests(guest)
    try:
        yield running
    finally:
        running.stop()


def picture_time(lines: list[str]) -> float:
    """Unix time of the picture, from the clock in its first line: of the last day."""
    clock = re.findall(r"hvtrace (\d\d):(\d\d):(\d\d)", lines[0])[0]
    now = time.localtime()
    seconds = sum(int(n) * unit for n, unit in zip(clock, (3600, 60, 1), strict=True))
    since = (now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec - seconds) % 86400
    return int(time.time()) - since


def stale(lines: list[str], ended: dict[str, float]) -> list[str]:
    """VMs in the table that had ended long before it was made."""
    if not re.search(r"  by (VM|VM\+call|vCPU)$", lines[0].rstrip()) or not re.match(
        "vm[ ▼▲]", lines[1]
    ):
        return []
    names = {row["vm"].lstrip(f"{NEW}{ENDED}") for row in rows(lines)}
    oldest = picture_time(lines) - KEEP_ENDED_SECONDS - SLACK_SECONDS
    return sorted(name for name in names if ended.get(name, oldest) < oldest)


def type_for_a_minute(view: Terminal, running: Guests) -> Counter[str]:
    """Each of KEYS, in a random order, and again if there is time; how often each was typed."""
    chance, typed = random.Random(61), Counter[str]()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        for number, together in enumerate(chance.sample(KEYS, len(KEYS))):
            view.type(*together)
            typed.update(together)
            if number % LOOK_EVERY == 0:
                lines = view.until(lambda lines: "hvtrace" in lines[0])
                assert stale(lines, running.ended) == [], "\n".join(lines)
    return typed
