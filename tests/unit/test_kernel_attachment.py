"""What is attached while KVM comes and goes; with real modules in tests/vm/test_reload.py."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.hyperv.interface import Interface
from hvtrace.kernel import attachment, shape
from hvtrace.kernel.attachment import Attachment
from hvtrace.kernel.features import Features
from hvtrace.kernel.programs import BY_ENTRY, BY_KPROBE, EVENTS

KVM_EVENTS = EVENTS[1:]
PROGRAMS = {name: 1000 + i for i, name in enumerate(EVENTS)}
EVIDENCE = {**PROGRAMS, BY_KPROBE.name: 2000, BY_ENTRY.name: 2001}
RAW = Features("6.12", shape.raw())
RECORD = Features("7.2", shape.Shape(False, {"code": 32}))


class Kernel:
    """A stand-in: links are pipes' ends, so that what is not closed is seen."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.device = tmp_path / "kvm"
        self.device.mkdir()
        self.links: dict[int, tuple[int, object]] = {}  # -> (program, where it is attached)
        self.missing: set[object] = set()
        self.calls = 0
        self.now = RAW
        self.generation = 0
        monkeypatch.setattr(attachment.kvm, "CLASS", self.device)
        monkeypatch.setattr(attachment.kvm, "completed_calls", lambda: self.calls)
        monkeypatch.setattr(attachment.bpf, "attach_raw_tracepoint", self._attach)
        monkeypatch.setattr(attachment.bpf, "attach_tracepoint", self._attach)
        monkeypatch.setattr(attachment.bpf, "attach_kprobe", self._attach)
        monkeypatch.setattr(attachment.features, "event_id", self._id)
        monkeypatch.setattr(attachment.features, "mounted_tracefs", lambda: tmp_path)
        monkeypatch.setattr(attachment.features, "read_formats", lambda events: {})
        monkeypatch.setattr(attachment.features, "look", lambda chosen, round_trip: self.now)
        monkeypatch.setattr(attachment, "choose", lambda release, formats: self.now.shape)

    def _id(self, event: str) -> int:
        return 100 * self.generation + EVENTS.index(event)

    def _attach(self, program: int, where: object) -> int:
        if where in self.missing:
            raise OSError(errno.ENOENT, "No such file or directory")
        fd = os.open("/dev/null", os.O_RDONLY)
        self.links[fd] = (program, where)
        return fd

    @property
    def attached(self) -> dict[int, object]:
        """Programs, and where they are now."""
        return {program: at for fd, (program, at) in list(self.links.items()) if _is_open(fd)}

    def unload(self) -> None:
        self.device.rmdir()

    def load(self) -> None:
        self.generation += 1
        self.links = {fd: link for fd, link in self.links.items() if _is_open(fd)}
        self.device.mkdir()


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.fixture
def kernel(tmp_path, monkeypatch) -> Kernel:
    return Kernel(tmp_path, monkeypatch)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def attached(kernel, said) -> Iterator[Attachment]:
    one = Attachment(PROGRAMS, RAW, said.append)
    one.attach()
    yield one
    one.detach()


def follow(one: Attachment, said: list[str], lines: int) -> None:
    """Until it has said so many lines."""
    deadline = time.monotonic() + 10
    while len(said) < lines and time.monotonic() < deadline:
        one.follow()
        time.sleep(0.005)
    assert len(said) == lines


def test_all_is_attached_in_order(kernel, attached):
    assert [where for _, where in kernel.links.values()] == [*EVENTS]
    assert attached.attached == {*EVENTS}


def test_as_long_as_kvm_is_there_nothing_changes(kernel, attached, said):
    for _ in range(3):
        attached.follow()
    assert len(kernel.links) == len(EVENTS)
    assert said == []


def test_a_kvm_that_goes_is_let_go_of_and_the_ends_of_threads_are_not(kernel, attached, said):
    kernel.unload()
    attached.follow()
    attached.follow()
    assert list(kernel.attached.values()) == [EVENTS[0]]
    assert attached.attached == {EVENTS[0]}
    assert said == ["KVM was unloaded: waiting for it to be loaded again"]


def test_it_attaches_when_kvm_is_back_and_is_not_asked_for_it(kernel, attached, said):
    kernel.unload()
    attached.follow()
    kernel.load()
    deadline = time.monotonic() + 10
    while len(kernel.attached) < len(EVENTS) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert sorted(kernel.attached) == sorted(PROGRAMS.values())
    follow(attached, said, 2)
    assert said[1] == "KVM is loaded again"
    kernel.unload()  # and once more
    follow(attached, said, 3)
    kernel.load()
    follow(attached, said, 4)
    assert attached.attached == {*EVENTS}


def test_it_comes_and_goes_between_two_looks(kernel, attached, said):
    kernel.unload()
    attached.follow()
    kernel.load()
    deadline = time.monotonic() + 10
    while len(kernel.attached) < len(EVENTS) and time.monotonic() < deadline:
        time.sleep(0.001)
    kernel.unload()
    kernel.now = RECORD  # what a look at a KVM that has gone would find
    follow(attached, said, 2)
    assert said[1] == said[0] == "KVM was unloaded: waiting for it to be loaded again"
    assert list(kernel.attached.values()) == [EVENTS[0]]
    kernel.now = RAW
    kernel.load()
    follow(attached, said, 3)
    assert attached.attached == {*EVENTS}


