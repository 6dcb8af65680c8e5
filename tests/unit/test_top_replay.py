"""A recording says again what it was made from, and what is no recording says why."""

from __future__ import annotations

import io
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from goldens import sample
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import START, FakeSource, row, snapshot, vm

from hvtrace.errors import HvtraceError
from hvtrace.stats import report
from hvtrace.stats.snapshot import Lost, RecordingEnded, SlowCall, delta
from hvtrace.top import batch
from hvtrace.top.replay import FORGET_SECONDS, Replay


def recorded(*snapshots, slow=False):
    """What `hvtrace top --batch --json` prints of these snapshots."""
    out = io.StringIO()
    settings = {"interval_seconds": 0, "as_json": True, "nap": lambda _: False, "slow": slow}
    batch.run(FakeSource(*snapshots), out, intervals=len(snapshots) - 1, **settings)
    return out.getvalue()


def replayed(path, *, slow=False):
    out = io.StringIO()
    source = Replay(path)
    with pytest.raises(RecordingEnded):
        batch.run(
            source,
            out,
            interval_seconds=0,
            intervals=None,
            as_json=True,
            nap=lambda _: False,
            slow=slow,
        )
    source.close()
    return out.getvalue()


def lines(text):
    """The objects of a recording, calls in an order that does not depend on who came first."""
    found = [json.loads(line) for line in text.splitlines()]
    for one in found:
        one["calls"].sort(key=lambda call: json.dumps([call["vm"], call["code"], call["fast"]]))
    return found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "recording.jsonl"


# --- property: a recording of a recording is the recording

FIRST, SECOND, THIRD = (
    vm("win11", 1009, vcpus=7),
    vm("linux", 1013, fd=11),
    vm("linux", 1013, fd=13),
)
KEYS = st.tuples(
    st.sampled_from((FIRST, SECOND, THIRD)),
    st.sampled_from((2, 0x13, 0xFFF0)),
    st.booleans(),
    st.sampled_from(("kernel", "vmm")),
)
LATENCIES = st.lists(st.integers(1, 10**4) | st.integers(1, 2 * 10**10), max_size=7)
NEW = st.fixed_dictionaries(
    {
        "latencies_ns": LATENCIES,
        "unfinished": st.integers(0, 3),
        "reps": st.integers(0, 2**40),
        "xmm_input": st.integers(0, 5),
        "failed": st.sampled_from((None, 5, 2, 0x7777)),
    }
)


def cumulative(intervals, *, trips):
    """Snapshots a second apart; each adds an interval's news to what was counted before."""
    counted = {}
    found = [snapshot()]
    for second, news in enumerate(intervals, 1):
        for key, new in news.items():
            old = counted.setdefault(
                key,
                {"latencies_ns": [], "unfinished": 0, "reps": 0, "xmm_input": 0, "statuses": {}},
            )
            for name in ("latencies_ns", "unfinished", "reps", "xmm_input"):
                old[name] = old[name] + new[name]
            if new["failed"] and new["latencies_ns"]:
                statuses = old["statuses"]
                old["statuses"] = statuses | {new["failed"]: statuses.get(new["failed"], 0) + 1}
        rows = [
            row(
                who,
                code,
                fast=fast,
                handler=handler,
                trips_ns=[ns + 997 for ns in values["latencies_ns"][:-1]] if trips else None,
                **values,
            )
            for (who, code, fast, handler), values in counted.items()
        ]
        found.append(
            snapshot(
                rows,
                [FIRST, SECOND, THIRD],
                time=START + second,
                lost=Lost(orphans=second, missed=second * second),
                in_flight=second % 3,
            )
        )
    return found


@settings(max_examples=40, deadline=None)
@given(st.lists(st.dictionaries(KEYS, NEW, max_size=4), min_size=2, max_size=6), st.booleans())
def test_a_recording_says_what_was_recorded(tmp_path_factory, intervals, trips):
    path = tmp_path_factory.mktemp("replay") / "recording"
    # From the second snapshot on: what was counted before is in no line, but in the extremes.
    text = recorded(*cumulative(intervals, trips=trips)[1:])
    path.write_text(text, encoding="utf-8")
    first, again = lines(text), lines(replayed(path))
    if trips:  # a line in which nobody called does not say whether they were asked for
        assert [one["calls"] for one in again] == [one["calls"] for one in first]
    assert again == first


