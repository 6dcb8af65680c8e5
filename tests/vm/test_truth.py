"""hvtrace against three things that it did not compute, on real hypercalls.

The same run of the `everything` mix (VMs with one vCPU and with four, prime numbers
of calls) as seen by hvtrace, by the guests' own ledger, by the kernel's tracefs
log and by KVM's own counter. One more run is traced by the same hvtrace after KVM's
modules were unloaded and loaded again.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import pytest

from hvtrace.hyperv import statuses
from hvtrace.kernel.live import LiveSource
from hvtrace.stats.snapshot import completed, rollup
from tests.vm import modules
from tests.vm.run import Run, record


class Case(NamedTuple):
    vms: int
    vcpus: int  # of each
    reload: bool = False


@pytest.fixture(
    scope="module",
    params=[Case(2, 1), Case(2, 4), Case(1, 3, reload=True)],
    ids=["2-vms-of-1", "2-vms-of-4", "kvm-reloaded"],
)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def run(source: LiveSource, case: Case) -> Run:
    if case.reload:
        before = rollup(source.snapshot(), ())
        modules.unload(source.snapshot)
        assert source.probes == 1
        modules.load()
        assert (rollup(source.snapshot(), ()).rows == before.rows).all()
        assert completed(before.rows).sum() > 1000
    return record(source, "--vms", str(case.vms), "--vcpus", str(case.vcpus))


def test_the_run_was_worth_it(run: Run, case: Case) -> None:
    assert run.ledger["problems"] == []
    assert [len(vm["vcpus"]) for vm in run.ledger["vms"]] == [case.vcpus] * case.vms
    handlers = {handler for *_, handler in run.made}
    assert handlers == {"kernel", "vmm"}
    assert {fast for *_, fast, _ in run.made} == {True, False}
    assert sum(c["unfinished"] for c in run.ledger["calls"]) > 0
    assert sum(c["orphans"] for c in run.ledger["calls"]) > 0
    assert max(len(c["statuses"]) for c in run.ledger["calls"]) > 4  # more than a slot holds


def test_rows_are_those_of_the_ledger(run: Run) -> None:
    assert run.traced.keys() == run.made.keys()


@pytest.mark.parametrize(
    "field", ["calls", "completed", "unfinished", "reps", "xmm_input", "xmm_output"]
)
def test_counts_equal_the_ledger(run: Run, field: str) -> None:
    assert {key: getattr(call, field) for key, call in run.traced.items()} == {
        key: row[field] for key, row in run.made.items()
    }


def test_statuses_equal_what_the_guests_saw(run: Run) -> None:
    assert {key: call.statuses for key, call in run.traced.items()} == {
        key: {statuses.name_of(int(s, 16)): n for s, n in row["statuses"].items()}
        for key, row in run.made.items()
    }


def test_vm_names_are_those_of_the_ledger(run: Run) -> None:
    assert {(call.vm.pid, call.vm.name) for call in run.traced.values()} == {
        (vm["pid"], vm["name"]) for vm in run.ledger["vms"]
    }
    assert {call.vm.vmm for call in run.traced.values()} == {"hvtrace-guest"}


def test_losses_are_the_orphans_that_the_guests_caused(run: Run) -> None:
    lost = run.snapshot.lost
    assert run.orphans == sum(c["orphans"] for c in run.ledger["calls"])
    assert (lost.no_slot, lost.no_thread, lost.no_status, lost.missed) == (0, 0, 0, 0)
    assert run.snapshot.in_flight == 0


def test_everything_equals_the_tracefs_log(run: Run) -> None:
    logged, orphans = run.logged
    assert orphans == run.orphans
    assert {
        key: (c.completed, c.unfinished, c.reps, c.statuses) for key, c in run.traced.items()
    } == {
        key: (
            one.completed,
            one.unfinished,
            one.reps,
            {statuses.name_of(s): n for s, n in one.statuses.items()},
        )
        for key, one in logged.items()
    }


def test_completed_calls_equal_kvms_own_counter(run: Run) -> None:
    """The counter has every completion, also those on another thread: our orphans."""
    counted = Counter[int]()
    for (pid, *_), call in run.traced.items():
        counted[pid] += call.completed
    for row in run.ledger["calls"]:
        counted[row["vm"]["pid"]] += row["orphans"]
    assert counted == {vm["pid"]: vm["kvm_hypercalls"] for vm in run.ledger["vms"]}
