"""A client's bytes as they come and go, by TLS or as they are.

TLS is ssl's own, by memory (SSLObject): asyncio's keeps 256 KiB for each connection, and hangs up
without the alert that tells the client what is wrong with its certificate.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

_READ_BYTES = 4 * 1024

_Result = TypeVar("_Result")


class Stream:
    """Bytes as they are."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @staticmethod
    async def of(accepted: socket.socket) -> Stream:
        """That of a socket, which it closes with itself."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_READ_BYTES)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted)
        transport.set_write_buffer_limits(high=1, low=0)  # what is drained has left
        return Stream(reader, asyncio.StreamWriter(transport, protocol, reader, loop))

    async def read(self) -> bytes:
        """What comes next; b"" at the end."""
        return await self._reader.read(_READ_BYTES)

    async def write(self, data: bytes) -> None:
        """Returns when the kernel has it all."""
        self._writer.write(data)
        await self._writer.drain()

    async def end(self) -> None:
        """Say that no more will come."""
        self._writer.write_eof()

    def abort(self) -> None:
        """Let go at once."""
        self._writer.transport.abort()


class TlsStream(Stream):
    """Bytes by TLS, once hands have been shaken."""

    def __init__(self, below: Stream, context: ssl.SSLContext, received: bytes) -> None:
        """`received` came before we were asked."""
        super().__init__(below._reader, below._writer)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._in.write(received)
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)

    async def shake_hands(self) -> None:
        """Raises ssl.SSLError, of which `end` tells the client, or EOFError: it has gone."""
        await self._do(self._tls.do_handshake)

    def client_certificate(self) -> dict[str, Any] | None:
        """As `ssl.SSLSocket.getpeercert` has it."""
        return self._tls.getpeercert()

    async def read(self) -> bytes:
        """What comes next; b"" at the end. Raises ssl.SSLError."""
        try:
            return await self._do(lambda: self._tls.read(_READ_BYTES))
        except (ssl.SSLZeroReturnError, EOFError):  # with a good-bye, or without
            return b""

    async def write(self, data: bytes) -> None:
        """Returns when the kernel has it all."""
        await self._do(lambda: self._tls.write(data))

    async def end(self) -> None:
        """Say that no more will come."""
        with suppress(ssl.SSLError):  # that it has not been said to us
            self._tls.unwrap()
        await self._flush()  # that, or the alert
        await super().end()

    async def _do(self, step: Callable[[], _Result]) -> _Result:
        """Take a step, with as much as it needs to and fro."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                await self._flush()
            else:
                await self._flush()
                return result
            data = await super().read()
            if not data:
                raise EOFError
            self._in.write(data)

    async def _flush(self) -> None:
        if self._out.pending:
            await super().write(self._out.read())
