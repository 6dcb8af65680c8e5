"""The live view, key by key, over a source that gives a snapshot when told to."""

from __future__ import annotations

import queue
import re
import time
from dataclasses import replace

import pytest
from goldens import sample
from piloted import Told, sampled, top
from samples import START, row, snapshot, vm
from screens import text_of
from textual.events import Key

from hvtrace.errors import HvtraceError
from hvtrace.stats.snapshot import Lost, Probe, RecordingEnded
from hvtrace.top.app import TopApp
from hvtrace.top.calltable import CallTable
from hvtrace.top.columns import BY_KEY, COLUMNS, TRIP, VCPU
from hvtrace.top.filterfield import FilterField
from hvtrace.top.screens.help import KEYS, Help
from hvtrace.top.sheet import Grouping, Scope


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


async def test_no_line_is_wider_than_the_screen():
    for size in ((80, 24), (100, 30), (200, 60), (40, 12)):
        async with sampled(size) as view:
            assert max(map(len, view.lines)) <= size[0]
            assert len(view.lines) <= size[1]
            assert len(view.rows) == min(10, size[1] - 6 + (size[0] > 60))


async def test_attaching_is_said_at_once_and_progress_is_shown():
    hold = queue.Queue()
    source = Told()

    def open_source(say):
        say("waiting for KVM to be loaded")
        hold.get(timeout=20)
        return source

    async with top(open_source=open_source) as view:
        await view.until(lambda: "waiting for KVM to be loaded" in view.text)
        assert "Attaching to the kernel" in view.text
        assert " attaching " in view.status
        hold.put(1)
        await view.until(lambda: " 4 probes " in view.status)
        source.queue.put(snapshot(time=START))
        await view.until(lambda: "No VM makes hypercalls now" in view.text)
        assert "waiting for KVM to be loaded" in view.text
        source.over = True
    assert source.closed


async def test_first_calls_are_shown_before_an_interval_is_over():
    async with top() as view:
        await view.push(snapshot([row(code=2, latencies_ns=[700] * 7)], time=START))
        assert view.names == ["Flush…AddressSpace"]
        assert view.rows[0].split()[2:4] == ["-", "7"]


async def test_rates_are_of_the_interval_and_counts_since_the_start():
    async with top() as view:
        await view.push(
            snapshot([row(code=2, latencies_ns=[700] * 7)], time=START),
            snapshot([row(code=2, latencies_ns=[700] * 17)], time=START + 2),
        )
        assert view.rows[0].split()[2:4] == ["5.00", "17"]
        await view.press("t")
        assert view.rows[0].split()[2:4] == ["8.50", "17"]
        assert "total 2.00s" in view.lines[0]
        await view.press("t")
        assert view.rows[0].split()[2:4] == ["5.00", "17"]
        assert "last 2.00s" in view.lines[0]


async def test_sort_by_every_column_and_both_ways():
    async with sampled((200, 50)) as view:
        start = view.headings
        assert "▼/s" in start
        seen = set()
        columns = [column for column in COLUMNS if column not in (TRIP, VCPU)]
        for _ in columns:
            await view.press("right")
            down = view.names
            column = BY_KEY[view.app.desk.state.view.sort]
            seen.add(column.key)
            arrow = "▲" if column.left else "▼"
            text = f"{column.key}{arrow}" if column.left else f"{arrow}{column.key}"
            assert text in view.headings
            await view.press("s")
            assert text not in view.headings
            assert sorted(view.names) == sorted(down)
            await view.press("s")
            assert view.names == down
        assert seen == {column.key for column in columns}
        assert view.headings == start
        await view.press("left")
        assert view.app.desk.state.view.sort == "call"
        await view.press("greater_than_sign", "greater_than_sign", "less_than_sign")
        assert view.app.desk.state.view.sort == "/s"


