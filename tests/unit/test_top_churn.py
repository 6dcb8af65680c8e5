"""Every key over and over while VMs come and go: no crash, and nothing old on the screen."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from piloted import lived, top
from samples import START, row, snapshot, vm

from hvtrace.stats.slow import SlowCall
from hvtrace.stats.snapshot import Lost
from hvtrace.top import lines
from hvtrace.top.columns import BY_KEY, MINUTE, VM
from hvtrace.top.detail import detail
from hvtrace.top.screens.detail import DetailPane
from hvtrace.top.screens.pane import Pane
from hvtrace.top.screens.slow import SlowPane
from hvtrace.top.sheet import sheet

KEYS = (
    *("1", "2", "3", "4", "5", "g", "left", "right", "s", "t", "r", "c", "l", "S"),
    *("p", "space", "[", "]", "{", "}", "+", "-", "=", "<", ">", "o", "?", "/", "f"),
    *("up", "down", "pageup", "pagedown", "home", "end", "j", "k", "n", "N", "tab", "shift+tab"),
    *("enter", "escape", "q", "x", "0", "backspace"),
)
NAMES = {
    "[": "left_square_bracket",
    "]": "right_square_bracket",
    "{": "left_curly_bracket",
    "}": "right_curly_bracket",
    "+": "plus",
    "-": "minus",
    "=": "equals_sign",
    "<": "less_than_sign",
    ">": "greater_than_sign",
    "?": "question_mark",
    "/": "slash",
}
FRAMES = 61
CODES = (2, 3, 8, 0x13, 0x5C, 0x5D, 0xFFF0)


class Fleet:
    """VMs that come, make calls, and go."""

    def __init__(self) -> None:
        self.random = random.Random(1009)
        self.counts: dict[tuple[int, int, int], list[int]] = {}
        self.ended: dict[int, int] = {}
        self.last = 0

    def after(self, second: int):
        for pid in list(self.ended):
            if second - self.ended[pid] > 20:
                del self.ended[pid]
                self.counts = {k: v for k, v in self.counts.items() if k[0] != pid}
        living = {key[0] for key in self.counts} - set(self.ended)
        for pid in living:
            if self.random.random() < 0.1:
                self.ended[pid] = second
        for _ in range(self.random.randrange(4)):
            self.last += 1
            for code in self.random.sample(CODES, 3):
                self.counts[2000 + self.last, code, self.random.randrange(2)] = [0, 0]
        for (pid, *_), counted in self.counts.items():
            if pid not in self.ended:
                counted[0] += self.random.randrange(7)
                counted[1] += self.random.randrange(2)
        return self._snapshot(second)

    def _vm(self, pid: int):
        # Names that are shared, long, or not Latin.
        name = ("win11", f"instance-{pid:08d}", "win11仮想", f"vm{pid}")[pid % 4]
        return vm(name, pid, vcpus=2, ended=pid in self.ended)

    def _snapshot(self, second: int):
        rows = [
            row(
                self._vm(pid),
                code,
                latencies_ns=[700 + 97 * i for i in range(done)],
                unfinished=never,
                statuses={5: 1} if done > 11 else {},
                tid=0 if pid in self.ended else 31 + vcpu,
                vcpu=-1 if pid in self.ended else vcpu,
            )
            for (pid, code, vcpu), (done, never) in self.counts.items()
        ]
        merged = {(one.vm.pid, one.code, one.tid): one for one in rows}
        slow = ()
        if merged and second % 3 == 0:
            one = self.random.choice(rows)
            slow = (
                SlowCall(
                    START + second - 0.5, one.vm, 0, 31, one.code, False, "vmm", 0, 0, 0, 0, 10**7
                ),
            )
        lost = Lost(no_slot=second // 20, orphans=second // 30)
        made = snapshot(list(merged.values()), time=START + second, lost=lost)
        return replace(made, slow=slow)


def shown_rows(view) -> list[str]:
    """What the table should show of its frame, worked out anew, from the first row on screen on."""
    state, table = view.app.desk.state, view.table
    found = sheet(state.frame, state.view)
    order = found.order(BY_KEY[state.view.sort], state.view.descending)
    first = table.scroll_offset.y
    taken = found.take(order[first : first + table.size.height - 1])
    columns = [
        (c, w) for c, w in table.columns.columns if not c.left and c is not MINUTE and c is not VM
    ]
    texts = [c.texts(taken) for c, _ in columns]
    return [" ".join(cells) for cells in zip(*texts, strict=True)] or []


def screen_rows(view) -> list[str]:
    """The same as it stands on the screen."""
    table = view.table
    spans, x = [], 0
    for column, width in table.columns.columns:
        if not column.left and column is not MINUTE:
            spans.append((x, x + width))
        x += width + 1
    out = []
    for y in range(1, table.size.height):
        strip = table.render_line(y)
        if table.count and table.scroll_offset.y + y - 1 < table.count:
            cells = [strip.crop(a, b).text.strip() for a, b in spans]
            out.append(" ".join(cells))
    return out


def check(view) -> None:
    """The screen in front says what the desk has, and nothing else."""
    app = view.app
    state = app.desk.state
    front = next(s for s in reversed(app.screen_stack) if isinstance(s, Pane))
    summary = front.query_one(".summary").render()
    assert str(summary).rstrip() == lines.summary(state).plain.rstrip()
    if not state.paused:
        assert state.frame is state.newest
    if front is app.screen_stack[0] and state.frame is not None:
        assert screen_rows(view) == shown_rows(view)
    if isinstance(front, DetailPane):
        rows = app.desk.rows
        place = rows.place(front.key)
        if place is not None:
            fresh = detail(rows.sheet, int(rows.order[place]), app.desk.history)
            assert front._detail.whole.calls == fresh.whole.calls
            assert front._detail.span == fresh.span
    if isinstance(front, SlowPane):
        assert front._pane._count >= min(1, len(app.desk.history.slow)) * (not state.paused)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids="{0[0]}x{0[1]}".format)
async def test_every_key_for_a_minute(size, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # pictures
    fleet, chance = Fleet(), random.Random(size[0])
    keys = list(KEYS) * 2
    chance.shuffle(keys)
    async with top(size, settings_file=tmp_path / "top.json") as view:
        view.app._sampler.set_interval = lambda seconds: None  # a minute is not to take one
        await view.push(snapshot(time=START))
        for second in range(1, FRAMES):
            view.source.queue.put(fleet.after(second))
            for _ in range(2):
                key = keys.pop() if keys else chance.choice(KEYS)
                if key == "q" and len(view.app.screen_stack) == 1:
                    continue  # it would be over
                view.app.simulate_key(NAMES.get(key, key))
                await view.pilot.pause()
            await view.until(lambda second=second: view.number > second)
            await view.pilot.pause()
            check(view)
            assert max(map(len, view.lines)) <= size[0]
        assert view.app.is_running
        assert view.app.failure is None
        assert not keys
        while len(view.app.screen_stack) > 1:
            await view.press("escape")
        check(view)


async def test_frames_go_on_under_everything_that_can_lie_over_the_table():
    async with top((100, 30)) as view:
        await view.push(snapshot(time=START), lived(1))
        for i, keys in enumerate((("question_mark",), ("c",), ("slash", "f"), ("enter",), ("l",))):
            await view.press(*keys)
            await view.push(lived(i + 2))
            await view.press(*["escape"] * (2 if keys == ("enter",) else 1))
            check(view)
            assert f" 22:13:{22 + i} " in view.lines[0]
