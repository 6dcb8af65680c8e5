"""Types of the running kernel, from its BTF: where a member of a structure is.

Read by libbpf, which BCC stands on, so it is there. Layouts of `struct btf_type`
and `struct btf_member`: include/uapi/linux/btf.h.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from hvtrace.errors import HvtraceError

FOLDER = Path("/sys/kernel/btf")

# BTF_KIND_*
_POINTER, _STRUCT, _UNION, _TYPEDEF, _FUNC = 2, 4, 5, 8, 12


class _Type(ctypes.Structure):
    _fields_ = [("name", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size", ctypes.c_uint32)]


class _Member(ctypes.Structure):
    _fields_ = [("name", ctypes.c_uint32), ("type", ctypes.c_uint32), ("bits", ctypes.c_uint32)]


class _Parameter(ctypes.Structure):
    _fields_ = [("name", ctypes.c_uint32), ("type", ctypes.c_uint32)]


class Member(NamedTuple):
    """One member of a structure or union; `name` is empty where it has none."""

    name: str
    type: int
    offset_bytes: int


@cache
def _libbpf() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(ctypes.util.find_library("bpf") or "libbpf.so.1", use_errno=True)
        _declare(library)
    except OSError:
        raise HvtraceError("libbpf is missing, which BCC comes with on Debian (libbpf1)") from None
    except AttributeError as error:  # a function that came later: btf__type_cnt with 0.6
        raise HvtraceError(f"this libbpf is too old, 0.6 is needed ({error})") from None
    return library


def _declare(library: ctypes.CDLL) -> None:
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint32
    library.btf__parse_split.restype = pointer
    library.btf__parse_split.argtypes = [text, pointer]
    library.btf__free.argtypes = [pointer]
    library.btf__find_by_name_kind.argtypes = [pointer, text, number]
    library.btf__type_cnt.argtypes = [pointer]
    library.btf__type_cnt.restype = number
    library.btf__resolve_type.argtypes = [pointer, number]
    library.btf__type_by_id.argtypes = [pointer, number]
    library.btf__type_by_id.restype = ctypes.POINTER(_Type)
    library.btf__name_by_offset.argtypes = [pointer, number]
    library.btf__name_by_offset.restype = text
    library.libbpf_set_print(None)  # its warnings are not for our user


class Btf:
    """The types of a module, on top of those of the kernel itself; a context manager."""

    def __init__(self, folder: Path = FOLDER, module: str = "kvm") -> None:
        """Parse `folder`/vmlinux, and `module` where it is not built in. Raises HvtraceError."""
        self._library = _libbpf()
        self._base = self._parse(folder / "vmlinux", None)
        self._btf = self._base
        self._own: dict[tuple[int, str], int] | None = None
        if (folder / module).exists():
            try:
                self._btf = self._parse(folder / module, self._base)
            except HvtraceError:
                self.close()
                raise

    def _parse(self, path: Path, base: int | None) -> int:
        if not path.exists():
            raise HvtraceError(f"this kernel has no BTF (CONFIG_DEBUG_INFO_BTF; {path})")
        btf: int | None = self._library.btf__parse_split(str(path).encode(), base)
        if not btf:
            raise HvtraceError(f"libbpf cannot read {path} (error {ctypes.get_errno()})")
        return btf

    def __enter__(self) -> Btf:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the memory; `self` is of no use any more."""
        if self._btf != self._base:
            self._library.btf__free(self._btf)
        self._library.btf__free(self._base)

    def find(self, name: str) -> int | None:
        """Id of the structure `name`: the module's own, where it has one."""
        return self._find(name, _STRUCT)

    def has_function(self, name: str) -> bool:
        """Whether a function `name` was compiled on its own, not only inlined."""
        return self._find(name, _FUNC) is not None

    def argument(self, event: str, structure: str) -> int | None:
        """Which argument of a raw tracepoint points to `structure`; None: no such thing."""
        # The type of its programs in the kernel (include/trace/bpf_probe.h): a pointer to a
        # function whose first parameter is not one of the event's.
        typedef = self._find(f"btf_trace_{event}", _TYPEDEF)
        if typedef is None:
            return None
        function = self._resolved(self._resolved(typedef).contents.size).contents
        first = ctypes.addressof(function) + ctypes.sizeof(_Type)
        parameters = (_Parameter * (function.info & 0xFFFF)).from_address(first)
        for number, parameter in enumerate(parameters):
            pointer = self._resolved(parameter.type).contents
            if _kind(pointer) == _POINTER and pointer.size:  # 0: void
                target = self._resolved(pointer.size).contents
                if self._name(target.name) == structure:
                    return number - 1
        return None

    def _find(self, name: str, kind: int) -> int | None:
        # libbpf looks in the kernel's own types first. A module that was built from other
        # sources than the kernel has types of the same names, and those are the ones in use.
        own = self._own_types().get((kind, name))
        if own is not None:
            return own
        found: int = self._library.btf__find_by_name_kind(self._base, name.encode(), kind)
        return found if found > 0 else None

    def _own_types(self) -> dict[tuple[int, str], int]:
        if self._own is None:
            first, end = (self._library.btf__type_cnt(btf) for btf in (self._base, self._btf))
            heads = ((i, self._library.btf__type_by_id(self._btf, i)[0]) for i in range(first, end))
            self._own = {(_kind(head), self._name(head.name)): i for i, head in heads}
        return self._own

    def _name(self, offset: int) -> str:
        text: bytes | None = self._library.btf__name_by_offset(self._btf, offset)
        return (text or b"").decode()

    def size_bytes(self, type_id: int) -> int:
        """Size of a structure or union, behind typedefs."""
        return int(self._resolved(type_id).contents.size)

    def members(self, type_id: int) -> Iterator[Member]:
        """Members of a structure or union, in order; none for any other type."""
        head = self._resolved(type_id)
        info = head.contents.info
        if _kind(head.contents) not in (_STRUCT, _UNION):
            return
        first = ctypes.addressof(head.contents) + ctypes.sizeof(_Type)
        for member in (_Member * (info & 0xFFFF)).from_address(first):
            # With the kind flag, the upper byte is the width of a bit field.
            bits = member.bits & 0xFFFFFF if info >> 31 else member.bits
            yield Member(self._name(member.name), member.type, bits // 8)

    def member(self, type_id: int, path: str) -> Member | None:
        """The member "a.b.c" of a structure, nameless ones on the way left out.

        Its `offset_bytes` counts from the structure's start. None: there is none.
        """
        at, found = 0, Member("", type_id, 0)
        for name in path.split("."):
            step = self._step(found.type, name)
            if step is None:
                return None
            at, found = at + step.offset_bytes, step
        return Member(found.name, found.type, at)

    def _step(self, type_id: int, name: str) -> Member | None:
        for member in self.members(type_id):
            if member.name == name:
                return member
            inner = None if member.name else self._step(member.type, name)
            if inner:
                return Member(name, inner.type, member.offset_bytes + inner.offset_bytes)
        return None

    def _resolved(self, type_id: int) -> ctypes._Pointer[_Type]:
        resolved: int = self._library.btf__resolve_type(self._btf, type_id)
        head: ctypes._Pointer[_Type] = self._library.btf__type_by_id(
            self._btf, resolved if resolved > 0 else type_id
        )
        return head


def _kind(head: _Type) -> int:
    return int(head.info) >> 24 & 0x1F
