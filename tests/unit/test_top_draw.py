"""Charts of text: what stands where, and that nothing that was counted vanishes."""

from __future__ import annotations

import math
import re
import time
from itertools import pairwise

import numpy as np
import pytest
from detail_samples import END, bucketed, spread
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.color import Color, ColorSystem

from hvtrace.stats.histogram import BUCKETS, LOWER_NS, UPPER_NS
from hvtrace.top.draw import LABEL, Band, bands, bar, histogram, sparkline
from hvtrace.top.heatmap import LEVELS, RAMP, SHADES, heatmap

FEW = settings(max_examples=40, deadline=None)
INDEX = st.integers(0, BUCKETS - 1)
COUNTS = st.dictionaries(INDEX, st.integers(1, 997), min_size=1, max_size=12)


@pytest.fixture(autouse=True)
def _utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def filled(counts: dict[int, int]) -> np.ndarray:
    buckets = np.zeros(BUCKETS)
    for index, count in counts.items():
        buckets[index] = count
    return buckets


def plain(lines) -> list[str]:
    return [line.plain for line in lines]


# Sparkline.


@pytest.mark.parametrize(
    ("values", "width", "drawn"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], 8, "▁▂▃▄▅▆▇█"),
        ([0, 4, 8], 3, ".▄█"),
        ([0.001, 1000], 2, "▁█"),  # something is never nothing
        ([math.nan, 0, 7], 3, " .█"),
        ([7], 5, "    █"),  # the newest at the right end
        ([], 3, "   "),
        ([0, 0], 2, ".."),
        ([math.nan] * 3, 2, "  "),
        ([1, 0, 0, 0, 8, 0], 3, "▁.█"),  # the maximum of neighbours
        ([8, 1, 0, math.nan, 2], 3, "█▁▂"),  # neighbours from the right: the oldest stands alone
        ([3, 5], 0, ""),
    ],
)
def test_a_sparkline(values, width, drawn):
    assert sparkline(values, width) == drawn


@FEW
@given(
    st.lists(st.floats(1e-9, 1e12) | st.sampled_from([0.0, math.nan]), max_size=50),
    st.integers(1, 60),
)
def test_a_sparkline_fills_its_width_and_ends_with_the_newest(values, width):
    drawn = sparkline(values, width)
    assert len(drawn) == width
    if 0 < len(values) <= width:
        last = values[-1]
        assert drawn[-1] == (" " if math.isnan(last) else "." if last == 0 else drawn[-1])
        assert (drawn[-1] in "▁▂▃▄▅▆▇█") == (last > 0)
        assert drawn[: -len(values)].strip() == ""
    assert (set(drawn) & set("▁▂▃▄▅▆▇█") != set()) == any(v > 0 for v in values)
    assert ("█" in drawn) == any(v > 0 for v in values)  # its own maximum


# Bar.


@pytest.mark.parametrize(
    ("share", "width", "drawn"),
    [
        (1, 4, "████"),
        (0.5, 3, "█▌"),
        (1 / 8, 1, "▏"),
        (1e-9, 9, "▏"),
        (0, 9, ""),
        (math.nan, 9, ""),
        (2, 3, "███"),
        (0.3, 0, ""),
        (0.3, -1, ""),
    ],
)
def test_a_bar(share, width, drawn):
    assert bar(share, width) == drawn


# Rows.


def test_rows_are_as_fine_as_they_fit():
    buckets = filled(dict.fromkeys(range(21, 29), 3))  # two octaves: 4 buckets to each
    assert [(b.first, b.last) for b in bands(buckets, 8)] == [(i, i) for i in range(21, 29)]
    assert [(b.first, b.last) for b in bands(buckets, 7)] == [
        (21, 22),
        (23, 24),
        (25, 26),
        (27, 28),
    ]
    assert [(b.first, b.last) for b in bands(buckets, 3)] == [(21, 24), (25, 28)]
    assert [(b.first, b.last) for b in bands(buckets, 1)] == [(17, 32)]


def test_an_outlier_costs_two_rows_and_no_resolution():
    buckets = filled({21: 301, 22: 701, 23: 503, 80: 1})
    assert bands(buckets, 5) == [
        *(Band(i, i) for i in (21, 22, 23)),
        Band(24, 79, skipped=True),
        Band(80, 80),
    ]
    drawn = plain(histogram(buckets, 60, 5))
    assert drawn[1].strip() == "..."
    assert drawn[0].endswith("▏")


