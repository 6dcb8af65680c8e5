"""docs/benchmarks.md: what it says of a run, and of the one before."""

from __future__ import annotations

from benchmarks import instructions, native, page
from benchmarks.gates import Gate, judge
from benchmarks.results import Results

GATES = (
    Gate("a call, of two clock reads", "native/hvtrace: */of floor", 1.25),
    Gate("resident, MiB", "process/hvtrace */resident, MiB", 48.0),
)


def run(date: str = "2026-11-22", scale: float = 1.0, **machine: str) -> Results:
    """A run like a real one, with made-up numbers."""
    times = {"two clock reads: the floor": 200.0, "textbook": 500.0, "hvtrace: memory call": 240.0}
    rounds = [(name, [ns, ns * scale, ns * 2]) for name, ns in times.items()]
    rounds += [(kind, [10.0]) for kind in native.VERDICT_CALLS for _ in range(2)]
    figures = native.figures(rounds)
    calls = [*instructions.HYPERCALLS, instructions.CPUID]
    counts = {
        "nothing": 3000.0,
        "hvtrace": 3000 + 500 * scale,
        "hvtrace, after all of these": 3000 + 500 * scale,
        "the kernel's own tracefs log": 4250.0,
    }
    found = {name: dict.fromkeys(calls, count) for name, count in counts.items()}
    for kernel in instructions.KERNELS:
        figures |= instructions.figures(kernel, found, ["the kernel's own tracefs log"])
    figures["process/hvtrace stat/resident, MiB"] = 50.0
    figures["process/hvtrace exporter/resident, MiB"] = 40.0
    figures["process/hvtrace exporter/scrape, ms"] = 7.0
    figures["scale/1000 threads x 16 calls/snapshot, ms"] = 9.5
    figures["scrape/100 VMs x 10 calls/text, ms"] = 23.0
    figures["top/200 VMs/of a core, %"] = 11.0
    figures["scrape/500 VMs x 10 calls/text, ms"] = 131.0
    return Results(date, {"CPU": "one", **machine}, figures)


def text(then: Results | None = None, **changes: float) -> str:
    now = run(**changes)  # type: ignore[arg-type]
    return page.page(now, then, judge(now.figures, GATES))


def test_a_gate_is_shown_with_its_figure_and_whether_it_is_met() -> None:
    lines = text().splitlines()
    assert "| a call, of two clock reads | 1.250 | 1.200 | met |" in lines
    assert "| resident, MiB | 48.0 | 50.0 | **not met** |" in lines


def test_the_programs_in_ns_and_as_ratios() -> None:
    lines = text().splitlines()
    assert "| native | ns | least, ns | most, ns | of floor | of textbook |" in lines
    assert "| hvtrace: memory call | 240 | 240 | 480 | 1.200 | 0.480 |" in lines


def test_instructions_under_each_kernel() -> None:
    now = run()
    now.machine["VM sid, kernel"] = "7.2.13+deb14-amd64"
    lines = page.page(now, None, []).splitlines()
    assert "### Linux 7.2.13+deb14-amd64 (Debian sid)" in lines
    bare = (
        "With nothing attached it takes 3,000 (unknown code), 3,000 (output refused),"
        " 3,000 (CPUID, no hypercall)."
    )
    assert lines.count(bare) == len(instructions.KERNELS)
    assert lines.count("| hvtrace | 500 | 500 | 500 | 0.40 |") == len(instructions.KERNELS)
    assert not [line for line in lines if line.startswith("| options that are off")]


def test_measures_that_only_one_command_has_leave_a_gap() -> None:
    lines = text().splitlines()
    assert "| process | hvtrace stat | hvtrace exporter |" in lines
    assert "| resident, MiB | 50.0 | 40.0 |" in lines
    assert "| scrape, ms |  | 7.000 |" in lines


def test_the_live_view() -> None:
    lines = text().splitlines()
    assert lines[lines.index("| top | 200 VMs |") + 2] == "| of a core, % | 11.0 |"


def test_scrapes() -> None:
    lines = text().splitlines()
    assert "| scrape | 100 VMs x 10 calls | 500 VMs x 10 calls |" in lines
    assert "| text, ms | 23.0 | 131 |" in lines


def test_kernel_memory_is_shown_as_a_whole() -> None:
    now = run()
    now.figures["scale/a/kernel memory, MiB"] = 13.0
    now.figures["scale/a/kernel memory, map slots (array), MiB"] = 11.0
    found = page.page(now, None, [])
    assert "| kernel memory, MiB |  | 13.0 |" in found
    assert "slots (array)" not in found


def test_every_table_is_one() -> None:
    """Each row has as many cells as the head of its table."""
    width = None
    for line in text(run("2026-11-01", 1.5)).splitlines():
        cells = line.count("|") if line.startswith("|") else None
        assert cells is None or width is None or cells == width, line
        width = cells


def test_the_first_run_has_nothing_to_compare_with() -> None:
    assert text().endswith("## Since the last run\n\nThere is none to compare with.\n")


def test_then_now_and_change() -> None:
    end = text(run("2026-11-01", 1.5)).partition("## Since the last run")[2]
    assert "Now, beside the run of 2026-11-01." in end
    assert "The same machine and versions." in end
    assert "| vm sid: hvtrace: unknown code | 750 | 500 | -33.3 % |" in end
    assert "| native: textbook: of textbook | 1.000 | 1.000 | +0.0 % |" in end
    assert "MiB" not in end


def test_another_machine_is_said() -> None:
    end = text(run("2026-11-01", 1.0, CPU="another", BCC="0.26")).partition("## Since")[2]
    assert "- CPU: then another, now one" in end
    assert "- BCC: then 0.26, now none" in end
    assert "The same machine" not in end


def test_a_figure_that_is_new_has_no_percentage() -> None:
    then = run("2026-11-01")
    del then.figures["vm sid/hvtrace/unknown code"]
    assert "| vm sid: hvtrace: unknown code | none | 500 |  |" in text(then)


def test_what_was_not_measured_is_said() -> None:
    now = run()
    del now.figures["native/textbook/most, ns"]
    found = page.page(now, None, judge(now.figures, (Gate("scrapes", "none/*", 1),)))
    assert "| scrapes | 1.000 | not measured | **not met** |" in found
    assert "| textbook | 500 | 500 | not measured | 2.500 | 1.000 |" in found
