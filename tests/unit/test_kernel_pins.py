"""What pins say of themselves, and when counting can go on with them; with pins in tests/bpf."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtrace import __version__
from hvtrace.kernel import layout, maps, shape
from hvtrace.kernel.features import Features
from hvtrace.kernel.pins import About
from hvtrace.kernel.programs import counters
from hvtrace.kernel.structures import RoundTrip, Structures

HOST = Features(
    "6.12",
    shape.raw(),
    structures=Structures(offsets={"VCPU_ENABLED": 3}),
    round_trip=RoundTrip(offsets={"SVM_VMCB": 7}),
)
OPTIONS = {"slots": 16384, "pid": None, "code": None, "round_trip": False}


def about(**options: int | bool | None) -> About:
    asked = {**OPTIONS, **options}
    job = counters(HOST, 1024, 16384, round_trip=bool(asked["round_trip"]))
    return About.of(job, HOST, **asked)


def test_it_is_what_is_about_to_be_loaded() -> None:
    found = about()
    assert (found.layout, found.version) == (layout.LAYOUT, __version__)
    assert found.options == OPTIONS
    assert found.kvm["HVT_RECORD"] == "0"
    assert found.kvm["HVT_VCPU_ENABLED"] == "3"
    assert "HVT_SVM_VMCB" not in found.kvm
    assert about(round_trip=True).kvm["HVT_SVM_VMCB"] == "7"


def test_other_programs_have_another_fingerprint() -> None:
    assert about().programs == about().programs
    assert about().programs != about(round_trip=True).programs


def test_nothing_is_unlike_itself() -> None:
    assert about().unlike(about()) is None
    assert About.parse(about().dump()) == about()


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ({"slots": 7}, "--slots was 7 and is 16384"),
        ({"pid": 42}, "--pid was 42 and is not given"),
        ({"code": 0}, "--code was 0 and is not given"),
        ({"round_trip": True}, "--round-trip was on and is off"),
    ],
)
def test_what_was_asked_for(option: dict[str, int], line: str) -> None:
    assert replace(about(), options={**OPTIONS, **option}).unlike(about()) == line


def test_an_option_that_the_other_version_did_not_know() -> None:
    fewer = {"slots": 16384, "pid": None, "code": None}
    line = replace(about(), options=fewer).unlike(about())
    assert line == "--round-trip was not given and is off"


def test_another_version_may_have_read_more_of_kvm() -> None:
    now = about()
    assert replace(now, kvm={**now.kvm, "HVT_MORE": "1"}).unlike(now) is None
    fewer = dict(now.kvm)
    del fewer["HVT_VCPU_ENABLED"]
    assert replace(now, kvm=fewer).unlike(now) is None
    other = replace(now, kvm={**now.kvm, "HVT_VCPU_ENABLED": "4"})
    assert other.unlike(now) == "another KVM is loaded than the programs were made for"


def test_the_layout_is_asked_first() -> None:
    old = replace(about(slots=7), layout=layout.LAYOUT - 1, version="0.1")
    assert "hvtrace 0.1 keeps its counters in layout" in str(old.unlike(about()))


@pytest.mark.parametrize("name", ["layout", "version", "programs", "kvm", "options"])
def test_a_word_of_another_kind(name: str) -> None:
    words = asdict(about())
    assert About.parse(json.dumps({**words, name: [1]}).encode()) is None
    del words[name]
    assert About.parse(json.dumps(words).encode()) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read(data: bytes) -> None:
    assert About.parse(data) is None


def test_it_fits() -> None:
    assert len(about(round_trip=True).dump()) < 2048


@given(st.text(max_size=500))
def test_names_are_kept_as_far_as_there_is_room(text: str) -> None:
    kept = maps._fit("name", text)
    assert len(kept) <= layout.IDENTITY["name"].itemsize
    whole = text.encode(errors="replace").decode()
    assert whole.startswith(kept.decode())
    assert len(whole) == len(kept.decode()) or len(kept) > layout.IDENTITY["name"].itemsize - 4
