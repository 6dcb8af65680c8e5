"""Counting that outlives its process: pinned, left alone, carried on with, removed."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.kernel import bpf, live
from hvtrace.kernel.live import LiveSource
from hvtrace.kernel.pins import About, unpin
from hvtrace.kernel.programs import EVENTS
from hvtrace.stats.snapshot import completed
from tests.bpf.conftest import in_thread
from tests.bpf.test_clean_end import gone, loaded
from tests.bpf.tracer import Tracer

FLUSH, POST = 0x02, 0x5C
PINS = 8 + 4 + 4 + 1  # maps, programs, links, what they are
HVTRACE = str(Path(sys.executable).with_name("hvtrace"))


@pytest.fixture(scope="module")
def bpffs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A BPF file system of our own: what others have pinned is not ours to touch."""
    folder = tmp_path_factory.mktemp("bpf")
    subprocess.run(["mount", "-t", "bpf", "bpf", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture
def pin(bpffs: Path) -> Iterator[Path]:
    before = loaded()
    folder = bpffs / "hvtrace"
    yield folder
    with suppress(HvtraceError):
        unpin(folder)
    assert gone(before)


class Guest:
    """Makes calls by way of the pinned programs, whoever looks on."""

    def __init__(self, pin: Path) -> None:
        self._programs = [
            bpf.pinned(pin / f"hvt_program_{name}")
            for name in ("kvm_hv_hypercall", "kvm_hv_hypercall_done")
        ]

    def begin(self, code: int = FLUSH) -> None:
        bpf.run_raw_tracepoint(self._programs[0], code, 0, 0, 0, 0, 0x1000, 0)

    def done(self) -> None:
        bpf.run_raw_tracepoint(self._programs[1], 0)

    def calls(self, count: int, code: int = FLUSH) -> None:
        for _ in range(count):
            self.begin(code)
            self.done()

    def close(self) -> None:
        for fd in self._programs:
            os.close(fd)


@contextmanager
def guest(pin: Path) -> Iterator[Guest]:
    one = Guest(pin)
    try:
        yield one
    finally:
        one.close()


@contextmanager
def vmm(pin: Path, count: int, look: Callable[[], object]) -> Iterator[int]:
    """Another process that makes calls, is looked at, and ends; its pid."""
    ours, theirs = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        Guest(pin).calls(count, POST)
        os.write(theirs[1], b".")
        os.close(ours[1])
        os.read(ours[0], 1)
        os._exit(0)
    os.read(theirs[0], 1)
    look()
    yield pid
    for fd in (*ours, *theirs):
        os.close(fd)
    os.waitpid(pid, 0)


def total(tracer: Tracer) -> int:
    snapshot = tracer.snapshot()
    return int(completed(snapshot.rows).sum() + snapshot.rows["unfinished"].sum())


def rewrite(pin: Path, change: Callable[[bytes], bytes]) -> None:
    """Change what the pins say of themselves."""
    fd = bpf.pinned(pin / "hvt_about")
    with mmap.mmap(fd, 4096) as memory:
        text = change(memory[:].rstrip(b"\0"))
        memory[:] = text.ljust(4096, b"\0")
    os.close(fd)


def reword(**values: object) -> Callable[[bytes], bytes]:
    return lambda text: json.dumps({**json.loads(text), **values}).encode()


# --- what goes on


@pytest.mark.parametrize("end", [Tracer.kill, Tracer.end])
def test_counting_goes_on_without_a_process(pin: Path, end: Callable[[Tracer], None]) -> None:
    with Tracer(pin) as tracer, guest(pin) as calls:
        calls.calls(17)
        assert total(tracer) == 17
        end(tracer)
        calls.calls(13)
        calls.begin()
    with guest(pin) as calls, Tracer(pin, may_load=False) as tracer:
        calls.done()  # a call from before the restart to after it
        calls.calls(11)
        assert total(tracer) == 17 + 13 + 1 + 11
        assert tracer.said[-1:] == [f"counting goes on in {pin}"]
        snapshot = tracer.snapshot()
        assert snapshot.lost == type(snapshot.lost)()
        assert {probe.name for probe in snapshot.probes if probe.attached} == {*EVENTS}


def test_many_short_lives(pin: Path) -> None:
    made = 0
    for i in range(7):
        with Tracer(pin, may_load=not i) as tracer, guest(pin) as calls:
            calls.calls(3)
            in_thread(lambda calls=calls: calls.calls(5, POST))
            made += 3 + 5
            assert total(tracer) == made
            tracer.kill()
            in_thread(lambda calls=calls: calls.calls(2, POST))
            made += 2


def test_threads_that_ended_keep_their_vm_and_their_vcpu(pin: Path) -> None:
    with Tracer(pin, vcpu_times=True) as tracer:
        with vmm(pin, 19, tracer.snapshot) as pid:
            before = tracer.snapshot()
        ended = tracer.snapshot()
        assert ended.rows["tid"].tolist() == [0]
        tracer.kill()
    with Tracer(pin, vcpu_times=True) as tracer:
        after = tracer.snapshot()
    [vm] = after.vms
    assert (vm.pid, vm.identity, vm.name) == (pid, before.vms[0].identity, before.vms[0].name)
    assert vm.ended
    assert completed(after.rows).tolist() == [19]
    assert after.vcpus.tolist() == ended.vcpus.tolist()


def test_a_thread_that_nobody_saw_has_its_own_name_and_pid(pin: Path) -> None:
    Tracer(pin).kill()
    with vmm(pin, 19, lambda: None) as pid:
        comm = Path(f"/proc/{pid}/comm").read_text().strip()
    with Tracer(pin) as tracer:
        [vm] = tracer.snapshot().vms
        assert (vm.pid, vm.name, vm.ended) == (pid, f"{comm}-{pid}", True)
        assert total(tracer) == 19


def test_a_vm_that_ended_is_served_for_a_while_from_the_new_start_on(pin: Path) -> None:
    with Tracer(pin) as tracer:
        with vmm(pin, 19, tracer.snapshot):
            pass
        tracer.snapshot()
        tracer.kill()
    with Tracer(pin, keep_ended_seconds=-1) as tracer:
        assert total(tracer) == 19
        assert total(tracer) == 0
        tracer.kill()
    with Tracer(pin) as tracer:
        assert total(tracer) == 0  # and it is forgotten in the maps, too


def test_room_comes_back_with_the_end_of_a_vm(pin: Path) -> None:
    """Far more VMs, one after another, than there is room for at once."""
    for i in range(5):
        with Tracer(pin, slots=5, keep_ended_seconds=-1, may_load=not i) as tracer:
            for _ in range(3):
                with vmm(pin, 7, tracer.snapshot) as pid:
                    pass
                snapshot = tracer.snapshot()
                assert [vm.pid for vm in snapshot.vms] == [pid]
                assert completed(snapshot.rows).tolist() == [7]
                assert total(tracer) == 0
            assert tracer.snapshot().lost.no_slot == 0
            tracer.kill()


# Of Maps.recycle, in the order that they are run: each but the first is behind one that changes
# what is pinned.
@pytest.mark.parametrize("line", [1, 4, 5, 7, 12, 15, 22, 23])
def test_killed_while_room_is_given_back(pin: Path, line: int) -> None:
    """Some of it may be gone for good; none of it is used twice, and no call is lost."""
    room = 7
    with Tracer(pin, slots=room, keep_ended_seconds=-1, dies_recycling=line) as tracer:
        with guest(pin) as calls:
            calls.calls(23)
        with vmm(pin, 19, tracer.snapshot):
            pass
        with pytest.raises(EOFError):
            tracer.snapshot()
        tracer.kill()
    with Tracer(pin, slots=room, keep_ended_seconds=-1, may_load=False) as tracer:
        with guest(pin) as calls:
            assert total(tracer) in (23, 23 + 19)  # of a VM that has ended; it is forgotten now
            assert total(tracer) == 23
            codes = range(0x100, 0x100 + 2 * room)
            for code in codes:
                calls.calls(3, code)
            snapshot = tracer.snapshot()
            found = dict(
                zip(snapshot.rows["code"].tolist(), completed(snapshot.rows).tolist(), strict=True)
            )
        lost = snapshot.lost.no_slot
        assert found.pop(FLUSH) == 23
        assert room - 2 <= len(found) <= room - 1
        assert set(found.values()) == {3}
        assert lost == 3 * (len(codes) - len(found))


# --- what begins again


def begins_again(pin: Path, because: str, **options: object) -> None:
    with Tracer(pin, **options) as tracer, guest(pin) as calls:  # type: ignore[arg-type]
        assert tracer.said[-1] == f"counting begins again in {pin}: {because}"
        assert total(tracer) == 0
        calls.calls(3)
        assert total(tracer) == 3
        tracer.kill()
    with Tracer(pin, may_load=False, **options) as tracer:  # type: ignore[arg-type]
        assert tracer.said[-1] == f"counting goes on in {pin}"
        assert total(tracer) == 3


@pytest.fixture
def left(pin: Path) -> Path:
    """Pinned, with calls, and nobody there."""
    with Tracer(pin) as tracer, guest(pin) as calls:
        calls.calls(5)
        tracer.kill()
    return pin


@pytest.mark.parametrize(
    ("option", "because"),
    [
        ({"slots": 8191}, "--slots was 16384 and is 8191"),
        ({"pid": os.getpid()}, f"--pid was not given and is {os.getpid()}"),
        ({"code": FLUSH}, "--code was not given and is 2"),
    ],
)
def test_other_options(left: Path, option: dict[str, int], because: str) -> None:
    begins_again(left, because, **option)


def test_another_layout(left: Path) -> None:
    rewrite(left, reword(layout=3, version="0.3.0"))
    begins_again(left, "hvtrace 0.3.0 keeps its counters in layout 3, this one in 4")


def test_another_kvm(left: Path) -> None:
    rewrite(left, lambda text: text.replace(b'"HVT_REP_CNT": "3"', b'"HVT_REP_CNT": "2"'))
    begins_again(left, "another KVM is loaded than the programs were made for")


def test_programs_of_another_version_go_on(left: Path) -> None:
    rewrite(left, reword(version="9.9.9", programs="0"))
    with Tracer(left, may_load=False) as tracer:
        assert "programs of hvtrace 9.9.9" in tracer.said[-1]
        assert total(tracer) == 5


@pytest.mark.parametrize("text", [b"", b'{"layout": 4}', b"\xff" * 4096])
def test_pins_that_say_nothing_of_themselves(left: Path, text: bytes) -> None:
    rewrite(left, lambda _: text)
    begins_again(left, "what is pinned there was never finished")


def test_killed_before_it_was_finished(left: Path) -> None:
    (left / "hvt_about").unlink()
    begins_again(left, "what is pinned there was never finished")


@pytest.mark.parametrize("pinned", [2, 13, PINS])
def test_killed_while_it_pins(pin: Path, pinned: int) -> None:
    """Whatever the place: what is half there is of no use, and goes with the next start."""
    with pytest.raises(EOFError):
        Tracer(pin, dies_pinning=pinned)
    assert len(os.listdir(pin)) == pinned - 1
    begins_again(pin, "what is pinned there was never finished")
    assert len(os.listdir(pin)) == PINS


@pytest.mark.parametrize("removed", [1, 3])
def test_killed_while_it_removes(left: Path, removed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    unlink, done = Path.unlink, []

    def remove(path: Path) -> None:
        if len(done) == removed:
            raise KeyboardInterrupt
        done.append(path)
        unlink(path)

    monkeypatch.setattr(Path, "unlink", remove)
    with pytest.raises(KeyboardInterrupt):
        unpin(left)
    monkeypatch.undo()
    assert len(os.listdir(left)) == PINS - removed
    begins_again(left, "what is pinned there was never finished")


def test_something_else_in_the_place_of_what_they_say(left: Path) -> None:
    (left / "hvt_about").unlink()
    program = bpf.pinned(left / f"hvt_program_{EVENTS[0]}")
    bpf.pin(program, left / "hvt_about")
    os.close(program)
    begins_again(left, "what is pinned there was never finished")


@pytest.mark.parametrize(
    "name", ["hvt_map_slots", "hvt_program_kvm_hv_hypercall", f"hvt_link_{EVENTS[0]}"]
)
def test_a_part_is_gone(left: Path, name: str) -> None:
    (left / name).unlink()
    begins_again(left, "a part of it is gone")


def test_links_that_were_let_go_of_are_attached_again(left: Path) -> None:
    """As when KVM was unloaded before the end."""
    for event in EVENTS[1:]:
        (left / f"hvt_link_{event}").unlink()
    with Tracer(left, may_load=False) as tracer:
        assert tracer.said[-1].startswith("KVM was unloaded meanwhile: attached again")
        assert all(probe.attached for probe in tracer.snapshot().probes)
        assert total(tracer) == 5
        tracer.kill()
    assert {*(f"hvt_link_{event}" for event in EVENTS)} < set(os.listdir(left))


def test_what_cannot_be_replaced_stays(left: Path) -> None:
    with pytest.raises(HvtraceError, match="it wants to compile and load"):
        Tracer(left, slots=8191, may_load=False)
    with guest(left) as calls, Tracer(left) as tracer:
        calls.calls(2)
        assert total(tracer) == 5 + 2


def test_a_start_that_fails_leaves_nothing(pin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise HvtraceError("cannot attach")

    monkeypatch.setattr(LiveSource, "attach", fail)
    before = loaded()
    with pytest.raises(HvtraceError, match="cannot attach"):
        live.open_source(anyway=True, pin=pin, say=lambda _: None)
    assert not pin.exists()
    assert gone(before)


# --- who may


def test_one_at_a_time(left: Path) -> None:
    with Tracer(left) as tracer:
        for _ in range(2):
            with pytest.raises(HvtraceError, match=f"another hvtrace uses {left}"):
                Tracer(left)
        with pytest.raises(HvtraceError, match=f"another hvtrace uses {left}"):
            unpin(left)
        assert total(tracer) == 5


@pytest.mark.parametrize("name", ["here", "no/such/folder"])
def test_not_in_a_bpf_file_system(tmp_path: Path, name: str) -> None:
    with pytest.raises(HvtraceError) as refused:
        Tracer(tmp_path / name)
    line = refused.value.args[0]
    assert "\n" not in line
    if name == "here":
        assert "mount -t bpf bpf /sys/fs/bpf" in line
        assert not (tmp_path / name).exists()
    else:
        assert line == f"cannot use {tmp_path / name}: No such file or directory"


def test_a_folder_that_others_may_write_to(pin: Path) -> None:
    pin.mkdir()
    pin.chmod(0o777)
    with pytest.raises(HvtraceError, match="others may write to"):
        Tracer(pin)
    pin.rmdir()


def test_our_folder_is_ours_alone(left: Path) -> None:
    assert left.stat().st_mode & 0o777 == 0o700


def hvtrace(*words: object, user: str = "") -> subprocess.CompletedProcess[str]:
    become = ["setpriv", f"--reuid={user}", "--clear-groups"] if user else []
    command = [*become, HVTRACE, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_unpin_removes_all(left: Path) -> None:
    done = hvtrace("unpin", left)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"hvtrace: nothing is counted in {left} any more\n"
    assert not left.exists()


def test_unpin_leaves_what_is_not_ours(left: Path) -> None:
    fd = bpf.create_array("theirs", 8, 1)
    bpf.pin(fd, left / "theirs")
    os.close(fd)
    assert hvtrace("unpin", left).returncode == 0
    assert os.listdir(left) == ["theirs"]
    (left / "theirs").unlink()
    left.rmdir()


def test_unpin_what_was_never_finished(left: Path) -> None:
    (left / "hvt_about").unlink()
    assert hvtrace("unpin", left).returncode == 0
    assert not left.exists()


def test_unpin_where_nothing_is(bpffs: Path, tmp_path: Path) -> None:
    (bpffs / "empty").mkdir(mode=0o700)
    for folder, line in {
        bpffs / "empty": f"hvtrace has pinned nothing in {bpffs / 'empty'}",
        bpffs / "missing": f"cannot use {bpffs / 'missing'}: No such file or directory",
    }.items():
        done = hvtrace("unpin", folder)
        assert (done.returncode, done.stderr) == (1, f"hvtrace: {line}\n")
    assert "not in a BPF file system" in hvtrace("unpin", tmp_path).stderr


def test_unpin_needs_permission(left: Path) -> None:
    done = hvtrace("unpin", left, user="65534")
    assert done.returncode == 1
    assert done.stderr == f"hvtrace: cannot use {left}: Permission denied\n"


def test_about_survives_its_own_words() -> None:
    about = About(4, "1.0", "f", {"A": "1"}, {"slots": 5, "pid": None})
    assert About.parse(about.dump() + b"\0" * 7) == about
