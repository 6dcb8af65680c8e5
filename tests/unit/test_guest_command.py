"""`hvtrace guest` as a user types it; the model of a guest takes KVM's place."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from guest_model import ModelKvm

from hvtrace.commands.guest import command
from hvtrace.errors import HvtraceError
from hvtrace.guest import mixfile, session

MODEL = (sys.executable, str(Path(__file__).with_name("guest_model.py")))


@pytest.fixture(autouse=True)
def _model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_COMMAND", MODEL)
    monkeypatch.setattr(session, "Kvm", ModelKvm)


@pytest.fixture
def mix(tmp_path: Path) -> str:
    file = tmp_path / "small.json"
    calls = [{"code": 2, "times": 7}, {"code": 0x5E, "path": "vmm", "times": 3, "answers": [18]}]
    file.write_text(json.dumps({"call": calls}))
    return str(file)


def run(*arguments: str, text: str = "") -> Result:
    return CliRunner().invoke(command, arguments, input=text)


def test_table(mix: str) -> None:
    result = run("--mix", mix)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].startswith("small-0: process ")
    assert lines[0].endswith(", 1 vCPU, 10 calls completed, 10 by KVM's count")
    assert lines[2:] == [
        "  FlushVirtualAddressSpace    no   kernel        7 SUCCESS",
        "  SavePartitionState          no   vmm           3 INVALID_CONNECTION_ID",
    ]


def test_json_is_one_line(mix: str) -> None:
    result = run("--mix", mix, "--json", "--vms", "2", "--vcpus", "3", "--name", "vm")
    assert result.exit_code == 0
    (line,) = result.stdout.splitlines()
    data = json.loads(line)
    assert [vm["name"] for vm in data["vms"]] == ["vm-0", "vm-1"]
    assert [len(vm["vcpus"]) for vm in data["vms"]] == [3, 3]


def test_ledger_in_a_file_leaves_the_output_empty(mix: str, tmp_path: Path) -> None:
    result = run("--mix", mix, "--ledger", str(tmp_path / "ledger.json"))
    assert (result.exit_code, result.stdout) == (0, "")
    data = json.loads((tmp_path / "ledger.json").read_text())
    assert (data["schema"], data["mix"], data["problems"]) == (1, "small", [])


def test_ledger_in_a_file_and_as_json(mix: str, tmp_path: Path) -> None:
    result = run("--mix", mix, "--ledger", str(tmp_path / "ledger.json"), "--json")
    assert result.stdout == (tmp_path / "ledger.json").read_text()


def test_pause_and_hold_talk_in_json(mix: str) -> None:
    result = run("--mix", mix, "--json", "--pause", "--hold", text="\n\n")
    ready, ledger = map(json.loads, result.stdout.splitlines())
    (vm,) = ready["ready"]
    assert set(vm) == {"pid", "fd", "name", "vcpus"}
    assert {key: ledger["vms"][0][key] for key in vm} == vm


def test_pause_for_people(mix: str) -> None:
    result = run("--mix", mix, "--pause", text="\n")
    assert result.stderr.startswith("ready: small-0 (process ")
    assert result.stderr.endswith("; press Enter to begin\n")
    assert "ready" not in result.stdout


def test_rounds_and_rate(mix: str) -> None:
    counted = json.loads(run("--mix", mix, "--json", "--rounds", "3").stdout)
    assert counted["vms"][0]["hypercalls"] == 30
    paced = json.loads(run("--mix", mix, "--json", "--rate", "200", "-d", "0.3").stdout)
    assert 0 < paced["vms"][0]["hypercalls"] < 200


def test_what_no_mix_expects_is_a_failure_with_the_ledger(tmp_path: Path) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps({"call": [{"code": 3, "times": 5}, {"code": 5}]}))
    result = run("--mix", str(file))
    assert isinstance(result.exception, HvtraceError)
    assert str(result.exception).startswith("2 results are not what the mix expects on ")
    assert str(result.exception).endswith("statuses {'0x0002': 5} instead of {'0x0000': 5}")
    assert "problem: wrong-0 vcpu0 0x0005: " in result.stdout


def test_ledger_that_cannot_be_written(mix: str, tmp_path: Path) -> None:
    result = run("--mix", mix, "--ledger", str(tmp_path / "no" / "ledger.json"))
    assert isinstance(result.exception, HvtraceError)
    assert str(result.exception).endswith("ledger.json: No such file or directory")


def test_list() -> None:
    lines = run("--list").stdout.splitlines()
    assert [line.split()[0] for line in lines] == mixfile.names()
    assert max(map(len, lines)) <= 80


def test_help_fits_the_terminal_and_has_examples() -> None:
    text = run("--help").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "hvtrace stat -- hvtrace guest --mix everything" in text


@pytest.mark.parametrize(
    "arguments",
    [("--vms", "0"), ("--vcpus", "65"), ("--rate", "-1"), ("--rounds", "x"), ("extra",)],
)
def test_usage_errors(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2
