"""Listens, and lets in as many clients as there is room for."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import TracebackType

from hvtrace.errors import HvtraceError
from hvtrace.web.connection import Connection, Shared, Unread
from hvtrace.web.limits import REASONS, HttpLimits
from hvtrace.web.render import Metrics
from hvtrace.web.site import Site
from hvtrace.web.webconfig import Web

_BACKLOG = 4096  # connections that wait to be let in; those beyond try again after a second
# Who is in goes on between so many who come in: with fewer, a flood of requests would keep others
# out; with more, a flood of connections would push out those who have just come.
_AT_ONCE = 8
_PAUSE_SECONDS = 0.1


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of "127.0.0.1:10942", "[::1]:10942", "name:10942", or ":10942" (every address).

    Port 0 takes a free one. Raises HvtraceError.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""  # an IPv6 address needs brackets: where else would it end?
    if not colon or not port.isdecimal() or int(port) > 0xFFFF:
        raise HvtraceError(
            f'cannot listen on "{text}": give HOST:PORT, such as 127.0.0.1:10942 or [::1]:10942'
        )
    return host, int(port)


class Server:
    """Listens from the start, and answers while `serve` runs.

    Until then it is a socket and nothing else, so it may be taken through a fork.
    """

    def __init__(self, address: str, limits: HttpLimits | None = None) -> None:
        """Listen on `address`. Raises HvtraceError where that cannot be."""
        host, port = parse_address(address)
        self._limits = limits or HttpLimits()
        self.web: Web | None = None
        """Set it before `serve`: as the user who serves, who must be able to read its files."""
        self.refused: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        """Clients that were refused or cut off, by reason."""
        self._connections: set[Connection] = set()
        try:
            found = socket.getaddrinfo(
                host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            family, kind, protocol, _, where = found[0]
            # Named TCP, or asyncio would not set TCP_NODELAY: 40 ms for each answer by TLS.
            self._socket = socket.socket(family, kind, protocol)
        except OSError as error:
            raise HvtraceError(f"cannot listen on {address}: {error.strerror}") from None
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind(where)
            self._socket.listen(_BACKLOG)
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise HvtraceError(f"cannot listen on {address}: {error.strerror}") from None

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host, port = self._socket.getsockname()[:2]
        scheme = "https" if self.web and self.web.current().tls else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}/metrics"

    def fileno(self) -> int:
        """The descriptor that listens."""
        return self._socket.fileno()

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def serve(self, metrics: Metrics, say: Callable[[str], None]) -> None:
        """Answer with what `metrics` gives, until cancelled; `say` gets lines for the log."""
        site = Site(metrics, self.web, self._limits, self.refused, say)
        unread = Unread(self._limits.unread_bytes, self.refused)
        shared = Shared(site, self._limits, unread, self.refused)
        try:
            for count in itertools.count(1):
                accepted, peer = await self._accept()
                if self._has_room():
                    one = Connection(accepted, peer, shared)
                    self._connections.add(one)
                    one.task.add_done_callback(partial(self._forget, one, say))
                else:
                    accepted.close()
                if count % _AT_ONCE == 0:
                    await asyncio.sleep(0)
        finally:
            tasks = [one.task for one in self._connections]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            site.close()

    async def _accept(self) -> tuple[socket.socket, str]:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(self._socket)
            except OSError:  # the client has gone again, or we are out of descriptors or memory
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return accepted, str(address[0])

    def _has_room(self) -> bool:
        """Whether one more may come in, now that another may have been sent away for it.

        That is one we wait for, of the peer who has most of these: first those who never
        got an answer, and of them the oldest. A scraper elsewhere keeps its place, and one
        who is quick never is the oldest.
        """
        if len(self._connections) < self._limits.connections:
            return True
        self.refused["connections"] += 1
        waiting = [one for one in self._connections if one.waits_for_client]
        if not waiting:
            return False
        of_peer = Counter(one.peer for one in waiting)
        last = max(waiting, key=lambda one: (of_peer[one.peer], one.answers == 0, -one.since))
        self._connections.discard(last)
        last.task.cancel()
        return True

    def _forget(
        self, one: Connection, say: Callable[[str], None], task: asyncio.Task[None]
    ) -> None:
        self._connections.discard(one)
        one.close()
        if not task.cancelled() and (error := task.exception()):
            say(f"a request failed: {type(error).__name__}: {error}")
