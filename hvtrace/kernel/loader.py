"""Compile and load the BPF programs in a child, and keep only their descriptors."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from hvtrace.errors import HvtraceError

_SYSTEM_PYTHON = "/usr/bin/python3"  # where a distribution's own packages belong
_CHILD = Path(__file__).with_name("child.py")

_INSTALL = "install the distribution's package (Debian, Ubuntu: apt install python3-bpfcc)"
_ADVICE = {
    "no-bcc": f"BCC's Python binding is missing: {_INSTALL}",
    "wrong-bcc": f"the bcc in {{text}} is PyPI's unrelated project, not BCC: {_INSTALL}",
}


class Program(NamedTuple):
    """A program: its function is hvt_NAME."""

    name: str
    kind: str  # "raw" or "tracepoint", "kprobe"
    target: str  # the event, or the kernel function, that it is for


@dataclass(frozen=True, slots=True)
class Loaded:
    """Descriptors of loaded programs and maps, by their names; not attached."""

    programs: dict[str, int]
    maps: dict[str, int]

    def close(self) -> None:
        """Close them all: the kernel frees what nothing else holds."""
        for fd in (*self.programs.values(), *self.maps.values()):
            os.close(fd)


def load(
    sources: Sequence[Path], flags: Sequence[str], programs: Sequence[Program], maps: Sequence[str]
) -> Loaded:
    """Compile `sources` as one, with `flags`; load `programs`, keep `maps`.

    Raises HvtraceError: no BCC, the wrong one, or the kernel refuses.
    """
    # Here, for it imports numpy, and start_ahead must not wait for that.
    from hvtrace.kernel.layout import bpf_folder

    folder = bpf_folder()
    job = {
        "sources": [str(source) for source in sources],
        "headers": str(folder / "headers"),
        "flags": [f"-I{folder}", *flags],
        "programs": [(f"hvt_{program.name}", program.kind) for program in programs],
        "maps": maps,
    }
    answer: dict[str, str] = {}
    for python in dict.fromkeys((sys.executable, _SYSTEM_PYTHON)):
        answer, fds = _run_child(python, json.dumps(job))
        if "error" not in answer:
            return Loaded(
                dict(zip((program.name for program in programs), fds, strict=False)),
                dict(zip(maps, fds[len(programs) :], strict=True)),
            )
        if answer["error"] not in _ADVICE:
            break
    text = " ".join(answer["text"].split())
    advice = _ADVICE.get(answer["error"], f"the BPF programs did not {answer['error']}: {{text}}")
    raise HvtraceError(advice.format(text=text))


class _Child:
    """A child that waits for its job, and imports BCC meanwhile. Raises OSError."""

    def __init__(self, python: str) -> None:
        self._answers, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [python, "-I", str(_CHILD), str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            except BaseException:
                self._answers.close()
                raise

    def do(self, job: str) -> tuple[bytes, list[int], str]:
        """The answer, its descriptors, and what was printed."""
        with self._answers, self._process:
            _, log = self._process.communicate(job)
            message, fds, _, _ = socket.recv_fds(self._answers, 65536, 64)
        for fd in fds:  # Python 3.11 takes flags for this, and forgets them
            os.set_inheritable(fd, False)
        return message, fds, log

    def dismiss(self) -> None:
        """There is no job."""
        with self._answers, self._process:
            self._process.kill()


_ahead: dict[str, _Child] = {}  # by interpreter


def start_ahead() -> None:
    """Start a child that `load` will use: BCC is imported while the caller is, too.

    For a command that is sure to load. The child ends with this process.
    """
    if sys.executable not in _ahead:
        with suppress(OSError):  # load will say it
            _ahead[sys.executable] = _Child(sys.executable)


def dismiss_ahead() -> None:
    """Nothing is to be loaded after all."""
    while _ahead:
        _ahead.popitem()[1].dismiss()


def _run_child(python: str, job: str) -> tuple[dict[str, str], list[int]]:
    try:
        child = _ahead.pop(python, None) or _Child(python)
    except OSError as error:
        return {"error": "no-bcc", "text": f"{python}: {error.strerror}"}, []
    message, fds, log = child.do(job)
    if not message:
        return {"error": "load", "text": f"the loader ended early: {_last_line(log)}"}, []
    answer: dict[str, str] = json.loads(message)
    if "error" in answer and answer["error"] in ("compile", "load"):
        answer["text"] = _first_error(log) or answer["text"]
    return answer, fds


def _first_error(log: str) -> str:
    """The line of clang's or the verifier's log that says most."""
    lines = [line for line in log.splitlines() if "error:" in line or "ermission" in line]
    return lines[0] if lines else ""


def _last_line(log: str) -> str:
    lines = log.strip().splitlines()
    return lines[-1] if lines else "no message"