async def test_click_on_a_heading():
    async with sampled((120, 40)) as view:
        table = view.app.query_one(CallTable)
        for heading, column in (("calls", "calls"), ("max", "max"), ("vm", "vm"), ("fail",) * 2):
            at = re.search(rf"(?<!\S){heading}\b", view.headings)
            assert at is not None
            await view.pilot.click(table, offset=(at.start() + 1, 0))
            assert view.app.desk.state.view.sort == column
            direction = view.app.desk.state.view.descending
            await view.pilot.click(table, offset=(at.start() + 1, 0))
            assert view.app.desk.state.view.descending is not direction
        kept = view.app.desk.state.view
        await view.pilot.click(table, offset=(9, 3))  # a row is no heading
        assert view.app.desk.state.view == kept


async def test_sort_stays_when_its_column_has_no_room_any_more():
    async with sampled((200, 50)) as view:
        await view.press("left", "left", "left")
        assert view.app.desk.state.view.sort == "pid"
        assert "sorted by" not in view.text
        await view.pilot.resize_terminal(80, 24)
        await view.until(lambda: "sorted by pid, not shown" in view.text)
        assert "pid" not in view.headings
        await view.press("right")
        assert "vm▲" in view.headings


async def test_filter_as_you_type():
    async with sampled() as view:
        await view.press("slash")
        field = view.app.query_one(FilterField)
        assert field.display
        counts = []
        for key in "flush":
            await view.press(key)
            counts.append(len(view.rows))
        assert counts == [4, 2, 2, 2, 2]
        assert view.names == ["Flush…SpaceEx", "Flush…AddressList"]
        assert "/flush: 2 rows, Esc drops it" in view.text
        await view.press("enter")
        assert not field.display
        assert len(view.rows) == 2
        await view.push(sample(time=START + 1))
        assert len(view.rows) == 2
        await view.press("escape")
        assert len(view.rows) == 10
        assert "Esc drops it" not in view.text


async def test_keys_are_letters_while_a_filter_is_typed():
    async with sampled() as view:
        await view.press("slash", *"prq?t/s", "plus", "minus", "space", "left")
        assert view.app.query_one(FilterField).value == "prq?t/s+- "
        assert not view.app.desk.state.paused
        assert view.app.desk.state.interval_seconds == 0.01
        assert "No call matches the filter" in view.text
        await view.press("escape")
        assert len(view.rows) == 10
        await view.press("p")
        assert view.app.desk.state.paused


async def test_keys_that_come_together_act_in_their_order():
    """As a slow ssh brings them: what was typed during the wait, at once."""
    async with sampled() as view:

        async def type_at_once(*keys):
            for key in keys:
                view.app.post_message(Key(key, key if len(key) == 1 else None))
            await view.pilot.pause()
            await view.pilot.pause()

        field = view.app.query_one(FilterField)
        await type_at_once("p", "slash", *"flxx", "backspace", "backspace", *"ush", "enter", *"tg")
        state = view.app.desk.state
        assert (state.paused, state.view.filter) == (True, "flush")
        assert (state.view.scope, state.view.grouping) == (Scope.TOTAL, Grouping.VM)
        assert not field.display
        await type_at_once("slash", *"qr", "escape", "5", "p", "slash", *"pt", "enter", "s")
        state = view.app.desk.state
        assert (state.paused, state.view.filter) == (False, "pt")
        assert (state.view.scope, state.view.grouping) == (Scope.TOTAL, Grouping.HOST)
        assert not state.view.descending
        assert not field.display


async def test_columns_stand_still_while_a_filter_is_typed():
    rows = [
        row("win11-with-a-long-name", 0x13, latencies_ns=[7]),
        row("win11", 2, latencies_ns=[7]),
    ]
    async with top() as view:
        await view.push(snapshot(rows, time=START))
        before = view.headings
        await view.press("slash", *"0x02")
        assert len(view.rows) == 1
        assert view.headings == before


async def test_filter_by_hex_code_vm_and_status():
    async with sampled() as view:
        for text, count in (("0x5c", 1), ("win11", 10), ("invalid_conn", 1), ("0xfff", 1)):
            await view.press("slash", *text, "enter")
            assert len(view.rows) == count, text
            await view.press("escape")


