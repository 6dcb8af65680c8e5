"""The live view's screens, read back: rows of the table, and all that its detail says."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import takewhile
from typing import Any

from hvtrace.top.columns import BY_KEY

Row = dict[str, str]


def rows(lines: list[str]) -> list[Row]:
    """The rows of a table on the screen, by the keys of their columns.

    Where a column ends (or begins, that of a name) is read from its heading.
    """
    spans: dict[str, tuple[int, int]] = {}
    for found in re.finditer(r"[a-z0-9/%-]+", lines[1]):  # not the arrow, not the scroll bar
        key = found[0]
        column = BY_KEY[key]
        at = found.end()
        if column.left:
            spans[key] = (found.start(), len(lines[1]))
        else:
            spans[key] = (at - column.width, at)
    names = [key for key in spans if BY_KEY[key].left]
    starts = sorted(start for start, _ in spans.values())
    for key in names:
        start = spans[key][0]
        spans[key] = (start, min((s - 1 for s in starts if s > start), default=len(lines[1])))
    table = []
    for line in lines[2:-1]:
        if not line or line[0] == " ":  # the lines below the table begin so
            break
        table.append({key: line[slice(*span)].strip() for key, span in spans.items()})
    return table


def name_of(row: Row) -> tuple[str, ...]:
    """What a row is of; the mark of a new VM is not its name."""
    return tuple(row[key].lstrip("+") for key in ("vm", "vcpu", "call") if key in row)


def is_count(text: str, count: float) -> bool:
    """Whether three digits say `count`: "-" for none, "1.23k" for 1234."""
    if text == "-" or not count:
        return text == "-" and not count
    number, factor = (text[:-1], 1000) if text.endswith("k") else (text, 1)
    digits = len(number.partition(".")[2])
    within = factor * 0.5 * 10**-digits if factor > 1 else 0.0
    return abs(float(number) * factor - count) <= within


def is_percent(text: str, part: int, whole: int) -> bool:
    """Whether a whole number of per cent says `part` of `whole`; only all are 100, only none -."""
    if not part:
        return text == "-"
    share = 100 * part / whole
    if text in ("<1", ">99"):
        return 0 < share < 1 if text == "<1" else 99 < share < 100
    return abs(float(text) - share) <= 0.5 and (text == "100") == (part == whole)


def wrong_counts(row: Row, counts: Counter[str]) -> list[str]:
    """The columns of a row that do not say what was made."""
    wrong = [key for key in ("calls", "fail", "unfin") if not is_count(row[key], counts[key])]
    wrong += [
        key
        for key in ("fast", "xmm", "vmm")
        if not is_percent(row[key], counts[key], counts["calls"])
    ]
    name, _, share = row["xmm-out"].partition(" ")
    asked = counts["refused"] + counts["impossible"]
    most = "refused" if counts["refused"] >= counts["impossible"] else "impossible"
    share = share.rstrip("%") or ("100" if asked else "-")
    if name != (most if asked else "-") or not is_percent(share, counts[most], asked):
        wrong.append("xmm-out")
    return wrong


def find(lines: list[str], beginning: str) -> int:
    """The number of the line that begins so; 0: none does."""
    return next((i for i, line in enumerate(lines) if line.lstrip().startswith(beginning)), 0)


def section(lines: list[str], beginning: str) -> list[str]:
    """The lines of a detail from that one to the next blank one."""
    rest = lines[find(lines, beginning) :] if find(lines, beginning) else []
    return list(takewhile(str.strip, rest))


def split(lines: list[str], title: str) -> dict[str, str]:
    """Calls of each part, as shown, in the section with that title."""
    head, *parts = section(lines, f"{title} ")
    at = head.index("calls")
    return {line[:at].strip(): line[at:].split()[0] for line in parts if "/" not in line[:at]}


def figures(lines: list[str]) -> dict[str, str]:
    """The numbers at the head of a detail."""
    words = "(calls|p50|p99|max|fast|XMM in|VMM|failed|unfinished)"
    return dict(re.findall(rf"(?:^|  ){words} (\S+)", "\n".join(lines[2:6]), re.MULTILINE))


def statuses_of(lines: list[str]) -> dict[str, int]:
    """How many calls ended how."""
    counted = re.compile(r"^ *([A-Z_]+|0x\w+|never completed) +([\d,]+) +\S+")
    found = map(counted.match, section(lines, "Status ─"))
    return {one[1]: int(one[2].replace(",", "")) for one in found if one}


def sizes_of(lines: list[str]) -> dict[str, dict[str, str]]:
    """Calls by size, as shown: "reps" and "variable header"."""
    found: dict[str, dict[str, str]] = {}
    for line in section(lines, "Sizes ─")[1:]:
        name = next((n for n in ("reps", "variable header") if line.strip().startswith(n)), "")
        if name:
            found[name] = {}
        else:
            size, count = line.split()[:2]
            if count != "0":
                list(found.values())[-1][size] = count
    return found


def nanoseconds(text: str) -> float:
    """What a duration on the screen says."""
    number, unit = re.fullmatch(r"([\d.]+)(ns|µs|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"ns": 1, "µs": 1e3, "ms": 1e6, "s": 1e9}[unit]


def merged(calls: Iterable[dict[str, Any]]) -> list[tuple[float, int]]:
    """Buckets of JSON added up: (upper bound, count), ascending."""
    counts = Counter[float]()
    for call in calls:
        for bound, count in call["buckets"]:
            counts[bound or float("inf")] += count
    return sorted(counts.items())


def bucket_of(buckets: list[tuple[float, int]], q: float) -> float:
    """The upper bound of the bucket that holds a quantile."""
    rank, below = q * sum(count for _, count in buckets), 0
    for bound, count in buckets:
        below += count
        if below >= rank:
            return bound
    raise AssertionError(buckets)
