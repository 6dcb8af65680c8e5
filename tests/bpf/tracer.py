"""A process of its own that holds a pinned source, to be killed at any moment.

Forked, not started: imports take long in an emulated machine (tests/vm uses this, too).
"""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NoReturn

from hvtrace.errors import HvtraceError
from hvtrace.kernel import bpf, loader
from hvtrace.kernel.live import open_source
from hvtrace.kernel.maps import Maps
from hvtrace.stats.calls import Call, calls
from hvtrace.stats.snapshot import Snapshot, rollup


class Tracer:
    """Takes and gives what its process does."""

    def __init__(
        self,
        pin: Path,
        *,
        may_load: bool = True,
        dies_recycling: int = 0,
        dies_pinning: int = 0,
        **options: Any,
    ) -> None:
        """Start; `options` are those of `open_source`. Raises HvtraceError as that does.

        `may_load`: whether it may compile and load programs. It is killed in line
        `dies_recycling` of Maps.recycle, as they are run, or before it pins something for
        the `dies_pinning`th time: an EOFError then.
        """
        self._connection, theirs = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            if not may_load:
                loader.load = _refuse  # type: ignore[assignment]
            if dies_recycling:
                _die_in(Maps.recycle.__code__, dies_recycling)
            if dies_pinning:
                _die_in(bpf.pin.__code__, 2 * dies_pinning - 1)  # it has two lines
            _serve(theirs, {"anyway": True, "pin": pin, **options})
        theirs.close()
        try:
            error, self.said = self._connection.recv()
        except EOFError:
            self._reap()
            raise
        if error:
            self._reap()
            raise HvtraceError(error, self.said)

    def snapshot(self) -> Snapshot:
        """All counters now. Raises EOFError where it was killed."""
        self._connection.send("snapshot")
        found, self.said = self._connection.recv()
        return found

    def calls(self) -> list[Call]:
        return calls(rollup(self.snapshot()))

    def kill(self) -> None:
        """As the kernel does when there is no memory."""
        os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def end(self) -> None:
        """As after Ctrl-C."""
        self._connection.send("end")
        self._reap()

    def _reap(self) -> None:
        os.waitpid(self.pid, 0)
        self._connection.close()
        self.pid = 0

    def __enter__(self) -> Tracer:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pid:
            self.kill()


def _serve(parent: Connection, options: dict[str, Any]) -> NoReturn:
    said: list[str] = []
    try:
        # Nothing of the parent's may hold what is tested, kvm.ko above all.
        for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
            if fd > 2 and fd != parent.fileno():
                with suppress(OSError):
                    os.close(fd)
        try:
            source = open_source(say=said.append, **options)
        except HvtraceError as error:
            parent.send((str(error), said))
            os._exit(1)
        parent.send((None, said))
        while parent.recv() == "snapshot":
            parent.send((source.snapshot(), said))
        source.close()
    except EOFError:  # the test has failed
        pass
    finally:
        os._exit(0)


def _refuse(*_: object) -> NoReturn:
    raise HvtraceError("it wants to compile and load")


def _die_in(code: CodeType, wanted: int) -> None:
    """Be killed before the `wanted`th line of `code` is run, since now."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if frame.f_code is not code:
            return None
        lines += event == "line"
        if lines == wanted:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
