"""One client's connection, from its first byte to its end.

HTTP/1.1 by h11, which does no I/O of its own. Each step has a time by which it must be over;
a client that trickles bytes gains nothing by them.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from email.utils import formatdate
from http import HTTPStatus

import h11

from hvtrace.web import tls
from hvtrace.web.limits import HttpLimits
from hvtrace.web.site import Answer, Site, not_allowed, plain
from hvtrace.web.stream import Stream, TlsStream

_WRITE_BYTES = 128 * 1024  # so much lies ready for a client, beside the answer itself
_TLS_HANDSHAKE = b"\x16"  # RFC 8446, 5.1: the first byte of every TLS connection
_TOO_LARGE = plain(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "no request has a body here")


class Unread:
    """Answers on their way to clients; those who do not read theirs must not hold our memory."""

    def __init__(self, most_bytes: int, refused: Counter[str]) -> None:
        self._most_bytes, self._refused = most_bytes, refused
        self._sizes: dict[Connection, int] = {}

    def add(self, connection: Connection, size: int) -> None:
        """One more of so many bytes, for which the oldest have to go."""
        while self._sizes and sum(self._sizes.values()) + size > self._most_bytes:
            slowest = next(iter(self._sizes))
            self.remove(slowest)
            slowest.task.cancel()
            self._refused["unread"] += 1
        self._sizes[connection] = size

    def remove(self, connection: Connection) -> None:
        """It has been read, or will not be."""
        self._sizes.pop(connection, None)


@dataclass(frozen=True)
class Shared:
    """What the connections of a server have in common."""

    site: Site
    limits: HttpLimits
    unread: Unread
    refused: Counter[str]


class Connection:
    """A client's connection. `task` runs it; cancelling that ends it at once."""

    def __init__(self, accepted: socket.socket, peer: str, shared: Shared) -> None:
        """`peer` is the client's address."""
        self.peer = peer
        self.answers = 0
        self.waits_for_client = True
        self.since = time.monotonic()  # waits, or does not
        self._socket, self._site, self._limits = accepted, shared.site, shared.limits
        self._unread, self._refused = shared.unread, shared.refused
        self._context = shared.site.config.tls
        self._http = h11.Connection(h11.SERVER, shared.limits.header_bytes)
        self._is_head = False
        self.task = asyncio.create_task(self._run())

    def close(self) -> None:
        """Once `task` is over: which may have been before it began."""
        self._socket.close()

    async def _run(self) -> None:
        self._stream = await Stream.of(self._socket)
        try:
            await self._serve()
        except TimeoutError:
            self._refused["time"] += 1
        except (OSError, EOFError):
            pass  # the client has gone
        finally:
            self._unread.remove(self)
            self._stream.abort()

    async def _serve(self) -> None:
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                request = await self._request() if await self._open() else None
            while request:
                self.waits_for_client = False
                await self._send(await self._site.answer(request))
                self.answers += 1
                self.waits_for_client, self.since = True, time.monotonic()
                request = await self._next_request()
        except _Refused as refusal:
            self._refused["malformed"] += 1
            await self._send(refusal.answer)
            await self._close(linger=True)
        except ssl.SSLError:
            self._refused["tls"] += 1
            await self._close(linger=True)
        else:
            await self._close()

    async def _open(self) -> bool:
        """Begin TLS, where that is wanted. False: not with this client."""
        context = self._context
        if not context:
            return True
        received = await self._stream.read()
        if not received.startswith(_TLS_HANDSHAKE):
            if received:
                raise _Refused(plain(HTTPStatus.BAD_REQUEST, "this port is for HTTPS"))
            return False
        self._stream = stream = TlsStream(self._stream, context, received)
        await stream.shake_hands()
        sans = self._site.config.allowed_sans
        if sans and not tls.is_allowed(stream.client_certificate(), sans):
            self._refused["tls"] += 1
            return False
        return True

    async def _next_request(self) -> h11.Request | None:
        """The next one; None where there is none, or where it would be served by old rules."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return None
        self._http.start_next_cycle()
        await asyncio.sleep(0)  # who has sent many requests at once lets others in between
        if not self._http.trailing_data[0]:
            try:
                async with asyncio.timeout(self._limits.idle_seconds):
                    self._http.receive_data(await self._stream.read())
            except TimeoutError:
                return None
        async with asyncio.timeout(self._limits.request_seconds):
            request = await self._request()
        return request if request and self._site.config.tls is self._context else None

    async def _request(self) -> h11.Request | None:
        """A whole request; None where the client has closed instead. Raises _Refused."""
        request = None
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise _Refused(plain(HTTPStatus(error.error_status_hint))) from None
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._stream.read())
            elif isinstance(event, h11.Request):
                request, self._is_head = event, event.method == b"HEAD"
                if not request.http_version.startswith(b"1."):
                    raise _Refused(plain(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED))
                headers = dict(request.headers)
                if b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0":
                    raise _Refused(not_allowed(request) or _TOO_LARGE)
            else:
                return request if isinstance(event, h11.EndOfMessage) else None

    async def _send(self, answer: Answer) -> None:
        """Send an answer. Raises TimeoutError where the client does not take it."""
        headers = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", answer.content_type),
            ("Content-Length", str(len(answer.body))),
            *answer.headers,
        ]
        head = h11.Response(status_code=answer.status, headers=headers, reason=answer.status.phrase)
        body = b"" if self._is_head else answer.body
        data = self._http.send(head) or b""
        self._unread.add(self, len(body))
        async with asyncio.timeout(self._limits.answer_seconds):
            for start in range(0, len(body), _WRITE_BYTES):
                piece = h11.Data(data=body[start : start + _WRITE_BYTES])
                await self._stream.write(data + (self._http.send(piece) or b""))
                data = b""
            if data:
                await self._stream.write(data)
        self._http.send(h11.EndOfMessage())
        self._unread.remove(self)

    async def _close(self, linger: bool = False) -> None:
        """Say that it is over.

        Who still sends is read on for a moment: a reset must not take from a client what
        we said last (RFC 9112, 9.6).
        """
        with suppress(TimeoutError, ssl.SSLError):
            async with asyncio.timeout(self._limits.closing_seconds):
                await self._stream.end()
                while linger and await self._stream.read():
                    pass


class _Refused(Exception):
    """This client gets an answer, and no other one."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = replace(answer, headers=(*answer.headers, ("Connection", "close")))
