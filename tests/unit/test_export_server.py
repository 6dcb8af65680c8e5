"""Addresses, and the HTTP server with clients good and bad."""

from __future__ import annotations

import http.client
import re
import socket
import threading
from urllib.parse import urlsplit

import pytest
from prometheus_client import CollectorRegistry, Gauge

from hvtrace.errors import HvtraceError
from hvtrace.export import server as server_module
from hvtrace.export.server import Server, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:10942", ("127.0.0.1", 10942)),
        ("[::1]:10942", ("::1", 10942)),
        (":0", ("", 0)),
        ("[::]:65535", ("::", 65535)),
        ("localhost:1", ("localhost", 1)),
    ],
)
def test_addresses(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text", ["", "10942", "localhost", "::1:10942", "a:b", "a:-1", "a:65536", "a:", "[::1]", "a:1²"]
)
def test_what_is_no_address(text):
    with pytest.raises(
        HvtraceError, match=f'^cannot listen on "{re.escape(text)}": give HOST:PORT'
    ):
        parse_address(text)


@pytest.fixture
def registry():
    registry = CollectorRegistry()
    Gauge("seven", "Seven.", registry=registry).set(7)
    return registry


@pytest.fixture
def served(registry):
    with Server("127.0.0.1:0") as server:
        server.serve(registry)
        yield server


def ask(server: Server, path: str = "/metrics", method: str = "GET", **headers: str):
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    return response, response.read()


def test_metrics(served):
    response, body = ask(served)
    assert (response.status, response.getheader("Content-Type")) == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
    )
    assert b"\nseven 7.0\n" in body


def test_openmetrics_where_it_is_asked_for(served):
    response, body = ask(served, Accept="application/openmetrics-text; version=1.0.0")
    assert response.getheader("Content-Type").startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize("path", ["/", "/metrics/", "/metric", "/favicon.ico"])
def test_nothing_else_is_served(served, path):
    response, body = ask(served, path)
    assert (response.status, body) == (404, b"hvtrace exporter: the metrics are at /metrics\n")


def test_only_get(served):
    assert ask(served, method="POST")[0].status == 405


def test_ipv6(registry):
    with Server("[::1]:0") as server:
        server.serve(registry)
        assert re.fullmatch(r"http://\[::1\]:\d+/metrics", server.url)
        assert ask(server)[0].status == 200


def test_a_name_is_looked_up(registry):
    with Server("localhost:0") as server:
        server.serve(registry)
        assert ask(server)[0].status == 200


def test_a_port_that_is_taken_is_one_line():
    with Server("127.0.0.1:0") as first:
        where = urlsplit(first.url).netloc
        with pytest.raises(
            HvtraceError, match=f"^cannot listen on {where}: Address already in use"
        ):
            Server(where)


@pytest.mark.parametrize("text", ["no-such-host.invalid:1", "192.0.2.1:10942"])
def test_an_address_that_is_not_here_is_one_line(text):
    with pytest.raises(HvtraceError, match=f"^cannot listen on {text}: [A-Z]"):
        Server(text)


def test_the_port_is_free_again_afterwards(registry):
    with Server("127.0.0.1:0") as server:
        server.serve(registry)
        where = urlsplit(server.url).netloc
        assert ask(server)[0].status == 200
    with Server(where) as again:
        assert urlsplit(again.url).netloc == where


def test_before_it_serves_clients_wait_and_are_answered_then(registry):
    """The port is taken before the probes are: a scrape that comes early only waits."""
    with Server("127.0.0.1:0") as server:
        answers = []
        client = threading.Thread(target=lambda: answers.append(ask(server)[0].status))
        client.start()
        client.join(0.2)
        assert answers == []
        server.serve(registry)
        client.join(30)
        assert answers == [200]


@pytest.mark.parametrize(
    "garbage", [b"", b"\r\n\r\n", b"\0" * 1000, b"GET\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n"]
)
def test_garbage_does_no_harm(served, capfd, garbage):
    with socket.create_connection(urlsplit(served.url).netloc.split(":"), timeout=30) as client:
        client.sendall(garbage)
        client.shutdown(socket.SHUT_WR)
        client.recv(10_000)
    assert ask(served)[0].status == 200
    assert capfd.readouterr().err == ""


def test_a_silent_client_neither_blocks_nor_stays(served, monkeypatch, capfd):
    assert server_module._Handler.timeout == server_module.CLIENT_SECONDS == 10
    monkeypatch.setattr(server_module._Handler, "timeout", 0.3)
    with socket.create_connection(urlsplit(served.url).netloc.split(":"), timeout=30) as client:
        client.sendall(b"GET /metr")
        assert ask(served)[0].status == 200
        assert client.recv(10_000) == b""  # hung up on
    assert capfd.readouterr().err == ""


def test_a_client_that_leaves_early_does_no_harm(served, capfd):
    for _ in range(7):
        with socket.create_connection(urlsplit(served.url).netloc.split(":")) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    assert ask(served)[0].status == 200
    assert capfd.readouterr().err == ""