def test_the_golden_sample_comes_again_byte_by_byte(path):
    text = recorded(snapshot(), sample(trips=True, time=START + 1.25), sample(time=START + 2))
    path.write_text(text, encoding="utf-8")
    assert replayed(path) == text


# --- snapshots


def test_the_first_snapshot_is_the_start_of_the_first_line(path):
    path.write_text(recorded(sample(time=START), sample(time=START + 3)))
    source = Replay(path)
    assert source.kernel == FakeSource.kernel  # known before the first snapshot
    first, second = source.snapshot(), source.snapshot()
    assert (first.time, len(first.rows), first.lost) == (START, 0, Lost())
    assert second.time == START + 3
    assert second.monotonic_ns - first.monotonic_ns == 3 * 10**9
    for _ in range(2):
        with pytest.raises(RecordingEnded, match=r"^$"):
            source.snapshot()
    source.look()
    source.close()


def counting(*counts, name="win11"):
    """Snapshots a second apart with so many calls."""
    return [
        snapshot([row(vm(name), latencies_ns=[700] * n)] if n else [], time=START + i)
        for i, n in enumerate(counts)
    ]


def taken(source):
    """All snapshots but the first."""
    found = []
    source.snapshot()
    while True:
        try:
            found.append(source.snapshot())
        except RecordingEnded:
            return found


def test_counters_add_up_and_idle_vms_stay(path):
    path.write_text(recorded(*counting(0, 7, 7, 18)))
    found = taken(Replay(path))
    assert [int(one.rows["buckets"].sum()) for one in found] == [7, 7, 18]
    assert [one.time for one in found] == [START + 1, START + 2, START + 3]


def test_another_vm_with_the_pid_of_the_first_is_another(path):
    path.write_text(recorded(*counting(0, 7)) + recorded(*counting(0, 11, name="linux")))
    first, second = taken(Replay(path))
    assert [one.name for one in second.vms] == ["win11", "linux"]
    assert len({one.identity for one in second.vms}) == 2
    new = delta(first, second)
    assert [(new.vms[r["vm"]].name, int(r["buckets"].sum())) for r in new.rows] == [("linux", 11)]


def test_gaps_are_no_time_in_which_calls_were_counted(path):
    later = [replace(one, time=one.time + 3600) for one in counting(0, 11)]
    text = recorded(*counting(0, 7)) + recorded(*later)
    path.write_text(text)
    first, second = taken(Replay(path))
    assert (second.time - first.time, second.monotonic_ns - first.monotonic_ns) == (3600, 10**9)
    assert replayed(path) == text  # with the time at which each began


def test_another_kernel_s_lines_follow(path):
    text = recorded(*counting(0, 7, 18))
    path.write_text(text.replace("6.12.0-fake", "7.2", 1))
    source = Replay(path)
    assert source.kernel == "7.2"
    taken(source)
    assert source.kernel == "6.12.0-fake"


def test_vms_that_were_gone_for_long_are_forgotten(path):
    third = round(FORGET_SECONDS / 3)
    first, second = vm("win11", 1009), vm("linux", 1013)
    steps = ((0, 0), (7, 3), (7, 5), (7, 7), (7, 8), (7, 9), (18, 9))
    snapshots = [
        snapshot(
            [row(first, latencies_ns=[700] * a), row(second, latencies_ns=[900] * b)],
            [first, second],
            time=START + third * i,
        )
        for i, (a, b) in enumerate(steps)
    ]
    text = recorded(*snapshots)
    path.write_text(text)
    assert lines(replayed(path)) == lines(text)
    found = taken(Replay(path))
    both, again = ["win11", "linux"], ["linux", "win11"]
    names = [[one.name for one in each.vms] for each in found]
    assert names == [both, both, both, both, ["linux"], again]
    assert found[5].rows["buckets"].sum(axis=1).tolist() == [9, 11]