def test_rows_at_both_ends_of_the_scale():
    everything = np.ones(BUCKETS)
    found = bands(everything, BUCKETS)
    assert (found[0].label, found[-1].label) == ("0-119ns", ">4.00s")
    assert found[1].label == "119ns-149ns"
    assert bands(np.zeros(BUCKETS), 7) == []


def test_the_shortest_stretch_that_is_skipped():
    assert bands(filled({21: 3, 24: 5}), 3) == [Band(21, 21), Band(22, 23, True), Band(24, 24)]
    assert bands(filled({21: 3, 23: 5}), 2) == [Band(21, 22), Band(23, 24)]


@pytest.mark.parametrize("height", range(1, BUCKETS + 1))
def test_all_of_the_scale_fits_any_height(height):
    found = bands(np.ones(BUCKETS), height)
    assert len(found) <= height
    assert [b for row in found for b in range(row.first, row.last + 1)] == list(range(BUCKETS))


@FEW
@given(COUNTS, st.integers(1, 40))
def test_rows_cover_what_is_used_once_and_fit(counts, height):
    found = bands(filled(counts), height)
    assert 0 < len(found) <= height
    for below, above in pairwise(found):
        assert above.first == below.last + 1
    for index in counts:
        assert [b.skipped for b in found if b.first <= index <= b.last] == [False]


# Histogram.


def parsed(lines) -> list[tuple[str, int, str]]:
    found = [
        re.fullmatch(r" *(\S+) +(\d+) +(\S+) (?:[p5099 ]*) ?([█▉▊▋▌▍▎▏]*)", line) for line in lines
    ]
    return [(m[1], int(m[2]), m[4]) for m in found if m]


@FEW
@given(COUNTS, st.integers(1, 30), st.integers(50, 140))
def test_the_counts_of_a_histogram_add_up_and_none_vanishes(counts, height, width):
    counts = {index: count % 83 + 1 for index, count in counts.items()}  # below 1000: in full
    lines = histogram(filled(counts), width, height)
    drawn = plain(lines)
    assert len(lines) <= height
    assert all(line.cell_len <= width for line in lines)
    rows = parsed(drawn)
    assert len(rows) == len([line for line in drawn if line.strip() != "..."])
    assert sum(count for _, count, _ in rows) == sum(counts.values())
    assert all(bool(count) == bool(bar) for _, count, bar in rows)


def test_slow_calls_are_at_the_top_and_percentiles_are_marked():
    # 100 calls: the 50th is the last of bucket 30, the 99th the last of bucket 40.
    drawn = plain(histogram(filled({30: 50, 40: 49, 50: 1}), 80, 40))
    assert drawn[0].startswith(f"{Band(50, 50).label:>13}")
    assert [line[:13].strip() for line in drawn if "p50" in line] == [Band(30, 30).label]
    assert [line[:13].strip() for line in drawn if "p99" in line] == [Band(40, 40).label]
    [line] = plain(histogram(filled({30: 3}), 80, 40))
    assert "3 100% p50 p99 █" in line


@pytest.mark.parametrize("count", [1, 2, 101, 4001])
def test_marks_are_where_the_percentiles_are(count):
    times = np.sort(spread(count, 1_900, 0.9))
    drawn = histogram(bucketed(times), 100, BUCKETS)
    found = bands(bucketed(times), BUCKETS)[::-1]
    for mark, q in (("p50", 0.5), ("p99", 0.99)):
        exact = times[math.ceil(q * count) - 1]
        [row] = [b for b, line in zip(found, drawn, strict=True) if mark in line.plain]
        assert LOWER_NS[row.first] < exact <= UPPER_NS[row.last]


def test_a_histogram_of_nothing_is_nothing():
    assert histogram(np.zeros(BUCKETS), 80, 9) == []
    assert histogram(np.zeros(BUCKETS), 80, 9, rows=[Band(3, 4)]) == []


# Heatmap.


def moments(*counts: dict[int, int], spans: float | list[float] = 1.0):
    spans = np.broadcast_to(spans, len(counts)).astype(float)
    ends = END - np.concatenate((np.cumsum(spans[:0:-1])[::-1], [0.0]))
    return np.array([filled(c) for c in counts]), ends, spans


