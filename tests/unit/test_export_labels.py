"""The `vm` label: never the same for two VMs, and kept for life."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import vm

from hvtrace.export.labels import VmLabels


def test_a_name_of_its_own_is_the_label():
    assert VmLabels().assign([vm("win11", 1009), vm("linux", 1013)]) == ["win11", "linux"]


def test_of_two_vms_of_one_name_the_older_bears_it():
    young, old = vm("win11", 1009, start_time=7), vm("win11", 1013, start_time=5)
    assert VmLabels().assign([young, old]) == ["win11-1009", "win11"]


def test_labels_stay_when_more_vms_come_and_when_indices_move():
    labels = VmLabels()
    first, second, third = (vm("win11", pid, start_time=pid) for pid in (1013, 1019, 1009))
    assert labels.assign([first]) == ["win11"]
    assert labels.assign([first, second]) == ["win11", "win11-1019"]
    assert labels.assign([third, second, first]) == ["win11-1009", "win11-1019", "win11"]


def test_a_name_whose_bearer_is_gone_is_free_but_nobody_is_renamed():
    labels = VmLabels()
    first, second, third = (vm("win11", pid) for pid in (1009, 1013, 1019))
    labels.assign([first, second])
    assert labels.assign([second]) == ["win11-1013"]
    assert labels.assign([second, third]) == ["win11-1013", "win11"]


def test_a_vm_started_anew_goes_on_in_its_series():
    """The old one, ended but still shown, gives way: its series breaks off without an increase."""
    labels = VmLabels()
    old, new = vm("win11", 1009, start_time=5), vm("win11", 1013, start_time=7)
    assert labels.assign([old]) == ["win11"]
    ended = replace(old, ended=True)
    assert labels.assign([ended]) == ["win11"]
    assert labels.assign([ended, new]) == ["win11-1009", "win11"]
    assert labels.assign([ended, new]) == ["win11-1009", "win11"]
    assert labels.assign([new]) == ["win11"]


def test_a_vm_seen_only_after_its_end_takes_no_name_away():
    labels = VmLabels()
    living, dead = vm("win11", 1013, start_time=7), vm("win11", 1009, start_time=5, ended=True)
    assert labels.assign([dead, living]) == ["win11-1009", "win11"]
    assert VmLabels().assign([dead]) == ["win11"]


def test_two_vms_that_ended_do_not_swap_names():
    labels = VmLabels()
    first, late = vm("win11", 1009, ended=True), vm("win11", 1013, ended=True)
    labels.assign([first])
    assert labels.assign([first, late]) == ["win11", "win11-1013"]


@pytest.mark.parametrize("name", ["win11", "other-name"])
def test_a_pid_that_comes_again_is_another_vm(name):
    """Told by the start time, whatever else is the same: two labels while both are shown."""
    old, new = vm("win11", 1009, start_time=5, ended=True), vm(name, 1009, start_time=7)
    labels = VmLabels()
    assert labels.assign([old]) == ["win11"]
    both = labels.assign([old, new])
    assert both == (["win11-1009", "win11"] if name == "win11" else ["win11", name])
    assert labels.assign([new, old]) == both[::-1]


def test_a_descriptor_of_another_vm_in_one_process():
    first, second = (vm("x", 1009, fd=fd, start_time=5) for fd in (11, 13))
    labels = VmLabels()
    labels.assign([first])
    assert labels.assign([replace(first, ended=True), second]) == ["x-1009", "x"]


def test_no_label_is_the_one_for_all_others():
    assert VmLabels().assign([vm("other", 1009), vm("other-1009", 1013)]) == [
        "other-1009",
        "other-1009-1013",
    ]


def test_vms_of_one_process():
    both = [vm("x", 1009, fd=11, start_time=5), vm("x", 1009, fd=13, start_time=5)]
    third = vm("x", 1009, fd=17, start_time=5)
    assert VmLabels().assign([*both, third]) == ["x", "x-1009", "x-1009-17"]


@pytest.mark.parametrize("name", ["win11-1013", "win11-1013-0", "win11-1013-0-0"])
def test_a_made_label_that_is_somebody_s_name(name):
    vms = [vm("win11", 1009), vm(name, 1010), vm("win11", 1013)]
    labels = VmLabels().assign(vms)
    assert labels[:2] == ["win11", name]
    assert len(set(labels)) == 3


NAMES = ("a", "a-1", "a-1-0", "a-1-0-5", "b", "")

VMS = st.builds(
    lambda name, pid, fd, ended: vm(name, pid, fd=fd, ended=ended, start_time=NAMES.index(name)),
    name=st.sampled_from(NAMES),  # of one identity, so one start time, is always one name
    pid=st.integers(1, 3),
    fd=st.sampled_from([None, 0, 11]),
    ended=st.booleans(),
)


@settings(deadline=None)
@given(st.lists(st.lists(VMS, unique_by=lambda vm: vm.identity, max_size=12), max_size=5))
def test_no_two_labels_are_alike_whatever_comes(steps):
    labels = VmLabels()
    for vms in steps:
        given_labels = labels.assign(vms)
        assert len(set(given_labels)) == len(vms)
        for machine, label in zip(vms, given_labels, strict=True):
            assert label.startswith(machine.name)
