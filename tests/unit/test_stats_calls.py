"""Rows as named values, and one element of the JSON contract."""

from __future__ import annotations

import math

import pytest
from samples import bucket_of, row, snapshot, vm

from hvtrace.stats.calls import QUANTILES, as_json, calls
from hvtrace.stats.histogram import LOWER_NS, UPPER_NS
from hvtrace.stats.snapshot import NO_MIN


def only(*rows, **more):
    (call,) = calls(snapshot(rows, **more))
    return call


def test_a_call_has_the_row_s_values_and_names():
    call = only(
        row(
            "linux",
            0x13,
            fast=True,
            handler="vmm",
            latencies_ns=[700, 900, 1100],
            unfinished=5,
            statuses={5: 1, 0x7777: 1},
            reps=17,
            xmm_input=3,
            xmm_output={"refused": 7, "used-xmm": 1},
        )
    )
    assert (call.vm.name, call.code, call.name) == (
        "linux",
        0x13,
        "HvCallFlushVirtualAddressSpaceEx",
    )
    assert (call.fast, call.handler, call.reps, call.xmm_input) == (True, "vmm", 17, 3)
    assert (call.completed, call.unfinished, call.calls, call.failures) == (3, 5, 8, 2)
    assert call.statuses == {"SUCCESS": 1, "INVALID_PARAMETER": 1, "0x7777": 1}
    assert call.xmm_output == {"refused": 7, "used-xmm": 1}
    assert call.latency is not None
    assert (call.latency.sum, call.latency.min, call.latency.max) == (2700, 700, 1100)


def test_unknown_codes_are_named_by_their_number():
    assert only(row(code=0x1234, latencies_ns=[5])).name == "0x1234"


def test_rows_keep_their_order_and_their_own_statuses():
    first, second, third = calls(
        snapshot(
            [
                row("a", 2, latencies_ns=[5] * 3, statuses={2: 1}),
                row("b", 3, latencies_ns=[7] * 5),
                row("a", 2, fast=True, latencies_ns=[7] * 7, statuses={2: 2, 3: 5}),
            ]
        )
    )
    assert [c.vm.name for c in (first, second, third)] == ["a", "b", "a"]
    assert first.statuses == {"SUCCESS": 2, "INVALID_HYPERCALL_CODE": 1}
    assert second.statuses == {"SUCCESS": 5}
    assert third.statuses == {"INVALID_HYPERCALL_CODE": 2, "INVALID_HYPERCALL_INPUT": 5}


def test_nothing_completed_has_no_latency():
    call = only(row(unfinished=3))
    assert (call.latency, call.statuses, call.failures, call.calls) == (None, {}, 0, 3)
    assert as_json(call)["latency_ns"] is None


def test_a_failure_read_before_its_completion_is_no_negative_success():
    """A call that ends while it is read: its status counted, its bucket not yet."""
    call = only(row(latencies_ns=[5] * 2, statuses={2: 3}))
    assert call.statuses == {"INVALID_HYPERCALL_CODE": 3}


def test_an_empty_snapshot_has_no_calls():
    assert calls(snapshot()) == []


# --- extremes of a call that ends while its counters are read


@pytest.mark.parametrize("latency", [1, 119, 120, 733, 5 * 10**9])
def test_extremes_not_written_yet_are_a_bound_of_the_bucket(latency):
    snap = snapshot([row(latencies_ns=[latency])])
    snap.rows["min_ns"], snap.rows["max_ns"] = NO_MIN, 0
    (call,) = calls(snap)
    bound = math.ceil(LOWER_NS[bucket_of(latency)])
    found = call.latency
    assert found is not None
    assert {found.min, found.p50, found.p999, found.max} == {bound}


def test_extremes_of_an_earlier_call_only():
    """The second call, faster than the first, is in the buckets but not in min_ns yet."""
    snap = snapshot([row(latencies_ns=[130, 10_000])])
    snap.rows["min_ns"] = 10_000
    found = calls(snap)[0].latency
    assert found is not None
    assert (found.min, found.max) == (int(UPPER_NS[bucket_of(130)]), 10_000)
    assert found.min <= found.p50 <= found.max


# --- JSON


def test_json_element_is_the_contract_s():
    call = only(
        row(vm("win11", 1009), 2, fast=True, latencies_ns=[700] * 199 + [900], xmm_input=200)
    )
    assert as_json(call) == {
        "vm": {"pid": 1009, "name": "win11", "vmm": "qemu"},
        "code": 2,
        "name": "HvCallFlushVirtualAddressSpace",
        "fast": True,
        "handler": "kernel",
        "calls": 200,
        "completed": 200,
        "unfinished": 0,
        "reps": 0,
        "xmm_input": 200,
        "xmm_output": {"none": 200},
        "statuses": {"SUCCESS": 200},
        "latency_ns": {
            "sum": 140_200,
            "min": 700,
            "max": 900,
            "p50": 708,
            "p90": 708,
            "p99": 708,
            "p999": 867,
        },
        "buckets": [[715, 199], [953, 1]],
    }


def test_json_buckets_end_with_the_longest_whole_ns_they_hold():
    latencies = [119, 120, 4_000_000_000, 4_000_000_001, 4_000_000_002]
    found = as_json(only(row(latencies_ns=latencies)))["buckets"]
    assert found == [[119, 1], [149, 1], [4_000_000_000, 1], [None, 2]]


def test_json_element_tells_the_vms_of_one_process_apart():
    assert as_json(only(row(vm(fd=13), latencies_ns=[5])))["vm"]["fd"] == 13


def test_json_element_has_the_number_of_vcpus_where_it_is_known():
    assert as_json(only(row(vm(vcpus=7), latencies_ns=[5])))["vm"]["vcpus"] == 7
    assert "vcpus" not in as_json(only(row(latencies_ns=[5])))["vm"]


def test_quantiles_are_the_contract_s():
    assert list(QUANTILES) == ["p50", "p90", "p99", "p999"]
