"""Addresses, and the HTTP server with clients good and bad."""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import socket
import struct
import threading
import time
from http import HTTPStatus
from urllib.parse import urlsplit

import pytest
from serving import LONG, TEXT, everything, serving, seven, wait_until

from hvtrace import __version__
from hvtrace.errors import HvtraceError
from hvtrace.web.limits import REASONS, HttpLimits
from hvtrace.web.server import Server, parse_address
from hvtrace.web.site import wants_gzip

GET = b"GET /metrics HTTP/1.1\r\nHost: h\r\n"
BYE = b"Connection: close\r\n\r\n"


@pytest.fixture
def served():
    with serving() as served:
        yield served
        assert served.said == []


@pytest.fixture(autouse=True)
def nothing_on_stderr(capfd):
    yield
    assert capfd.readouterr().err == ""


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


class TestAnswers:
    def test_metrics(self, served):
        response, body = served.ask()
        assert (response.status, body) == (200, b"seven 7\n")
        headers = dict(response.getheaders())
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT", headers.pop("Date"))
        assert headers == {
            "Content-Type": TEXT,
            "Content-Length": "8",
            "Vary": "Accept, Accept-Encoding",
        }

    def test_what_is_accepted_is_for_metrics_to_choose(self):
        asked = []

        def metrics(accept):
            asked.append(accept)
            return "application/x", b"\0\xff"

        with serving(metrics) as served:
            response, body = served.ask(Accept="application/x;q=0.7, */*")
            assert (response.getheader("Content-Type"), body) == ("application/x", b"\0\xff")
            served.exchange(GET + BYE)
            served.exchange(GET + b"Accept: a\r\naccept: b\r\n" + BYE)
        assert asked == ["application/x;q=0.7, */*", "", "a, b"]

    def test_a_landing_page_that_asks_for_nothing_else(self, served):
        response, body = served.ask("/")
        page = body.decode()
        assert (response.status, response.getheader("Content-Type")) == (
            200,
            "text/html; charset=utf-8",
        )
        assert re.findall(r'(?:href=|src=|url\()"?([^")>]*)', page) == ["/metrics", "/-/healthy"]
        assert f"hvtrace {__version__}" in page

    def test_healthy_without_metrics(self):
        def metrics(accept):
            raise AssertionError

        with serving(metrics) as served:
            response, body = served.ask("/-/healthy")
        assert (response.status, body) == (200, b"hvtrace exporter is healthy\n")

    @pytest.mark.parametrize("path", ["/metrics/", "/metric", "/favicon.ico", "/-/ready", "//"])
    def test_nothing_else_is_served(self, served, path):
        response, body = served.ask(path)
        assert (response.status, body) == (404, b"hvtrace exporter: the metrics are at /metrics\n")

    @pytest.mark.parametrize(
        "target",
        [
            "/metrics?name[]=x",
            "/%6Detrics",
            "http://other.example:1/metrics",
            "https://[::1]/metrics?x",
        ],
    )
    def test_other_ways_to_say_metrics(self, served, target):
        answer = served.exchange(f"GET {target} HTTP/1.1\r\nHost: h\r\n".encode() + BYE)
        assert answer.endswith(b"\r\n\r\nseven 7\n")

    @pytest.mark.parametrize("target", ["*", "metrics", "http://[", "ftp:metrics"])
    def test_targets_that_are_no_path(self, served, target):
        answer = served.exchange(f"GET {target} HTTP/1.1\r\nHost: h\r\n".encode() + BYE)
        assert answer.startswith(b"HTTP/1.1 404 ")

    def test_an_absolute_target_without_a_path_is_the_landing_page(self, served):
        answer = served.exchange(b"GET http://h HTTP/1.1\r\nHost: h\r\n" + BYE)
        assert b"<h1>hvtrace exporter</h1>" in answer

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
    @pytest.mark.parametrize("path", ["/metrics", "/nothing"])
    def test_only_get_and_head(self, served, method, path):
        response, _ = served.ask(path, method)
        assert (response.status, response.getheader("Allow")) == (405, "GET, HEAD")

    @pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy", "/nothing"])
    def test_head_is_get_without_a_body(self, served, path):
        get, body = served.ask(path)
        head, nothing = served.ask(path, "HEAD")
        assert nothing == b""
        assert head.status == get.status
        assert int(head.getheader("Content-Length")) == len(body)
        assert head.getheader("Content-Type") == get.getheader("Content-Type")

    def test_metrics_that_fail_are_one_line_until_they_work_again(self):
        outcomes = iter([ValueError("oh"), ValueError("oh"), None, None, KeyError("no")])

        def metrics(accept):
            if error := next(outcomes):
                raise error
            return TEXT, b"1\n"

        with serving(metrics) as served:
            statuses = [served.ask()[0].status for _ in range(5)]
        assert statuses == [500, 500, 200, 200, 500]
        assert served.said == [
            "metrics cannot be made: ValueError: oh",
            "metrics can be made again",
            "metrics cannot be made: KeyError: 'no'",
        ]


