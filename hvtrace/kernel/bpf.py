"""The few commands of bpf(2) that the long-running process needs.

Compiling is BCC's work, in a child (child.py); what is left are single system
calls on descriptors, which need no library and, but for attaching, no privilege.
Every function raises OSError. Command numbers and layouts of `union bpf_attr`:
include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import NamedTuple

_SYS_BPF = 321  # x86-64, the only architecture with Hyper-V guests on KVM
_MAP_CREATE = 0
_MAP_LOOKUP_ELEM = 1
_MAP_UPDATE_ELEM = 2
_MAP_GET_NEXT_KEY = 4
_OBJ_PIN = 6
_OBJ_GET = 7
_PROG_TEST_RUN = 10
_OBJ_GET_INFO_BY_FD = 15
_RAW_TRACEPOINT_OPEN = 17
_LINK_CREATE = 28
_ENABLE_STATS = 32
_MAP_TYPE_ARRAY = 2
_F_MMAPABLE = 1 << 10
_PERF_EVENT = 41  # enum bpf_attach_type

# include/uapi/linux/perf_event.h
_SYS_PERF_EVENT_OPEN = 298
_PERF_TYPE_TRACEPOINT = 2
_PERF_FLAG_FD_CLOEXEC = 8
_PERF_EVENT_IOC_ENABLE = 0x2400
_PERF_EVENT_IOC_SET_BPF = 0x40042408

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_uint]

KPROBE_TYPE = Path("/sys/bus/event_source/devices/kprobe/type")

_perf_event_open = ctypes.CDLL(None, use_errno=True).syscall
_perf_event_open.restype = ctypes.c_long
_perf_event_open.argtypes = [
    *(ctypes.c_long, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_ulong)
]


def _bpf(command: int, attr: ctypes.Array[ctypes.c_char]) -> int:
    result: int = _syscall(_SYS_BPF, command, ctypes.addressof(attr), len(attr))
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _attr(layout: str, *values: int) -> ctypes.Array[ctypes.c_char]:
    data = struct.pack(layout, *values)
    return ctypes.create_string_buffer(data, len(data))


def probe() -> None:
    """Raise OSError unless this process may use bpf(2): ENOSYS, EPERM."""
    try:
        _bpf(_MAP_CREATE, _attr("<IIII", 0, 0, 0, 0))
    except OSError as error:
        if error.errno != errno.EINVAL:  # a map of type 0 is what is wrong with it
            raise


def create_array(name: str, element_bytes: int, count: int) -> int:
    """A new array map, to be mapped into memory."""
    attr = struct.pack(
        "<IIIIIII16s",
        *(_MAP_TYPE_ARRAY, 4, element_bytes, count, _F_MMAPABLE, 0, 0, name.encode()),
    )
    return _bpf(_MAP_CREATE, ctypes.create_string_buffer(attr, len(attr)))


def pin(fd: int, path: Path) -> None:
    """Let a program, map or link live as long as `path`, a new name in a BPF file system."""
    text = ctypes.create_string_buffer(os.fsencode(path))
    _bpf(_OBJ_PIN, _attr("<QI", ctypes.addressof(text), fd))


def pinned(path: Path) -> int:
    """A descriptor of what is pinned there."""
    text = ctypes.create_string_buffer(os.fsencode(path))
    return _bpf(_OBJ_GET, _attr("<QI", ctypes.addressof(text), 0))


def push_indices(fd: int, indices: range | list[int]) -> None:
    """Push u32 values on a stack map. One system call each: no batch exists for it."""
    value = ctypes.c_uint32()
    attr = _attr("<IxxxxQQQ", fd, 0, ctypes.addressof(value), 0)
    address, size = ctypes.addressof(attr), len(attr)
    for index in indices:
        value.value = index
        if _syscall(_SYS_BPF, _MAP_UPDATE_ELEM, address, size) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def update(fd: int, key: bytes, value: bytes) -> None:
    """Set one element."""
    k, v = (
        ctypes.create_string_buffer(key, len(key)),
        ctypes.create_string_buffer(value, len(value)),
    )
    _bpf(_MAP_UPDATE_ELEM, _attr("<IxxxxQQQ", fd, ctypes.addressof(k), ctypes.addressof(v), 0))


def items(fd: int, key_size: int, value_size: int) -> list[tuple[bytes, bytes]]:
    """All elements of a hash map. Two system calls an element: for small maps."""
    found: list[tuple[bytes, bytes]] = []
    key, value = ctypes.create_string_buffer(key_size), ctypes.create_string_buffer(value_size)
    last = 0  # no key: the first
    while True:
        try:
            _bpf(_MAP_GET_NEXT_KEY, _attr("<IxxxxQQ", fd, last, ctypes.addressof(key)))
        except FileNotFoundError:  # ENOENT: that was the last
            return found
        last = ctypes.addressof(key)
        attr = _attr("<IxxxxQQQ", fd, last, ctypes.addressof(value), 0)
        try:
            _bpf(_MAP_LOOKUP_ELEM, attr)
        except FileNotFoundError:
            continue
        found.append((key.raw, value.raw))


def attach_raw_tracepoint(program_fd: int, name: str) -> int:
    """Attach; the program stays attached as long as the returned descriptor is open.

    ENOENT: no such tracepoint, or its module is not loaded.
    """
    text = ctypes.create_string_buffer(name.encode())
    return _bpf(_RAW_TRACEPOINT_OPEN, _attr("<QIxxxx", ctypes.addressof(text), program_fd))


def attach_tracepoint(program_fd: int, event_id: int) -> int:
    """Attach to the event with this id in tracefs; a link that can be pinned (Linux 5.15)."""
    event = _perf_event(_PERF_TYPE_TRACEPOINT, event_id, 0)
    try:
        link = _bpf(_LINK_CREATE, _attr("<IIII", program_fd, event, _PERF_EVENT, 0))
        fcntl.ioctl(event, _PERF_EVENT_IOC_ENABLE, 0)
        return link
    finally:
        os.close(event)  # the link holds it


def kprobe_type() -> int | None:
    """The kernel's number for kprobes as perf events; None where it has none (CONFIG_KPROBES)."""
    try:
        return int(KPROBE_TYPE.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def attach_kprobe(program_fd: int, function: str) -> int:
    """Attach to the entry of a kernel function; ENOENT: there is none, or no kprobes."""
    kind = kprobe_type()
    if kind is None:
        raise OSError(errno.ENOENT, "this kernel has no kprobes")
    name = ctypes.create_string_buffer(function.encode())
    event = _perf_event(kind, 0, ctypes.addressof(name))
    try:
        fcntl.ioctl(event, _PERF_EVENT_IOC_SET_BPF, program_fd)
        fcntl.ioctl(event, _PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(event)
        raise
    return event


def _perf_event(kind: int, config: int, name: int) -> int:
    """One carries a program to every CPU: it hangs on the event, not on the CPU."""
    # struct perf_event_attr in its second published size: type, size, config, sample_period,
    # sample_type, read_format, flags, wakeup_events, bp_type, config1, config2
    attr = _attr("<IIQQQQQIIQQ", kind, 72, config, 1, 0, 0, 0, 1, 0, name, 0)
    every_process, cpu, no_group = -1, 0, -1
    fd: int = _perf_event_open(
        _SYS_PERF_EVENT_OPEN,
        ctypes.addressof(attr),
        every_process,
        cpu,
        no_group,
        _PERF_FLAG_FD_CLOEXEC,
    )
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd


class RawTracepointRun:
    """A raw-tracepoint program with argument words, ready to be run any number of times.

    What tests and benchmarks stand on: no event is needed. Linux 5.10.
    """

    def __init__(self, program_fd: int, *arguments: int) -> None:
        words = struct.pack(f"<{len(arguments)}Q", *arguments)
        self._context = ctypes.create_string_buffer(words, len(words))
        address = ctypes.addressof(self._context)
        values = (program_fd, 0, 0, 0, 0, 0, 0, 0, len(words), 0, address, 0)
        self._attr = _attr("<IIIIQQIIIIQQ", *values)

    def run(self) -> None:
        """Run it once, in this thread."""
        _bpf(_PROG_TEST_RUN, self._attr)


def run_raw_tracepoint(program_fd: int, *arguments: int) -> None:
    """Run it once."""
    RawTracepointRun(program_fd, *arguments).run()


def enable_statistics() -> int:
    """Let the kernel measure all programs as long as the returned descriptor is open."""
    return _bpf(_ENABLE_STATS, _attr("<I", 0))  # BPF_STATS_RUN_TIME


class Counters(NamedTuple):
    """What the kernel keeps of a program."""

    run_ns: int  # this and `runs`: while statistics were on
    runs: int
    misses: int  # events for which it was skipped: it was running on that CPU already


def counters(program_fd: int) -> Counters:
    """One system call, and none on a map."""
    info = ctypes.create_string_buffer(256)  # struct bpf_prog_info
    _bpf(_OBJ_GET_INFO_BY_FD, _attr("<IIQ", program_fd, len(info), ctypes.addressof(info)))
    return Counters(*struct.unpack_from("<QQQ", info.raw, 192))
