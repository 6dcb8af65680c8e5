"""The detail of a row: all of it is said, in lines that fit, and nothing that is not so."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from detail_samples import busy, detail, host, part, spread, vcpus
from goldens import check
from hypothesis import given, settings
from hypothesis import strategies as st

from hvtrace.hyperv.codes import CODES
from hvtrace.stats.table import ATTEMPTS
from hvtrace.top.detail import MOST_PARTS
from hvtrace.top.facts import FAILURE, VERDICTS
from hvtrace.top.panes import detail_lines

SIZES = [(80, 24), (120, 40), (200, 60)]


@pytest.fixture(autouse=True)
def _utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def full():
    return busy()


def text(one, width=80, height=None) -> str:
    return "\n".join(line.plain.rstrip() for line in detail_lines(one, width, height)) + "\n"


def section(drawn: str, title: str) -> list[str]:
    """Lines below a heading, of a narrow screen."""
    parts = drawn.split("\n\n")
    [found] = [p for p in parts if p.split(" ")[0] == title or p.startswith(f"{title} ")]
    return found.splitlines()[1:]


# As a whole.


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_golden(full, width, height):
    check(f"detail-{width}.txt", text(full, width, height))


def test_golden_of_many_calls():
    check("detail-host.txt", text(host(), 80, 24))


@pytest.mark.parametrize("width", [20, 40, 79, 80, 81, 119, 120, 121, 200, 317])
@pytest.mark.parametrize("height", [None, 3, 24, 60, 200])
def test_no_line_is_wider_than_the_screen(full, width, height):
    for one in (full, detail(), detail(unfinished=7, moments=2)):
        assert max(line.cell_len for line in detail_lines(one, width, height)) <= width


def test_wide_characters_fit(full):
    one = replace(full, title="虚拟机" * 30, vms=(part("虚拟机" * 20, [900.0]),))
    for width, height in SIZES:
        assert max(line.cell_len for line in detail_lines(one, width, height)) <= width


@pytest.mark.parametrize(("width", "height"), [(80, 22), (80, 24), (120, 36), (120, 40), (200, 57)])
def test_the_first_screenful_has_numbers_latency_and_handlers(full, width, height):
    first = "\n".join(text(full, width, height).splitlines()[:height])
    for found in ("p99 114µs", "Latency", "p50 ██", "Handler", "vmm/kernel"):
        assert found in first
    if width >= 120:
        assert "fewer calls/s" in first


def test_the_sections_are_in_order_of_use(full):
    drawn = text(replace(full, calls=full.vcpus, vms=full.vcpus), 80, 24)
    titles = [p.split()[0] for p in drawn.split("\n\n")]
    assert titles == [
        *("win11", "Latency", "Handler", "Over", "Status", "Convention"),
        *("vCPU", "Call", "VM", "Sizes", "HvCallFlushVirtualAddressListEx"),
    ]


@pytest.mark.parametrize("width", [120, 200])
def test_beside_each_other_is_all_that_is_below_each_other(full, width):
    def words(width):
        return {w for w in text(full, width, 60).split() if not set(w) & set("█▏▎▍▌▋▊▉·░▒▓─…┬")}

    missing = words(80) - words(width)
    # What the charts merged or cut is not the same at all widths; all else is there.
    assert {w for w in missing if "s-" not in w and not w.startswith("-") and w.isalpha()} == set()


def test_styles_keep_to_their_own_column(full):
    lines = detail_lines(full, 120, 40)
    [line] = [line for line in lines if "vmm/kernel" in line.plain]
    assert not line.style
    assert all(span.end <= 59 for span in line.spans if span.style == "bold")


# Numbers.


def test_numbers_are_the_rows(full):
    numbers = " ".join(text(full, 80).splitlines()[1:3])
    whole = full.whole
    assert numbers.startswith(f"calls {whole.calls:,}  calls/s 4.22k  ")
    mean_us = whole.time_ns / full.completed / 1000
    assert f"mean {mean_us:.1f}µs  p50 1.97µs  p99 114µs  max 38.0ms" in numbers
    assert f"busy {whole.time_ns / 1e6:.1f}ms/s  fast 97%  XMM in 89%  VMM 5%" in numbers
    assert "failed 12  unfinished 2  " in numbers


def test_rates_go_by_the_seconds_of_the_span(full):
    drawn = text(replace(full, seconds=10.0, span="total 10.0s"), 80)
    assert "calls/s 422 " in drawn
    assert "busy 6.66ms/s" in drawn
    assert drawn.splitlines()[0].endswith("  total 10.0s")


def test_failures_are_red_and_none_are_not(full):
    def red(one):
        return [
            line.plain[s.start : s.end]
            for line in detail_lines(one, 80)
            for s in line.spans
            if s.style == FAILURE
        ]

    found = [one.strip() for one in red(full)]
    assert found == ["12", "2", "INVALID_HYPERCALL_INPUT", "ACCESS_DENIED", "never completed"]
    assert red(detail(spread(101, 900, 0.3), moments=5)) == []


def test_the_course_of_the_rate_ends_at_the_right_of_the_numbers(full):
    line = text(replace(full, rates=np.array([8.0] * 90 + [1.0])), 80).splitlines()[2]
    assert len(line) == 80
    assert line.endswith("██▁")
    assert "█" not in "".join(text(replace(full, rates=np.array([8.0])), 80).splitlines()[:3])


def test_a_name_cannot_act_on_the_terminal():
    one = replace(host(), title="evil\x1b[2J")
    assert "\x1b" not in text(one, 80) + text(one, 120)
    assert "linux?[31m" in text(one, 80)


# Charts.


def test_histogram_and_heatmap_share_their_rows(full):
    _, charts, *_ = text(full, 120, 40).split("\n\n")
    rows = [line for line in charts.splitlines() if "s-" in line[:13]]
    labels = [(line[:13], line[55:68]) for line in rows]
    assert len(labels) > 10
    assert all(left == right for left, right in labels)


def test_the_histogram_counts_all_that_completed(full):
    rows = section(text(full, 80, 60), "Latency")
    small = [int(row[14:19]) for row in rows if row[14:19].strip().isdigit()]
    large = [float(row[14:18]) * 1000 for row in rows if row[18] == "k"]
    assert sum(small) + sum(large) == pytest.approx(full.completed, abs=5 * len(large))


def test_the_reach_of_the_history_is_said(full):
    assert "97s, 97 moments" in text(full, 80)
    assert "10m00s, 600 moments" in text(host(), 80)


# Nothing, or nearly.


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize(
    ("one", "latency", "course"),
    [
        (detail(), "No calls (last 1.00s).", "No history yet."),
        (detail(moments=60), "No calls (last 1.00s).", "No call completed in this time."),
        (
            detail(unfinished=7, moments=3),
            "All 7 calls never completed: there is no time to show.",
            "No call completed in this time.",
        ),
        (
            detail(unfinished=1),
            "The call never completed: there is no time to show.",
            "No history yet.",
        ),
        (
            replace(detail([900.0] * 3, moments=2), spans=np.array([0.0, 1.0])),
            "3 100% p50 p99",
            "One moment so far: it has no course yet.",
        ),
    ],
)
def test_where_there_is_nothing_words_say_so(one, latency, course, width):
    drawn = text(one, width)
    assert latency in drawn
    assert course in drawn
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_calls_of_the_past_only(full):
    past = replace(detail(moments=0), heat=full.heat, ends=full.ends, spans=full.spans)
    for width in (80, 120):
        drawn = text(past, width)
        assert "No calls (last 1.00s)." in drawn
        assert "fewer calls/s" in drawn


def test_a_row_without_calls_speaks_of_no_convention_and_no_sizes():
    drawn = text(detail(moments=60))
    assert "Convention" not in drawn
    assert "Sizes" not in drawn
    assert "HvCallFlushVirtualAddressListEx" in drawn


# Handlers, and other parts.


def test_the_factor_between_the_handlers():
    drawn = section(text(detail([1000.0] * 7, [41_000.0] * 3), 80), "Handler")
    assert [line.split()[0] for line in drawn] == ["vmm", "kernel", "vmm/kernel"]
    assert drawn[2].split() == ["vmm/kernel", "41.0x", "41.0x", "41.0x", "41.0x"]
    assert drawn[1].split()[:4] == ["kernel", "7", "70%", "5%"]
    # Below the numbers that they compare.
    assert drawn[2].index("41.0x") + 5 == drawn[0].index("41.0µs") + 6


def test_one_handler_has_nothing_to_compare_with():
    assert len(section(text(detail([1000.0] * 7), 80), "Handler")) == 1
    only_unfinished = detail([1000.0] * 7, [5000.0])
    only_unfinished = replace(
        only_unfinished, handlers=(only_unfinished.handlers[0], part("vmm", [], 2))
    )
    *_, factors = section(text(only_unfinished, 80), "Handler")
    assert factors.split() == ["vmm/kernel", "-", "-", "-", "-"]
    *_, factors = section(text(detail([0.0] * 7, [5000.0]), 80), "Handler")
    assert factors.split() == ["vmm/kernel", "-", "-", "-", "-"]


def test_a_long_table_says_what_it_leaves_out():
    parts = vcpus(list(spread(4001, 1_900, 0.5)), 20)
    one = replace(detail(spread(4001, 1_900, 0.5)), vcpus=parts)
    lines = section(text(one, 80, 24), "vCPU")
    assert len(lines) == 9
    rest = sum(p.calls for p in parts[8:])
    assert lines[-1].startswith("and 12 more: ")
    assert f"{rest / 1000:.2f}k calls" in lines[-1]
    shares = [int(line.split()[4].rstrip("%")) for line in lines[:-1]]
    assert shares == sorted(shares, reverse=True)
    share = round(100 * sum(p.time_ns for p in parts[8:]) / one.whole.time_ns)
    assert lines[-1].endswith(f"{share}% of the time")
    assert len(section(text(one, 80, 60), "vCPU")) == 20


def test_what_was_left_out_before_is_counted_too():
    parts = vcpus(list(spread(4001, 1_900, 0.5)), MOST_PARTS)
    one = replace(detail(spread(4001, 1_900, 0.5)), vcpus=(*parts, part("7 more", [900.0] * 3)))
    *_, last = section(text(one, 80, 24), "vCPU")
    assert last.startswith(f"and {MOST_PARTS - 8 + 7} more: ")
    *_, last = section(text(one, 80, 200), "vCPU")
    assert last.split()[:3] == ["7", "more", "3"]


# Statuses, conventions, sizes, and what it is.


def test_what_a_failure_means_and_where_it_comes_from(full):
    drawn = "\n".join(section(text(full, 80), "Status"))
    assert "ACCESS_DENIED                5  <1%  Caller lacks the privilege" in drawn
    denied = drawn[drawn.index("ACCESS_DENIED") :]
    assert "leaf 0x40000004 EAX\n    lacks bit 2 or 11 [5.14 and later]" in denied
    assert "  - or the VMM answered so" in denied
    assert "there is no trace event either" not in drawn  # so it is none of the unfinished
    assert "the VMM answered so, KVM does not" not in drawn


def test_a_status_that_kvm_never_gives_is_the_vmms():
    one = replace(
        detail([900.0] * 3, [9000.0] * 2),
        statuses={"SUCCESS": 3, "INSUFFICIENT_BUFFERS": 1, "0x7777": 1},
    )
    drawn = section(text(one, 80), "Status")
    assert drawn[1].split()[:3] == ["INSUFFICIENT_BUFFERS", "1", "20%"]
    assert drawn[1].endswith("Destination port has no free buffer")
    assert drawn.count("  - the VMM answered so, KVM does not") == 2
    assert any("not known: in none of the sources used" in line for line in drawn)
    assert "VMM" not in "".join(section(text(replace(one, code=None), 80), "Status"))


def test_every_verdict_on_output_has_its_meaning(full):
    assert set(VERDICTS) == set(ATTEMPTS)
    one = replace(full, verdicts=dict.fromkeys(ATTEMPTS, 3))
    drawn = section(text(one, 80), "Convention")
    at = drawn.index("output in registers, asked for by 15 calls")
    found = [line.split() for line in drawn[at + 1 :] if line[0] != " "]
    assert [words[:3] for words in found] == [[name, "3", "20%"] for name in VERDICTS]
    [claimed] = [x for x in detail_lines(one, 80) if x.plain.startswith("claimed")]
    assert any(span.style == FAILURE for span in claimed.spans)


def test_sizes_are_ranges(full):
    drawn = section(text(full, 80), "Sizes")
    assert drawn[0] == "reps, 11.5k completed"
    ranges = [line.split()[0] for line in drawn[1:]]
    assert ranges == [
        *("1", "2-3", "4-7", "8-15", "16-31", "32-63", "64-127", "128-255"),
        *("variable", "8", "16-24", "32-56"),
    ]
    assert drawn[7].split() == ["64-127", "0", "-"]
    assert drawn[8].endswith("▏")


@pytest.mark.parametrize(
    ("reps", "var", "drawn"),
    [
        (None, None, ["Rep counts and variable headers: not known (a replay)."]),
        (np.zeros(12), np.zeros(10), ["No reps, no variable header."]),
        (None, np.eye(10)[0], ["reps: not known (a replay)", "variable header, bytes", "8"]),
        (np.eye(12)[11], np.zeros(10), ["reps", "2048-4095", "variable header, bytes: none"]),
        (np.zeros(12), np.eye(10)[9], ["reps: none", "variable header, bytes", "4096-8184"]),
    ],
)
def test_sizes_where_there_are_none(reps, var, drawn):
    one = replace(detail([900.0] * 7), reps=reps, var=var)
    found = section(text(one, 80), "Sizes")
    assert len(found) == len(drawn)
    assert all(line.strip().startswith(start) for line, start in zip(found, drawn, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([*CODES, 0x8001, 0x8123, 0xFFF0]), st.sampled_from([60, 80, 118]))
def test_every_call_is_explained(code, width):
    lines = text(replace(detail([900.0]), code=code), width).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith(("HvCall", "HvExt", "0x")))
    about = lines[at + 1 :]
    assert about[0].strip().startswith(f"0x{code:04x}, ")
    assert about[-1].split() == ["more", "hvtrace", "explain", f"0x{code:04x}"]
    labels = {line[:11].strip() for line in about} - {""}
    assert {"input", "output", "fast", "KVM", "more"} <= labels
    assert "None" not in "".join(about)


def test_several_calls_are_not_explained():
    assert "hvtrace explain" not in text(host())
