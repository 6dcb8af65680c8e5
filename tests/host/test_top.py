"""The live view on real hypercalls: each number on the screen against what the guests made."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.host.made import (
    MIX,
    NAMES,
    POST,
    STATUSES,
    VCPUS,
    VMS,
    grouped,
    of_ledger,
    of_mix,
    prime,
)
from tests.host.reading import (
    bucket_of,
    figures,
    is_count,
    is_percent,
    merged,
    name_of,
    nanoseconds,
    sizes_of,
    split,
    statuses_of,
    wrong_counts,
)
from tests.host.session import DETAILS, GROUPINGS, LIMIT, LIMIT_NS, SIZES, Seen, run
from tests.host.typist import KEYS
from tests.tmux import terminal


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    folder = tmp_path_factory.mktemp("top")
    (folder / "prime.json").write_text(json.dumps(MIX))
    (folder / "config" / "hvtrace").mkdir(parents=True)
    hidden = ["/s", "minute", "vcpu%", "time", "mean", "p50", "p99", "p999", "max", "code", "pid"]
    settings = {"hidden": hidden, "sort": "vm", "descending": False, "scope": "total"}
    (folder / "config" / "hvtrace" / "top.json").write_text(json.dumps(settings))
    with terminal(folder, *SIZES[0]) as view:
        return run(folder, view)


def test_all_ended_well(seen: Seen) -> None:
    assert seen.statuses == {"top": 0, "batch": 0}
    assert seen.ledger["problems"] == seen.last["problems"] == []


def test_the_mix_is_what_the_ledger_says(seen: Seen) -> None:
    """What is compared by vCPU rests on it."""
    for grouping in "1235":
        assert grouped(of_mix(), grouping) == grouped(seen.made, grouping)


def test_intervals_add_up_to_what_was_made(seen: Seen) -> None:
    told = grouped([of_ledger(call) for call in seen.told], "1")
    assert told == grouped(seen.made, "1")


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_every_row_says_what_was_made(seen: Seen, size: tuple[int, int], grouping: str) -> None:
    expected = grouped(of_mix() if grouping == "4" else seen.made, grouping)
    shown = {name_of(row): row for row in seen.tables[size, grouping]}
    assert shown.keys() == expected.keys()
    assert {name: wrong_counts(row, expected[name]) for name, row in shown.items()} == {
        name: [] for name in shown
    }


def chosen(seen: Seen, name: str) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The ledger's calls that a detail is of, and all of them together."""
    meant: dict[str, Callable[[dict[str, Any]], bool]] = {
        "post": lambda call: (call["vm"]["name"], call["code"]) == ("prime-1", POST),
        "vm": lambda call: bool(call["vm"]["name"] == "prime-2"),
        "host": lambda call: True,
    }
    calls = [call for call in seen.ledger["calls"] if meant[name](call)]
    return calls, sum((of_ledger(call).counts for call in calls), Counter())


@pytest.mark.parametrize("name", DETAILS)
def test_the_detail_says_what_was_made(seen: Seen, name: str) -> None:
    lines = seen.details[name]
    calls, counts = chosen(seen, name)
    said = figures(lines)
    exact = {key: int(said[key].replace(",", "")) for key in ("calls", "failed", "unfinished")}
    assert exact == {
        "calls": counts["calls"],
        "failed": counts["fail"],
        "unfinished": counts["unfin"],
    }
    for key, counter in (("fast", "fast"), ("XMM in", "xmm"), ("VMM", "vmm")):
        assert is_percent(said[key].rstrip("%"), counts[counter], counts["calls"]), key
    made = Counter[str]()
    for call in calls:
        made += Counter({STATUSES[int(s, 16)]: n for s, n in call["statuses"].items()})
    made["never completed"] += counts["unfin"]
    assert statuses_of(lines) == +made


@pytest.mark.parametrize(("name", "title"), [("vm", "Call"), ("host", "VM"), ("host", "Call")])
def test_parts_of_the_detail_are_what_each_made(seen: Seen, name: str, title: str) -> None:
    calls, counts = chosen(seen, name)
    shown = split(seen.details[name], title)
    made = Counter[str]()
    for call in calls:
        made[call["vm"]["name"] if title == "VM" else NAMES[call["code"]]] += call["calls"]
    assert shown.keys() == made.keys()
    assert all(is_count(shown[part], made[part]) for part in made)
    handlers = split(seen.details[name], "Handler")
    by_handler = {"vmm": counts["vmm"], "kernel": counts["calls"] - counts["vmm"]}
    assert handlers.keys() == {part for part, count in by_handler.items() if count}
    assert all(is_count(handlers[part], by_handler[part]) for part in handlers)


def test_vcpus_of_the_detail_are_what_each_made(seen: Seen) -> None:
    made = grouped(of_mix(), "4")
    shown = split(seen.details["vm"], "vCPU")
    assert shown.keys() == {f"vCPU {number}" for number in range(VCPUS)}
    for number in range(VCPUS):
        assert is_count(shown[f"vCPU {number}"], made["prime-2", str(number)]["calls"])