async def test_pause_freezes_the_picture_and_not_the_counting():
    async with top() as view:
        rows = [[row(code=2, latencies_ns=[700] * n)] for n in (0, 7, 18, 31)]
        snapshots = [snapshot(r if i else [], time=START + i) for i, r in enumerate(rows)]
        await view.push(*snapshots[:2])
        for key in ("p", "space"):
            frozen = view.rows
            await view.press(key)
            assert view.status.startswith(" PAUSED")
            await view.push(snapshots[2])
            assert view.rows == frozen
            assert ("22:13:21" in view.lines[0]) == (key == "p")
            await view.press("s", "right")
            assert view.rows == frozen
            await view.press("left", key)
            assert "PAUSED" not in view.text
        await view.push(snapshots[3])
        assert view.rows[0].split()[2:4] == ["13.0", "31"]


async def test_reset():
    async with top() as view:
        rows = [[row(code=2, latencies_ns=[700] * n)] for n in (7, 18, 31, 33)]
        lost = [Lost(), *[Lost(orphans=3)] * 3]
        snapshots = [snapshot(r, time=START + i, lost=lost[i]) for i, r in enumerate(rows)]
        await view.push(*snapshots[:2])
        assert "LOST orphans 3" in view.text
        await view.press("r")
        await view.push(snapshots[2])  # perhaps asked for before the key, then the next is it
        await view.push(snapshots[2])
        assert view.rows == []
        assert "lost 0" in view.status
        await view.push(snapshots[3])
        assert view.rows[0].split()[3] == "2"


async def test_reset_does_not_wait_for_a_long_interval(monkeypatch):
    monkeypatch.setattr("hvtrace.top.sampler.FIRST_SECONDS", 0.01)
    async with top(interval_seconds=3600) as view:
        snapshots = [
            snapshot([row(code=2, latencies_ns=[700] * n)], time=START + n) for n in (2, 3, 5, 7)
        ]
        await view.push(*snapshots[:2])
        assert len(view.rows) == 1
        await view.press("r")
        await view.push(snapshots[2])
        assert view.rows == []
        await view.push(snapshots[3])
        assert view.rows[0].split()[3] == "2"


async def test_a_frame_that_comes_while_the_app_ends():
    async with sampled() as view:
        frame = view.app.desk.state.frame
    view.app.on_top_app_arrived(TopApp.Arrived(frame))


async def test_interval():
    async with sampled() as view:
        assert "every 0.01s" in view.status
        seen = []
        for _ in range(9):
            await view.press("plus")
            seen.append(view.app.desk.state.interval_seconds)
        assert seen == [0.25, 0.5, 1, 2, 5, 10, 30, 60, 60]
        assert "every 60s" in view.status
        for _ in range(9):
            await view.press("minus")
        assert "every 0.25s" in view.status
        await view.press("equals_sign")  # plus, without the shift key
        assert "every 0.5s" in view.status
        assert view.app._sampler._interval_seconds == 0.5


async def test_losses_and_calls_in_flight():
    async with top() as view:
        await view.push(snapshot(time=START, in_flight=3, lost=Lost(orphans=7)))
        assert "  lost 0  " in view.status
        assert "  in flight 3" in view.status
        lost = Lost(orphans=7, no_slot=3, no_thread=5)
        await view.push(snapshot(time=START + 1, lost=lost))
        assert " LOST 8 " in view.status
        assert " LOST no_slot 3, no_thread 5: raise --slots" in view.text


async def test_help():
    async with sampled((80, 60)) as view:
        await view.press("question_mark")
        assert isinstance(view.app.screen, Help)
        for name in (*KEYS, *(column.key for column in COLUMNS)):
            assert re.search(rf"│ {re.escape(name)} ", view.text), name
        await view.press("escape")
        assert len(view.rows) == 10
        await view.press("question_mark", "q")
        assert not isinstance(view.app.screen, Help)
        assert view.app.is_running


