"""The detail of a row, slow calls, the choice of columns: each goes on with every frame."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from goldens import sample
from piloted import lived, sampled, top
from samples import START, row, snapshot, vm
from screens import text_of

from hvtrace.stats.slow import SlowCall
from hvtrace.stats.snapshot import Lost
from hvtrace.top.columns import COLUMNS
from hvtrace.top.screens.columns import CHOICE, Chooser
from hvtrace.top.screens.detail import DetailPane
from hvtrace.top.screens.slow import SlowPane
from hvtrace.top.screens.table import TablePane
from hvtrace.top.slowlines import LIMITS_NS, SlowLines, beside


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def flushes(count, seconds, **more):
    return snapshot([row(code=2, latencies_ns=[700] * count, **more)], time=START + seconds)


async def test_the_detail_goes_on():
    async with top() as view:
        await view.push(flushes(0, 0), flushes(7, 1))
        await view.press("enter")
        assert isinstance(view.app.screen, DetailPane)
        assert "calls 7 " in view.text
        await view.push(flushes(18, 2))
        assert "calls 11 " in view.text
        assert "22:13:22" in view.lines[0]
        await view.press("t")
        assert "calls 18 " in view.text
        assert "total 2.00s" in view.text
        await view.press("t", "left_square_bracket")
        assert "calls 7 " in view.text
        assert " PAUSED -1.00s " in view.text
        await view.press("p")
        assert "calls 11 " in view.text
        for key in ("escape", "enter", "q"):
            await view.press(key)
            assert isinstance(view.app.screen, TablePane)
            assert view.app.is_running
            await view.press("enter")


async def test_a_row_that_is_gone_keeps_its_last_numbers():
    async with top() as view:
        await view.push(flushes(0, 0), flushes(7, 1))
        await view.press("enter")
        one = vm("other", 1013)
        here = row(one, 3, latencies_ns=[700] * 5)
        gone = row(vm(ended=True), 2, latencies_ns=[700] * 7)
        await view.push(snapshot([gone, here], time=START + 2))
        assert "GONE" not in view.text
        await view.push(snapshot([gone, here], time=START + 60))
        assert " GONE: not in the table at this moment; this was at 22:13:22" in view.text
        assert "FlushVirtualAddressSpace" in view.text
        await view.press("left_square_bracket")
        assert "GONE" not in view.text
        await view.press("p")
        assert "GONE" in view.text
        await view.press("n")
        assert "GONE" not in view.text
        assert "FlushVirtualAddressList" in view.text
        await view.press("escape")
        assert view.at_cursor.startswith("other")


async def test_the_next_row_and_the_one_before():
    async with sampled() as view:
        names = view.names
        await view.press("enter")
        for key, place in (("n", 1), ("tab", 2), ("N", 1), ("shift+tab", 0), ("N", 0)):
            await view.press("end", key)
            assert names[place].split("…")[0] in view.lines[1], key
        await view.press("n", "escape")
        assert view.at_cursor == view.rows[1]


async def test_the_detail_scrolls_and_is_as_wide_as_the_screen():
    async with sampled() as view:
        await view.press("enter")
        top_line = view.lines[1]
        await view.press("down")
        assert view.lines[1] != top_line
        await view.press("end")
        assert "hvtrace explain" in view.text
        await view.press("home", "down", "up")
        assert view.lines[1] == top_line
        await view.pilot.resize_terminal(160, 50)
        await view.until(lambda: "Convention ────" in view.text)
        assert max(map(len, view.lines)) > 120


async def test_help_over_the_detail_and_a_picture_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with top() as view:
        await view.push(flushes(0, 0), flushes(7, 1))
        await view.press("enter", "question_mark")
        assert "hvtrace top" in view.text
        await view.push(flushes(18, 2))
        await view.press("escape")
        assert "calls 11 " in view.text
        await view.press("S")
        assert "calls 11" in text_of(next(tmp_path.iterdir()).read_text(encoding="utf-8"))


def slow(start=0.0, duration_ns=1_300_000, **more):
    known = {
        "vm": vm("win11", 1009, vcpus=2),
        "vcpu": 1,
        "tid": 31,
        "code": 0x5C,
        "fast": False,
        "handler": "vmm",
        "var_cnt": 3,
        "rep_cnt": 0,
        "status": 0,
        "reps": 0,
    }
    return SlowCall(start=START + start, duration_ns=duration_ns, **known | more)


def with_slow(seconds, *calls, **more):
    one = flushes(7 * (seconds + 1), seconds)
    return replace(one, slow=calls, **more)


async def test_slow_calls_newest_first_and_slowest_first():
    async with top() as view:
        await view.push(
            with_slow(0), with_slow(1, slow(0.2, 7_100_000)), with_slow(2, slow(1.5, 2_300_000))
        )
        await view.press("l")
        assert isinstance(view.app.screen, SlowPane)
        took = [line.split()[4] for line in view.lines[3:5]]
        assert took == ["2.30ms", "7.10ms"]
        assert "22:13:21.500 win11    1 PostMessage" in view.text
        await view.press("s")
        assert [line.split()[4] for line in view.lines[3:5]] == ["7.10ms", "2.30ms"]
        await view.push(with_slow(3, slow(2.5, 5_300_000)))
        assert [line.split()[4] for line in view.lines[3:6]] == ["7.10ms", "5.30ms", "2.30ms"]
        await view.press("left_square_bracket")
        assert [line.split()[4] for line in view.lines[3:5]] == ["7.10ms", "2.30ms"]
        await view.press("p", "escape")
        assert isinstance(view.app.screen, TablePane)


async def test_the_limit_is_off_set_changed_and_off_again():
    async with top() as view:
        await view.push(with_slow(0))
        await view.press("l")
        assert "off: > sets a limit" in view.text
        expected = []
        for key, ns, text in (
            ("greater_than_sign", 10**6, "1.00ms"),
            ("less_than_sign", 500_000, "500µs"),
            ("less_than_sign", 200_000, "200µs"),
            ("greater_than_sign", 500_000, "500µs"),
        ):
            await view.press(key)
            expected.append(ns)
            assert f"calls of {text} or longer" in view.text
            assert f"  slow {text}" in view.status
        await view.press("o")
        expected.append(0)
        assert "off: > sets a limit" in view.text
        assert "  slow" not in view.status
        await view.push(with_slow(1))  # lets the sampler's thread go round
        await view.until(lambda: view.source.limits == expected)


async def test_the_limit_of_the_command_line_is_known():
    async with top(slow_ns=2_000_000) as view:
        await view.push(with_slow(0))
        await view.press("l")
        assert "calls of 2.00ms or longer" in view.text
        assert "No call has taken that long so far." in view.text
        assert view.source.limits == []


async def test_slow_calls_that_had_no_room_are_told():
    async with top((120, 24), slow_ns=1_000_000) as view:
        await view.push(with_slow(0), with_slow(1, slow(), lost=Lost(no_event=1009)))
        await view.press("l")
        assert " 1,009 NOT LISTED" in view.lines[1]
        assert "LOST no_event 1,009" in view.text


async def test_slow_calls_of_a_recording():
    async with top(recording="friday.jsonl") as view:
        await view.push(with_slow(0))
        await view.press("l", "greater_than_sign", "o")
        assert "The recording has none so far" in view.text
        await view.push(with_slow(1, slow()))
        assert "slow calls of the recording: 1, newest first" in view.text
        assert view.source.limits == []


def test_limits():
    assert (LIMITS_NS[0], LIMITS_NS[-1]) == (1_000, 10_000_000_000)
    assert [ns for ns in LIMITS_NS if 10**6 <= ns <= 10**7] == [10**6, 2 * 10**6, 5 * 10**6, 10**7]
    assert beside(0, 1) == beside(0, -1) == 10**6
    assert (beside(10**10, 1), beside(10**3, -1)) == (10**10, 10**3)
    assert (beside(1_300_000, 1), beside(1_300_000, -1)) == (2_000_000, 1_000_000)


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_slow_lines_fit_and_say_everything(width):
    calls = [
        slow(),
        slow(status=0x12, fast=True, handler="kernel", vcpu=None, rep_cnt=4095, reps=1009),
        slow(vm=vm("win2022-build-agent-17-仮想", 1013), code=0x13, duration_ns=9_870_000_000),
        slow(code=0xFFF0, status=0x7777),
    ]
    lines = SlowLines(calls, width, lambda call: call.vm.name)
    texts = [lines.heading, *(lines.line(i) for i in range(len(calls)))]
    assert {text.cell_len for text in texts} == {texts[0].cell_len}
    if width > 80:
        assert texts[0].cell_len <= width
    assert "1.30ms vmm    mem  SUCCESS" in texts[1].plain
    assert texts[2].plain.split()[2] == "-"
    assert " kernel fast INVALID" in texts[2].plain
    assert " 0xfff0 " in texts[4].plain
    assert " 0x7777 " in texts[4].plain


async def test_columns_are_chosen():
    async with sampled((100, 40)) as view:
        await view.press("c")
        assert isinstance(view.app.screen, Chooser)
        for column in COLUMNS:
            assert (f" {column.key} " in view.text) == (column in CHOICE or column.key == "call")
        at = [column.key for column in CHOICE].index("mean")
        await view.press(*["down"] * at, "space")
        assert "[ ] mean " in view.text
        assert "[x] p99 " in view.text
        await view.push(sample(time=START + 1))
        await view.press("escape")
        assert " mean" not in view.headings
        await view.press("c", *["j"] * at, "enter", "k", "space", "q")
        assert " mean " in view.headings
        assert " time" not in view.headings
        assert view.app.desk.state.view.hidden == {"time"}


async def test_sorted_by_a_column_that_is_not_wanted():
    async with sampled() as view:
        await view.press("right", "c", "down", "down", "space", "escape")
        assert " calls" not in view.headings
        assert "sorted by calls, not shown" in view.text


async def test_clicks_on_the_last_line_are_keys():
    async with top((80, 24)) as view:
        await view.push(lived(1), lived(2))
        for words, pane in (("l Slow", SlowPane), ("Esc Back", TablePane), ("Detail", DetailPane)):
            at = view.lines[-1].index(words)
            await view.pilot.click("KeyLine", offset=(at, 0))
            await view.pilot.pause()
            assert isinstance(view.app.screen, pane)
