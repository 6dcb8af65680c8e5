"""Mix files: those that come with hvtrace, and every way in which another can be wrong."""

from __future__ import annotations

import json
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.guest import mixfile
from hvtrace.guest.memory import PATHS
from hvtrace.guest.mix import FORWARDED, SITES, Call, Guest, Mix, Stock
from hvtrace.hyperv import block, xmm
from hvtrace.hyperv.codes import CODES

BUILT_IN = {name: mixfile.load(name) for name in mixfile.names()}
XMM_MIXES = {
    path.stem: mixfile.load(str(path))
    for path in (Path(__file__).parents[1] / "xmm" / "mixes").glob("*.toml")
}
CALLS = [(name, call) for name, mix in (BUILT_IN | XMM_MIXES).items() for call in mix.calls]
EVERYTHING = BUILT_IN["everything"]
KVM_READS_XMM = {0x02, 0x03, 0x13, 0x14, 0x15}
LISTS = {0x03, 0x14}


def ids(pair: tuple[str, Call]) -> str:
    name, call = pair
    return f"{name}-{call.code:04x}-{'fast' if call.fast else 'memory'}-{call.times}"


def test_names() -> None:
    assert mixfile.names() == ["everything", "windows-busy", "windows-idle", "xmm-output"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_files_say_what_they_are(name: str) -> None:
    mix = BUILT_IN[name]
    assert mix.name == name
    assert 20 < len(mix.about) < 65  # a line of `hvtrace guest --list`


@pytest.mark.parametrize("pair", CALLS, ids=ids)
def test_declared_xmm_input_is_the_rule_of_the_tlfs(pair: tuple[str, Call]) -> None:
    """Declared by hand, computed there: two sources that must agree."""
    call = pair[1]
    assert call.xmm_input == bool(xmm.is_xmm_input(call.code, call.fast, call.var, call.reps))


@pytest.mark.parametrize("pair", CALLS, ids=ids)
def test_declared_xmm_output_is_the_rule_of_the_tlfs(pair: tuple[str, Call]) -> None:
    """On every kind of KVM, for every answer: a call's verdict must not depend on which."""
    name, with_output = pair
    stock = with_output.on((7, 2), xmm_output=False)
    for call in (with_output, stock):
        ends = [call.status | call.reps << 32] if call.path == "kernel" else call.answers
        for end in ends:
            assert call.xmm_output == xmm.verdict(
                call.code,
                call.fast,
                call.var,
                call.reps,
                reps_completed=end >> 32 & 0xFFF,
                status=None if call.path in ("fault", "unseen", "killed") else end & 0xFFFF,
                xmm_out_kernel=name != "xmm-claimed",
            )


@pytest.mark.parametrize("pair", [p for p in CALLS if p[1].writes], ids=ids)
def test_registers_written_are_those_of_the_tlfs(pair: tuple[str, Call]) -> None:
    """From the first pair behind the input on, as long as the completed elements; all changed."""
    call = pair[1]
    layout = block.layout_of(CODES[call.code], call.var, call.reps)
    assert layout is not None
    reps = (call.answers[0] >> 32 & 0xFFF) or call.reps
    length = CODES[call.code].output_bytes(reps)
    assert length is not None
    assert layout.fits
    first = 2 * layout.first_output_pair
    words = [word for word, _ in call.writes]
    assert words == list(range(first, first + -(-length // 8)))
    before = (call.rdx, call.r8, *call.xmm, *(14 * [0]))
    assert not any(before[word] == value for word, value in call.writes)


@pytest.mark.parametrize("pair", CALLS, ids=ids)
def test_parameters_are_where_the_call_has_them(pair: tuple[str, Call]) -> None:
    """The length of a block, or the number of XMM halves, is that of the input."""
    call = pair[1]
    known = CODES.get(call.code)
    length = known.input.length_bytes(call.var, call.reps) if known else None
    if not call.status and length and call.path not in FORWARDED:
        if call.block:
            assert 8 * len(call.block) == length
        elif call.xmm_input:
            assert 8 * len(call.xmm) == length - 16


def test_everything_takes_every_path() -> None:
    assert {call.path for call in EVERYTHING.calls} == set(PATHS)
    assert {call.via for call in EVERYTHING.calls} == set(SITES)
    assert {call.enforce for call in EVERYTHING.calls} == {True, False}
    statuses = {call.status for call in EVERYTHING.calls if call.path == "kernel"}
    assert statuses == {0, 2, 3, 4, 5, 6}
    stock = EVERYTHING.on((7, 2), xmm_output=False)
    known = {"memory", "none", "unknown", "impossible", "refused"}
    assert {c.xmm_output for c in stock.calls} == known
    assert {c.xmm_output for c in EVERYTHING.calls} == known | {"used-gpr", "used-xmm"}


def test_everything_makes_all_xmm_calls_in_all_ways() -> None:
    for fast, path in ((True, "kernel"), (False, "kernel"), (True, "fault")):
        found = {c.code for c in EVERYTHING.calls if (c.fast, c.path, c.status) == (fast, path, 0)}
        assert found >= KVM_READS_XMM


def test_everything_tries_the_edges_of_the_forwarded_range() -> None:
    paths = {call.code: call.path for call in EVERYTHING.calls if not call.fast}
    assert (paths[0x8001], paths[0x8041], paths[0x8042]) == ("vmm", "vmm", "kernel")


def test_everything_fails_in_more_ways_than_a_slot_holds() -> None:
    failures = [{a & 0xFFFF for a in c.answers} - {0} for c in EVERYTHING.calls if c.path == "vmm"]
    assert max(map(len, failures)) > 4


def test_everything_has_one_code_with_both_handlers() -> None:
    signals = [c for c in EVERYTHING.calls if c.code == 0x5D and c.fast]
    assert {c.path in FORWARDED for c in signals} == {True, False}


@pytest.mark.parametrize("mix", [EVERYTHING, BUILT_IN["xmm-output"], *XMM_MIXES.values()])
def test_mixes_that_are_counted_make_prime_numbers_only(mix: Mix) -> None:
    for call in mix.calls:
        assert call.times == mix.times(call, 0)


def test_xmm_output_is_used_and_refused_in_all_ways() -> None:
    """A row of the ledger has several verdicts; a stock KVM refuses all that fits."""
    mix = BUILT_IN["xmm-output"]
    found = {
        (c.code, c.reps): c.xmm_output for c in mix.calls if c.fast and not c.answers[0] & 0xFFFF
    }
    assert (
        found.items()
        >= {
            (0x46, 0): "used-gpr",
            **{(0x50, n): "used-xmm" for n in (1, 2, 3, 4)},
            (0x52, 0): "used-xmm",
            (0x9A, 2): "used-xmm",
        }.items()
    )
    verdicts = {c.xmm_output for c in mix.calls if c.code == 0x50}
    assert verdicts == {"used-xmm", "refused", "impossible", "memory"}
    stock = mix.on((7, 2), xmm_output=False)
    assert not any(c.xmm_output.startswith("used") or c.writes for c in stock.calls)
    assert {c.status for c in stock.calls if c.xmm_output == "refused"} == {2}


def test_the_killed_call_is_the_last_and_enforced_ones_are_together() -> None:
    assert [c.path for c in EVERYTHING.calls].index("killed") == len(EVERYTHING.calls) - 1
    enforced = [c.enforce for c in EVERYTHING.calls[:-1]]
    assert enforced == sorted(enforced)


@pytest.mark.parametrize("name", ["windows-idle", "windows-busy"])
def test_windows_never_ends_and_never_faults(name: str) -> None:
    mix = BUILT_IN[name]
    assert mix.rate > 0
    assert {c.path for c in mix.calls} <= {"kernel", "vmm"}
    assert not any(c.status or c.enforce for c in mix.calls)


def test_windows_busy_is_mostly_fast_and_flushes_in_xmm() -> None:
    mix = BUILT_IN["windows-busy"]
    total = sum(c.times for c in mix.calls)
    assert sum(c.times for c in mix.calls if c.fast) > 0.9 * total
    assert sum(c.times for c in mix.calls if c.xmm_input) > 0.5 * total
    assert 0.02 < sum(c.times for c in mix.calls if c.path == "vmm") / total < 0.1


def write(folder: Path, data: Any, name: str = "mine.json") -> str:
    file = folder / name
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return str(file)


def test_smallest_mix(tmp_path: Path) -> None:
    mix = mixfile.load(write(tmp_path, {"call": [{"code": 2}]}))
    assert mix == Mix("mine", (Call(2, xmm_output="memory"),))


def test_what_a_call_writes(tmp_path: Path) -> None:
    """Words are numbered as in the registers: RDX, R8, XMM0 low, XMM0 high, and so on."""
    writes = {"xmm5": [7, 8], "rdx": 1, "r8": 2, "xmm0": [3, 4], "xmm1": [5]}
    mix = mixfile.load(write(tmp_path, {"call": [{**WRITING, "writes": writes}]}))
    (call,) = mix.calls
    assert call.writes == ((12, 7), (13, 8), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5))
    assert call.stock == Stock(path="kernel", status=2, xmm_output="refused")


def test_calls_are_ordered_by_enforcement_and_end(tmp_path: Path) -> None:
    calls = [
        {"code": 1, "path": "killed"},
        {"code": 2, "enforce": True},
        {"code": 3},
        {"code": 4, "enforce": True},
        {"code": 5},
    ]
    mix = mixfile.load(write(tmp_path, {"call": calls}))
    assert [call.code for call in mix.calls] == [3, 5, 2, 4, 1]


def test_toml_and_json_are_the_same(tmp_path: Path) -> None:
    data = tomllib.loads((mixfile.FOLDER / "everything.toml").read_text())
    assert mixfile.load(write(tmp_path, data, "everything.json")) == EVERYTHING


def test_every_key_of_the_description_is_a_field() -> None:
    """The module's docstring is the documentation of the schema."""
    text = mixfile.__doc__ or ""
    for kind in (Mix, Guest, Call):
        for field in fields(kind):
            if field.name not in ("name", "calls", "guest"):
                assert f"    {field.name} = " in text, field.name


@pytest.mark.parametrize("kind", [Guest, Call])
def test_defaults_of_the_description_are_the_defaults(kind: type) -> None:
    text = (mixfile.__doc__ or "").splitlines()
    for field in fields(kind):
        if field.name not in ("code", "about", "writes", "xmm_output", "before", "stock"):
            line = next(line for line in text if line.startswith(f"    {field.name} = "))
            default = field.default
            shown = list(default) if isinstance(default, tuple) else default
            assert tomllib.loads(line.strip())[field.name] == shown


WRITING = {"code": 2, "fast": True, "path": "vmm", "writes": {"r8": 1}, "stock": {}}
WRONG: list[tuple[Any, str]] = [
    ([], "the file is not a table"),
    ({}, "it needs at least one [[call]]"),
    ({"call": []}, "it needs at least one [[call]]"),
    ({"call": {"code": 2}}, "it needs at least one [[call]]"),
    ({"call": [5]}, "call 1 is not a table"),
    ({"calls": [], "call": [{"code": 1}]}, 'unknown key "calls"'),
    ({"speed": 3, "call": [{"code": 1}]}, 'unknown key "speed"'),
    ({"rate": -1, "call": [{"code": 1}]}, "rate must not be negative"),
    ({"swing": 1.5, "call": [{"code": 1}]}, "swing from 0 to 1"),
    ({"call": [{"fast": True}]}, "call 1: code is missing"),
    ({"call": [{"code": 1}, {"code": 2, "time": 3}]}, 'call 2: unknown key "time"'),
    ({"call": [{"code": "0x2"}]}, "call 1: code must be int, not '0x2'"),
    ({"call": [{"code": True}]}, "call 1: code must be int, not True"),
    ({"call": [{"code": 1, "fast": 1}]}, "call 1: fast must be bool, not 1"),
    ({"call": [{"code": 1, "xmm": [1, "2"]}]}, "call 1: xmm must be tuple[int, ...]"),
    ({"call": [{"code": 1, "xmm": 1}]}, "call 1: xmm must be tuple[int, ...]"),
    ({"call": [{"code": 0x10000}]}, "code does not fit 16 bits"),
    ({"call": [{"code": 2, "reps": 4096}]}, "call 1 (0x0002): reps does not fit 12 bits"),
    ({"call": [{"code": 2, "rdx": 1 << 64}]}, "a value does not fit 64 bits"),
    ({"call": [{"code": 2, "rdx": -1}]}, "a value does not fit 64 bits"),
    ({"call": [{"code": 2, "xmm": [0] * 13}]}, "xmm has more than 12 halves"),
    ({"call": [{"code": 2, "block": [0] * 513}]}, "block is longer than a page"),
    ({"call": [{"code": 2, "fast": True, "block": [1]}]}, "a fast call has no block"),
    ({"call": [{"code": 2, "times": 0}]}, "times must be 1 or more"),
    ({"call": [{"code": 2, "path": "user"}]}, 'path "user" is none of kernel, '),
    ({"call": [{"code": 2, "via": "int80"}]}, 'via "int80" is none of page, '),
    ({"call": [{"code": 2, "via": "user"}]}, 'via "user" goes with path "unseen"'),
    ({"call": [{"code": 2, "path": "unseen"}]}, 'via "user" goes with path "unseen"'),
    ({"call": [{"code": 2, "path": "killed", "times": 2}]}, 'path "killed" happens once'),
    ({"call": [{"code": 2, "path": "killed"}] * 2}, 'only one call can be on path "killed"'),
    ({"call": [{"code": 2, "answers": []}]}, "answers is empty"),
    ({"call": [{"code": 2, "answers": [0] * 21}]}, "more than 20 answers"),
    ({"call": [{"code": 2, "xmm_output": "some"}]}, 'no verdict "some" on XMM output'),
    (
        {"call": [{"code": 2, "answers": [0, 5], "xmm_output": "used-xmm"}]},
        'xmm_output "used-xmm" with an answer that is a failure',
    ),
    ({"call": [{"code": 2, "stock": {"verdict": "refused"}}]}, 'stock: unknown key "verdict"'),
    ({"call": [{"code": 2, "stock": {"xmm_output": "some"}}]}, 'no verdict "some" on XMM output'),
    ({"call": [{"code": 2, "stock": {"path": "killed"}}]}, 'no path "killed" elsewhere'),
    ({"call": [{"code": 2, "writes": 5}]}, "call 1, writes is not a table"),
    ({"call": [{"code": 2, "writes": {"rcx": 5}}]}, 'call 1, writes: no register "rcx"; there'),
    ({"call": [{"code": 2, "writes": {"rdx": "5"}}]}, "call 1, writes: rdx cannot be '5'"),
    ({"call": [{"code": 2, "writes": {"rdx": [5]}}]}, "call 1, writes: rdx cannot be [5]"),
    ({"call": [{"code": 2, "writes": {"r8": True}}]}, "call 1, writes: r8 cannot be True"),
    ({"call": [{"code": 2, "writes": {"xmm5": [1, 2, 3]}}]}, "xmm5 cannot be [1, 2, 3]"),
    ({"call": [{"code": 2, "writes": {"xmm0": []}}]}, "call 1, writes: xmm0 cannot be []"),
    (
        {"call": [{**WRITING, "writes": {"rdx": 1 << 64}}]},
        "a value does not fit 64 bits",
    ),
    ({"call": [{**WRITING, "fast": False}]}, "only to a fast call that is forwarded"),
    ({"call": [{**WRITING, "path": "kernel"}]}, "only to a fast call that is forwarded"),
    ({"call": [{"code": 2, "fast": True, "path": "vmm", "writes": {"r8": 1}}]}, "needs stock"),
    ({"call": [{"code": 2, "before": {}}]}, "call 1, before: release is missing"),
    ({"call": [{"code": 2, "before": {"release": "old"}}]}, "release is not like 6.3"),
    ({"call": [{"code": 2, "before": {"release": "6.3", "path": "killed"}}]}, 'no path "killed"'),
    ({"guest": {"vmm": "older"}, "call": [{"code": 2}]}, 'guest: vmm "older" is none of new, old'),
    ({"guest": {"withhold": ["sse"]}, "call": [{"code": 2}]}, 'guest: no feature "sse"'),
    ({"guest": {"offer": ["xmm-output"] * 17}, "call": [{"code": 2}]}, "more than 16 features"),
    ({"guest": {"eventfd": [1] * 17}, "call": [{"code": 2}]}, "more than 16 connections"),
    ({"guest": {"syndbg": "yes"}, "call": [{"code": 2}]}, 'guest: syndbg "yes" is none of off, '),
    ({"guest": {"syndbg": True}, "call": [{"code": 2}]}, "guest: syndbg must be str, not True"),
]


@pytest.mark.parametrize(("data", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_files_are_named_with_the_place(tmp_path: Path, data: Any, message: str) -> None:
    file = write(tmp_path, data)
    with pytest.raises(HvtraceError) as error:
        mixfile.load(file)
    assert str(error.value).startswith(f"mix {file}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["broken.toml", "broken.json"])
def test_what_is_neither_toml_nor_json(tmp_path: Path, name: str) -> None:
    file = write(tmp_path, "call = [", name)
    with pytest.raises(HvtraceError, match=f"^mix {file}: .+"):
        mixfile.load(file)


def test_text_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b'about = "\xfcber"')
    with pytest.raises(HvtraceError, match=r"cannot read mix .*: it is not UTF-8 text"):
        mixfile.load(str(tmp_path / "latin.toml"))


def test_file_that_is_not_there() -> None:
    with pytest.raises(HvtraceError, match=r"cannot read mix no\.toml: No such file or directory"):
        mixfile.load("no.toml")


def test_name_that_is_none() -> None:
    with pytest.raises(HvtraceError) as error:
        mixfile.load("windows")
    assert str(error.value) == (
        'no mix is named "windows": take everything, windows-busy, windows-idle, xmm-output,'
        " or a file (.toml, .json)"
    )