def cells(lines) -> list[str]:
    """The cells of a heatmap's rows, without labels, line of rates, axis and legend."""
    return [line.plain[LABEL:] for line in lines[1:-3]]


def test_time_goes_to_the_right_and_latency_up():
    drawn = heatmap(*moments({30: 100}, {}, {30: 100, 31: 1}), 30, 9)
    indent, label = " " * LABEL, [f"{Band(b, b).label:>13} " for b in (30, 31)]
    assert plain(drawn)[:-1] == [
        f"{'max 101/s':>13} " + " " * 13 + "█.█",
        label[1] + " " * 15 + "·",
        label[0] + " " * 13 + "█ █",
        indent + " " * 13 + "───",
        indent + " " * 8 + "22:13:20",
    ]


def test_the_legend_says_what_a_cell_stands_for():
    *_, legend = heatmap(*moments({30: 4001}, {30: 3}), 100, 9)
    assert legend.plain.strip() == "█ 1k+  ▓ 100+  ▒ 10+  ░ 1+  · fewer calls/s"
    *_, legend = heatmap(*moments({30: 7}, {30: 3}), 100, 9)
    assert legend.plain.strip() == "█ 5+  ▓ 2+  ▒ 1+  ░ 0.5+  · fewer calls/s"
    *_, legend = heatmap(*moments({30: 293}, {30: 5}), 100, 9)
    assert legend.plain.strip() == "█ 100+  ▓ 30+  ▒ 10+  ░ 3+  · fewer calls/s"
    *_, legend = heatmap(*moments({30: 400_000}, {30: 1}), 100, 9)
    assert legend.plain.strip() == "█ 100k+  ▓ 10k+  ▒ 1k+  ░ 100+  · fewer calls/s"


@pytest.mark.parametrize("rate", [1, 9, 10, 99, 100, 999, 1000, 5000])
def test_a_cell_is_of_the_level_that_the_legend_gives_it(rate):
    drawn = heatmap(*moments({30: 5000}, {30: rate}, {30: 1}), 40, 9)
    levels = {1000: "█", 100: "▓", 10: "▒", 1: "░"}
    expected = next(level for low, level in levels.items() if rate >= low)
    assert cells(drawn)[0].strip() == f"█{expected}░"


def test_a_long_moment_is_spread_over_its_columns():
    drawn = heatmap(*moments({30: 300}, {30: 100}, {30: 100}, spans=[3.0, 1.0, 1.0]), 40, 9)
    assert cells(drawn) == [" " * 21 + "█████"]  # 100 calls/s in each of five seconds
    assert drawn[0].plain.split()[1] == "100/s"


def test_many_moments_share_columns():
    many = moments(*({30: 10} for _ in range(100)))
    drawn = heatmap(*many, LABEL + 30, 9)
    # Columns of 4 s are the finest that fit; they stand on the clock: 1,700,000,000 is one's end.
    assert cells(drawn) == [" " * 5 + "█" * 25]
    assert drawn[0].plain.split()[1] == "10.0/s"
    later = (many[0], many[1] + 3, many[2])
    drawn = heatmap(*later, LABEL + 30, 9)
    assert cells(drawn)[0].strip() == "█" * 26  # one begun, one half gone


@pytest.mark.parametrize("later", [0, 0.05, 0.1, 0.35, 0.39, 0.41, 1, 2, 3.65, 3.95])
def test_the_newest_is_at_the_right_end_wherever_the_clock_stands(later):
    heat, ends, spans = moments(*({30: 7} for _ in range(99)), {30: 7, 60: 1})
    drawn = heatmap(heat, ends + later, spans, LABEL + 30, 9)
    newest, *_, usual = cells(drawn)
    assert newest[-1] != " "
    assert usual.strip() == usual[-len(usual.strip()) :]
    assert drawn[-3].plain.endswith("─")


def test_nobody_looked_is_not_nothing_called():
    heat, ends, spans = moments({30: 7}, {}, {30: 7})
    ends[0] -= 2
    rates, row, axis, *_ = plain(heatmap(heat, ends, spans, 40, 9))
    assert (rates[-5:], row[-5:], axis[-5:]) == ("█  .█", "█   █", "─  ──")