def test_who_called_in_the_longest_of_intervals_is_not_forgotten_with_it(path):
    snapshots = [replace(one, time=START, monotonic_ns=0) for one in counting(0, 7)]
    snapshots[1] = replace(snapshots[1], monotonic_ns=round(2 * FORGET_SECONDS * 1e9))
    path.write_text(recorded(*snapshots))
    (found,) = taken(Replay(path))
    assert found.rows["buckets"].sum() == 7


SLOW = SlowCall(
    start=START + 0.25,
    vm=SECOND,
    vcpu=3,
    tid=1013,
    code=0x13,
    fast=True,
    handler="vmm",
    var_cnt=1,
    rep_cnt=5,
    status=0x7777,
    reps=2,
    duration_ns=1_234_567,
)


def test_slow_calls_come_again_each_in_its_interval(path):
    """Also of a VM that called, whose vCPUs nobody had counted by then."""
    snapshots = counting(0, 7, 18)
    calls = (SLOW, replace(SLOW, vcpu=None, status=0), replace(SLOW, vm=vm()))
    snapshots[1] = replace(snapshots[1], slow=calls, vms=(vm(vcpus=7),))
    text = recorded(*snapshots, slow=True)
    path.write_text(text)
    source = Replay(path)
    assert source.slow
    first, second = taken(source)
    assert first.slow[0] == replace(SLOW, vm=first.slow[0].vm)
    assert (first.slow[0].vm.pid, first.slow[0].vm.fd) == (1013, 11)
    assert (first.slow[1].vcpu, second.slow) == (None, ())
    assert replayed(path, slow=True) == text
    path.write_text(recorded(*counting(0, 7)))
    assert not Replay(path).slow


def test_losses_that_an_older_version_did_not_count_are_none(path):
    line = json.loads(recorded(*counting(0, 7)))
    del line["lost"]["no_event"]
    line["lost"] |= {"missed": 5, "new_in_a_later_version": 3}
    path.write_text(json.dumps(line))  # and no newline at its end
    (found,) = taken(Replay(path))
    assert found.lost == Lost(missed=5)


