"""Offsets from BTF, against the compiler that made it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.hyperv.interface import Part
from hvtrace.kernel import btf, structures
from hvtrace.kernel.btf import Btf

# The members that are read, at places where no kernel has them; a bit field and nameless
# members on the way, as in real kernels.
KVM = """
struct cpuid { unsigned features_eax, features_ebx, features_edx; };
struct kvm_vcpu_hv { char gap[13]; _Bool enforce_cpuid; struct cpuid cpuid_cache; };
struct kvm_hyperv_xmm_reg { unsigned long long low, high; };
struct kvm_hyperv_exit {
    unsigned type, pad;
    union {
        struct { unsigned msr; } synic;
        struct { unsigned long long input, result, params[2]; HCALL_MORE } hcall;
        MORE
    } u;
};
struct kvm_run {
    char gap[19];
    union { unsigned long long other; struct kvm_hyperv_exit hyperv; };
};
struct task_struct { char gap[11]; unsigned long long start_time, start_boottime;
    struct task_struct *parent, *group_leader; };
struct kvm_vcpu {
    unsigned flag : 3, more : 9;
    int vcpu_id;
    struct kvm_run *run;
    struct { long gap; _Bool hyperv_enabled; struct kvm_vcpu_hv *hyperv; } arch;
};
"""
MAIN = """
#include <stddef.h>
#include <stdio.h>
struct task_struct task; struct kvm_vcpu vcpu; struct kvm_run run; struct kvm_vcpu_hv hv;
int kvm_hv_write_xmm(void) { return 1; }
int main(void) {
    printf("%zu %zu %zu %zu %zu %zu %zu %zu %zu %zu %zu",
        offsetof(struct kvm_vcpu, vcpu_id), offsetof(struct kvm_vcpu, run),
        offsetof(struct kvm_vcpu, arch.hyperv), offsetof(struct kvm_vcpu, arch.hyperv_enabled),
        offsetof(struct kvm_vcpu_hv, enforce_cpuid), offsetof(struct kvm_vcpu_hv, cpuid_cache),
        offsetof(struct kvm_run, hyperv.type), offsetof(struct kvm_run, hyperv.u),
        offsetof(struct task_struct, group_leader), offsetof(struct task_struct, start_boottime),
        sizeof(struct kvm_hyperv_exit));
    return 0;
}
"""


def compile_btf(folder: Path, hcall_more: str = "", more: str = "", text: str = KVM) -> list[int]:
    """Write folder/vmlinux, the BTF of KVM's structures; the numbers by the compiler."""
    source, program = folder / "types.c", folder / "types"
    source.write_text(text + MAIN)
    flags = [f"-DHCALL_MORE={hcall_more}", f"-DMORE={more}"]
    subprocess.run(["gcc", "-gbtf", *flags, "-o", program, source], check=True)
    section = f".BTF={folder / 'vmlinux'}"
    subprocess.run(["objcopy", "--dump-section", section, program], check=True)
    out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return [int(word) for word in out.split()]


def test_offsets_are_the_compilers(tmp_path: Path) -> None:
    *offsets, size = compile_btf(tmp_path)
    found = structures.read(tmp_path)
    assert found.problem is None
    assert list(found.offsets.values()) == offsets
    assert f"-DHVT_VCPU_HYPERV={offsets[2]}" in found.flags
    assert found.exit_bytes == size
    assert found.cpuid_words == ("features_eax", "features_ebx", "features_edx")
    assert found.parts == {"synic": Part(4), "hcall": Part(32, params_at=16)}
    assert found.xmm_function == "kvm_hv_write_xmm"


def test_registers_of_a_grown_structure(tmp_path: Path) -> None:
    compile_btf(tmp_path, hcall_more="struct kvm_hyperv_xmm_reg xmm[6];")
    assert structures.read(tmp_path).parts["hcall"] == Part(128, params_at=16, xmm_at=32)


