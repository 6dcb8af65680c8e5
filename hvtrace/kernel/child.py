"""The loader child: compiles and loads with BCC, hands the descriptors over, ends.

BCC and LLVM are some 100 MiB that no one needs after loading. This file is run
by its path, by whichever Python interpreter can import the distribution's BCC,
so it uses the standard library and BCC only.

    python3 child.py SOCKET_FD < job.json

Job: {"sources": [paths], "headers": path, "flags": [...], "programs": [[function name, kind]],
"maps": [names]}, a program's kind being "raw" (tracepoint), "tracepoint" or "kprobe". Answer,
on the socket: one JSON message, {"ok": true} with one descriptor for each program and map in
the order of the job, or {"error": kind, "text": text}, kind being "no-bcc", "wrong-bcc",
"compile" or "load".
"""

import ctypes
import json
import os
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
_LD_IMM64 = 0x18
_PSEUDO_MAP_VALUE = 2

_kept: list[Any] = []  # BCC closes what is collected


class Failed(Exception):
    """(kind, text) of an error answer."""


def load(job: dict[str, Any]) -> list[int]:
    """Descriptors of `job`, in its order; they are open for as long as this process lives."""
    # Ours in place of kernel headers: see bpf/headers.
    os.environ["BCC_KERNEL_SOURCE"] = job["headers"]
    try:
        import bcc
    except ImportError as error:
        raise Failed("no-bcc", str(error)) from None
    if not hasattr(bcc, "BPF"):
        raise Failed("wrong-bcc", os.path.dirname(bcc.__file__ or "?"))
    try:
        # One text: BCC takes no second file, and rewrites maps in none that is included.
        text = "\n".join(Path(path).read_text(encoding="utf-8") for path in job["sources"])
        module = bcc.BPF(text=text.encode(), cflags=job["flags"])
    except Exception as error:  # BCC raises bare Exception
        raise Failed("compile", str(error)) from None
    kinds = {
        "raw": bcc.BPF.RAW_TRACEPOINT,
        "tracepoint": bcc.BPF.TRACEPOINT,
        "kprobe": bcc.BPF.KPROBE,
    }
    maps = [module[name.encode()].map_fd for name in job["maps"]]
    for name, _ in job["programs"]:
        size = bcc.lib.bpf_function_size(module.module, name.encode())
        start = bcc.lib.bpf_function_start(module.module, name.encode())
        _put_in_addresses((ctypes.c_ubyte * size).from_address(start), maps)
    try:
        programs = [
            module.load_func(name.encode(), kinds[kind]).fd for name, kind in job["programs"]
        ]
    except Exception as error:
        raise Failed("load", str(error)) from None
    _kept.append(module)
    return programs + maps


def _put_in_addresses(code: ctypes.Array[ctypes.c_ubyte], maps: list[int]) -> None:
    """Name the maps whose elements a program reaches by address, for BCC knows no such thing.

    In BPF_LD_IMM64 with src_reg BPF_PSEUDO_MAP_VALUE, the program has an index into the job's
    maps in bits 31:24 of the first `imm`, and an offset below; the kernel wants a descriptor
    there, and the offset in the second `imm` (Documentation/bpf/standardization/
    instruction-set.rst).
    """
    for at in range(0, len(code), 8):  # the second half of a wide instruction has opcode 0
        if code[at] == _LD_IMM64 and code[at + 1] >> 4 == _PSEUDO_MAP_VALUE:
            (imm,) = struct.unpack_from("<I", code, at + 4)
            struct.pack_into("<I", code, at + 4, maps[imm >> 24])
            struct.pack_into("<I", code, at + 12, imm & 0xFFFFFF)


def main() -> int:
    """Read the job, answer on the socket."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    answer_to = socket.socket(fileno=int(sys.argv[1]))
    with suppress(ImportError):  # load will say it
        import bcc  # noqa: F401 (before there is a job: the parent is busy, too)
    try:
        fds = load(json.load(sys.stdin))
    except Failed as failed:
        kind, text = failed.args
        answer_to.sendall(json.dumps({"error": kind, "text": text}).encode())
        return 1
    socket.send_fds(answer_to, [b'{"ok": true}'], fds)
    # Not sys.exit: BCC's clean-up takes time, and there is nothing left to clean.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