def test_a_stream_is_read_as_it_comes(tmp_path):
    """A FIFO, as of "<(ssh host hvtrace top --batch --json)": no line waits for the next."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    first, second = recorded(*counting(0, 7, 18)).splitlines(keepends=True)
    read = threading.Event()

    def write():
        with path.open("w") as file:
            file.write(first)
            file.flush()
            assert read.wait(20)
            file.write(f"\n \n{second}")  # empty lines are nothing

    writer = threading.Thread(target=write)
    writer.start()
    source = Replay(path)
    source.snapshot()
    assert int(source.snapshot().rows["buckets"].sum()) == 7
    read.set()
    assert int(source.snapshot().rows["buckets"].sum()) == 18
    with pytest.raises(RecordingEnded):
        source.snapshot()
    writer.join()


def test_what_a_recording_may_leave_out(path):
    """As docs/schema.md says."""
    text = recorded(snapshot(), sample(time=START + 1))
    line = json.loads(text)
    del line["hvtrace"]
    for call in line["calls"]:
        del call["name"], call["calls"]
        if call["latency_ns"]:
            call["latency_ns"] = {name: call["latency_ns"][name] for name in ("sum", "min", "max")}
    path.write_text(json.dumps(line) + "\n")
    assert replayed(path) == text


# --- what is no recording


def test_a_last_line_that_is_cut_off_is_left_out(path):
    text = recorded(*counting(0, 7, 18))
    path.write_text(text[:-100])
    source = Replay(path)
    source.snapshot()
    assert int(source.snapshot().rows["buckets"].sum()) == 7
    with pytest.raises(RecordingEnded, match=r"^line 2 of .*recording.jsonl is cut off"):
        source.snapshot()


LINE = json.loads(recorded(*counting(0, 7)))
CALL = LINE["calls"][0]


def changed(**more):
    return json.dumps(LINE | more)


def with_call(**more):
    return changed(calls=[CALL | more])


def without(key):
    return json.dumps({name: value for name, value in LINE.items() if name != key})


OLD = changed(calls=[{name: value for name, value in CALL.items() if name != "buckets"}])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("# a comment", "it is no JSON object"),
        (changed()[:-100], "it is no JSON object"),
        ("\x1f\x8b\x08", "it is no JSON object"),
        ("[" * 100_000, "it is no JSON object"),
        ("[]", "it is not made as it should be"),
        ("7", "it is not made as it should be"),
        ("{}", "it has no 'schema'"),
        (without("calls"), "it has no 'calls'"),
        (without("lost"), "it has no 'lost'"),
        (changed(calls=[{}]), "no buckets in it: hvtrace .* was too old"),
        (OLD, "no buckets in it: hvtrace .* was too old"),
        (changed(schema=2), "schema 2 is not this hvtrace's 1"),
        (changed(start="now"), "'now' is no time"),
        (changed(duration_s=-1), "-1 is no time"),
        (changed(duration_s=float("nan")), "nan is no time"),
        (changed(start=1e18), r"1e\+18 is no time"),
        (changed(in_flight=-7), "-7 is no number"),
        (changed(kernel=7), "7 is no name"),
        (with_call(code=65_536), "65536 is no number"),
        (with_call(reps=1.5), "1.5 is no number"),
        (with_call(unfinished=2**64), "is no number"),
        (with_call(handler="nobody"), "handler 'nobody' is not known"),
        (with_call(xmm_output={"maybe": 7}), "'maybe' is nothing that this hvtrace counts"),
        (with_call(buckets=[[700, 7]]), "700 is nothing that this hvtrace counts"),
        (with_call(buckets=[[715, 6]]), "its buckets and its completed do not agree"),
        (with_call(buckets=[7]), "it is not made as it should be"),
        (with_call(latency_ns={"sum": 7}), "it has no 'min'"),
        (with_call(statuses={"SOMETHING_NEW": 7}), "status 'SOMETHING_NEW' is not known"),
        (with_call(statuses={"0x123456": 7}), "status '0x123456' is not known"),
        (with_call(vm={"pid": 7, "name": None, "vmm": ""}), "None is no name"),
        (changed(slow=[{}]), "it has no"),
    ],
)
@pytest.mark.parametrize("number", [1, 2])
def test_a_line_that_is_none_is_named_with_its_number(path, text, problem, number):
    path.write_text("".join(f"{line}\n" for line in [changed()] * (number - 1) + [text]))
    with pytest.raises(HvtraceError, match=f"line {number}: .*{problem}") as raised:
        taken(Replay(path))
    assert str(raised.value).startswith(str(path))
    assert "\n" not in str(raised.value)
    assert "hvtrace top --batch --json" in str(raised.value)


@pytest.mark.parametrize("text", ["", "\n\n \n"])
def test_an_empty_file(path, text):
    path.write_text(text)
    with pytest.raises(HvtraceError, match="is empty"):
        Replay(path)


def test_what_cannot_be_read(path):
    with pytest.raises(HvtraceError, match=r"cannot read .*recording.jsonl: No such file"):
        Replay(path)
    with pytest.raises(HvtraceError, match="Is a directory"):
        Replay(path.parent)


def test_a_line_without_an_end_takes_no_more_memory_than_a_line_may(monkeypatch):
    monkeypatch.setattr("hvtrace.top.replay.MOST_LINE_BYTES", 1 << 16)
    with pytest.raises(HvtraceError, match="line 1: it is no JSON object"):
        Replay(Path("/dev/zero"))


def test_a_number_that_python_takes_for_true(path):
    path.write_text(with_call(reps=True) + "\n")
    with pytest.raises(HvtraceError, match="True is no number"):
        Replay(path)


def test_thousands_of_rows_are_read_in_a_moment(path):
    """4,000 rows, as of 200 VMs with 20 calls: their line is far below a second."""
    rows = [
        row(vm(f"vm{i}", 1009 + i), code, latencies_ns=range(500, 9_000, 499 + i))
        for i in range(200)
        for code in range(1, 21)
    ]
    text = recorded(snapshot(), snapshot(rows, time=START + 1))
    path.write_text(text)
    before = os.times().user
    (found,) = taken(Replay(path))
    assert os.times().user - before < 1.0
    assert len(found.rows) == 4_000
    again = report.as_json(delta(snapshot(), found), FakeSource.kernel, START, 1.0)
    assert again == json.loads(text)
    assert np.array_equal(found.rows["vm"], np.repeat(np.arange(200), 20))