def test_registers_of_a_new_member(tmp_path: Path) -> None:
    member = "struct { unsigned long long result, params[2], xmm[12]; } hcall2;"
    compile_btf(tmp_path, more=member)
    found = structures.read(tmp_path).parts
    assert found["hcall2"] == Part(120, params_at=8, xmm_at=24)
    assert found["hcall"].xmm_at is None


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert "CONFIG_DEBUG_INFO_BTF" in str(structures.read(tmp_path).problem)


def test_a_member_that_is_missing_is_named(tmp_path: Path) -> None:
    text = KVM.replace("struct cpuid cpuid_cache;", "struct cpuid cpuid_cache; int hyperv2;")
    compile_btf(tmp_path, text=text)
    with Btf(tmp_path) as found:
        vcpu = found.find("kvm_vcpu")
        assert vcpu is not None
        assert found.member(vcpu, "arch.nothing") is None
        assert found.member(vcpu, "vcpu_id.nothing") is None
        assert found.find("nothing") is None
        assert not found.has_function("nothing")


def test_a_kernel_without_hyperv_in_kvm(tmp_path: Path) -> None:
    source = tmp_path / "types.c"
    source.write_text("struct kvm_vcpu { int vcpu_id; long run; } vcpu; int main(void) {}")
    subprocess.run(["gcc", "-gbtf", "-o", tmp_path / "types", source], check=True)
    section = f".BTF={tmp_path / 'vmlinux'}"
    subprocess.run(["objcopy", "--dump-section", section, tmp_path / "types"], check=True)
    assert structures.read(tmp_path).problem == "this KVM's BTF has no kvm_vcpu.arch.hyperv"


# --- --round-trip

EVENTS = """
struct kvm_vcpu { char gap[13]; struct { long other, exits; } stat; };
typedef void (*btf_trace_kvm_exit)(void *data, EXIT_ARGUMENTS);
typedef void (*btf_trace_kvm_entry)(void *data, struct kvm_vcpu *vcpu, _Bool force);
btf_trace_kvm_exit exit_program;
btf_trace_kvm_entry entry_program;
struct vmcb { struct { char gap[7]; unsigned exit_code; } control; };
union reason { struct { unsigned basic : 16, more : 16; }; unsigned full; };
struct vcpu_vt { long gap; union reason exit_reason; };
"""
SVM = "struct vcpu_svm { int gap; struct kvm_vcpu vcpu; struct vmcb *vmcb; } svm;"
VMX = "struct vcpu_vmx { struct kvm_vcpu vcpu; long gap; union reason exit_reason; } vmx;"
VMX_VT = "struct vcpu_vmx { struct kvm_vcpu vcpu; struct vcpu_vt vt; } vmx;"
NEW, OLD = (
    "struct kvm_vcpu *vcpu, unsigned isa",
    "unsigned reason, struct kvm_vcpu *vcpu, unsigned isa",
)
EXIT_CODE = "offsetof(struct vmcb, control.exit_code)"
VMCB = "offsetof(struct vcpu_svm, vmcb) - offsetof(struct vcpu_svm, vcpu)"


def compile_events(folder: Path, vendor: str, arguments: str, *wanted: str) -> list[int]:
    """Write folder/vmlinux of a KVM that is built in; what the compiler says of `wanted`."""
    numbers = "".join(f'printf("%zu ", (size_t)({what}));' for what in wanted)
    text = "#include <stddef.h>\n#include <stdio.h>\n" + EVENTS + vendor
    source, program = folder / "types.c", folder / "types"
    source.write_text(f"{text}\nint main(void) {{ {numbers} return 0; }}")
    flags = ["-gbtf", f"-DEXIT_ARGUMENTS={arguments}"]
    subprocess.run(["gcc", *flags, "-o", program, source], check=True)
    section = f".BTF={folder / 'vmlinux'}"
    subprocess.run(["objcopy", "--dump-section", section, program], check=True)
    out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return [int(word) for word in out.split()]


