"""``hvtrace explain``: whole outputs against golden files, and what no output may ever be."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner, Result
from goldens import check
from hypothesis import given, settings
from hypothesis import strategies as st

from hvtrace.cli import cli, main
from hvtrace.errors import HvtraceError
from hvtrace.hyperv.codes import CODES
from hvtrace.hyperv.explain import (
    explain_all,
    explain_code,
    explain_input,
    explain_result,
    explain_status,
)
from hvtrace.hyperv.statuses import STATUSES
from hvtrace.hyperv.text import render

GOLDEN = {
    "kernel": ["0x13"],
    "full-block": ["FlushVirtualAddressListEx", "--var", "3", "--rep", "7"],
    "fits": ["0x50", "--rep", "4"],
    "does-not-fit": ["0x50", "--rep", "5"],
    "zero-input": ["0x8001"],
    "partly-unknown": ["0x69"],
    "open-ended": ["0x6a"],
    "too-long": ["PostMessage"],
    "two-registers": ["SendIpi"],
    "unknown": ["0x1234"],
    "unknown-forwarded": ["0x8041"],
    "input": ["--input", "0x100010003"],
    "input-memory": ["--input", "0x5c"],
    "input-wanted": ["--input", "0x400010050"],
    "input-all-wrong": ["--input", "0xf123fabcffff0002"],
    "input-unknown": ["--input", "0x11234"],
    "status": ["--status", "5"],
    "status-forward": ["--status", "INVALID_PORT_ID"],
    "status-withdrawn": ["--status", "0x42"],
    "status-unknown": ["--status", "99"],
    "result": ["--result", "0x500000000"],
    "result-ignored": ["--result", "0xabcde00312340003"],
    "list": ["--list"],
}


def run(*arguments: str, color: bool = False) -> Result:
    return CliRunner().invoke(cli, ["explain", *arguments], color=color)


def output(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("name", GOLDEN)
def test_text_is_the_golden_file_s(name: str) -> None:
    check(f"explain-{name}.txt", output(*GOLDEN[name]))


@pytest.mark.parametrize(
    "name", ["kernel", "does-not-fit", "unknown", "input-all-wrong", "status", "result"]
)
def test_json_is_the_golden_file_s(name: str) -> None:
    check(f"explain-{name}.json", output(*GOLDEN[name], "--json"))


@pytest.mark.parametrize("name", GOLDEN)
def test_json_is_one_object_that_says_what_it_is_about(name: str) -> None:
    document = json.loads(output(*GOLDEN[name], "--json"))
    assert document["schema"] == 1
    option = GOLDEN[name][0]
    assert document["about"] == (option.removeprefix("--") if option.startswith("--") else "call")
    assert document["sources"]


@pytest.mark.parametrize(
    "spelling",
    [
        "0x13",
        "19",
        "HvCallFlushVirtualAddressSpaceEx",
        "FlushVirtualAddressSpaceEx",
        "flushvirtualaddressspaceex",
        "HVCALL_FLUSH_VIRTUAL_ADDRESS_SPACE_EX",
    ],
)
def test_a_call_has_many_spellings_and_one_answer(spelling: str) -> None:
    assert output(spelling) == output("0x13")


@pytest.mark.parametrize(
    "spelling", ["5", "0x5", "invalid_parameter", "HV_STATUS_INVALID_PARAMETER"]
)
def test_a_status_has_many_spellings_and_one_answer(spelling: str) -> None:
    assert output("--status", spelling) == output("--status", "0x0005")


def test_values_may_be_decimal() -> None:
    assert output("--input", str(0x100010003)) == output("--input", "0x100010003")
    assert output("--result", str(0x500000000)) == output("--result", "0x500000000")


def test_defaults_are_one_rep_and_no_variable_header() -> None:
    assert output("0x14") == output("0x14", "--rep", "1", "--var", "0")
    assert output("0x14") != output("0x14", "--rep", "0")


# What every document must hold, of any kind.


def _fits_80_columns(text: str) -> bool:
    return all(len(line) <= 80 and line == line.rstrip() for line in text.split("\n"))


@pytest.mark.parametrize("code", [*CODES, 0x0000, 0x1234, 0x8000, 0x8041, 0x8042, 0xFFFF], ids=hex)
def test_every_call_fits_80_columns_and_names_its_sources(code: int) -> None:
    for var_cnt, rep_cnt in ((0, 0), (0, 1), (1, 2), (10, 12), (0x3FF, 0xFFF)):
        document = explain_code(code, var_cnt, rep_cnt)
        text = render(document)
        assert _fits_80_columns(text)
        assert f"{code:#06x}" in text
        assert "Sources" in text
        assert "None" not in text
        json.dumps(document)
    if code in CODES:
        known = CODES[code]
        assert known.name in text
        assert (known.linux_name or "") in text
        unwrapped = " ".join(text.split())
        assert " ".join(known.note.split()) in unwrapped
        assert known.input.in_words() in unwrapped
        assert known.output.in_words() in unwrapped


@pytest.mark.parametrize("status", [*STATUSES, 1, 99, 0xFFFF], ids=hex)
def test_every_status_fits_80_columns(status: int) -> None:
    text = render(explain_status(status))
    assert _fits_80_columns(text)
    assert f"{status:#06x}" in text
    assert "None" not in text


@settings(max_examples=300)
@given(
    st.integers(0, 2**64 - 1)
    | st.builds(lambda code, rest: code | rest << 16, st.sampled_from([*CODES]), st.integers(0, 1))
)
def test_every_value_can_be_explained(value: int) -> None:
    for document in (explain_input(value), explain_result(value)):
        text = render(document)
        assert _fits_80_columns(text)
        assert "None" not in text
        assert int(document["value"], 16) == value
        json.dumps(document)


def test_the_list_has_everything() -> None:
    text = output("--list")
    assert _fits_80_columns(text.rstrip("\n"))
    for code, known in CODES.items():
        assert f"\n{code:#06x} {known.name} " in text
    for value, status in STATUSES.items():
        assert f"\n{value:#06x} {status.name} " in text
    document = explain_all()
    assert [call["code"] for call in document["calls"]] == list(CODES)
    assert [status["status"] for status in document["statuses"]] == list(STATUSES)


# Facts that a reader relies on, in the documents themselves.


def test_where_fast_data_goes() -> None:
    fast = explain_code(0x50, rep_cnt=4)["fast_call"]
    assert [r["register"] for r in fast["input_registers"]] == ["RDX", "R8", "XMM0"]
    assert [r["register"] for r in fast["output_registers"]] == ["XMM1", "XMM2", "XMM3", "XMM4"]
    assert (fast["input_bytes"], fast["output_bytes"], fast["max_reps"]) == (32, 64, 4)
    assert fast["fits"] is True
    assert fast["xmm_input_registers"] == 1


def test_what_does_not_fit_has_no_output_registers() -> None:
    fast = explain_code(0x50, rep_cnt=5)["fast_call"]
    assert fast["fits"] is False
    assert fast["output_registers"] is None
    assert [r["register"] for r in fast["input_registers"]] == ["RDX", "R8", "XMM0", "XMM1"]
    assert fast["output_room_bytes"] == 64


def test_only_input_has_registers_of_32_bit_callers() -> None:
    fast = explain_code(0x8001)["fast_call"]
    assert fast["output_registers"] == [
        {"register": "RDX", "register_32bit": None, "first_byte": 0, "last_byte": 7}
    ]
    fast = explain_code(0x5D)["fast_call"]
    assert fast["input_registers"][0]["register_32bit"] == "EBX:ECX"


def test_unknown_is_null_and_not_zero() -> None:
    document = explain_code(0x09)
    fast = document["fast_call"]
    assert document["input"]["fixed_bytes"] is None
    assert {fast[key] for key in fast if key not in ("var_cnt", "rep_cnt")} == {None}
    fast = explain_code(0xC1)["fast_call"]
    assert (fast["input_bytes"], fast["output_bytes"], fast["fits"]) == (None, 0, None)


@pytest.mark.parametrize(
    ("code", "verdicts", "used"),
    [
        (0x02, ["none"], None),
        (0x46, ["refused"], "used-gpr"),
        (0x50, ["refused", "impossible"], "used-xmm"),
        (0x52, ["refused"], "used-xmm"),
        (0x7C, ["impossible"], None),
        (0x8001, ["refused"], "used-gpr"),
        (0x8002, ["impossible"], None),
        (0x69, ["unknown"], None),
        (0x1234, ["unknown"], None),
    ],
)
def test_verdicts_with_and_without_xmm_output_in_kvm(
    code: int, verdicts: list[str], used: str | None
) -> None:
    document = explain_code(code)
    assert document["xmm_output_verdicts"] == {
        "memory": ["memory"],
        "fast": verdicts,
        "fast_in_registers": used,
    }


@pytest.mark.parametrize(
    ("code", "reps", "first", "count"),
    [(0x46, 1, "RDX", 1), (0x50, 4, "XMM1", 4), (0x52, 1, "XMM1", 1), (0x9A, 12, "XMM3", 3)],
)
def test_registers_that_carry_output(code: int, reps: int, first: str, count: int) -> None:
    """0x9a with 12 reps: 64 bytes of input in RDX, R8 and XMM0 to XMM2; 48 of output."""
    document = explain_code(code, rep_cnt=reps)
    assert document["fast_call"]["output_range"] == {"first": first, "count": count}
    plural = "registers" if count > 1 else "register"
    assert f"{count} {plural}, first {first}" in render(document)


def test_a_call_without_output_has_no_range() -> None:
    assert explain_code(0x02)["fast_call"]["output_range"] is None


def test_input_value_of_a_memory_call_has_no_registers() -> None:
    document = explain_input(0x5C)
    assert document["fast_call"] is None
    assert document["xmm_output"] == "memory"
    assert document["xmm_input"] is False
    assert document["input_bytes"] == 256


# Errors: one clear line, and the exit status.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["FlushVirtualAdressSpace"], "did you mean HvCallFlushVirtualAddressSpace or"),
        (["ConnectPort"], "is the name of 0x0059 and 0x0096: give the number"),
        (["0x10000"], "call code 0x10000 is out of range: 0 to 0xffff (16 bits)"),
        (["--input", "0x1ffffffffffffffff"], "is out of range: 0 to 0xffffffffffffffff (64 bits)"),
        (["--input", "FlushVirtualAddressList"], "is not a number: write it as 0x13 or 19"),
        (["--result", "-1"], "result value -1 is out of range"),
        (["--status", "NOT_A_STATUS"], 'no status is named "NOT_A_STATUS"'),
    ],
)
def test_failures_are_one_line(
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["hvtrace", "explain", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hvtrace: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of CALL, --input, --result, --status, --list"),
        (["0x13", "--list"], "not CALL and --list"),
        (["--input", "1", "--status", "1", "--result", "1"], "--input and --result and --status"),
        (["--rep", "3"], "--rep and --var go with a CALL"),
        (["--input", "3", "--var", "0"], "--rep and --var go with a CALL"),
        (["0x13", "--rep", "4096"], "4096 is not in the range"),
        (["0x13", "--var", "1024"], "1024 is not in the range"),
        (["0x13", "0x14"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_ends_with_status_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_unknown_codes_are_no_error() -> None:
    assert run("0x1234").exit_code == 0
    assert isinstance(run("NoSuchCall").exception, HvtraceError)


def test_colour_is_for_terminals_only() -> None:
    plain = output("0x13")
    assert "\x1b" not in plain
    coloured = run("0x13", color=True).output
    assert click.unstyle(coloured) == plain
    bold = [line for line in coloured.splitlines() if "\x1b[1m" in line]
    assert [click.unstyle(line) for line in bold] == [
        "HvCallFlushVirtualAddressSpaceEx  0x0013 (19)",
        "Parameters",
        "Memory call",
        "Fast call, variable header 0 x 8 bytes",
        "KVM",
        "How hvtrace counts XMM output",
        "Sources",
    ]


def test_help_shows_examples_that_work() -> None:
    text = output("--help")
    examples = [line.split()[2:] for line in text.splitlines() if "  hvtrace explain" in line]
    assert len(examples) == 5
    for arguments in examples:
        output(*arguments)


def test_nothing_heavy_is_loaded() -> None:
    """An answer comes at once, also where BCC, numpy and a terminal UI are not installed."""
    program = (
        "import sys; from hvtrace.cli import cli; cli(['explain', '0x13'], standalone_mode=False);"
        "print([m for m in ('bcc', 'numpy', 'textual', 'prometheus_client', 'socket')"
        " if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
