"""KVM's numbers and structures equal those of the kernel's headers."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from hvtrace.guest import abi
from hvtrace.guest.memory import REGISTER_WORDS

PROPOSED = {"KVM_EXIT_HYPERV_HCALL_XMM"}  # in no kernel's header
NUMBERS = [name for name in vars(abi) if name.startswith("KVM_") and name not in PROPOSED]
STRUCTURES = {
    "kvm_userspace_memory_region": abi.MemoryRegion,
    "kvm_cpuid_entry2": abi.CpuidEntry,
    "kvm_enable_cap": abi.EnableCap,
    "kvm_hyperv_eventfd": abi.HypervEventfd,
    "kvm_regs": abi.Regs,
    "kvm_segment": abi.Segment,
    "kvm_dtable": abi.Table,
    "kvm_sregs": abi.Sregs,
}
PARTS = {  # expression in C -> offset here
    "offsetof(struct kvm_cpuid2, entries)": abi.Cpuid.entries.offset,
    "offsetof(struct kvm_run, immediate_exit)": abi.Run.immediate_exit.offset,
    "offsetof(struct kvm_run, exit_reason)": abi.Run.exit_reason.offset,
    "offsetof(struct kvm_run, io.port)": abi.Run.exit.offset + abi._Io.port.offset,
    "offsetof(struct kvm_run, hyperv.type)": abi.Run.exit.offset + abi._Hcall.type.offset,
    "offsetof(struct kvm_run, hyperv.u.hcall.input)": abi.Run.exit.offset + abi._Hcall.input.offset,
    "offsetof(struct kvm_run, hyperv.u.hcall.result)": abi.Run.exit.offset
    + abi._Hcall.result.offset,
    "offsetof(struct kvm_run, hyperv.u.hcall.params)": abi.Run.exit.offset
    + abi._Hcall.registers.offset,
    "sizeof(((struct kvm_run *)0)->hyperv.u.hcall.params)": 16,
    # The proposed type is the next free number; its registers stay within struct kvm_run's union.
    "KVM_EXIT_HYPERV_SYNDBG + 1": abi.KVM_EXIT_HYPERV_HCALL_XMM,
    "sizeof(((struct kvm_run *)0)->padding)": 256,
    "sizeof(struct kvm_stats_header)": ctypes.sizeof(abi.StatsHeader),
    "offsetof(struct kvm_stats_header, name_size)": abi.StatsHeader.name_size.offset,
    "offsetof(struct kvm_stats_header, num_desc)": abi.StatsHeader.num_desc.offset,
    "offsetof(struct kvm_stats_header, desc_offset)": abi.StatsHeader.desc_offset.offset,
    "offsetof(struct kvm_stats_header, data_offset)": abi.StatsHeader.data_offset.offset,
    "offsetof(struct kvm_stats_desc, offset)": abi.StatsDescriptor.offset.offset,
    "offsetof(struct kvm_stats_desc, name)": ctypes.sizeof(abi.StatsDescriptor),
}


def field_names(structure: type[ctypes.Structure]) -> list[str]:
    return [name for name, *_ in structure._fields_ if name not in ("padding", "pad")]


def expressions() -> dict[str, int]:
    """Every C expression whose value is also here."""
    found = {name: getattr(abi, name) for name in NUMBERS} | PARTS
    for name, structure in STRUCTURES.items():
        found[f"sizeof(struct {name})"] = ctypes.sizeof(structure)
        for field in field_names(structure):
            found[f"offsetof(struct {name}, {field})"] = getattr(structure, field).offset
    return found


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    folder: Path = tmp_path_factory.mktemp("abi")
    lines = "".join(f'P("{text}", {text});\n' for text in expressions())
    (folder / "abi.c").write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/kvm.h>\n"
        '#define P(text, value) printf("%s=%lu\\n", text, (unsigned long)(value))\n'
        f"int main(void) {{\n{lines}return 0;\n}}\n"
    )
    subprocess.run(["gcc", "-o", "abi", "abi.c"], cwd=folder, check=True)
    output = subprocess.run([folder / "abi"], check=True, capture_output=True, text=True).stdout
    return {
        text: int(value)
        for text, _, value in (line.rpartition("=") for line in output.splitlines())
    }


@pytest.mark.parametrize("text", expressions())
def test_equals_the_header(in_c: dict[str, int], text: str) -> None:
    assert expressions()[text] == in_c[text]


def test_registers_of_the_proposals_are_behind_the_parameters() -> None:
    """Both proposals: XMM0 to XMM5 follow params[2], at byte 72 of struct kvm_run."""
    registers = abi.Run.exit.offset + abi._Hcall.registers.offset
    assert registers + 2 * 8 == 72
    assert registers + abi._Hcall.registers.size == 168 <= abi.Run.exit.offset + 256
    assert abi._Hcall.registers.size == 8 * REGISTER_WORDS


def test_enough_is_compared() -> None:
    assert len(NUMBERS) > 20
    assert len(expressions()) > 100
