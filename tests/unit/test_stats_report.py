"""JSON and CSV: the whole form against golden files, and against each other."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from goldens import check, sample
from samples import START, row, snapshot, vm

from hvtrace import __version__
from hvtrace.stats.report import CSV_COLUMNS, CSV_TRIP_COLUMNS, as_csv, as_json
from hvtrace.stats.snapshot import VERDICTS, Lost, SlowCall

CONTRACT_ROW = {
    "vm": dict,
    "code": int,
    "name": str,
    "fast": bool,
    "handler": str,
    "calls": int,
    "completed": int,
    "unfinished": int,
    "reps": int,
    "xmm_input": int,
    "xmm_output": dict,
    "statuses": dict,
    "latency_ns": (dict, type(None)),
    "buckets": list,
}


def made(**more):
    return as_json(sample(**more), "6.12.0-fake", START, 10.0)


def test_json_is_the_golden_file_s():
    text = json.dumps(made() | {"hvtrace": "VERSION"}, indent=1) + "\n"
    check("report.json", text)


def test_json_has_the_keys_and_types_of_the_contract():
    out = made()
    assert list(out) == [
        *("schema", "hvtrace", "kernel", "start", "duration_s", "calls", "lost", "in_flight")
    ]
    assert (out["schema"], out["hvtrace"], out["kernel"]) == (1, __version__, "6.12.0-fake")
    assert (out["start"], out["duration_s"], out["in_flight"]) == (START, 10.0, 1)
    assert out["lost"] == {
        **{"orphans": 3, "no_slot": 2, "no_thread": 5},
        **{"no_status": 7, "no_exit": 13, "no_trip": 17, "no_event": 19, "missed": 11},
    }
    for element in out["calls"]:
        assert list(element) == list(CONTRACT_ROW)
        for key, kind in CONTRACT_ROW.items():
            assert isinstance(element[key], kind), key


def test_json_survives_json():
    """No numpy value in it, which json would refuse or print otherwise."""
    assert json.loads(json.dumps(made())) == made()


def test_json_counts_agree_with_each_other():
    for element in made()["calls"]:
        assert element["calls"] == element["completed"] + element["unfinished"]
        assert sum(element["statuses"].values()) == element["completed"]
        assert sum(element["xmm_output"].values()) == element["calls"]
        assert sum(count for _, count in element["buckets"]) == element["completed"]


def test_json_of_nothing():
    out = as_json(snapshot(), "6.1", START, 0.0)
    assert out["calls"] == []
    assert set(out["lost"].values()) == {0}


def test_csv_is_the_golden_file_s():
    check("report.csv", as_csv(sample(), START, 10.0))


def test_csv_says_what_json_says():
    lines = list(csv.DictReader(io.StringIO(as_csv(sample(), START, 10.0))))
    elements = made()["calls"]
    assert len(lines) == len(elements)
    for line, element in zip(lines, elements, strict=True):
        assert (float(line["start"]), float(line["duration_s"])) == (START, 10.0)
        for key in ("pid", "name", "vmm"):
            assert line[f"vm_{key}"] == str(element["vm"][key])
        assert line["vm_fd"] == str(element["vm"].get("fd", ""))
        for key in ("code", "calls", "completed", "unfinished", "reps", "xmm_input"):
            assert int(line[key]) == element[key]
        assert (line["name"], line["handler"]) == (element["name"], element["handler"])
        assert json.loads(line["fast"]) == element["fast"]
        for key in ("statuses", "xmm_output"):
            pairs = dict(pair.split("=") for pair in line[key].split())
            assert {name: int(count) for name, count in pairs.items()} == element[key]
        assert int(line["failures"]) == element["completed"] - element["statuses"].get("SUCCESS", 0)
        latency = element["latency_ns"] or dict.fromkeys(("sum", "min", "max", "p50", "p999"), "")
        for key, value in latency.items():
            assert line[f"{key}_ns"] == str(value)


def test_csv_quotes_what_users_call_their_vms():
    snap = snapshot([row(vm('a,"b"\nc'), latencies_ns=[5])])
    (line,) = csv.DictReader(io.StringIO(as_csv(snap, START, 1.0)))
    assert line["vm_name"] == 'a,"b"\nc'


@pytest.mark.parametrize("header", [True, False])
def test_csv_of_nothing_is_the_header_or_nothing(header):
    text = as_csv(snapshot(lost=Lost(orphans=3)), START, 1.0, header=header)
    assert text == (",".join(CSV_COLUMNS) + "\n" if header else "")


def test_csv_intervals_can_be_joined():
    twice = as_csv(sample(), START, 1.0) + as_csv(sample(), START + 1, 1.0, header=False)
    lines = list(csv.DictReader(io.StringIO(twice)))
    assert {line["start"] for line in lines} == {str(START), str(START + 1)}


def test_round_trips_are_only_there_where_asked_for():
    snap = snapshot(
        [
            row(latencies_ns=[700, 900], trips_ns=[1_700, 1_900]),
            row(fast=True, latencies_ns=[800], trips_ns=[]),
        ]
    )
    first, second = as_json(snap, "6.12.0-fake", START, 1.0)["calls"]
    assert first["round_trips"] == 2
    assert first["round_trip_buckets"] == [[1_907, 2]]
    assert first["round_trip_ns"].keys() == first["latency_ns"].keys()
    assert first["round_trip_ns"]["sum"] == 3_600
    assert (first["round_trip_ns"]["min"], first["round_trip_ns"]["max"]) == (1_700, 1_900)
    assert (second["round_trips"], second["round_trip_ns"]) == (0, None)
    assert second["round_trip_buckets"] == []
    lines = list(csv.DictReader(io.StringIO(as_csv(snap, START, 1.0))))
    assert list(lines[0]) == [*CSV_COLUMNS, *CSV_TRIP_COLUMNS]
    assert lines[0]["round_trip_sum_ns"] == "3600"
    assert [line["round_trips"] for line in lines] == ["2", "0"]
    assert lines[1]["round_trip_p99_ns"] == ""
    assert not any("round_trip" in key for call in made()["calls"] for key in call)


SLOW = SlowCall(
    start=START + 0.1234567,
    vm=vm("win11", 1009, fd=13, vcpus=7),
    vcpu=3,
    tid=1013,
    code=0x13,
    fast=True,
    handler="kernel",
    var_cnt=1,
    rep_cnt=5,
    status=0x7777,
    reps=2,
    duration_ns=1_234_567,
)


def test_slow_calls_are_only_there_where_asked_for():
    snap = replace(snapshot(), slow=(SLOW, replace(SLOW, vcpu=None, status=0)))
    out = as_json(snap, "6.1", START, 1.0, slow=True)
    assert list(out)[-3:] == ["slow", "lost", "in_flight"]
    assert out["slow"][0] == {
        "start": START + 0.123457,
        "duration_ns": 1_234_567,
        "vm": {"pid": 1009, "name": "win11", "vmm": "qemu", "fd": 13},
        "vcpu": 3,
        "tid": 1013,
        "code": 19,
        "name": "HvCallFlushVirtualAddressSpaceEx",
        "fast": True,
        "handler": "kernel",
        "var_cnt": 1,
        "rep_cnt": 5,
        "status": "0x7777",
        "reps": 2,
    }
    assert out["slow"][0].keys() == {*SlowCall.__slots__, "name"}
    assert (out["slow"][1]["vcpu"], out["slow"][1]["status"]) == (None, "SUCCESS")
    assert as_json(snapshot(), "6.1", START, 1.0, slow=True)["slow"] == []
    assert "slow" not in as_json(snap, "6.1", START, 1.0)


# --- docs/schema.md says the same

SCHEMA = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")


def test_the_documented_header_is_the_csv_s():
    assert f"\n{','.join(CSV_COLUMNS)}\n" in SCHEMA
    assert f"\n{','.join(CSV_TRIP_COLUMNS)}\n" in SCHEMA


def test_the_documented_object_is_the_code_s():
    documented = json.loads(re.search(r"```json\n(.*?)```", SCHEMA, re.DOTALL)[1])
    one = row(vm(vcpus=8), fast=True, latencies_ns=[700] * 199 + [900], xmm_input=200)
    snap = snapshot([one])
    assert documented == as_json(snap, documented["kernel"], START, 10.0)


@pytest.mark.parametrize(
    "word", [*VERDICTS, *Lost.__dataclass_fields__, *CONTRACT_ROW, *SlowCall.__slots__]
)
def test_every_key_and_verdict_is_documented(word):
    assert f"`{word}`" in SCHEMA