class TestGzip:
    BODY = b"seven 7\n" * 1000

    @pytest.fixture
    def large(self):
        with serving(lambda accept: (TEXT, self.BODY)) as served:
            yield served

    def test_where_it_is_asked_for(self, large):
        response, body = large.ask(Accept_Encoding="deflate, gzip;q=1.0")
        assert response.getheader("Content-Encoding") == "gzip"
        assert len(body) < 100
        assert gzip.decompress(body) == self.BODY

    def test_not_where_it_is_not(self, large):
        for headers in ({}, {"Accept_Encoding": "identity"}, {"Accept_Encoding": "gzip;q=0"}):
            response, body = large.ask(**headers)
            assert (response.getheader("Content-Encoding"), body) == (None, self.BODY)

    def test_not_for_a_little(self, served):
        response, body = served.ask(Accept_Encoding="gzip")
        assert (response.getheader("Content-Encoding"), body) == (None, b"seven 7\n")

    def test_head_tells_its_length(self, large):
        head, _ = large.ask("/metrics", "HEAD", Accept_Encoding="gzip")
        get, _ = large.ask(Accept_Encoding="gzip")
        assert head.getheader("Content-Encoding") == "gzip"
        assert head.getheader("Content-Length") == get.getheader("Content-Length")

    @pytest.mark.parametrize(
        ("header", "wanted"),
        [
            ("", False),
            ("gzip", True),
            ("GZip", True),
            ("x-gzip", True),
            ("br, gzip", True),
            ("br;q=1.0, gzip;q=0.8, *;q=0.1", True),
            ("*", True),
            ("*;q=0", False),
            ("gzip;q=0, *", False),
            ("gzip ; q=0.5", True),
            ("identity;q=0.5, gzip;q=0.4", False),
            ("identity, gzip", True),
            ("gzip;q=x", False),
            ("gzipped", False),
            (",,;", False),
        ],
    )
    def test_who_wants_it(self, header, wanted):
        assert wants_gzip(header) is wanted


class TestConnections:
    def test_one_is_kept_for_many_requests(self, served):
        with served.connect() as client:
            for _ in range(7):
                client.sendall(GET + b"\r\n")
                assert _one(client).startswith(b"HTTP/1.1 200 ")

    def test_answers_leave_at_once(self, served):
        """Not when the client has acknowledged what it got before, such as tickets of TLS."""
        with served.connect() as client:
            client.sendall(GET + b"\r\n")
            _one(client)
            (connection,) = served.server._connections
            assert connection._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def test_many_requests_at_once_are_answered_in_turn(self, served):
        paths = ["/metrics", "/nothing", "/-/healthy"] * 31
        many = b"".join(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode() for path in paths)
        answers = served.exchange(many)
        statuses = re.findall(rb"HTTP/1.1 (\d+)", answers)
        assert statuses == [b"200", b"404", b"200"] * 31

    def test_closed_where_that_is_asked_for(self, served):
        with served.connect() as client:
            client.sendall(GET + BYE)
            assert b"\r\nConnection: close\r\n" in everything(client)

    @pytest.mark.parametrize("keep", [b"", b"Connection: keep-alive\r\n"])
    def test_http_1_0(self, served, keep):
        with served.connect() as client:
            client.sendall(b"GET /metrics HTTP/1.0\r\n" + keep + b"\r\n")
            answer = everything(client)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\nseven 7\n")

    def test_a_client_that_says_no_more_still_gets_its_answer(self, served):
        assert served.exchange(GET + b"\r\n").endswith(b"seven 7\n")

    def test_an_idle_one_is_closed_and_nobody_was_refused(self):
        with serving(idle_seconds=0.05) as served, served.connect() as client:
            client.sendall(GET + b"\r\n")
            assert everything(client).endswith(b"seven 7\n")
            assert served.refused == {}

    def test_one_that_was_never_used_is_nobody_refused(self, served):
        assert served.exchange(b"") == b""
        assert served.refused == {}

    def test_a_client_that_resets_does_no_harm(self, served):
        for request in (b"", b"GET /metr", GET + b"\r\n", (GET + b"\r\n") * 99):
            client = served.connect()
            client.sendall(request)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        assert served.ask()[0].status == 200