@pytest.mark.parametrize("name", ["vm", "host"])
def test_sizes_of_the_detail_are_those_of_the_mix(seen: Seen, name: str) -> None:
    calls, _ = chosen(seen, name)
    vms = range(VMS) if name != "vm" else [2]
    numbers = [vm * VCPUS + i for vm in vms for i in range(VCPUS)]
    made: dict[str, Counter[str]] = {"reps": Counter(), "variable header": Counter()}
    for call in MIX["call"]:
        times = sum(prime(call["times"], number) for number in numbers)
        for what, size, unit in (
            ("reps", call.get("reps", 0), 1),
            ("variable header", call.get("var", 0), 8),
        ):
            low = 1 << size.bit_length() >> 1
            high = 2 * low - 1
            made[what][f"{low * unit}-{high * unit}" if high > low else f"{low * unit}"] += (
                times if size else 0
            )
    shown = sizes_of(seen.details[name])
    for what, counts in made.items():
        assert shown.get(what, {}).keys() == (+counts).keys()
        assert all(is_count(shown[what][size], count) for size, count in (+counts).items())
    completed = re.search(r"reps, (\S+) completed", "\n".join(seen.details[name]))
    assert completed
    assert is_count(completed[1], sum(call["reps"] for call in calls))


# --- times


STEP = 1.25
"""From one bucket's bound to the next, at most: an octave has four of one width."""


@pytest.mark.parametrize("name", DETAILS)
def test_times_of_the_detail_are_those_of_the_intervals(seen: Seen, name: str) -> None:
    """Two tracers with a clock each: the same calls, but not to the nanosecond."""
    keys = {(c["vm"]["name"], c["code"]) for c in chosen(seen, name)[0]}
    told = [call for call in seen.told if (call["vm"]["name"], call["code"]) in keys]
    said, buckets = figures(seen.details[name]), merged(told)
    assert sum(count for _, count in buckets) == sum(call["completed"] for call in told)
    for key, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        bound = bucket_of(buckets, q)
        print(name, key, said[key], bound)
        assert bound / STEP**3 <= nanoseconds(said[key]) <= bound * STEP**2, key


def test_a_replay_of_the_intervals_says_the_same(seen: Seen) -> None:
    """Counts as made, and times to the last digit that is shown."""
    expected = grouped(seen.made, "1")
    shown = {name_of(row): row for row in seen.replayed}
    assert shown.keys() == expected.keys()
    by_row: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for call in seen.told:
        by_row.setdefault((call["vm"]["name"], NAMES[call["code"]]), []).append(call)
    for name, row in shown.items():
        assert wrong_counts(row, expected[name]) == [], name
        buckets, times = merged(by_row[name]), [c["latency_ns"] for c in by_row[name]]
        done = sum(call["completed"] for call in by_row[name])
        mean = sum(one["sum"] for one in times if one) / done
        longest = max(one["max"] for one in times if one)
        assert nanoseconds(row["mean"]) == pytest.approx(mean, rel=0.006)
        assert nanoseconds(row["max"]) == pytest.approx(longest, rel=0.006)
        for key, q in (("p50", 0.5), ("p99", 0.99)):
            bound = bucket_of(buckets, q)
            assert bound / STEP / 1.006 <= nanoseconds(row[key]) <= bound * 1.006, (name, key)


# --- slow calls


OTHERS = re.compile(r"(prime|everything|g\d+|last)-")
"""VMs but that of this process."""


def test_slow_calls_are_those_of_the_log(seen: Seen) -> None:
    """Newest first; calls that are near the limit may be slow to one clock and not to the other."""
    near_ns = 1.5 * LIMIT_NS
    logged = [(call, ns) for call, ns in seen.logged if ns > near_ns]
    assert len(logged) >= 6
    told = [c for i in seen.intervals for c in i["slow"] if not OTHERS.match(c["vm"]["name"])]
    told.sort(key=lambda call: -call["start"])
    told = [call for call in told if call["duration_ns"] > near_ns]
    form = re.compile(
        r"^\d\d:\d\d:\d\d\.\d{3} (\S+) +(\d+|-) (\S+) +(\S+) (vmm|kernel) +(mem|fast) +(\S+) "
        r"+(\S+) +(\d+)$"
    )
    found = [one.groups() for one in map(form.match, map(str.strip, seen.slow)) if one]
    shown = [one for one in found if not OTHERS.match(one[0]) and nanoseconds(one[3]) > near_ns]
    assert len(shown) == len(told) == len(logged)
    for row, json_call, (call, ns) in zip(shown, told, reversed(logged), strict=True):
        vcpu = "-" if json_call["vcpu"] is None else str(json_call["vcpu"])
        assert row[1:3] == (vcpu, "PostMessage")
        assert row[4:] == ("vmm", "mem", "SUCCESS", "0", "0")
        assert (json_call["code"], json_call["status"]) == (POST, "SUCCESS")
        assert (call.code, call.handler, call.status) == (POST, "vmm", 0)
        assert row[0] == json_call["vm"]["name"]
        assert abs(nanoseconds(row[3]) - ns) < 0.2e9
        assert abs(json_call["duration_ns"] - ns) < 0.2e9


def test_the_last_line_is_true(seen: Seen) -> None:
    line = seen.bottom[-2].split("  ")
    assert line[0].strip() == f"{seen.programs} probes"
    assert line[1] == "lost 0"
    assert {f"slow {LIMIT}", "in flight 0", "every 5s", seen.ledger["kernel"]} <= set(line)
    # No call may have been made in the moments in which the kernel measured.
    assert re.fullmatch(r"cost (-|[\d.]+[nµ]s/call \S+%)", line[2])


# --- a minute of typing


def test_after_a_minute_of_typing_it_counts_as_before(seen: Seen) -> None:
    """No row of a VM long gone was there meanwhile (typist.stale), and it has not lost count."""
    assert seen.typed.keys() == {key for keys in KEYS for key in keys}
    expected = grouped([of_ledger(call) for call in seen.last["calls"]], "1")
    shown = {name_of(row): row for row in seen.last_rows}
    assert shown.keys() == expected.keys()
    assert {name: wrong_counts(row, expected[name]) for name, row in shown.items()} == {
        name: [] for name in shown
    }