@pytest.mark.parametrize(
    ("vendor", "wanted"),
    [
        (SVM, {"SVM_VMCB": VMCB, "SVM_CODE": EXIT_CODE}),
        (VMX, {"VMX_REASON": "offsetof(struct vcpu_vmx, exit_reason)"}),
        (VMX_VT, {"VMX_REASON": "offsetof(struct vcpu_vmx, vt.exit_reason)"}),
        (
            SVM + VMX,
            {
                "SVM_VMCB": VMCB,
                "SVM_CODE": EXIT_CODE,
                "VMX_REASON": "offsetof(struct vcpu_vmx, exit_reason)",
            },
        ),
    ],
    ids=["kvm_amd", "kvm_intel", "kvm_intel-6.16", "both-built-in"],
)
def test_where_the_reason_of_an_exit_is(
    tmp_path: Path, vendor: str, wanted: dict[str, str]
) -> None:
    exits = "offsetof(struct kvm_vcpu, stat.exits)"
    numbers = compile_events(tmp_path, vendor, NEW, exits, *wanted.values())
    found = structures.read_round_trip(tmp_path)
    assert found.problem is None
    expected = dict(zip(("VCPU_EXITS", *wanted), numbers, strict=True))
    assert found.offsets == {"EXIT_VCPU": 0, "ENTRY_VCPU": 0, **expected}
    assert f"-DHVT_VCPU_EXITS={numbers[0]}" in found.flags


def test_before_5_16_the_reason_is_an_argument(tmp_path: Path) -> None:
    (exits,) = compile_events(tmp_path, "", OLD, "offsetof(struct kvm_vcpu, stat.exits)")
    found = structures.read_round_trip(tmp_path)
    assert found.problem is None
    assert found.offsets == {"EXIT_VCPU": 1, "ENTRY_VCPU": 0, "VCPU_EXITS": exits}


@pytest.mark.parametrize(
    ("vendor", "arguments", "problem"),
    [
        ("", NEW, "does not tell where the reason of an exit is"),
        (SVM.replace("*vmcb", "*control"), NEW, "does not tell where the reason of an exit is"),
        (SVM, "void *vcpu, unsigned isa", "no vCPU in kvm_exit and kvm_entry"),
    ],
)
def test_no_round_trips_and_why(tmp_path: Path, vendor: str, arguments: str, problem: str) -> None:
    compile_events(tmp_path, vendor, arguments)
    found = structures.read_round_trip(tmp_path)
    assert found.offsets == {}
    assert problem in str(found.problem)


def test_no_round_trips_without_btf(tmp_path: Path) -> None:
    assert "CONFIG_DEBUG_INFO_BTF" in str(structures.read_round_trip(tmp_path).problem)


@pytest.mark.parametrize("content", [b"", b"no BTF at all", b"\x9f\xeb\x01\x00" + bytes(20)])
def test_a_broken_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vmlinux").write_bytes(content)
    with pytest.raises(HvtraceError, match="cannot read"):
        Btf(tmp_path)
    assert "cannot read" in str(structures.read(tmp_path).problem)


@pytest.fixture
def fresh_libbpf():
    btf._libbpf.cache_clear()
    yield
    btf._libbpf.cache_clear()


@pytest.mark.usefixtures("fresh_libbpf")
def test_no_libbpf_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("libbpf.so.1: cannot open shared object file")

    monkeypatch.setattr(btf.ctypes, "CDLL", fail)
    assert "libbpf is missing" in str(structures.read(tmp_path).problem)


@pytest.mark.usefixtures("fresh_libbpf")
def test_an_old_libbpf_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        def __getattr__(self, name: str) -> SimpleNamespace:
            if name == "btf__type_cnt":
                raise AttributeError(f"libbpf.so.0: undefined symbol: {name}")
            return SimpleNamespace()

    monkeypatch.setattr(btf.ctypes, "CDLL", lambda *_, **__: Old())
    problem = str(structures.read(tmp_path).problem)
    assert "too old" in problem
    assert "btf__type_cnt" in problem
