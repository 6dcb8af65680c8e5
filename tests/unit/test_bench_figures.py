"""From what was measured to figures: ratios, what is added, and what tools print."""

from __future__ import annotations

import pytest

from benchmarks import instructions, memory, native, tracers
from hvtrace.errors import HvtraceError

CALLS = [*instructions.HYPERCALLS, instructions.CPUID]
TRACEFS, AFTER = "the kernel's own tracefs log", "hvtrace, after all of these"
FOUND = {
    "nothing": [3000.0, 3100.0, 2000.0],
    "hvtrace": [3500.0, 3620.0, 2000.0],
    AFTER: [3500.0, 3620.0, 2000.0],
    TRACEFS: [4000.0, 4140.0, 2000.0],
    "perf record": [5000.0, 3750.0, 2000.0],
}


def vm_figures(**changed: list[float]) -> dict[str, float]:
    found = {tracer: dict(zip(CALLS, counts, strict=True)) for tracer, counts in FOUND.items()}
    found |= {tracer: dict(zip(CALLS, counts, strict=True)) for tracer, counts in changed.items()}
    return instructions.figures("sid", found, [TRACEFS, "perf record"])


def test_what_a_tracer_adds_is_what_the_call_does_not_take_by_itself() -> None:
    figures = vm_figures()
    assert figures["vm sid/hvtrace/unknown code"] == 500
    assert figures["vm sid/hvtrace/output refused"] == 520
    assert figures["vm sid/nothing/unknown code"] == 3000
    assert "vm sid/nothing/of tracefs" not in figures


def test_the_worse_of_the_calls_is_compared() -> None:
    figures = vm_figures()
    assert figures["vm sid/hvtrace/of tracefs"] == 0.5  # 500 of 1000, 520 of 1040
    assert figures["vm sid/perf record/of tracefs"] == 2.0
    assert figures["vm sid/hvtrace/of cheapest peer"] == 0.8  # 520 of perf's 650


def test_an_option_that_is_off_leaves_nothing() -> None:
    figures = vm_figures()
    assert figures["vm sid/options that are off/left on a call"] == 0
    assert figures["vm sid/options that are off/on another exit"] == 0


def test_what_an_option_left_is_seen() -> None:
    figures = vm_figures(**{AFTER: [3500.0, 3617.0, 2000.0], "hvtrace": [3500.0, 3620.0, 2011.0]})
    assert figures["vm sid/options that are off/left on a call"] == 3
    assert figures["vm sid/options that are off/on another exit"] == 11


def rounds(**times: list[float]) -> list[tuple[str, list[float]]]:
    found = [(name, times[name]) for name in ("floor", "textbook", "hvtrace")]
    for kind in native.VERDICT_CALLS:
        found += [(kind, [100.0, 200.0, 400.0]), (kind, [110.0, 210.0, 800.0])]
    return found


def test_native_figures_are_medians_and_ratios_of_medians() -> None:
    figures = native.figures(
        rounds(floor=[190.0, 200.0, 999.0], textbook=[500.0] * 3, hvtrace=[225.0, 250.0, 240.0])
    )
    assert {name: v for name, v in figures.items() if name.startswith("native/hvtrace/")} == {
        "native/hvtrace/ns": 240.0,
        "native/hvtrace/least, ns": 225.0,
        "native/hvtrace/most, ns": 250.0,
        "native/hvtrace/of floor": 1.2,
        "native/hvtrace/of textbook": 0.48,
    }
    assert figures["native/floor/of floor"] == 1


def test_the_cost_of_verdicts_is_the_median_of_each_round_s_ratio() -> None:
    figures = native.figures(rounds(floor=[1.0], textbook=[1.0], hvtrace=[1.0]))
    for kind in native.VERDICT_CALLS:
        assert figures[f"verdicts/{kind}/ratio"] == pytest.approx(1.1)  # of 1.1, 1.05, 2.0
        assert figures[f"verdicts/{kind}/with, ns"] == 210
    assert not [name for name in figures if name.startswith("native/memory call")]


STATUS = """\
Name:\tpython
VmHWM:\t   99999 kB
VmRSS:\t   49152 kB
RssAnon:\t   20480 kB
RssFile:\t   28672 kB
RssShmem:\t       0 kB
"""


def test_resident_memory_and_its_parts() -> None:
    assert memory._resident(STATUS) == {
        "resident, MiB": 48,
        "anonymous, MiB": 20,
        "file, MiB": 28,
        "shared, MiB": 0,
    }


def test_kernel_memory_is_the_sum_of_programs_and_maps() -> None:
    programs = [{"bytes_memlock": 4096}, {"bytes_memlock": 8192}]
    maps = [
        {"name": "tids", "type": "hash", "bytes_memlock": 1 << 19},
        {"name": "slots", "type": "array", "bytes_memlock": 3 << 20},
    ]
    found = memory._kernel(programs, maps)
    assert found == {
        "kernel memory, MiB": 3.5 + 3 / 256,
        "kernel memory, programs, MiB": 3 / 256,
        "kernel memory, map slots (array), MiB": 3,
        "kernel memory, map tids (hash), MiB": 0.5,
        "maps for every CPU": 0,
    }
    assert list(found)[2].startswith("kernel memory, map slots")  # the largest first


def test_a_map_for_every_cpu_is_found() -> None:
    kinds = ("array", "percpu_array", "lru_percpu_hash")
    maps = [{"name": "m", "type": kind, "bytes_memlock": 8} for kind in kinds]
    assert memory._kernel([], maps)["maps for every CPU"] == 2


def test_maps_of_two_programs_of_a_name_are_not_taken_for_one() -> None:
    with pytest.raises(HvtraceError, match="more than one"):
        memory._kernel([], [{"name": "slots", "type": "array", "bytes_memlock": 8}] * 2)


BPFTRACE = [
    '{"type": "attached_probes", "count": 2, "data": {"probes": 2}}\n',
    "\n",
    '{"type": "map", "data": {"@start": {"181": [17432628511,80,true]}}}\n',
    '{"type": "hist", "data": {"@ns": {"181,80,true": [{"min": 1024, "max": 2047, "count": 3901}],'
    ' "181,30583,false": [{"min": 1024, "max": 2047, "count": 2},'
    '{"min": 4096, "max": 8191, "count": 5}]}}}\n',
]


def test_calls_in_bpftrace_s_histograms() -> None:
    assert tracers.in_histograms(BPFTRACE) == 3908
    assert tracers.in_histograms(BPFTRACE[:3]) == 0


STATS = (
    "entries: 8009\noverrun: 3\ncommit overrun: 0\nbytes: 5\ndropped events: 7\nread events: 0\n"
)


def test_calls_in_the_kernel_s_log_are_kept_or_overwritten() -> None:
    assert tracers.logged(STATS) == 4006


REPORT = """
Aggregated stats:
           TOTAL events:      15822
          SAMPLE events:      15616  (98.7%)
kvm:kvm_hv_hypercall stats:
          SAMPLE events:       7808
kvm:kvm_hv_hypercall_done stats:
          SAMPLE events:       7808
"""


def test_calls_in_perf_s_recording() -> None:
    assert tracers.sampled(REPORT) == 7808
    assert tracers.sampled("Aggregated stats:\n   TOTAL events:   157\n") == 0
