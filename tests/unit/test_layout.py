"""bpf/hvtrace.h and bpf/bucket.h against their Python side, by way of a C compiler."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hvtrace.hyperv import xmm
from hvtrace.kernel import layout, maps
from hvtrace.stats import histogram

PRELUDE = """
#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include "bucket.h"
"""

STRUCTS = {
    "hvt_abi": layout.ABI,
    "hvt_slot": layout.SLOT,
    "hvt_trip": layout.TRIP,
    "hvt_sizes": layout.SIZES,
    "hvt_slow": layout.SLOW,
    "hvt_thread": layout.THREAD,
    "hvt_control": layout.CONTROL,
    "hvt_failure": layout.FAILURE,
    "hvt_exit_key": layout.EXIT_KEY,
    "hvt_exit": layout.EXIT,
    "hvt_vcpu": layout.VCPU,
}

CONSTANTS = {
    "HVT_LAYOUT": layout.LAYOUT,
    "HVT_MIN_EXP": histogram.MIN_EXP,
    "HVT_OCTAVES": histogram.OCTAVES,
    "HVT_BUCKETS": histogram.BUCKETS,
    "HVT_STATUSES": layout.STATUSES,
    "HVT_TABLE": layout.TABLE,
    "HVT_CPUID_WORDS": layout.CPUID_WORDS,
    "HVT_COMM": layout.COMM,
    "HVT_CALL_NONE": layout.CALL_NONE,
    "HVT_IMPOSSIBLE": xmm.COUNTED.index("impossible"),
    "HVT_REFUSED": xmm.COUNTED.index("refused"),
    "HVT_USED_GPR": xmm.COUNTED.index("used-gpr"),
    "HVT_USED_XMM": xmm.COUNTED.index("used-xmm"),
    "HVT_XMM_OUTPUTS": len(xmm.COUNTED),
    "HVT_ABI_INPUT": xmm.ABI_INPUT,
    "HVT_ABI_OUTPUT": xmm.ABI_OUTPUT,
    "HVT_FREE": layout.FREE,
    "HVT_LIVE": layout.LIVE,
    "HVT_DEAD": layout.DEAD,
    "HVT_CALL_FAST": layout.CALL_FAST,
    "HVT_CALL_VMM": layout.CALL_VMM,
    "HVT_CALL_VAR_SHIFT": layout.CALL_VAR_SHIFT,
    "HVT_CALL_REP_SHIFT": layout.CALL_REP_SHIFT,
    "HVT_CALL_SIZES": layout.CALL_SIZES,
    "HVT_CALL_EPOCH_SHIFT": layout.CALL_EPOCH_SHIFT,
    "HVT_CALL_SKIPPED": layout.CALL_SKIPPED,
    "HVT_CALL_OPEN": layout.CALL_OPEN,
}


def compile_c(folder: Path, source: str, *flags: str) -> Path:
    file, out = folder / "t.c", folder / "t.out"
    file.write_text(PRELUDE + source)
    command = ["gcc", "-Wall", "-Werror", f"-I{layout.bpf_folder()}", *flags, "-o", out, file]
    subprocess.run(command, check=True)
    return out


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """What the compiler says of every size, offset and constant."""
    lines = [f'printf("{name} %lld\\n", (long long){name});' for name in CONSTANTS]
    for struct, dtype in STRUCTS.items():
        lines.append(f'printf("{struct} %zu\\n", sizeof(struct {struct}));')
        for name in dtype.names or ():
            member = f"struct {struct}, {name}"
            size = f"sizeof(((struct {struct} *)0)->{name})"
            lines.append(f'printf("{struct}.{name} %zu\\n", offsetof({member}));')
            lines.append(f'printf("{struct}.{name}.size %zu\\n", {size});')
    program = compile_c(
        tmp_path_factory.mktemp("layout"), f"int main(void) {{ {' '.join(lines)} return 0; }}"
    )
    out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in (line.split() for line in out.splitlines())}


@pytest.mark.parametrize("struct", STRUCTS)
def test_struct_is_the_same_in_c_and_in_numpy(struct: str, header: dict[str, int]) -> None:
    dtype = STRUCTS[struct]
    assert header[struct] == dtype.itemsize
    assert dtype.fields is not None
    for name, (kind, offset) in ((n, f[:2]) for n, f in dtype.fields.items()):
        assert header[f"{struct}.{name}"] == offset, name
        assert header[f"{struct}.{name}.size"] == kind.itemsize, name


@pytest.mark.parametrize("struct", STRUCTS)
def test_no_member_is_missing_in_numpy(struct: str) -> None:
    """No padding anywhere, so a member left out would show as a hole."""
    dtype = STRUCTS[struct]
    assert dtype.fields is not None
    assert sum(kind.itemsize for kind, *_ in dtype.fields.values()) == dtype.itemsize


@pytest.mark.parametrize("name", CONSTANTS)
def test_constant_is_the_same(name: str, header: dict[str, int]) -> None:
    assert header[name] % (1 << 64) == CONSTANTS[name] % (1 << 64)


def test_the_state_is_the_same_in_c_and_in_numpy(tmp_path: Path) -> None:
    members = ("control", "cache", "threads", "process_ns")
    lines = [f'printf("%zu\\n", offsetof(struct hvt_state, {name}));' for name in members]
    program = compile_c(
        tmp_path,
        f'int main(void) {{ {" ".join(lines)} printf("%zu", sizeof(struct hvt_state)); }}',
        "-DHVT_MAX_THREADS=64",
        f"-DHVT_CACHE={layout.CACHE}",
    )
    out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    dtype = layout.state(layout.CACHE, 64)
    assert dtype.fields is not None
    offsets = [dtype.fields[name][1] for name in members]
    assert [int(word) for word in out.split()] == [*offsets, dtype.itemsize]


def test_what_a_call_touches_starts_a_cache_line() -> None:
    state = layout.state(layout.CACHE, 2)
    assert state.fields is not None
    assert state.fields["threads"][1] % 64 == 0
    assert layout.THREAD.itemsize % 64 == layout.SLOT.itemsize % 64 == 0
    assert layout.THREAD.fields is not None
    assert layout.THREAD.fields["table"][1] == 64  # the state machine before it: one line
    assert layout.SLOT.fields is not None
    assert layout.SLOT.fields["xmm_output"][1] == 64  # what a successful call touches before it


def test_an_element_of_a_mapped_array_needs_no_rounding() -> None:
    for dtype in (*maps.BY_SLOT.values(), layout.THREAD, layout.CONTROL):
        assert dtype.itemsize % 8 == 0


def test_windows_of_mapped_arrays_begin_with_a_page() -> None:
    """And two, of which one is let go of, are no more than four megabytes."""
    for dtype in maps.BY_SLOT.values():
        assert maps.WINDOW * dtype.itemsize % mmap.PAGESIZE == 0
        assert 2 * maps.WINDOW * dtype.itemsize < 4 << 20


def test_a_ring_has_whole_records() -> None:
    assert layout.SLOW.itemsize % 8 == 0  # as hvtrace.kernel.ring takes them
    assert layout.SLOW_PAGES.bit_count() == 1  # as the kernel takes a ring


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = compile_c(
        tmp_path_factory.mktemp("bucket"),
        "__u32 bucket(__u64 ns) { return hvt_bucket(ns); }"
        "__u32 log2_of(__u64 size) { return hvt_log2(size); }",
        "-shared",
        "-fPIC",
    )
    functions = ctypes.CDLL(str(library))
    for function in (functions.bucket, functions.log2_of):
        function.argtypes, function.restype = [ctypes.c_uint64], ctypes.c_uint32
    return functions


@pytest.fixture(scope="module")
def bucket(functions: ctypes.CDLL) -> ctypes._NamedFuncPointer:
    return functions.bucket


def test_the_logarithm_of_every_size(functions: ctypes.CDLL) -> None:
    for size in range(1, 1 << 16):
        assert functions.log2_of(size) == size.bit_length() - 1


def test_every_bucket_ends_exactly_at_its_bound(bucket: ctypes._NamedFuncPointer) -> None:
    """(low, high], like Prometheus' "le": the last whole ns inside, the first outside."""
    for i, bound_ns in enumerate(histogram.UPPER_NS[:-1]):
        last = int(np.floor(bound_ns))
        assert bucket(last) == i, bound_ns
        assert bucket(last + 1) == i + 1, bound_ns


def test_bounds_that_are_whole_ns_exist_and_are_inside() -> None:
    """2^-9 s is 1,953,125 ns: the case that (low, high] and [low, high) tell apart."""
    assert 1_953_125.0 in histogram.UPPER_NS.tolist()


def test_buckets_at_the_far_ends(bucket: ctypes._NamedFuncPointer) -> None:
    assert bucket(0) == 0
    assert bucket(4_000_000_000) == histogram.BUCKETS - 2
    assert bucket(4_000_000_001) == histogram.BUCKETS - 1
    assert bucket(2**64 - 1) == histogram.BUCKETS - 1


def test_bucket_agrees_with_numpy_search(bucket: ctypes._NamedFuncPointer) -> None:
    rng = np.random.default_rng(10_007)
    for ns in np.exp2(rng.uniform(0, 34, 10_007)).astype(np.uint64):
        expected = int(np.searchsorted(histogram.UPPER_NS, float(ns), side="left"))
        assert bucket(int(ns)) == expected
