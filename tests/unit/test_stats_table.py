"""The table for people: the whole of it against a golden file, and its rules one by one."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from goldens import check, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import START, row, snapshot, vm

from hvtrace.hyperv.codes import CODES
from hvtrace.hyperv.statuses import STATUSES
from hvtrace.stats.snapshot import Lost, SlowCall, rollup
from hvtrace.stats.table import COLUMNS, LOSSES, MOST_SLOW, lines, render


def cells(text: str) -> dict[str, dict[str, str]]:
    """Lines of all sections by name, as {column: cell}."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == len(COLUMNS) + 1 and words[0] != "calls":
            found[words[0]] = dict(zip(COLUMNS, words[1:], strict=True))
    return found


def test_table_is_the_golden_file_s():
    check("table.txt", render(sample(), 10.0))


def test_wide_table_is_the_golden_file_s():
    check("table-120.txt", render(sample(), 10.0, width=120))


@pytest.mark.parametrize("width", [80, 87])
def test_round_trips_are_the_golden_file_s(width):
    check(f"table-trips-{width}.txt", render(sample(trips=True), 10.0, width=width))


def test_a_round_trip_is_a_mean_beside_the_service_time_s():
    snap = snapshot(
        [
            row(code=0x5D, latencies_ns=[1_000, 3_000], trips_ns=[2_000, 5_000]),
            row(code=0x5D, fast=True, latencies_ns=[2_000], trips_ns=[]),
            row(code=2, latencies_ns=[1_000], trips_ns=[]),
        ]
    )
    heading, *table = render(snap, 1.0).splitlines()[3:]
    assert heading.split()[:5] == ["calls", "/s", "time", "mean", "trip"]
    means = {line.split()[0]: line.split()[4:6] for line in table}
    assert means == {
        "SignalEvent": ["2.00µs", "3.50µs"],
        "Flush…Space": ["1.00µs", "-"],
    }


def test_colours_add_nothing_but_escapes():
    painted = render(sample(), 10.0, color=True)
    assert re.sub(r"\x1b\[\d*m", "", painted) == render(sample(), 10.0)
    assert "\x1b" not in render(sample(), 10.0)
    red = re.findall(r"\x1b\[31m *(\d+)\x1b\[0m", painted)
    assert red == ["7", "3", "5"]


def test_a_line_holds_all_variants_of_a_call():
    """3 of 7 calls fast and with XMM input, 2 served by the VMM; the times of all together."""
    table = render(
        snapshot(
            [
                row(code=0x5D, fast=True, latencies_ns=[1_000, 2_000, 3_000], xmm_input=3),
                row(code=0x5D, latencies_ns=[4_000, 5_000]),
                row(code=0x5D, handler="vmm", latencies_ns=[6_000], unfinished=1, statuses={5: 1}),
            ]
        ),
        2.0,
    )
    assert cells(table) == {
        "SignalEvent": {
            "calls": "7",
            "/s": "3.50",
            "time": "100",
            "mean": "3.50µs",  # of the six completed
            "p50": "3.10µs",
            "p99": "5.86µs",
            "max": "6.00µs",
            "fast": "43",
            "xmm": "43",
            "vmm": "29",
            "fail": "1",
        }
    }
    assert "unfinished: SignalEvent 1\n" in table
    assert "failed: SignalEvent INVALID_PARAMETER 1\n" in table


def test_sorted_by_time_within_vms_and_vms_by_time():
    table = render(
        snapshot(
            [
                row("light", 2, latencies_ns=[900_000]),
                row("heavy", 3, latencies_ns=[10] * 101),
                row("heavy", 8, latencies_ns=[1_000_000]),
                row("light", 0x5D, unfinished=1),
                row("light", 0x5C, latencies_ns=[5]),
            ]
        ),
        1.0,
    )
    shown = [line.split() for line in table.splitlines() if " (qemu" in line or "-" in line]
    assert [words[0] for words in shown] == [
        *("heavy", "Notify…SpinWait", "Flush…List"),
        *("light", "Flush…Space", "PostMessage", "SignalEvent"),
    ]


def test_unfinished_only_calls_have_no_times():
    table = render(snapshot([row(code=0x5C, unfinished=3)]), 1.0)
    assert cells(table)["PostMessage"] == {
        "calls": "3",
        "/s": "3.00",
        **dict.fromkeys(("time", "mean", "p50", "p99", "max", "fast", "xmm", "vmm", "fail"), "-"),
    }


def test_losses_are_said_each_in_words_and_only_when_there_are_some():
    assert "lost" not in render(snapshot([row(latencies_ns=[5])]), 1.0)
    for name, words in LOSSES.items():
        table = render(snapshot([row(latencies_ns=[5])], lost=Lost(**{name: 1009})), 1.0)
        assert table.endswith(f"\nlost: 1,009 {words}\n")


def test_every_loss_has_words():
    assert set(LOSSES) == set(Lost.__dataclass_fields__)


def test_calls_in_flight_are_said():
    table = render(snapshot([row(latencies_ns=[5])], in_flight=2), 1.0)
    assert table.endswith("\nstill open: 2 calls, in no count above\n")


def test_nothing_counted():
    assert render(snapshot(), 10.0) == "No hypercalls in 10.0s.\n"
    with_losses = render(snapshot(lost=Lost(no_thread=7)), 10.0)
    assert with_losses.startswith("No hypercalls in 10.0s.\n\nlost: 7 calls")


