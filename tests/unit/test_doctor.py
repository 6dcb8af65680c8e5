"""`hvtrace doctor` on hosts that lack this or that: each lack is named, the rest goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hvtrace.commands.doctor import command
from hvtrace.errors import HvtraceError
from hvtrace.hyperv.interface import Interface, Part
from hvtrace.kernel import doctor, shape
from hvtrace.kernel.features import Features
from hvtrace.kernel.structures import Structures

GOOD = Features(
    "6.12.0-fake",
    shape.raw(),
    Interface(exit_bytes=56, parts={"hcall": Part(32)}),
    structures=Structures(exit_bytes=56),
    debugfs=Path("/sys/kernel/debug/kvm"),
)


class Loaded:
    def load(self) -> Loaded:
        return self

    def close(self) -> None:
        pass


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A host that has everything; tests take parts of it away."""
    (tmp_path / "events" / "kvm").mkdir(parents=True)
    for name, value in {
        "check_privilege": lambda: None,
        "check_bpf": lambda: None,
        "mounted_tracefs": lambda: tmp_path,
        "read_formats": lambda events: {},
        "look": lambda chosen: GOOD,
    }.items():
        monkeypatch.setattr(doctor.features, name, value)
    monkeypatch.setattr(doctor, "choose", lambda release, formats: shape.raw())
    monkeypatch.setattr(doctor, "counters", lambda *_, **__: Loaded())
    monkeypatch.setattr(doctor.pins, "_USUAL", tmp_path / "bpf")
    monkeypatch.setattr(doctor.kvm, "is_loaded", lambda: True)
    monkeypatch.setattr(doctor.kvm, "has_hyperv", lambda: True)
    monkeypatch.setattr(doctor.platform, "release", lambda: "6.12.0-fake")
    return monkeypatch


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, standalone_mode=False)


def checks() -> dict[str, bool]:
    return {check["name"]: check["ok"] for check in json.loads(run("--json").stdout)["checks"]}


def fail(text: str):
    def check(*_: object, **__: object) -> None:
        raise HvtraceError(text)

    return check


NAMES = ("privilege", "bpf", "tracefs", "KVM", "events", "BCC", "BTF", "kprobes", "debugfs")


@pytest.mark.usefixtures("host")
def test_a_good_host() -> None:
    assert checks() == dict.fromkeys((*NAMES, "XMM output"), True)
    result = run()
    assert result.return_value == 0
    assert " NO " not in result.stdout
    assert "this KVM cannot return output in registers" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.usefixtures("host")
def test_what_is_pinned_is_named(tmp_path: Path) -> None:
    (tmp_path / "bpf" / "mine").mkdir(parents=True)
    assert "pinned" not in checks()
    (tmp_path / "bpf" / "mine" / "hvt_about").touch()
    assert checks()["pinned"]
    assert "holds kvm.ko" in " ".join(run().stdout.split())  # lines break by the path's length


@pytest.mark.usefixtures("host")
def test_json_has_the_interface() -> None:
    found = json.loads(run("--json").stdout)
    assert (found["schema"], found["ok"], found["kernel"]) == (1, True, "6.12.0-fake")
    assert found["xmm_output"] == {
        "kind": "none",
        "offered": False,
        "function": None,
        "exit_bytes": 56,
        "parts_bytes": {"hcall": 32},
    }


@pytest.mark.parametrize(
    ("changes", "name", "words"),
    [
        ({"structures": Structures(problem="this kernel has no BTF")}, "BTF", "has no BTF"),
        ({"kprobes": False}, "kprobes", "CONFIG_KPROBES"),
        ({"debugfs": None}, "debugfs", "mount -t debugfs"),
    ],
)
def test_what_is_useful_is_named_and_no_failure(
    host: pytest.MonkeyPatch, changes: dict[str, object], name: str, words: str
) -> None:
    lacking = replace(GOOD, **changes)  # type: ignore[arg-type]
    host.setattr(doctor.features, "look", lambda chosen: lacking)
    assert checks() == {**dict.fromkeys((*NAMES, "XMM output"), True), name: False}
    result = run()
    assert result.return_value == 0
    assert words in " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("room", "function", "name"),
    [
        (doctor.features, "check_privilege", "privilege"),
        (doctor.features, "check_bpf", "bpf"),
        (doctor.features, "mounted_tracefs", "tracefs"),
        (doctor.features, "read_formats", "events"),
        (doctor, "counters", "BCC"),
    ],
)
def test_what_is_needed_fails_and_the_rest_is_looked_at(
    host: pytest.MonkeyPatch, room: object, function: str, name: str
) -> None:
    host.setattr(room, function, fail("not here: do this"))
    found = checks()
    assert [each for each, ok in found.items() if not ok] == [name]
    assert {"privilege", "bpf", "tracefs", "KVM"} <= found.keys()
    result = run()
    assert result.return_value == 1
    assert "not here: do this" in result.stdout


def test_kvm_that_is_not_loaded_or_not_there(host: pytest.MonkeyPatch) -> None:
    host.setattr(doctor.kvm, "is_loaded", lambda: False)
    host.setattr(doctor.features, "check_module", lambda: None)
    assert "modprobe kvm_intel" in run().stdout
    host.setattr(doctor.features, "check_module", fail("this kernel has no KVM"))
    assert "this kernel has no KVM" in run().stdout


def test_kvm_without_hyperv(host: pytest.MonkeyPatch) -> None:
    host.setattr(doctor.kvm, "has_hyperv", lambda: False)
    result = run()
    assert result.return_value == 1
    assert "CONFIG_KVM_HYPERV" in result.stdout
    assert "BCC" in result.stdout  # looked at all the same


@pytest.mark.usefixtures("host")
def test_every_key_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "schema.md").read_text(encoding="utf-8")
    section = page[page.index("## `hvtrace doctor --json`") :]
    found = json.loads(run("--json").stdout)
    for key in (*found, *found["xmm_output"], *found["checks"][0]):
        assert f"`{key}`" in section
