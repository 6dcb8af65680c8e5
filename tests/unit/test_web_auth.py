"""Passwords: who gets in, what it costs, and what it may not cost."""

from __future__ import annotations

import asyncio
import base64
import threading

import bcrypt
import pytest
from serving import LONG, serving

from hvtrace.web import auth
from hvtrace.web.auth import Passwords, credentials
from hvtrace.web.render import Busy


def hashed(password: str, cost: int = 4, prefix: bytes = b"2b") -> bytes:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).replace(b"2b", prefix, 1)


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


USERS = {"alice": hashed("wonder"), "bob": hashed("häuser", prefix=b"2y"), "c": hashed("")}


@pytest.fixture
def checks(monkeypatch):
    """Hashes that bcrypt was asked about."""
    asked = []

    def checkpw(password, against):
        asked.append(against)
        return check(password, against)

    check = bcrypt.checkpw
    monkeypatch.setattr(auth.bcrypt, "checkpw", checkpw)
    return asked


@pytest.fixture
def passwords():
    passwords = Passwords()
    yield passwords
    passwords.close()


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"", None),
        (b"Basic", None),
        (b"Basic !!", None),
        (b"Basic eA==", None),  # no colon
        (b"Bearer eDp5", None),
        (b"Basic eDp5, Basic eDp5", None),
        (b"Basic eDp5", ("x", b"y")),
        (b"bASIC  eDp5 ", ("x", b"y")),
        (b"Basic Ojo=", ("", b":")),
        (b"Basic w6TDvDrDtg==", ("äü", "ö".encode())),
        (b"Basic /zr/", ("\udcff", b"\xff")),
    ],
)
def test_what_a_header_says(header, said):
    assert credentials(header) == said


@pytest.mark.parametrize(
    ("user", "password", "right"),
    [
        ("alice", b"wonder", True),
        ("bob", "häuser".encode(), True),
        ("c", b"", True),
        ("alice", b"Wonder", False),
        ("alice", b"", False),
        ("alice", b"wonder\0", False),
        ("bob", b"wonder", False),
        ("Alice", b"wonder", False),
        ("", b"", False),
        ("nobody", b"wonder", False),  # alice's hash is checked for who is not known
        ("\udcff", b"\xff\0", False),
    ],
)
async def test_who_gets_in(passwords, user, password, right):
    for _ in range(2):  # the second is remembered
        assert await passwords.are_right(USERS, user, password) is right


async def test_bcrypt_looks_at_72_bytes(passwords):
    """So does Go's; newer Pythons' would raise an error."""
    users = {"a": hashed("x" * 72)}
    assert await passwords.are_right(users, "a", b"x" * 72)
    assert await passwords.are_right(users, "a", b"x" * 73)
    assert not await passwords.are_right(users, "a", b"x" * 71)


async def test_it_is_paid_for_once(passwords, checks):
    for _ in range(7):
        assert await passwords.are_right(USERS, "alice", b"wonder")
        assert not await passwords.are_right(USERS, "alice", b"blunder")
    assert len(checks) == 2


async def test_who_is_not_known_costs_the_same(passwords, checks):
    await passwords.are_right(USERS, "alice", b"x")
    await passwords.are_right(USERS, "nobody", b"x")
    assert checks == [USERS["alice"]] * 2


async def test_a_new_password_ends_the_old_one(passwords):
    assert await passwords.are_right(USERS, "alice", b"wonder")
    new = USERS | {"alice": hashed("land")}
    assert not await passwords.are_right(new, "alice", b"wonder")
    assert await passwords.are_right(new, "alice", b"land")
    without = {"bob": USERS["bob"]}
    assert not await passwords.are_right(without, "alice", b"land")


async def test_wrong_passwords_are_forgotten_before_right_ones(passwords, checks, monkeypatch):
    monkeypatch.setattr(auth, "_REMEMBERED", 7)
    assert await passwords.are_right(USERS, "alice", b"wonder")
    for number in range(11):
        assert not await passwords.are_right(USERS, "alice", b"%d" % number)
    assert sum(map(len, passwords._known.values())) == 8
    before = len(checks)
    assert await passwords.are_right(USERS, "alice", b"wonder")
    assert not await passwords.are_right(USERS, "alice", b"10")
    assert len(checks) == before
    assert not await passwords.are_right(USERS, "alice", b"0")
    assert len(checks) == before + 1


