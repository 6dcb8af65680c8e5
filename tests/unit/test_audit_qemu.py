"""The hv-* flags of QEMU command lines, as people and libvirt write them."""

from __future__ import annotations

import pytest

from hvtrace.audit.qemu import hv_flags

LIBVIRT = (
    "/usr/bin/qemu-system-x86_64 -name guest=win11,debug-threads=on -machine pc-q35-9.2 -accel kvm"
    " -cpu host,migratable=on,hv-time=on,hv-relaxed=on,hv-vapic=on,hv-spinlocks=0x1fff,"
    "hv-vpindex=on,hv-synic=on,hv-vendor-id=KVM_Hv,kvm=off -m size=8388608k"
)


@pytest.mark.parametrize(
    ("cpu", "flags"),
    [
        ("host", ()),
        ("host,hv-ipi", ("hv-ipi",)),
        (
            "host,hv_ipi,hv_no_nonarch_coresharing=auto",
            ("hv-ipi", "hv-no-nonarch-coresharing=auto"),
        ),
        (
            "host,hv-ipi=on,hv-time=ON,hv-synic=yes,hv-x=true",
            ("hv-ipi", "hv-time", "hv-synic", "hv-x"),
        ),
        ("host,hv-ipi=off,hv-time=no,hv-synic=false,hv-x=n", ()),
        ("host,+hv-ipi,-hv-time", ("hv-ipi",)),
        ("host,hv-ipi,hv-ipi=off", ()),
        ("host,hv-ipi=off,hv-ipi=on", ("hv-ipi",)),
        ("host,+hv-ipi,hv-ipi=off", ("hv-ipi",)),  # a sign wins, wherever it stands
        ("host,-hv-ipi,hv-ipi", ()),
        ("host,+hv-ipi,-hv-ipi", ()),
        ("host,-hv-ipi,+hv-ipi", ("hv-ipi",)),
        ("host,hv-spinlocks=4095,hv_spinlocks=0x1fff", ("hv-spinlocks=0x1fff",)),
        ("host,hv-passthrough,hv-enforce-cpuid", ("hv-passthrough", "hv-enforce-cpuid")),
        ("hv-ipi,kvm=off,x2apic,+vmx", ()),  # the first is the model, whatever its name
        ("host,hv-vendor-id=A_b", ("hv-vendor-id=A_b",)),  # a value keeps its underscores
        ("", ()),
    ],
)
def test_forms(cpu, flags):
    assert hv_flags(["qemu-system-x86_64", "-accel", "kvm", "-cpu", cpu, "-m", "1G"]) == flags


def test_a_line_of_libvirt():
    assert hv_flags(LIBVIRT.split()) == (
        "hv-time",
        "hv-relaxed",
        "hv-vapic",
        "hv-spinlocks=0x1fff",
        "hv-vpindex",
        "hv-synic",
        "hv-vendor-id=KVM_Hv",
    )


def test_of_several_options_the_last_counts():
    line = ["qemu-kvm", "-cpu", "host,hv-time,hv-ipi", "--cpu", "max,hv-ipi"]
    assert hv_flags(line) == ("hv-ipi",)


@pytest.mark.parametrize("line", [[], ["qemu-kvm"], ["qemu-kvm", "-cpu"], ["qemu-kvm", "hv-ipi"]])
def test_lines_without_a_model(line):
    assert hv_flags(line) == ()