class Pins:
    """A stand-in for kernel.pins.Pins: names, and descriptors that it was given."""

    def __init__(self, **links: int) -> None:
        self.pinned = links

    def links(self) -> dict[str, int]:
        return {name: os.dup(fd) for name, fd in self.pinned.items()}

    def hold(self, program: str, link: int) -> None:
        self.pinned[program] = link

    def let_go(self, program: str) -> None:
        self.pinned.pop(program, None)


def test_links_are_pinned_and_let_go_of_with_kvm(kernel, said):
    pins = Pins()
    one = Attachment(PROGRAMS, RAW, said.append, pins)  # type: ignore[arg-type]
    one.attach()
    assert pins.pinned.keys() == {*EVENTS}
    kernel.unload()
    one.follow()
    assert pins.pinned.keys() == {EVENTS[0]}
    kernel.load()
    follow(one, said, 2)
    assert pins.pinned.keys() == {*EVENTS}
    one.detach()
    assert pins.pinned.keys() == {*EVENTS}
    assert kernel.attached == {}


def test_another_kvm_is_not_left_pinned(kernel, said):
    pins = Pins()
    one = Attachment(PROGRAMS, RAW, said.append, pins)  # type: ignore[arg-type]
    one.attach()
    kernel.unload()
    one.follow()
    kernel.now = RECORD
    kernel.load()
    with pytest.raises(HvtraceError, match="another KVM"):
        follow(one, said, 2)
    assert pins.pinned.keys() == {EVENTS[0]}
    one.detach()


@pytest.mark.parametrize("there", [EVENTS, EVENTS[:1], EVENTS[:3]])
def test_what_is_pinned_is_not_attached_again(kernel, said, there):
    null = os.open("/dev/null", os.O_RDONLY)
    one = Attachment(PROGRAMS, RAW, said.append, Pins(**dict.fromkeys(there, null)))  # type: ignore[arg-type]
    one.attach()
    assert [where for _, where in kernel.links.values()] == [e for e in EVENTS if e not in there]
    assert one.attached == {*EVENTS}
    assert len(said) == (there != EVENTS)
    one.detach()
    os.close(null)


def test_calls_that_came_before_are_said(kernel, attached, said):
    kernel.unload()
    attached.follow()
    kernel.calls = 13
    kernel.load()
    follow(attached, said, 2)
    assert said[1] == "KVM is loaded again; 13 calls were made before"


def test_events_have_other_numbers_then(kernel, said):
    kernel.now = RECORD
    one = Attachment(PROGRAMS, RECORD, said.append)
    one.attach()
    assert [where for _, where in kernel.links.values()] == [0, 1, 2, 3]
    kernel.unload()
    one.follow()
    kernel.load()
    follow(one, said, 2)
    assert sorted(kernel.attached.values()) == [0, 101, 102, 103]
    one.detach()
    assert kernel.attached == {}


def test_another_kvm_ends_it(kernel, attached, said):
    kernel.unload()
    attached.follow()
    kernel.now = Features("6.12", shape.raw(), Interface(offered=True))
    kernel.load()
    with pytest.raises(HvtraceError, match=r"another KVM was loaded .*: start it again"):
        follow(attached, said, 2)


def test_what_cannot_be_attached_again_ends_it(kernel, attached, said):
    kernel.unload()
    attached.follow()
    kernel.missing = {"kvm_hv_hypercall"}
    kernel.load()
    with pytest.raises(HvtraceError, match="cannot attach to kvm_hv_hypercall: No such file"):
        follow(attached, said, 2)
    assert list(kernel.attached.values()) == [EVENTS[0]]


@pytest.mark.parametrize("event", EVENTS)
def test_all_or_nothing(kernel, said, event):
    kernel.missing = {event}
    one = Attachment(PROGRAMS, RAW, said.append)
    with pytest.raises(HvtraceError, match=f"cannot attach to {event}: No such file"):
        one.attach()
    assert kernel.attached == {}


def test_detached_while_waiting(kernel, said):
    one = Attachment(PROGRAMS, RAW, said.append)
    one.attach()
    kernel.unload()
    one.follow()
    one.detach()
    kernel.load()
    time.sleep(0.05)
    one.follow()
    assert kernel.attached == {}
    assert len(said) == 1


def test_evidence_comes_back_too(kernel, said):
    one = Attachment(EVIDENCE, RAW, said.append)
    one.attach()
    assert kernel.attached[2000] == BY_KPROBE.target
    kernel.unload()
    one.follow()
    assert list(kernel.attached.values()) == [EVENTS[0]]
    kernel.load()
    follow(one, said, 2)
    assert kernel.attached[2000] == BY_KPROBE.target
    one.detach()


def _no_kprobes(program: int, function: str) -> int:
    raise OSError(errno.ENOENT, "No such file or directory")


@pytest.mark.parametrize("left_out", [{BY_KPROBE.name}, set()])
def test_evidence_without_kprobes(kernel, said, left_out, monkeypatch):
    """Where the program was not loaded, and where it cannot be attached."""
    monkeypatch.setattr(attachment.bpf, "attach_kprobe", _no_kprobes)
    programs = {name: fd for name, fd in EVIDENCE.items() if name not in left_out}
    one = Attachment(programs, RAW, said.append)
    one.attach()
    assert kernel.attached[2001] == BY_ENTRY.target
    [line] = said
    assert line.startswith("evidence without kprobes (")
    one.detach()