def test_a_moment_that_is_not_a_second_to_the_millisecond_keeps_to_its_column():
    counts = [{30: 50}] * 29 + [{30: 50, 60: 1}] + [{30: 50}] * 30
    heat, ends, spans = moments(*counts, spans=[1 + (i * 7 % 5 - 2) / 997 for i in range(60)])
    outlier = cells(heatmap(heat, ends, spans, 90, 12))[0]
    assert outlier.strip() in LEVELS
    assert outlier.index(outlier.strip()) == len(outlier) - 31


def test_ages_are_below_their_columns():
    lines = plain(heatmap(*moments(*({30: 7} for _ in range(60))), LABEL + 70, 9))
    axis, labels = lines[-3][LABEL:], lines[-2][LABEL:]
    for age in (20, 30, 40):
        at = labels.index(f"-{age}s") + 2
        assert axis[at] == "┬"
        assert at == 69 - age
    assert labels.endswith("22:13:20")
    *_, labels, _ = plain(heatmap(*moments(*({30: 7} for _ in range(90)), spans=10.0), 90, 9))
    assert "-10m" in labels
    *_, labels, _ = plain(heatmap(*moments(*({30: 7} for _ in range(90)), spans=600.0), 90, 9))
    assert "-4h" in labels


def test_a_heatmap_shares_rows_with_a_histogram():
    shared = bands(filled({20: 1, 40: 1}), 30)
    drawn = heatmap(*moments({30: 5}, {31: 5}), 60, 9, rows=shared)
    assert [line.plain[:13].strip() for line in drawn[1:-3]] == [b.label for b in shared[::-1]]


def test_there_is_no_heatmap_of_nothing():
    assert heatmap(*moments({}, {}), 80, 9) == []
    assert heatmap(np.zeros((0, BUCKETS)), np.zeros(0), np.zeros(0), 80, 9) == []
    assert heatmap(*moments({3: 1}), LABEL + 3, 9) == []


MOMENTS = st.lists(
    st.tuples(
        st.dictionaries(INDEX, st.integers(1, 10**6), max_size=4),
        st.sampled_from([0.0, 0.05, 0.25, 1.0, 1.01, 7.0, 61.0]),
    ),
    min_size=1,
    max_size=90,
)


@FEW
@given(MOMENTS, st.integers(30, 130), st.integers(3, 30))
def test_a_heatmap_fits_and_nothing_vanishes(past, width, height):
    heat, ends, spans = moments(*(c if s else {} for c, s in past), spans=[s for _, s in past])
    lines = heatmap(heat, ends, spans, width, height)
    if not heat.any():
        assert lines == []
        return
    assert all(line.cell_len <= width for line in lines)
    rows = bands(heat.sum(axis=0), height)
    assert len(lines) == len(rows) + 4
    for row, drawn in zip(rows[::-1], cells(lines), strict=True):
        assert len(drawn) == width - LABEL
        assert bool(drawn.strip()) == bool(heat[:, row.first : row.last + 1].any())
    seen = max(i for i, s in enumerate(spans) if s > 0) if spans.any() else None
    if seen is not None and heat[seen].any() and not heat[seen + 1 :].any():
        assert any(drawn[-1] != " " for drawn in cells(lines))  # the newest, at the right end


# Colours.


def lightness(color: str) -> float:
    """CIE L* of an sRGB colour."""
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)
    ]
    luminance = sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return 116 * luminance ** (1 / 3) - 16


def test_the_ramp_is_even_and_as_long_as_it_must_be():
    steps = np.diff([lightness(color) for color in RAMP])
    assert steps.min() > 1.5
    assert steps.max() < 6.5
    assert len(RAMP) == SHADES * len(LEVELS)


def test_with_16_colours_the_ramp_keeps_its_order():
    names = [Color.parse(color).downgrade(ColorSystem.STANDARD).number for color in RAMP]
    assert list(dict.fromkeys(names)) == [12, 5, 13, 9, 11]
    assert names == sorted(names, key=[12, 5, 13, 9, 11].index)


def test_colour_says_no_more_than_characters_do():
    drawn = heatmap(*moments(*({30: 3**i} for i in range(9))), 60, 9)
    for line in drawn[1:-3]:
        for span in line.spans:
            text = line.plain[span.start : span.end]
            if span.style in RAMP:
                assert set(text) == {LEVELS[RAMP.index(span.style) // SHADES]}