async def test_frames_go_on_under_the_help():
    async with sampled() as view:
        await view.press("question_mark")
        await view.push(sample(time=START + 1))
        await view.pilot.resize_terminal(100, 30)
        await view.pilot.pause()
        await view.press("escape")
        assert "22:13:21" in view.lines[0]


@pytest.mark.parametrize("key", ["q", "ctrl+c", "ctrl+q"])
async def test_quit(key):
    async with sampled() as view:
        await view.press(key)
    assert view.app.return_code == 0
    assert view.app.failure is None
    assert not view.app._sampler._thread.is_alive()


async def test_ctrl_c_also_while_typing_and_in_the_help():
    for first in ("slash", "question_mark"):
        async with sampled() as view:
            await view.press(first, "ctrl+c")
            await view.until(lambda view=view: view.app._exit)
        assert view.app.return_code == 0


async def test_a_source_that_vanishes_ends_the_app():
    async with sampled() as view:
        view.source.queue.put(HvtraceError("KVM was unloaded"))
        await view.until(lambda: view.app.failure is not None)
    assert str(view.app.failure) == "KVM was unloaded"
    assert view.app.return_code == 1


async def test_a_source_that_cannot_be_opened_ends_the_app():
    def open_source(say):
        raise HvtraceError("tracing needs root")

    async with top(open_source=open_source) as view:
        await view.until(lambda: view.app.failure is not None)
    assert str(view.app.failure) == "tracing needs root"


async def test_resized():
    async with sampled() as view:
        narrow = view.headings
        await view.pilot.resize_terminal(160, 40)
        await view.until(lambda: "xmm-out" in view.headings)
        assert "refused" in view.text
        await view.pilot.resize_terminal(80, 24)
        await view.until(lambda: view.headings == narrow)


async def test_ended_vms_are_marked_and_dropped():
    def of(ended: bool, seconds: float):
        one = vm("win11-gone", 1013, ended=ended)
        rows = [row(code=2, latencies_ns=[700] * 7), row(one, 3, latencies_ns=[700] * 5)]
        return snapshot(rows, [vm(), one], time=START + seconds)

    async with top((120, 40)) as view:
        await view.push(of(False, 0))
        assert "  2 VMs" in view.lines[0]
        await view.push(of(True, 1))
        assert [line[:11] for line in view.rows] == ["win11      ", "×win11-gone"]  # noqa: RUF001
        assert "  1 VM  " in view.lines[0]
        await view.push(of(True, 60))
        assert len(view.rows) == 1


async def test_picture_on_a_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with sampled() as view:
        before = view.text
        await view.press("S")
        (path,) = tmp_path.iterdir()
        assert re.fullmatch(r"hvtrace-top-\d{8}-\d{6}\.svg", path.name)
        assert text_of(path.read_text(encoding="utf-8")) == before
        await view.until(lambda: path.name in view.text)


async def test_picture_that_cannot_be_written(monkeypatch):
    monkeypatch.chdir("/proc")
    async with sampled() as view:
        await view.press("S")
        await view.until(lambda: "cannot write" in view.text)


async def test_names_are_only_text():
    """Names come from other processes: neither escape sequences nor markup may come through."""
    names = ["win11[bold red]x[/]", "win11\x1b[31m\n\t", "win11仮想"]
    rows = [row(vm(n, 7 + i), 2, latencies_ns=[7]) for i, n in enumerate(names)]
    async with top((200, 24)) as view:
        await view.push(snapshot(rows, time=START))
        assert len(view.rows) == 3
        assert "win11[bold red]x[/]  FlushVirtualAddressSpace" in view.text
        assert "win11?[31m??" in view.text
        await view.press("slash", *"[bold", "enter")
        assert "/[bold: 1 row, " in view.text


def grown(*counts):
    """Cumulative calls, a snapshot a second."""
    return [
        snapshot([row(code=2, latencies_ns=[700] * n)] if n else [], time=START + second)
        for second, n in enumerate(counts)
    ]


def rate(view) -> str:
    return view.rows[0].split()[2]


