"""The part of KVM's user-space interface that is used here: numbers and structures.

Source: linux/kvm.h and asm/kvm.h. tests/unit/test_guest_abi.py compiles those headers and
compares every number, size and offset.
"""

from __future__ import annotations

import ctypes

u8, u16, u32, u64 = ctypes.c_uint8, ctypes.c_uint16, ctypes.c_uint32, ctypes.c_uint64

KVM_CREATE_VM = 0xAE01
KVM_CHECK_EXTENSION = 0xAE03
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_GET_SUPPORTED_CPUID = 0xC008AE05
KVM_CREATE_VCPU = 0xAE41
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_TSS_ADDR = 0xAE47
KVM_CREATE_IRQCHIP = 0xAE60
KVM_RUN = 0xAE80
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_SET_CPUID2 = 0x4008AE90
KVM_SET_MP_STATE = 0x4004AE99
KVM_ENABLE_CAP = 0x4068AEA3
KVM_HYPERV_EVENTFD = 0x4018AEBD
KVM_GET_SUPPORTED_HV_CPUID = 0xC008AEC1
KVM_GET_STATS_FD = 0xAECE

KVM_CAP_HYPERV = 44
KVM_CAP_HYPERV_SYNIC2 = 148
KVM_CAP_HYPERV_EVENTFD = 154
KVM_CAP_SYS_HYPERV_CPUID = 191
KVM_CAP_HYPERV_ENFORCE_CPUID = 199

KVM_EXIT_IO = 2
KVM_EXIT_HYPERV = 27
KVM_EXIT_HYPERV_HCALL = 2
# In no released kernel: the next free number, for fast calls with output, as one proposal has it.
KVM_EXIT_HYPERV_HCALL_XMM = 4
KVM_MP_STATE_RUNNABLE = 0


class MemoryRegion(ctypes.Structure):
    """struct kvm_userspace_memory_region."""

    _fields_ = [
        ("slot", u32),
        ("flags", u32),
        ("guest_phys_addr", u64),
        ("memory_size", u64),
        ("userspace_addr", u64),
    ]


class CpuidEntry(ctypes.Structure):
    """struct kvm_cpuid_entry2."""

    _fields_ = [
        ("function", u32),
        ("index", u32),
        ("flags", u32),
        ("eax", u32),
        ("ebx", u32),
        ("ecx", u32),
        ("edx", u32),
        ("padding", u32 * 3),
    ]


MAX_CPUID_ENTRIES = 256


class Cpuid(ctypes.Structure):
    """struct kvm_cpuid2 with room for MAX_CPUID_ENTRIES."""

    _fields_ = [
        ("nent", u32),
        ("padding", u32),
        ("entries", CpuidEntry * MAX_CPUID_ENTRIES),
    ]


class EnableCap(ctypes.Structure):
    """struct kvm_enable_cap."""

    _fields_ = [("cap", u32), ("flags", u32), ("args", u64 * 4), ("pad", u8 * 64)]


class HypervEventfd(ctypes.Structure):
    """struct kvm_hyperv_eventfd."""

    _fields_ = [
        ("conn_id", u32),
        ("fd", ctypes.c_int32),
        ("flags", u32),
        ("padding", u32 * 3),
    ]


class Regs(ctypes.Structure):
    """struct kvm_regs."""

    _fields_ = [
        (name, u64)
        for name in (
            *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
            *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
            *("rip", "rflags"),
        )
    ]


class Segment(ctypes.Structure):
    """struct kvm_segment."""

    _fields_ = [
        ("base", u64),
        ("limit", u32),
        ("selector", u16),
        ("type", u8),
        ("present", u8),
        ("dpl", u8),
        ("db", u8),
        ("s", u8),
        ("l", u8),
        ("g", u8),
        ("avl", u8),
        ("unusable", u8),
        ("padding", u8),
    ]


class Table(ctypes.Structure):
    """struct kvm_dtable."""

    _fields_ = [("base", u64), ("limit", u16), ("padding", u16 * 3)]


class Sregs(ctypes.Structure):
    """struct kvm_sregs."""

    _fields_ = [
        *((name, Segment) for name in ("cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt")),
        ("gdt", Table),
        ("idt", Table),
        *((name, u64) for name in ("cr0", "cr2", "cr3", "cr4", "cr8", "efer", "apic_base")),
        ("interrupt_bitmap", u64 * 4),
    ]


class _Io(ctypes.Structure):
    _fields_ = [
        ("direction", u8),
        ("size", u8),
        ("port", u16),
        ("count", u32),
        ("data_offset", u64),
    ]


class _Hcall(ctypes.Structure):
    """struct kvm_hyperv_exit of a hypercall, as far as any kernel has it.

    `registers` begins with the two words of params. XMM0 to XMM5 follow on a KVM with XMM output
    in registers; on others that is the end of the structure, and padding of struct kvm_run.
    """

    _fields_ = [
        ("type", u32),
        ("pad", u32),
        ("input", u64),
        ("result", u64),
        ("registers", u64 * 14),  # RDX, R8, XMM0 to XMM5
    ]


class _Exit(ctypes.Union):
    _fields_ = [("io", _Io), ("hyperv", _Hcall)]


class Run(ctypes.Structure):
    """The first part of struct kvm_run, as far as it is used."""

    _anonymous_ = ("exit",)
    _fields_ = [
        ("request_interrupt_window", u8),
        ("immediate_exit", u8),
        ("padding1", u8 * 6),
        ("exit_reason", u32),
        ("ready_for_interrupt_injection", u8),
        ("if_flag", u8),
        ("flags", u16),
        ("cr8", u64),
        ("apic_base", u64),
        ("exit", _Exit),
    ]


class StatsHeader(ctypes.Structure):
    """struct kvm_stats_header."""

    _fields_ = [
        (name, u32)
        for name in ("flags", "name_size", "num_desc", "id_offset", "desc_offset", "data_offset")
    ]


class StatsDescriptor(ctypes.Structure):
    """struct kvm_stats_desc, without the name that follows it."""

    _fields_ = [
        ("flags", u32),
        ("exponent", ctypes.c_int16),
        ("size", u16),
        ("offset", u32),
        ("bucket_size", u32),
    ]
