"""A thousand bad clients at once, while a good one scrapes: it gets its answers, nothing leaks."""

from __future__ import annotations

import http.client
import json
import os
import random
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from pathlib import Path

import flooded
import pytest
import trustme
from serving import LONG, wait_until

BAD = 1000
SCRAPES = 7
MOST_SECONDS = 5.0  # for one scrape of the good client; half a second where nobody else computes
MOST_MEMORY = 24 << 20  # bytes more than without them
FIRST_BYTES = (
    b"",
    b"GET /met",
    b"GET /metrics HTTP/1.1\r\nHost: h\r\n",
    b"\0" * 4001,
    b"nonsense\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n",  # and never reads its answer
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 31,
    b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\n\r\n",
)


class Process:
    """The server's."""

    def __init__(self, *arguments: str) -> None:
        program = Path(__file__).with_name("flooded.py")
        self._process = subprocess.Popen(
            [sys.executable, str(program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._process.stdout.readline())
        self._proc = Path(f"/proc/{self._process.pid}")

    def memory(self, which: str = "VmRSS") -> int:
        """Bytes that are resident, or were at most ("VmHWM")."""
        lines = (self._proc / "status").read_text().splitlines()
        return int(dict(line.split(":\t", 1) for line in lines)[which].split()[0]) << 10

    def descriptors(self) -> int:
        return len(os.listdir(self._proc / "fd"))

    def state(self) -> tuple[dict[str, int], int]:
        """(refused, number of Python objects)"""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        refused, objects = json.loads(self._process.stdout.readline())
        return refused, objects

    def end(self) -> str:
        """What it said, to us and to stderr, that nobody asked for."""
        self._process.kill()
        return "".join(self._process.communicate(timeout=LONG))


class Flood:
    """A thousand connections; whoever has been longest there is replaced."""

    def __init__(self, port: int) -> None:
        self._port, self._random = port, random.Random(7)
        self._sockets: deque[socket.socket] = deque()

    def go_on(self, count: int) -> None:
        for _ in range(count):
            one = socket.socket()
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(("127.0.0.1", self._port))
            with suppress(OSError):
                one.send(self._random.choice(FIRST_BYTES))
            self._sockets.append(one)
            if len(self._sockets) > BAD:
                self._sockets.popleft().close()

    def end(self) -> None:
        while self._sockets:
            self._sockets.pop().close()


@pytest.fixture
def many_descriptors():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 2 * BAD)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def scrape(port: int, context: ssl.SSLContext | None) -> float:
    """Seconds that it took."""
    begin = time.monotonic()
    if context:
        client = http.client.HTTPSConnection("localhost", port, timeout=LONG, context=context)
    else:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=LONG)
    client.request("GET", "/metrics")
    assert client.getresponse().read() == flooded.BODY
    client.close()
    return time.monotonic() - begin


def bothered(flood: Flood, server: Process, context: ssl.SSLContext | None) -> float:
    flood.go_on(71)
    return scrape(server.port, context)


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_flood(tmp_path, many_descriptors, encrypted):
    context = None
    arguments = ()
    if encrypted:
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost")
        leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
        both = "cert_file: both.pem, key_file: both.pem"
        (tmp_path / "web.yml").write_text(f"tls_server_config: {{{both}}}\n")
        arguments = (str(tmp_path / "web.yml"),)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
    server = Process(*arguments)
    flood = Flood(server.port)
    try:
        descriptors = server.descriptors()
        for _ in range(3):
            scrape(server.port, context)
        wait_until(lambda: server.descriptors() == descriptors)
        memory, (_, objects) = server.memory(), server.state()
        flood.go_on(BAD)
        times = [bothered(flood, server, context) for _ in range(SCRAPES)]
        flood.end()
        wait_until(lambda: server.descriptors() == descriptors)
        refused, objects_after = server.state()
        print(f"scrapes took {min(times):.3f} to {max(times):.3f} s; {refused}")
        print(f"{memory >> 10} KiB, then {server.memory('VmHWM') >> 10}; {objects} objects")
        assert max(times) < MOST_SECONDS
        assert server.memory("VmHWM") < memory + MOST_MEMORY
        assert objects_after < objects + BAD / 10
        assert refused["connections"] > BAD / 2
        assert refused["malformed"] > 100
    finally:
        flood.end()
        assert server.end() == ""