async def test_step_back_and_forward():
    async with top() as view:
        await view.push(*grown(0, 2, 5, 10, 17))
        assert rate(view) == "7.00"
        for keys, expected, behind in (
            (("left_square_bracket",), "5.00", " PAUSED -1.00s "),
            (("left_square_bracket",), "3.00", " PAUSED -2.00s "),
            (("right_square_bracket",), "5.00", " PAUSED -1.00s "),
            (("left_curly_bracket",), "2.00", " PAUSED -3.00s "),
            (("left_square_bracket",), "2.00", " PAUSED -3.00s "),
            (("right_square_bracket", "right_square_bracket"), "5.00", " PAUSED -1.00s "),
        ):
            await view.press(*keys)
            assert rate(view) == expected
            assert view.status.startswith(behind)
        await view.press("right_square_bracket")
        assert rate(view) == "7.00"
        assert "PAUSED" not in view.text
        await view.press("left_curly_bracket", "right_curly_bracket")
        assert "PAUSED" not in view.text


async def test_counting_goes_on_while_one_looks_back():
    async with top() as view:
        await view.push(*grown(0, 2, 5))
        await view.press("left_square_bracket")
        await view.push(grown(0, 2, 5, 10)[-1])
        assert rate(view) == "2.00"
        assert view.status.startswith(" PAUSED -2.00s ")
        await view.press("right_square_bracket")
        assert rate(view) == "3.00"
        await view.press("p")
        assert rate(view) == "5.00"
        assert "PAUSED" not in view.text


async def test_counts_of_a_moment_are_those_of_that_moment():
    async with top() as view:
        await view.push(*grown(0, 2, 5, 10))
        await view.press("left_square_bracket", "left_square_bracket")
        assert view.rows[0].split()[2:4] == ["2.00", "2"]
        await view.press("right_square_bracket")
        assert view.rows[0].split()[2:4] == ["3.00", "5"]


async def test_the_scope_of_a_moment():
    """Since the start up to it, whether the scope or the moment was chosen first."""
    names = {"[": "left_square_bracket", "]": "right_square_bracket", "{": "left_curly_bracket"}
    for keys in ("[[t", "t[[", "[t[", "[[t][", "{t", "t{", "[[ttt", "t[t[t", "[t[t]t["):
        async with top() as view:
            await view.push(*grown(0, 2, 5, 11))
            await view.press(*(names.get(key, key) for key in keys))
            assert view.status.startswith(" PAUSED -2.00s "), keys
            assert "total 1.00s" in view.lines[0], keys
            assert view.rows[0].split()[2:4] == ["2.00", "2"], keys


async def test_reset_while_paused_shows_nothing_of_before():
    async with top() as view:
        await view.push(*grown(0, 2, 5))
        await view.press("left_square_bracket", "r")
        await view.push(*grown(0, 2, 5, 5, 5)[3:])
        assert view.rows == []


@pytest.mark.parametrize("first", ["2", "g"])
async def test_groupings(first):
    async with sampled((120, 40)) as view:
        calls = {"FlushVirtualAddressSpaceEx", "GetPartitionId"}
        for key, words, rows in (
            (first, "by VM", {"+win11/1009", "+win11/1013"}),
            ("3" if first == "2" else "g", "by call", calls),
            ("4" if first == "2" else "g", "by vCPU", {"+win11/1009 ended"}),
            ("5" if first == "2" else "g", "by host", {"all VMs"}),
            ("1" if first == "2" else "g", "by VM+call", {"SignalEvent"}),
        ):
            await view.press(key)
            assert view.lines[0].endswith(words)
            text = re.sub(" +", " ", view.text)
            assert all(name in text for name in rows), key
        assert len(view.rows) == 10


async def test_a_grouping_without_the_column_sorted_by():
    async with sampled() as view:
        await view.press("left")
        assert view.app.desk.state.view.sort == "call"
        await view.press("2")
        assert view.app.desk.state.view.sort == "/s"
        await view.press("right", "3")
        assert view.app.desk.state.view.sort == "minute"


