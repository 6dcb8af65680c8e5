"""That each patched KVM is what it is said to be; seen without anything of hvtrace."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
from pathlib import Path

import pytest

KVM = os.environ["HVTRACE_KVM"]
MODULES = Path("/lib/modules") / os.uname().release

KVM_GET_SUPPORTED_HV_CPUID = 0xC008AEC1  # _IOWR(KVMIO, 0xc1, struct kvm_cpuid2)
XMM_INPUT, XMM_OUTPUT = 1 << 4, 1 << 15  # TLFS 2.4.4: leaf 0x40000003, EDX

STRUCT = """\
struct kvm_hyperv_exit {
	__u32 type;
	__u32 pad1;
	union {
		struct {
			__u32 msr;
			__u32 pad2;
			__u64 control;
			__u64 evt_page;
			__u64 msg_page;
		} synic;
		struct {
			__u64 input;
			__u64 result;
			__u64 params[2];%s
		} hcall;%s
		struct {
			__u32 msr;
			__u32 pad2;
			__u64 control;
			__u64 status;
			__u64 send_page;
			__u64 recv_page;
			__u64 pending_page;
		} syndbg;
	} u;
};
"""
XMM = """
			struct kvm_hyperv_xmm_reg xmm[6];"""
HCALL_XMM = f"""
		struct {{
			__u64 input;
			__u64 result;
			__u64 params[2];{XMM}
		}} hcall_xmm;"""
STRUCTS = {
    "forward": STRUCT % ("", ""),
    "grown": STRUCT % (XMM, ""),
    "new-type": STRUCT % ("", HCALL_XMM),
}
REGISTER = """\
struct kvm_hyperv_xmm_reg {
	__u64 low;
	__u64 high;
};
"""


def features_edx() -> int:
    """What this KVM offers to guests."""
    entry = struct.Struct("10I")  # function, index, flags, eax, ebx, ecx, edx, padding
    table = bytearray(struct.pack("2I", 64, 0) + bytes(64 * entry.size))
    with open("/dev/kvm", "rb") as device:
        fcntl.ioctl(device, KVM_GET_SUPPORTED_HV_CPUID, table)
    (count,) = struct.unpack_from("I", table)
    for function, *_, edx, _, _, _ in entry.iter_unpack(table[8 : 8 + count * entry.size]):
        if function == 0x40000003:
            return edx
    raise AssertionError("no leaf 0x40000003")


def definitions(name: str) -> list[str]:
    """A type of kvm's BTF, in C: first vmlinux's, then the module's own where they differ.

    bpftool numbers names that come again; which ones do depends on pahole's version.
    """
    command = ["bpftool", "btf", "dump", "file", "/sys/kernel/btf/kvm", "format", "c"]
    dumped = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    text = re.sub(r"___\d+\b", "", dumped)
    return re.findall(rf"^struct {name} \{{\n.*?^\}};\n", text, re.MULTILINE | re.DOTALL)


def test_xmm_output_is_offered_where_it_works():
    assert features_edx() & (XMM_INPUT | XMM_OUTPUT) == (
        XMM_INPUT if KVM == "forward" else XMM_INPUT | XMM_OUTPUT
    )


def test_the_exit_is_laid_out_as_promised():
    """The module's own type is the one in force: vmlinux's is of an unpatched kernel."""
    assert definitions("kvm_hyperv_exit")[-1] == STRUCTS[KVM]
    assert definitions("kvm_hyperv_xmm_reg") == ([] if KVM == "forward" else [REGISTER])


def test_output_is_written_by_a_function_with_a_name():
    """Evidence per call can stand on it."""
    symbols = Path("/proc/kallsyms").read_text()
    assert bool(re.search(r" t kvm_hv_write_xmm\t\[kvm\]$", symbols, re.M)) == (KVM != "forward")


def test_no_module_of_the_unpatched_kvm_is_left():
    found = sorted(file.name for file in (MODULES / "kernel/arch/x86/kvm").iterdir())
    assert found == ["kvm-amd.ko", "kvm.ko"]


@pytest.mark.parametrize("module", ["kvm", "kvm_amd"])
def test_types_of_both_modules_are_there(module: str):
    assert Path("/sys/kernel/btf", module).stat().st_size > 0
