"""Two processes: what each may do, and what becomes of one when the other is gone."""

from __future__ import annotations

import ast
import os
import pwd
import re
import select
import signal
from pathlib import Path

import numpy as np
import pytest
from samples import FakeSource, row, snapshot

from hvtrace.errors import HvtraceError
from hvtrace.export import privileges
from hvtrace.export.keeper import Front, RemoteSource
from hvtrace.stats.snapshot import rollup

SNAPSHOT = snapshot([row(latencies_ns=[700] * 7, tid=11), row(latencies_ns=[911] * 5, tid=13)])


def front_of(serve, keep=()) -> Front:
    return Front(serve, None, keep)


def answers(serve, source, times: int = 1) -> list[bytes]:
    """What `serve(RemoteSource)` has to say, bytes at a time, while `source` is kept for it."""
    read, write = os.pipe()

    def run(keeper):
        remote = RemoteSource(keeper)
        os.write(write, repr(serve(remote)).encode())
        signal.pause()

    with front_of(run, (write,)) as front:
        front.begin(source)
        for _ in range(times):
            assert front_is_waiting(front)
            front.answer(source)
        said = os.read(read, 65536)
    os.close(read)
    os.close(write)
    return said


def front_is_waiting(front: Front) -> bool:
    return bool(select.select([front], [], [], 30)[0])


def test_the_front_gets_the_keeper_s_snapshot_rolled_up():
    def serve(remote):
        got = remote.snapshot()
        want = rollup(SNAPSHOT)
        same = np.array_equal(got.rows, want.rows), got.vms == want.vms, got.lost == want.lost
        return (remote.kernel, remote.interface == FakeSource(SNAPSHOT).interface, *same)

    source = FakeSource(SNAPSHOT)
    assert answers(serve, source) == repr((source.kernel, True, True, True, True)).encode()


def test_a_source_that_fails_is_told_to_the_front_and_may_be_back():
    class Failing(FakeSource):
        def snapshot(self):
            failing.append(1)
            if len(failing) == 1:
                raise OSError("no memory")
            return super().snapshot()

    failing: list[int] = []

    def serve(remote):
        with pytest.raises(HvtraceError, match=r"^no memory$"):
            remote.snapshot()
        return len(remote.snapshot().rows)

    assert answers(serve, Failing(SNAPSHOT), 2) == b"1"


def test_what_ends_the_source_ends_the_exporter():
    class Over(FakeSource):
        def snapshot(self):
            raise HvtraceError("another KVM was loaded")

    with pytest.raises(HvtraceError, match="another KVM"):
        answers(lambda remote: remote.snapshot(), Over(SNAPSHOT))


@pytest.mark.parametrize(
    ("problem", "line"),
    [
        (HvtraceError("web.yml: no such key"), "^web.yml: no such key$"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (ZeroDivisionError(), "ZeroDivisionError"),
    ],
)
def test_a_front_that_cannot_serve_says_why_before_anything_is_loaded(problem, line):
    def serve(keeper):
        raise problem

    with pytest.raises(HvtraceError, match=line):
        front_of(serve)


def test_a_front_that_ends_at_once_is_said():
    with pytest.raises(HvtraceError, match="has ended: start the exporter again"):
        front_of(lambda keeper: None)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_front_that_is_killed_ends_the_keeper(number):
    def serve(keeper):
        RemoteSource(keeper)
        os.kill(os.getpid(), number)

    with front_of(serve) as front:
        front.begin(FakeSource(SNAPSHOT))
        assert front_is_waiting(front)
        with pytest.raises(HvtraceError, match="has ended"):
            front.answer(FakeSource(SNAPSHOT))


def test_a_front_that_falls_later_says_why():
    def serve(keeper):
        RemoteSource(keeper)
        raise ZeroDivisionError("of all things")

    with front_of(serve) as front:
        front.begin(FakeSource(SNAPSHOT))
        assert front_is_waiting(front)
        with pytest.raises(HvtraceError, match="has ended: of all things"):
            front.answer(FakeSource(SNAPSHOT))


def test_nothing_is_asked_while_the_front_is_silent():
    def serve(keeper):
        RemoteSource(keeper)
        signal.pause()

    source = FakeSource(SNAPSHOT)
    with front_of(serve) as front:
        front.begin(source)
        front.answer(source)
    assert source.taken == 0


def test_the_front_has_no_descriptor_but_those_it_needs():
    """None of the loader's pipes: the loader would wait for their end."""
    secret, other = os.pipe()
    said = answers(lambda remote: os.listdir("/proc/self/fd"), FakeSource(SNAPSHOT), 0)
    os.close(secret)
    os.close(other)
    fds = {int(name) for name in re.findall(rb"[0-9]+", said)}
    # stdin, stdout, stderr, the keeper, what was asked for, and the folder being listed.
    assert len(fds) == 6
    assert not fds & {secret, other} - {max(fds)}


def test_nothing_is_left_of_capabilities_and_none_comes_back():
    status = Path("/proc/self/status")
    said = answers(lambda remote: status.read_text(), FakeSource(SNAPSHOT), 0)
    for line in (r"CapEff:\t0{16}", r"CapPrm:\t0{16}", r"CapInh:\t0{16}", r"NoNewPrivs:\t1"):
        assert re.search(line, ast.literal_eval(said.decode())), line


def test_who_serves(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    nobody = pwd.getpwnam("nobody")
    assert privileges.find_user(None) == (nobody.pw_uid, nobody.pw_gid)
    assert privileges.find_user("daemon") == (1, 1)
    with pytest.raises(HvtraceError, match="there is no user no-such-user: --user takes another"):
        privileges.find_user("no-such-user")
    with pytest.raises(HvtraceError, match="--user root: HTTP is served without privileges"):
        privileges.find_user("root")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert privileges.find_user(None) is None
    with pytest.raises(HvtraceError, match="--user daemon: only root can serve as another user"):
        privileges.find_user("daemon")


def test_ctrl_c_is_the_keeper_s():
    def serve(keeper):
        RemoteSource(keeper)
        os.kill(os.getpid(), signal.SIGINT)
        keeper.send_bytes(b"?")
        signal.pause()

    source = FakeSource(SNAPSHOT)
    with front_of(serve) as front:
        front.begin(source)
        assert front_is_waiting(front)
        front.answer(source)
    assert source.taken == 1