async def test_a_recording_does_not_say_which_vcpu():
    async with top(recording="friday.jsonl") as view:
        await view.push(*grown(0, 2))
        await view.press("2", "4")
        assert view.lines[0].endswith("by VM")
        await view.until(lambda: "does not say which vCPU" in view.text)
        await view.press("g", "g")
        assert view.lines[0].endswith("by host")


async def test_the_end_of_a_recording_is_not_the_end():
    async with top(recording="friday.jsonl") as view:
        await view.push(*grown(0, 2, 5))
        assert " replay friday.jsonl " in view.status
        view.source.queue.put(RecordingEnded("line 7 of friday.jsonl is cut off"))
        await view.until(lambda: "END OF RECORDING" in view.status)
        assert "line 7 of friday.jsonl is cut off" in view.text
        assert rate(view) == "3.00"
        await view.until(lambda: view.source.closed)
        await view.press("left_square_bracket")
        assert rate(view) == "2.00"
        await view.press("p", "enter")
        assert " END OF RECORDING " in view.status
        assert view.app.is_running


async def test_a_probe_that_goes_away_is_seen():
    async with top() as view:
        probes = tuple(Probe(name, True) for name in ("a", "b", "c"))
        one, two = grown(0, 2)
        await view.push(replace(one, probes=probes))
        assert " 3 probes " in view.status
        probes = (*probes[:2], replace(probes[2], attached=False))
        await view.push(replace(two, probes=probes))
        assert " 2 OF 3 PROBES " in view.status
        assert " NOT ATTACHED c" in view.text


async def test_lines_of_alarm_come_and_go():
    async with top() as view:
        await view.push(*grown(0, 2))
        await view.press("slash", "f", "enter")
        assert view.lines[-3] == " /f: 1 row, Esc drops it"
        assert view.lines[-2] == view.status
        await view.press("escape")
        assert view.lines[-3] == ""
        assert view.lines[-2] == view.status


async def test_settings_are_kept(tmp_path):
    path = tmp_path / "hvtrace" / "top.json"
    async with top(settings_file=path, interval_seconds=None) as view:
        await view.push(*grown(0, 2))
        await view.press("3", "right", "s", "t", "plus", "c", "space", "escape", "slash", "f")
    async with top(settings_file=path, interval_seconds=None) as view:
        chosen = view.app.desk.state.view
        assert chosen.filter == ""
        assert view.app.desk.state.interval_seconds == 2.0
        await view.push(*grown(0, 2))
        assert view.lines[0].endswith("by call")
        assert "total" in view.lines[0]
        assert "▲calls" in view.headings
        assert "/s" not in view.headings
    async with top(settings_file=path, interval_seconds=5.0) as view:
        assert view.app.desk.state.interval_seconds == 5.0
        await view.press("t")
    async with top(settings_file=path, interval_seconds=None) as view:
        assert view.app.desk.state.interval_seconds == 2.0
        assert view.app.desk.state.view == chosen.other_scope()


async def test_settings_are_written_soon_not_only_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("hvtrace.top.app.KEEP_SECONDS", 0.01)
    path = tmp_path / "top.json"
    async with top(settings_file=path) as view:
        await view.press("t")
        await view.until(path.exists)


async def test_broken_settings_are_told_once_and_left_alone(tmp_path):
    path = tmp_path / "top.json"
    path.write_text("{")
    async with top((120, 24), settings_file=path) as view:
        await view.push(*grown(0, 2))
        await view.until(lambda: "is not used: it is not what" in re.sub(r"\s+", " ", view.text))
        assert rate(view) == "2.00"
    assert path.read_text() == "{"


async def test_settings_that_cannot_be_kept_are_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr("hvtrace.top.app.KEEP_SECONDS", 0.01)
    (tmp_path / "file").touch()
    async with top((120, 24), settings_file=tmp_path / "file" / "top.json") as view:
        await view.press("t")
        await view.until(lambda: "settings are not kept" in view.text)
        told = len(view.app._notifications)
        await view.press("t", "3", "s")
        await view.pilot.pause(0.1)
        assert len(view.app._notifications) == told
