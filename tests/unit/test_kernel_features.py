"""Hosts that cannot trace: each is one clear line."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.kernel import features
from hvtrace.kernel.shape import EVENTS
from hvtrace.kernel.structures import Structures

FORMAT = "field:__u16 code;\toffset:32;\n\tfield:__u16 var_cnt;\toffset:34;\n\tfield:bool fast;\n"
OLD_FORMAT = "field:__u16 code;\toffset:32;\n\tfield:bool fast;\toffset:34;\n"


@pytest.fixture
def host(tmp_path: Path, monkeypatch) -> Path:
    """A host that has everything, as a folder; tests take parts of it away."""
    events = tmp_path / "tracing" / "events"
    for event in (*(f"kvm/{name}" for name in EVENTS), "sched/sched_process_exit"):
        (events / event).mkdir(parents=True)
        (events / event / "format").write_text(FORMAT)
    (tmp_path / "debug" / "kvm").mkdir(parents=True)
    monkeypatch.setattr(features, "TRACEFS", (tmp_path / "tracing", tmp_path / "none"))
    monkeypatch.setattr(features, "DEBUGFS", tmp_path / "debug")
    monkeypatch.setattr(features, "check_privilege", lambda: None)
    monkeypatch.setattr(features.bpf, "probe", lambda: None)
    (tmp_path / "class").mkdir()
    monkeypatch.setattr(features.kvm, "CLASS", tmp_path / "class")
    monkeypatch.setattr(features.kvm, "has_hyperv", lambda: True)
    monkeypatch.setattr(features.kvm, "offered_cpuid", lambda: None)
    monkeypatch.setattr(features.structures, "read", lambda: Structures(problem="no BTF"))
    monkeypatch.setattr(features.kvm, "symbol", lambda names: None)
    monkeypatch.setattr(features, "_mount", lambda kind, folder: False)
    return tmp_path


def probe(anyway: bool = False) -> features.Features:
    return features.probe(anyway, said.append)


said: list[str] = []


@pytest.fixture(autouse=True)
def _silence() -> None:
    said.clear()


def remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def message() -> str:
    with pytest.raises(HvtraceError) as caught:
        probe()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_good_host(host: Path) -> None:
    found = probe()
    assert "var_cnt" in found.shape.fields
    assert found.debugfs == host / "debug" / "kvm"
    assert said == []


def test_prototype_comes_from_the_format_file(host: Path) -> None:
    file = host / "tracing" / "events" / "kvm" / "kvm_hv_hypercall" / "format"
    file.write_text(OLD_FORMAT)
    assert "var_cnt" not in probe().shape.fields


def test_kernel_before_5_14(host: Path) -> None:
    remove(host / "tracing" / "events" / "kvm" / "kvm_hv_hypercall_done")
    assert "needs Linux 5.14" in message()


@pytest.mark.usefixtures("host")
def test_not_root(monkeypatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(features.Path, "read_text", lambda *_, **__: "CapEff:\t0000000000000000\n")
    assert "root" in message()
    assert "sudo" in message()


@pytest.mark.parametrize("mask", [1 << 21, 1 << 38 | 1 << 39])
def test_capabilities_that_suffice(mask: int, monkeypatch) -> None:
    monkeypatch.setattr(features.Path, "read_text", lambda *_, **__: f"CapEff:\t{mask:016x}\n")
    features.check_privilege()


@pytest.mark.parametrize("mask", [1 << 38, 1 << 39, 1 << 12])
def test_capabilities_that_do_not(mask: int, monkeypatch) -> None:
    monkeypatch.setattr(features.Path, "read_text", lambda *_, **__: f"CapEff:\t{mask:016x}\n")
    with pytest.raises(HvtraceError):
        features.check_privilege()


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("number", "text"), [(errno.ENOSYS, "has no BPF"), (errno.EPERM, "not permitted")]
)
def test_no_bpf(number: int, text: str, monkeypatch) -> None:
    def refuse() -> None:
        raise OSError(number, "Refused")

    monkeypatch.setattr(features.bpf, "probe", refuse)
    assert text in message()


@pytest.mark.usefixtures("host")
def test_another_architecture(monkeypatch) -> None:
    monkeypatch.setattr(features.platform, "machine", lambda: "aarch64")
    assert "x86-64 only" in message()


def test_tracefs_that_cannot_be_mounted(host: Path) -> None:
    remove(host / "tracing" / "events")
    assert "mount -t tracefs" in message()


def test_tracefs_is_mounted_where_nobody_has(host: Path, monkeypatch) -> None:
    (host / "tracing").rename(host / "kept")
    (host / "tracing").mkdir()

    def mount(kind: str, folder: Path) -> bool:
        assert (kind, folder) == ("tracefs", host / "tracing")
        folder.rmdir()
        (host / "kept").rename(folder)
        return True

    monkeypatch.setattr(features, "_mount", mount)
    assert probe().shape


def test_kernel_without_kvm(host: Path) -> None:
    remove(host / "tracing" / "events" / "kvm")
    assert "has no KVM" in message()


def test_a_kernel_whose_modules_have_no_kvm(host: Path, monkeypatch) -> None:
    remove(host / "tracing" / "events" / "kvm")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "kernel/fs/ext4/ext4.ko:\n")
    assert message() == "this kernel has no KVM: it can run no guests, so there is no hypercall"


def test_kvm_that_is_loaded_later_is_waited_for(host: Path, monkeypatch) -> None:
    kvm = host / "tracing" / "events" / "kvm"
    kvm.rename(host / "later")
    monkeypatch.setattr(features, "check_module", lambda: None)
    timer = threading.Timer(0.3, lambda: (host / "later").rename(kvm))
    timer.start()
    assert probe().shape
    timer.join()
    assert said[0].startswith("waiting for KVM")
    assert said[1] == "KVM is loaded"


def test_kvm_without_its_vendors_module_is_not_there_yet(host: Path) -> None:
    """kvm.ko comes first, and alone where no CPU can run a guest."""
    (host / "class").rmdir()
    timer = threading.Timer(0.3, (host / "class").mkdir)
    timer.start()
    assert probe().shape
    timer.join()
    assert [line.partition(" ")[0] for line in said] == ["waiting", "KVM"]


@pytest.mark.usefixtures("host")
def test_kvm_without_hyperv(monkeypatch) -> None:
    monkeypatch.setattr(features.kvm, "has_hyperv", lambda: False)
    text = message()
    assert "CONFIG_KVM_HYPERV" in text
    assert "--anyway" in text
    probe(anyway=True)
    assert "no hypercall will be seen" in said[0]


def test_no_debugfs_is_no_error(host: Path) -> None:
    remove(host / "debug")
    assert probe().debugfs is None