async def test_what_is_remembered_is_no_password(passwords):
    await passwords.are_right(USERS, "alice", b"wonder")
    assert "wonder" not in repr(passwords._known) + repr(vars(passwords))


async def test_only_so_many_wait_and_who_is_known_does_not(passwords, monkeypatch):
    assert await passwords.are_right(USERS, "alice", b"wonder")
    go_on = threading.Event()
    threads = set()

    def slow(password, against):
        threads.add(threading.current_thread())
        go_on.wait(LONG)
        return False

    monkeypatch.setattr(auth, "_fits", slow)
    waiting = [
        asyncio.create_task(passwords.are_right(USERS, "alice", b"%d" % number))
        for number in range(auth._WAITING)
    ]
    await asyncio.sleep(0)
    with pytest.raises(Busy):
        await passwords.are_right(USERS, "alice", b"one more")
    assert await passwords.are_right(USERS, "alice", b"wonder")
    go_on.set()
    assert await asyncio.gather(*waiting) == [False] * auth._WAITING
    assert len(threads) == 1
    assert threading.current_thread() not in threads


class TestServed:
    @pytest.fixture
    def served(self, tmp_path):
        file = tmp_path / "web.yml"
        lines = "".join(f"  {name}: {text.decode()}\n" for name, text in USERS.items())
        file.write_text(
            f"basic_auth_users:\n{lines}"
            "http_server_config: {headers: {X-Frame-Options: deny}}\n"
        )
        with serving(web=file) as served:
            yield served
            assert served.said == []

    @pytest.mark.parametrize("path", ["/", "/metrics", "/-/healthy", "/nothing"])
    @pytest.mark.parametrize(
        "headers", [{}, {"Authorization": basic("alice", "x")}, {"Authorization": "Bearer x"}]
    )
    def test_nothing_is_shown_without_a_password(self, served, path, headers):
        for method in ("GET", "POST"):
            response, body = served.ask(path, method, **headers)
            assert (response.status, body) == (401, b"Unauthorized\n")
            challenge = response.getheader("WWW-Authenticate")
            assert challenge == 'Basic realm="hvtrace", charset="UTF-8"'
            assert response.getheader("X-Frame-Options") == "deny"
        assert served.refused == {"auth": 2}

    def test_with_it_all_is(self, served):
        response, body = served.ask(Authorization=basic("bob", "häuser"))
        assert (response.status, body) == (200, b"seven 7\n")
        assert response.getheader("X-Frame-Options") == "deny"
        assert served.ask("/-/healthy", Authorization=basic("alice", "wonder"))[0].status == 200
        assert served.refused == {}

    def test_two_headers_are_none(self, served):
        twice = f"Authorization: {basic('alice', 'wonder')}\r\n".encode() * 2
        answer = served.exchange(b"GET / HTTP/1.1\r\nHost: h\r\n" + twice + b"\r\n")
        assert answer.startswith(b"HTTP/1.1 401 ")

    def test_the_event_loop_goes_on_meanwhile(self, served, monkeypatch):
        """And a flood of guesses is refused, not queued."""
        assert served.ask(Authorization=basic("alice", "wonder"))[0].status == 200
        go_on = threading.Event()
        monkeypatch.setattr(auth, "_fits", lambda *_: go_on.wait(LONG) and False)
        guesses = [served.connect() for _ in range(auth._WAITING + 3)]
        for number, client in enumerate(guesses):
            header = f"Authorization: {basic('alice', str(number))}"
            client.sendall(f"GET / HTTP/1.1\r\nHost: h\r\n{header}\r\n\r\n".encode())
        for client in guesses[auth._WAITING :]:
            assert client.recv(12) == b"HTTP/1.1 503"
        assert served.ask(Authorization=basic("alice", "wonder"))[0].status == 200
        go_on.set()
        for client in guesses[: auth._WAITING]:
            assert client.recv(12) == b"HTTP/1.1 401"
        for client in guesses:
            client.close()


def test_a_limited_rate(tmp_path):
    file = tmp_path / "web.yml"
    file.write_text("rate_limit: {interval: 1h, burst: 3}\n")
    with serving(web=file) as served:
        statuses = [served.ask(path)[0].status for path in ("/", "/metrics", "/x", "/", "/metrics")]
        assert statuses == [200, 200, 404, 429, 429]
        assert served.refused == {"rate": 2}
