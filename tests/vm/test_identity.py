"""Several VMs in one process, told apart through KVM's debugfs."""

from __future__ import annotations

import pytest

from hvtrace.kernel.live import LiveSource
from tests.vm.run import Run, record


@pytest.fixture(scope="module")
def run(source: LiveSource) -> Run:
    return record(source, "--vms", "2", "--vms-per-process", "2", "--vcpus", "1")


def test_two_vms_of_one_process_are_two(run: Run) -> None:
    first, second = run.ledger["vms"]
    assert first["pid"] == second["pid"]
    assert {call.vm.fd for call in run.traced.values()} == {first["fd"], second["fd"]}


def test_each_has_its_own_calls(run: Run) -> None:
    assert {key: (c.completed, c.unfinished) for key, c in run.traced.items()} == {
        key: (row["completed"], row["unfinished"]) for key, row in run.made.items()
    }


def test_their_names_differ_by_descriptor(run: Run) -> None:
    names = {call.vm.name for call in run.traced.values()}
    assert len(names) == 2
    for call in run.traced.values():
        assert call.vm.name.endswith(f"#{call.vm.fd}")
