"""Every screen of the live view, as text, at three sizes: committed, and compared as a whole."""

from __future__ import annotations

import time
from itertools import count

import pytest
from goldens import check
from piloted import lived, top
from samples import START, snapshot

PANES = (
    ("table", ()),
    ("detail", ("down", "enter")),
    ("detail-end", ("end",)),
    ("vms", ("escape", "2")),
    ("calls", ("3",)),
    ("vcpus", ("4",)),
    ("host", ("5",)),
    ("host-detail", ("enter",)),
    ("back", ("escape", "1", "left_square_bracket", "left_square_bracket")),
    ("filter", ("p", "slash", *"fl")),
    ("slow-off", ("escape", "l")),
    ("slow", ("greater_than_sign", "less_than_sign", "s")),
    ("columns", ("escape", "c", "down", "space")),
    ("help", ("space", "escape", "question_mark")),
)


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """The same on every machine: its zone, its clock, and what it takes."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    numbers = count()
    monkeypatch.setattr("hvtrace.top.app.process_time", lambda: next(numbers) * 0.0211)
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids="{0[0]}x{0[1]}".format)
async def test_every_screen(size):
    async with top(size, interval_seconds=1) as view:
        view.app._sampler.set_interval(0.001)  # "every 1s" is what is said
        await view.push(snapshot(time=START), *(lived(second) for second in range(1, 8)))
        for name, keys in PANES:
            await view.press(*keys)
            text = view.text
            assert max(map(len, text.splitlines())) <= size[0]
            assert len(text.splitlines()) <= size[1]
            check(f"top/{name}-{size[0]}x{size[1]}.txt", text)
