"""Two processes: one holds the counters, the other talks to the network.

    keeper   has the privileges and the source; takes one request byte, sends a Snapshot
    front    has neither: it serves HTTP, and asks the keeper for what it shows

The front is forked before anything is loaded, so it never holds a descriptor of a
program or a map. What it sends to the keeper is read as bytes, never as objects.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from types import TracebackType
from typing import NoReturn

from hvtrace.errors import HvtraceError
from hvtrace.export import privileges
from hvtrace.hyperv.interface import Interface
from hvtrace.stats.snapshot import Snapshot, Source, rollup

_READY = b""  # what the front says once it can serve; anything else is why it cannot
_SNAPSHOT = b"?"


class RemoteSource:
    """The keeper's source, as the front sees it."""

    def __init__(self, keeper: Connection) -> None:
        """Say that all is well here, and wait until the keeper counts. Raises EOFError."""
        keeper.send_bytes(_READY)
        self._keeper = keeper
        self.kernel: str
        self.interface: Interface
        self.kernel, self.interface = keeper.recv()

    def snapshot(self) -> Snapshot:
        """All counters now, by (vm, code, fast, handler). Raises HvtraceError."""
        self._keeper.send_bytes(_SNAPSHOT)
        answer = self._keeper.recv()
        if isinstance(answer, str):
            raise HvtraceError(answer)
        assert isinstance(answer, Snapshot)
        return answer

    def look(self) -> None:
        """Nothing: the keeper looks."""

    def close(self) -> None:
        """Ask no more."""
        self._keeper.close()


class Front:
    """The front, as the keeper sees it: a child of ours, ended when it is left."""

    def __init__(
        self,
        serve: Callable[[Connection], None],
        user: tuple[int, int] | None,
        keep: tuple[int, ...],
    ) -> None:
        """Fork a child that becomes `user`, keeps the descriptors `keep`, and calls `serve`.

        `serve` makes a RemoteSource of its argument; an HvtraceError before that is
        raised here. It has imported what it needs: that user may not read our files.
        """
        self._ours, theirs = Pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _run(serve, user, theirs, keep)
        theirs.close()
        try:
            problem = self._receive()
            if problem != _READY:
                raise HvtraceError(problem.decode(errors="replace"))
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Readable when the front asks, or has ended."""
        return self._ours.fileno()

    def begin(self, source: Source) -> None:
        """Let it serve what `source` counts. Raises HvtraceError where it has ended."""
        self._send((source.kernel, source.interface))

    def answer(self, source: Source) -> None:
        """Answer what it has asked, if it has. Raises HvtraceError where it has ended."""
        if not self._ours.poll():
            return
        request = self._receive()
        if request != _SNAPSHOT:
            raise _ended(request.decode(errors="replace"))
        try:
            answer: Snapshot | str = rollup(source.snapshot())
        except HvtraceError:
            raise  # says that it is over
        except Exception as error:
            answer = str(error) or repr(error)
        self._send(answer)

    def _receive(self) -> bytes:
        try:
            return self._ours.recv_bytes(4096)
        except (EOFError, OSError):
            raise _ended() from None

    def _send(self, answer: object) -> None:
        try:
            self._ours.send(answer)
        except OSError:
            raise _ended() from None

    def close(self) -> None:
        """End it."""
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        self._ours.close()

    def __enter__(self) -> Front:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _ended(why: str = "start the exporter again") -> HvtraceError:
    return HvtraceError(f"the process that serves HTTP has ended: {why}")


def _run(
    serve: Callable[[Connection], None],
    user: tuple[int, int] | None,
    keeper: Connection,
    keep: tuple[int, ...],
) -> NoReturn:
    """In the child; never returns into what the parent was doing."""
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the keeper's
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _close_all_but({0, 1, 2, keeper.fileno(), *keep})
        privileges.drop(user)
        serve(keeper)
        status = 0
    except Exception as error:
        with suppress(OSError):
            keeper.send_bytes((str(error) or repr(error)).encode()[:4096])
    finally:
        os._exit(status)  # no clean-up of what is the parent's


def _close_all_but(keep: set[int]) -> None:
    """The loader's pipes, above all: it would wait for their end for as long as we live."""
    for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
        if fd not in keep:
            with suppress(OSError):  # of the listing itself
                os.close(fd)