class TestBadInput:
    @pytest.mark.parametrize(
        ("request_", "status"),
        [
            (b"\r\n\r\n\r\n", 400),
            (b"\0" * 1000, 400),
            (b"GET\r\n\r\n", 400),
            (b"GET /metrics HTTP/9.9\r\n\r\n", 505),
            (b"GET /metrics HTTP/1.1\r\n\r\n", 400),  # no Host
            (b"GET /met", 400),
            (b"GET /metrics HTTP/1.1\r\nHost : h\r\n\r\n", 400),
            (b"GET /metrics HTTP/1.1\nHost: h\nx\r\n\r\n", 400),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(400), 400),  # TLS
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),  # HTTP/2
            (GET + b"Content-Length: -1\r\n\r\n", 400),
            (GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
            (GET + b"Transfer-Encoding: x\r\n\r\n", 501),
            (GET + b"X: " + b"x" * 21_000 + b"\r\n\r\n", 431),
            (GET + b"X: y\r\n" * 4000 + b"\r\n", 431),
            (b"GET /" + b"m" * 21_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", 431),
            (b"G" * 1_000_000, 431),
        ],
    )
    def test_what_is_no_request(self, served, request_, status):
        answer = served.exchange(request_)
        assert re.match(rb"HTTP/1.1 (\d+)", answer)[1] == str(status).encode()
        assert b"\r\nConnection: close\r\n" in answer
        assert answer.endswith(f"\r\n\r\n{HTTPStatus(status).phrase}\n".encode())
        assert served.refused == {"malformed": 1}
        assert served.ask()[0].status == 200

    def test_a_long_header_that_may_be(self, served):
        answer = served.exchange(GET + b"X: " + b"x" * 16_000 + b"\r\n" + BYE)
        assert answer.endswith(b"seven 7\n")

    @pytest.mark.parametrize(
        "body",
        [
            b"Content-Length: 3\r\n\r\nabc",
            b"Content-Length: 99999999999\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n",
        ],
    )
    def test_no_body_is_taken(self, served, body):
        answer = served.exchange(GET + body)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(b"\r\n\r\nno request has a body here\n")
        assert answer.count(b"HTTP/1.1") == 1
        assert served.refused == {"malformed": 1}

    def test_an_empty_one_is_none(self, served):
        for end in (b"Content-Length: 0\r\n", b"Expect: 100-continue\r\n"):
            assert served.exchange(GET + end + b"\r\n").endswith(b"seven 7\n")

    def test_who_sends_on_can_still_read_what_is_wrong(self, served):
        """A reset because of what is not read would take the answer away."""
        with served.connect() as client:
            client.sendall(b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999\r\n\r\n")
            client.recv(1, socket.MSG_PEEK)
            for _ in range(7):
                client.sendall(b"x" * 3000)
                time.sleep(0.005)
            client.shutdown(socket.SHUT_WR)
            assert everything(client).startswith(b"HTTP/1.1 405 ")

    def test_head_of_what_is_refused(self, served):
        answer = served.exchange(b"HEAD / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert answer.endswith(b"\r\n\r\n")

    def test_a_bad_request_behind_good_ones(self, served):
        answers = served.exchange((GET + b"\r\n") * 3 + b"nonsense\r\n\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200"] * 3 + [b"400"]

    def test_who_never_stops_sending_is_hung_up_on(self):
        with serving(closing_seconds=0.05) as served, served.connect() as client:
            client.sendall(b"nonsense\r\n\r\n")
            with pytest.raises(OSError, match=r"reset|Broken"):
                _send_on(client, b"x" * 1000)


class TestTime:
    def test_defaults(self):
        """What docs/web-config.md says."""
        assert HttpLimits() == HttpLimits(
            connections=128,
            header_bytes=16_384,
            request_seconds=10,
            idle_seconds=120,
            answer_seconds=30,
            closing_seconds=1,
            waiting=16,
            unread_bytes=33_554_432,
        )

    @pytest.mark.parametrize("said", [b"", b"GET /metr", GET])
    def test_a_silent_client_is_hung_up_on(self, said):
        with serving(request_seconds=0.05) as served, served.connect() as client:
            client.sendall(said)
            assert everything(client) == b""
            assert served.refused == {"time": 1}

    def test_so_is_one_that_goes_on_slowly(self):
        """The time is that of the whole request, not of the next byte."""
        with serving(request_seconds=0.2) as served, served.connect() as client:
            begin = time.monotonic()
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
            with pytest.raises(OSError, match=r"reset|Broken"):
                _send_on(client, b"X: y\r\n", pause=0.01)
            assert time.monotonic() - begin < LONG / 2
            assert served.refused == {"time": 1}

    def test_a_later_request_has_its_time_too(self):
        with serving(request_seconds=0.05) as served, served.connect() as client:
            client.sendall(GET + b"\r\n")
            _one(client)
            client.sendall(b"GET")
            assert everything(client) == b""
            assert served.refused == {"time": 1}

    def test_a_client_that_does_not_read_its_answer(self):
        with (
            serving(lambda accept: (TEXT, b"x" * 20_000_000), answer_seconds=0.5) as served,
            served.connect() as client,
        ):
            client.sendall(GET + b"\r\n")
            wait_until(lambda: served.refused == {"time": 1})

    def test_metrics_that_take_too_long_are_a_503(self):
        go_on = threading.Event()

        def metrics(accept):
            go_on.wait(LONG)
            return TEXT, b"1\n"

        with serving(metrics, answer_seconds=0.05) as served:
            response, body = served.ask()
            assert (response.status, body) == (503, b"busy: try again\n")
            assert response.getheader("Retry-After") == "1"
            assert served.ask("/-/healthy")[0].status == 200
            assert served.refused == {"busy": 1}
            go_on.set()


class TestBounds:
    def test_a_newcomer_takes_the_place_of_the_oldest_that_says_nothing(self):
        with serving(connections=3) as served:
            silent = [served.connect() for _ in range(3)]
            wait_until(lambda: len(served.server._connections) == 3)
            assert served.ask()[0].status == 200
            assert everything(silent[0]) == b""
            assert served.refused == {"connections": 1}
            for client in silent[1:]:
                client.sendall(GET + BYE)
                assert everything(client).endswith(b"seven 7\n")

    def test_before_one_that_waits_for_its_next_scrape(self):
        with serving(connections=3) as served, served.connect() as good:
            good.sendall(GET + b"\r\n")
            _one(good)
            silent = [served.connect() for _ in range(2)]
            wait_until(lambda: len(served.server._connections) == 3)
            with served.connect():
                assert everything(silent[0]) == b""
                good.sendall(GET + BYE)
                assert everything(good).endswith(b"seven 7\n")
            silent[1].close()

    def test_whom_nobody_has_yet_looked_at_is_hung_up_on_too(self):
        """Of many who come at once, some go before their task has begun."""
        with serving(connections=2) as served:
            go_on = threading.Event()
            served.loop.call_soon_threadsafe(go_on.wait, LONG)
            many = [served.connect() for _ in range(7)]
            go_on.set()
            for client in many[:5]:
                assert everything(client) == b""
            for client in many:
                client.close()

    def test_but_who_comes_alone_keeps_its_place(self):
        """One machine that opens many connections pushes out its own."""
        with serving(address="[::]:0", connections=4) as served:
            lone = socket.create_connection(("::1", served.port), timeout=LONG)
            wait_until(lambda: len(served.server._connections) == 1)
            many = [served.connect() for _ in range(5)]
            assert everything(many[0]) == everything(many[1]) == b""
            lone.sendall(GET + BYE)
            assert everything(lone).endswith(b"seven 7\n")
            for client in (lone, *many):
                client.close()

    def test_nobody_goes_whose_answer_is_being_made(self):
        go_on = threading.Event()

        def metrics(accept):
            go_on.wait(LONG)
            return TEXT, b"1\n"

        with serving(metrics, connections=2) as served:
            good = [served.connect() for _ in range(2)]
            for client in good:
                client.sendall(GET + BYE)
            wait_until(
                lambda: [one.waits_for_client for one in served.server._connections] == [False] * 2
            )
            with served.connect() as third:
                assert everything(third) == b""
            go_on.set()
            assert all(everything(client).endswith(b"1\n") for client in good)
            assert served.refused == {"connections": 1}

    def test_answers_that_nobody_reads_hold_so_much_memory_and_no_more(self):
        body = b"x" * 20_000_000
        with serving(lambda accept: (TEXT, body), unread_bytes=50_000_000) as served:
            lazy = [served.connect() for _ in range(3)]
            for client in lazy:
                client.sendall(GET + BYE)
                assert client.recv(1) == b"H"  # its answer is on its way
            assert served.refused == {"unread": 1}
            assert len(everything(lazy[0])) < len(body)
            assert everything(lazy[2]).endswith(body)
            lazy[1].close()

    def test_one_answer_may_be_larger_than_that(self):
        with serving(lambda accept: (TEXT, b"x" * 70_001), unread_bytes=1) as served:
            assert len(served.ask()[1]) == 70_001

    def test_scrapes_at_once_share_what_is_made_after_they_came(self):
        begun, go_on = threading.Semaphore(0), threading.Semaphore(0)
        made = []

        def metrics(accept):
            made.append(accept)
            begun.release()
            go_on.acquire(timeout=LONG)
            return TEXT, b"%d\n" % len(made)

        with serving(metrics) as served:
            first = served.connect()
            first.sendall(GET + BYE)
            begun.acquire(timeout=LONG)
            others = [served.connect() for _ in range(7)]
            for client in others:
                client.sendall(GET + BYE)
            wait_until(
                lambda: [one.waits_for_client for one in served.server._connections] == [False] * 8
            )
            go_on.release(2)
            assert everything(first).endswith(b"\n1\n")
            assert {everything(client)[-3:] for client in others} == {b"\n2\n"}
        assert made == ["", ""]

    def test_one_format_is_never_given_for_another(self):
        def metrics(accept):
            time.sleep(0.001)
            return accept, accept.encode() * 2000

        answers = []
        with serving(metrics) as served:
            clients = [
                threading.Thread(
                    target=lambda name=name: answers.append(
                        (name, *served.ask(Accept=name, Accept_Encoding=name)),
                    )
                )
                for name in ("gzip", "identity", "x-gzip", "br") * 3
            ]
            for client in clients:
                client.start()
            for client in clients:
                client.join(LONG)
        assert len(answers) == 12
        for name, response, body in answers:
            assert response.getheader("Content-Type") == name
            assert (response.getheader("Content-Encoding") == "gzip") == ("gzip" in name)
            assert (gzip.decompress(body) if "gzip" in name else body) == name.encode() * 2000

    def test_only_so_many_wait_for_metrics(self):
        go_on = threading.Event()

        def metrics(accept):
            go_on.wait(LONG)
            return TEXT, b"1\n"

        with serving(metrics, waiting=3) as served:
            good = [served.connect() for _ in range(3)]
            for number, client in enumerate(good):
                client.sendall(GET + b"Accept: %d\r\n" % number + BYE)
            wait_until(
                lambda: [one.waits_for_client for one in served.server._connections] == [False] * 3
            )
            response, _ = served.ask()
            assert (response.status, response.getheader("Retry-After")) == (503, "1")
            assert served.ask("/-/healthy")[0].status == 200
            go_on.set()
            assert all(everything(client).endswith(b"\n1\n") for client in good)
            assert served.refused == {"busy": 1}

    def test_those_who_gave_up_leave_no_queue(self):
        go_on = threading.Event()
        made = []

        def metrics(accept):
            made.append(accept)
            go_on.wait(LONG)
            return TEXT, b"1\n"

        with serving(metrics, waiting=3, answer_seconds=0.02) as served:
            for number in range(11):
                assert served.ask(Accept=str(number))[0].status == 503
            go_on.set()
            wait_until(lambda: served.ask(Accept="x")[0].status == 200)
        assert made[:4] == ["0", "1", "2", "3"]
        assert set(made[4:]) == {"x"}

    def test_who_gives_up_takes_nothing_from_who_shares(self):
        go_on = threading.Event()

        def metrics(accept):
            go_on.wait(LONG)
            return TEXT, b"1\n"

        def busy(count):
            states = [one.waits_for_client for one in served.server._connections]
            return states.count(False) == count

        with serving(metrics, answer_seconds=0.2) as served:
            clients = [served.connect() for _ in range(3)]
            for count, (client, accept) in enumerate(zip(clients, b"abb", strict=True), 1):
                client.sendall(GET + b"Accept: %c\r\n" % accept + BYE)
                wait_until(lambda count=count: busy(count))
                time.sleep(0.05)
            assert everything(clients[1]).startswith(b"HTTP/1.1 503 ")
            go_on.set()
            assert everything(clients[2]).endswith(b"\n1\n")
            clients[0].close()

    def test_all_reasons_are_there_from_the_start(self):
        with Server("127.0.0.1:0") as server:
            assert server.refused == dict.fromkeys(REASONS, 0)
            assert list(server.refused) == sorted(REASONS)


class TestListening:
    def test_ipv6(self):
        with serving(address="[::1]:0") as served:
            assert re.fullmatch(r"http://\[::1\]:\d+/metrics", served.server.url)
            with socket.create_connection(("::1", urlsplit(served.server.url).port)) as client:
                client.sendall(GET + BYE)
                assert everything(client).endswith(b"seven 7\n")

    def test_a_name_is_looked_up(self):
        with Server("localhost:0") as server:
            assert re.fullmatch(r"http://(127\.0\.0\.1|\[::1\]):\d+/metrics", server.url)

    def test_a_port_that_is_taken_is_one_line(self):
        with Server("127.0.0.1:0") as first:
            where = urlsplit(first.url).netloc
            with pytest.raises(
                HvtraceError, match=f"^cannot listen on {where}: Address already in use$"
            ):
                Server(where)

    @pytest.mark.parametrize("text", ["no-such-host.invalid:1", "192.0.2.1:10942"])
    def test_an_address_that_is_not_here_is_one_line(self, text):
        with pytest.raises(HvtraceError, match=f"^cannot listen on {text}: [A-Z]"):
            Server(text)

    def test_the_port_is_free_again_afterwards(self):
        with serving() as served:
            where = urlsplit(served.server.url).netloc
            served.ask()
        with Server(where) as again:
            assert urlsplit(again.url).netloc == where

    def test_before_it_serves_clients_wait_and_a_fork_may_answer_them(self):
        """The keeper listens first, then forks; neither thread nor loop may be there yet."""
        threads = set(threading.enumerate())
        with Server("127.0.0.1:0") as server:
            assert set(threading.enumerate()) <= threads
            with socket.create_connection(urlsplit(server.url).netloc.split(":")) as client:
                client.sendall(GET + BYE)
                child = os.fork()
                if child == 0:
                    asyncio.run(asyncio.wait_for(server.serve(seven, print), LONG))
                    os._exit(1)
                assert everything(client).endswith(b"seven 7\n")
            os.kill(child, 9)
            os.waitpid(child, 0)

    async def test_many_in_one_loop(self):
        servers = [Server("127.0.0.1:0") for _ in range(23)]
        metrics = [lambda accept, n=n: (TEXT, b"n %d\n" % n) for n in range(23)]
        tasks = [
            asyncio.create_task(one.serve(its, print))
            for one, its in zip(servers, metrics, strict=True)
        ]

        async def scrape(server):
            address = urlsplit(server.url)
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(GET + BYE)
            answer = await reader.read()
            writer.close()
            return answer.rpartition(b"\r\n")[2]

        answers = await asyncio.gather(*map(scrape, servers))
        assert answers == [b"n %d\n" % n for n in range(23)]
        for task, server in zip(tasks, servers, strict=True):
            task.cancel()
            server.close()
        await asyncio.wait(tasks)

    def test_its_end_is_not_kept_by_clients_of_any_kind(self):
        go_on = threading.Event()
        begun = threading.Event()

        def metrics(accept):
            begun.set()
            go_on.wait(LONG)
            return TEXT, b"1\n"

        with serving(metrics) as served:
            clients = [served.connect() for _ in range(3)]
            clients[0].sendall(GET + b"\r\n")
            clients[1].sendall(b"GET")
            begun.wait(LONG)
            wait_until(lambda: len(served.server._connections) == 3)
        for client in clients:
            assert everything(client) == b""
        go_on.set()

    def test_what_goes_wrong_with_one_client_is_a_line_and_no_more(self, monkeypatch):
        """A defect of ours must not end the service, nor be a traceback."""
        monkeypatch.setattr("hvtrace.web.connection.formatdate", lambda usegmt: 1 / 0)
        with serving() as served:
            assert served.exchange(GET + BYE) == b""
            assert served.exchange(GET + BYE) == b""
        assert served.said == ["a request failed: ZeroDivisionError: division by zero"] * 2


def _one(client: socket.socket) -> bytes:
    """An answer whose body is "seven 7"."""
    answer = b""
    while not answer.endswith(b"seven 7\n"):
        part = client.recv(1000)
        assert part
        answer += part
    return answer


def _send_on(client: socket.socket, data: bytes, pause: float = 0) -> None:
    while True:
        client.sendall(data)
        time.sleep(pause)
