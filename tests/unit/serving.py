"""A server in a thread of its own, and clients that say what they want, byte by byte."""

from __future__ import annotations

import asyncio
import http.client
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hvtrace.web.limits import HttpLimits
from hvtrace.web.render import Metrics
from hvtrace.web.server import Server
from hvtrace.web.webconfig import Web

TEXT = "text/plain; version=0.0.4; charset=utf-8"
LONG = 30.0
"""Seconds that no test takes."""


def seven(accept: str) -> tuple[str, bytes]:
    return TEXT, b"seven 7\n"


@dataclass
class Served:
    """A server that serves."""

    server: Server
    loop: asyncio.AbstractEventLoop
    said: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.server._socket.getsockname()[1])

    @property
    def refused(self) -> Counter[str]:
        """Those of the server that are not 0."""
        return +self.server.refused

    def connect(self, context: ssl.SSLContext | None = None) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=LONG)
        return context.wrap_socket(plain, server_hostname="localhost") if context else plain

    def exchange(self, request: bytes, context: ssl.SSLContext | None = None) -> bytes:
        """All that a client gets who sends this and closes its end."""
        with self.connect(context) as client:
            client.sendall(request)
            if not context:
                client.shutdown(socket.SHUT_WR)
            return everything(client)

    def ask(
        self,
        path: str = "/metrics",
        method: str = "GET",
        *,
        body: bytes | None = None,
        context: ssl.SSLContext | None = None,
        **headers: str,
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """(response, body), by the standard library's client."""
        if context:
            client = http.client.HTTPSConnection(
                "localhost", self.port, timeout=LONG, context=context
            )
        else:
            client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LONG)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        client.request(method, path, body=body, headers=named)
        response = client.getresponse()
        content = response.read()
        client.close()
        return response, content


def everything(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    parts = []
    while part := client.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def wait_until(what: Callable[[], object]) -> None:
    """Look every millisecond whether it is so; fail where it never is."""
    end = time.monotonic() + LONG
    while not what():
        assert time.monotonic() < end
        time.sleep(0.001)


@contextmanager
def serving(
    metrics: Metrics = seven,
    *,
    web: Path | None = None,
    address: str = "127.0.0.1:0",
    **limits: float,
) -> Iterator[Served]:
    """Serve until the block is left; then nothing may be left of it."""
    with Server(address, HttpLimits(**limits)) as server:  # type: ignore[arg-type]
        loop = asyncio.new_event_loop()
        served = Served(server, loop)
        if web:
            server.web = Web(web, served.said.append)
        task = loop.create_task(server.serve(metrics, served.said.append))
        thread = threading.Thread(target=lambda: loop.run_until_complete(_quietly(task)))
        thread.start()
        try:
            yield served
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join(LONG)
            assert not thread.is_alive()
            left = asyncio.all_tasks(loop)
            loop.close()
            assert not left
            assert not server._connections


async def _quietly(task: asyncio.Task[None]) -> None:
    await asyncio.wait([task])
    assert task.cancelled(), task.exception()
    await asyncio.sleep(0)  # the transports close their sockets
