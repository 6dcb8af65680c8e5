"""The cursor of the table: keys, mouse, and where it is when rows move or vanish."""

from __future__ import annotations

from piloted import many, sampled, top
from samples import START, row, snapshot

from hvtrace.top.calltable import CallTable
from hvtrace.top.screens.detail import DetailPane


async def test_moved_by_every_key():
    async with top() as view:
        await view.push(many(97))
        await view.press("right")  # by calls: the last comes first
        assert view.at_cursor.startswith("insta…0096")
        for keys, expected in (
            (("down",), 95),
            (("j", "j"), 93),
            (("up",), 94),
            (("k",), 95),
            (("pagedown",), 95 - len(view.rows)),
            (("pageup",), 95),
            (("pageup",), 96),
            (("end",), 0),
            (("down", "pagedown"), 0),
            (("home",), 96),
            (("up",), 96),
        ):
            await view.press(*keys)
            assert view.at_cursor.startswith(f"insta…{expected:04d}"), keys


async def test_headings_stay_and_the_screen_goes_with_the_cursor():
    async with top() as view:
        await view.push(many(97))
        await view.press("right")
        headings, height = view.headings, len(view.rows)
        await view.press("end")
        assert view.headings == headings
        assert view.rows[-1].startswith("insta…0000")
        await view.press(*["up"] * height)
        assert view.rows[0] == view.at_cursor
        await view.press("slash", *"0042")
        assert [line[:10] for line in view.rows] == ["insta…0042"]


def three(*counts, seconds):
    codes = zip((2, 3, 8), counts, strict=True)
    rows = [row(code=code, latencies_ns=[700] * count) for code, count in codes if count]
    return snapshot(rows, time=START + seconds)


async def test_it_goes_with_its_row():
    async with top() as view:
        await view.push(snapshot(time=START), three(3, 5, 7, seconds=1))
        await view.press("down")
        kept = view.at_cursor
        assert view.names.index(kept.split()[1]) == 1
        await view.push(three(20, 80, 41, seconds=2))
        assert view.at_cursor.split()[1] == kept.split()[1]
        assert view.names[0] == kept.split()[1]
        await view.press("s")
        assert view.at_cursor.split()[1] == view.names[2] == kept.split()[1]


async def test_in_the_first_line_it_stays_whichever_row_that_is():
    async with top() as view:
        await view.push(snapshot(time=START), three(3, 5, 7, seconds=1))
        first = view.names[0]
        await view.push(three(20, 80, 41, seconds=2))
        assert view.names[0] != first
        assert view.at_cursor == view.rows[0]
        await view.press("down", "home")
        await view.push(three(99, 81, 42, seconds=3))
        assert view.at_cursor == view.rows[0]


async def test_where_its_row_vanishes_it_stays_at_its_place():
    async with top() as view:
        await view.push(snapshot(time=START), three(3, 5, 7, seconds=1))
        await view.press("down")
        gone = view.at_cursor.split()[1]
        await view.press("slash", *"0x2", "enter")
        assert gone not in view.names
        assert view.at_cursor == view.rows[0]
        await view.press("escape")
        assert len(view.rows) == 3


async def test_another_grouping_begins_at_the_top():
    async with sampled() as view:
        await view.press("down", "down", "3")
        assert view.at_cursor == view.rows[0]


async def test_no_row_at_all():
    async with top() as view:
        await view.push(snapshot(time=START))
        await view.press("down", "end", "pageup", "home", "enter")
        assert not isinstance(view.app.screen, DetailPane)
        await view.push(many(3, 1))
        assert view.at_cursor == view.rows[0]


async def test_fewer_rows_than_before():
    async with top() as view:
        await view.push(many(97))
        await view.press("end")
        await view.push(many(3, 1))
        assert len(view.rows) == 3
        assert view.at_cursor in view.rows


async def test_fewer_rows_than_it_was_scrolled_past():
    async with top() as view:
        await view.push(many(97))
        height = len(view.rows)
        view.table.scroll_to(y=70, animate=False, immediate=True)
        await view.pilot.pause()
        await view.push(many(53, 1))
        assert len(view.rows) == height
        assert view.rows[-1].startswith("insta…0052")


async def test_rows_that_come_and_go_lay_nothing_out():
    async with top() as view:
        await view.push(many(97))
        layouts: list[object] = []
        view.app.screen.screen_layout_refresh_signal.subscribe(view.table, layouts.append)
        await view.push(many(89, 1))
        assert view.table.vertical_scrollbar.window_virtual_size == 1 + 89
        assert not layouts
        await view.push(many(3, 2))
        assert layouts  # the scroll bar has gone


async def test_columns_stay_where_a_scroll_bar_comes():
    async with top() as view:
        await view.push(many(3))
        headings = view.headings
        await view.push(many(97, 1))
        assert view.table.show_vertical_scrollbar
        assert view.headings == headings


async def test_the_wheel_scrolls_and_new_frames_do_not_scroll_back():
    async with top() as view:
        await view.push(many(97))
        view.table.scroll_to(y=40, animate=False, immediate=True)
        await view.pilot.pause()
        first = view.rows[0].split()[0]
        await view.push(many(97, 1))
        assert view.rows[0].split()[0] == first
        await view.press("down")
        assert view.at_cursor in view.rows


async def test_a_click_selects_and_two_open_the_detail():
    async with sampled() as view:
        table = view.app.screen.query_one(CallTable)
        await view.pilot.click(table, offset=(9, 3))
        assert view.at_cursor == view.rows[2]
        name = view.names[2]
        await view.pilot.click(table, offset=(9, 15))  # below the last row
        assert view.at_cursor == view.rows[2]
        await view.pilot.click(table, offset=(9, 3), times=2)
        await view.pilot.pause()
        assert isinstance(view.app.screen, DetailPane)
        assert name.split("…")[0] in view.text


async def test_alarms_are_seen_without_colour():
    async with sampled() as view:
        await view.press("down")
        found = []
        for y, line in enumerate(view.rows, 1):
            for segment in view.table.render_line(y):
                style = segment.style
                if segment.text.strip() and style and style.underline:
                    found.append((line.split()[1], segment.text.strip(), style.bold, style.color))
        alarms = {(name, text) for name, text, bold, color in found if bold and color}
        assert alarms == {("PostMessage", "5"), ("GetVpRegisters", "7"), ("0xfff0", "3")}
        assert len(found) == 3