def test_no_time_at_all_is_no_division_by_zero():
    assert "1 hypercall of 1 VM" in render(snapshot([row(latencies_ns=[5])]), 0.0)


def test_all_vms_together():
    snap = snapshot([row("a", 2, latencies_ns=[5] * 3), row("b", 2, latencies_ns=[5] * 4)])
    table = render(rollup(snap, ("code", "fast", "handler")), 1.0)
    assert table.splitlines()[0].startswith("7 hypercalls in 1.00s: ")
    assert table.splitlines()[2].startswith("all VMs: 7 calls, ")
    assert cells(table)["Flush…Space"]["calls"] == "7"


def test_names_cannot_write_to_the_terminal():
    table = render(snapshot([row(vm("a\x1b[2Jb\nc"), latencies_ns=[5])]), 1.0)
    assert "a?[2Jb?c (qemu, pid 1009): " in table


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.builds(
            row,
            vm=st.sampled_from(["a", "b" * 200, "中" * 8, ""]),
            code=st.sampled_from([*CODES, 0x1234, 0xFFFF]),
            fast=st.booleans(),
            handler=st.sampled_from(["kernel", "vmm"]),
            latencies_ns=st.lists(st.integers(1, 10**13), max_size=3),
            unfinished=st.integers(0, 2**40),
            statuses=st.dictionaries(st.integers(1, 0xFFFF), st.integers(1, 2**40), max_size=9),
            xmm_input=st.integers(0, 2),
        ),
        max_size=12,
    ),
    st.builds(Lost, *[st.integers(0, 2**64 - 1)] * 4),
    st.integers(0, 1024),
    st.floats(0.001, 86_400),
    st.integers(80, 200),
)
def test_no_line_is_longer_than_asked(rows, lost, in_flight, duration_s, width):
    snap = rollup(snapshot(rows, lost=lost, in_flight=in_flight))
    table = render(snap, duration_s, width)
    assert table.endswith("\n")
    assert max(map(len, table.splitlines())) <= width


def test_lines_are_what_views_of_calls_sort():
    found = lines(sample())
    assert [line.time_ns for line in found] == sorted((x.time_ns for x in found), reverse=True)
    assert sum(line.total.calls for line in found) == 1231 + 23 + 213 + 4102 + 401 + 13 + 73 + 12
    signal_event = next(line for line in found if line.total.code == 0x5D)
    assert (signal_event.fast, signal_event.vmm, signal_event.xmm_input) == (4102, 101, 0)


@pytest.mark.parametrize("width", [80, 81, 100])
def test_columns_are_straight(width):
    for section in render(sample(), 10.0, width).split("\n\n")[1:-1]:
        _, heading, *own = section.splitlines()
        own = [
            line for line in own if not re.match("unfinished|failed|XMM output|claimed|  ", line)
        ]
        assert {len(line) for line in (heading, *own)} == {len(heading)}


# --- slow calls


@pytest.fixture
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def slow(number=0, **more):
    """A slow call, 7 ms after the one before it and 1.01 ms shorter."""
    call = SlowCall(
        start=START + 0.25 + number * 0.007,
        vm=vm("win11"),
        vcpu=3,
        tid=1013,
        code=0x13,
        fast=True,
        handler="kernel",
        var_cnt=1,
        rep_cnt=5,
        status=0,
        reps=2,
        duration_ns=50_000_000 - number * 1_010_000,
    )
    return replace(call, **more)


def slow_section(*calls, **more):
    snap = replace(snapshot([row(latencies_ns=[5])]), slow=calls)
    return render(snap, 1.0, **more).split("\n\n")[-1].splitlines()


@pytest.mark.usefixtures("utc")
def test_slow_calls_are_listed_the_slowest_first():
    calls = (slow(1), slow(0, code=0x5C, status=0x12), slow(2, vm=vm("linux", 1013)))
    assert slow_section(*calls) == [
        "3 slow calls",
        "began        VM    call                         took status",
        "22:13:20.250 win11 PostMessage                50.0ms INVALID_CONNECTION_ID",
        "22:13:20.257 win11 FlushVirtualAddressSpaceEx 49.0ms SUCCESS",
        "22:13:20.264 linux FlushVirtualAddressSpaceEx 48.0ms SUCCESS",
    ]


def test_of_many_slow_calls_the_slowest_are_listed():
    calls = [slow(i) for i in range(MOST_SLOW + 1009)]
    shuffled = sorted(calls, key=lambda call: call.start * 997 % 1)
    heading, _, *listed = slow_section(*shuffled)
    assert heading == "1,029 slow calls: the 20 slowest, 1,009 more are not listed"
    assert len(listed) == MOST_SLOW
    assert (listed[0].split()[-2], listed[-1].split()[-2]) == ("50.0ms", "30.8ms")


def test_one_slow_call_or_none():
    assert slow_section(slow())[0] == "1 slow call"
    assert "slow" not in render(snapshot([row(latencies_ns=[5])]), 1.0)


@settings(max_examples=30, deadline=None)
@given(
    st.text(max_size=100),
    st.sampled_from([*CODES, 0xFFF0]),
    st.sampled_from([*STATUSES, 0x7777]),
    st.integers(0, 2**45),
)
def test_slow_calls_fit_80_columns(name, code, status, duration_ns):
    one = slow(vm=vm(name), code=code, status=status, duration_ns=duration_ns)
    for line in slow_section(one, slow()):
        assert len(line) <= 80
        assert line.isprintable()
