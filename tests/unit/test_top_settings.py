"""What is remembered, and files that are not as they should be."""

from __future__ import annotations

import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtrace.top import settings
from hvtrace.top.columns import BY_KEY
from hvtrace.top.settings import Settings, parse, place, text_of
from hvtrace.top.sheet import Grouping, Scope, View

CHOSEN = Settings(
    View(Grouping.VCPU, Scope.TOTAL, "p99", False, hidden=frozenset({"pid", "minute"})), 5.0
)


@given(
    st.builds(
        Settings,
        st.builds(
            View,
            st.sampled_from(Grouping),
            st.sampled_from(Scope),
            st.sampled_from(sorted(BY_KEY)),
            st.booleans(),
            st.just(""),
            st.frozensets(st.sampled_from(sorted(BY_KEY))),
        ),
        st.floats(0.1, 60),
    )
)
def test_round_trip(some):
    assert parse(text_of(some)) == some


def test_a_filter_is_not_kept():
    assert parse(text_of(Settings(View(filter="win11")))).view.filter == ""


def test_what_another_version_knows_is_ignored():
    said = json.loads(text_of(CHOSEN))
    said |= {"colour": "blue", "hidden": ["pid", "minute", "joules"]}
    assert parse(json.dumps(said)) == CHOSEN
    said |= {"grouping": "rack", "sort": "joules", "scope": "decade"}
    view = parse(json.dumps(said)).view
    assert (view.grouping, view.sort, view.descending) == (View().grouping, "/s", True)
    assert view.scope is Scope.INTERVAL


def test_an_interval_of_an_hour_is_not_remembered():
    assert parse(text_of(Settings(interval_seconds=3600.0))).interval_seconds == 60.0


BROKEN = (
    "",
    "{",
    "[]",
    "7",
    '"win11"',
    '{"sort": 7}',
    '{"hidden": "pid"}',
    '{"descending": "no"}',
    '{"interval_seconds": true}',
    '{"interval_seconds": 1e9}',
    '{"interval_seconds": NaN}',
    "[" * 100_000,
)


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_broken(text, tmp_path):
    path = tmp_path / "top.json"
    path.write_text(text)
    found, complaint = settings.load(path)
    assert found == Settings()
    assert complaint == f"{path} is not used: it is not what hvtrace writes"


def test_not_even_text(tmp_path):
    path = tmp_path / "top.json"
    path.write_bytes(b"\xff\xfe\x00")
    assert settings.load(path)[1].startswith(f"{path} is not used")


def test_no_file_yet(tmp_path):
    assert settings.load(tmp_path / "none" / "top.json") == (Settings(), "")
    assert settings.load(None) == (Settings(), "")


def test_a_folder_in_its_place(tmp_path):
    assert settings.load(tmp_path) == (Settings(), f"{tmp_path} is not used: Is a directory")
    assert settings.store(tmp_path, CHOSEN).startswith(f"{tmp_path} cannot be written: ")
    assert list(tmp_path.iterdir()) == []
    assert not list(tmp_path.parent.glob(".top-*"))


def test_store_and_load(tmp_path):
    path = tmp_path / "config" / "hvtrace" / "top.json"
    assert settings.store(path, Settings()) == ""
    assert settings.store(path, CHOSEN) == ""
    assert settings.load(path) == (CHOSEN, "")
    assert [one.name for one in path.parent.iterdir()] == ["top.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_nothing_is_left_in_the_home_of_another(tmp_path, monkeypatch):
    path = tmp_path / ".config" / "hvtrace" / "top.json"
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    assert settings.store(path, CHOSEN) == f"{tmp_path} is another user's"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_CONFIG_HOME": "/c", "HOME": "/h"}, "/c/hvtrace/top.json"),
        ({"HOME": "/h"}, "/h/.config/hvtrace/top.json"),
        ({"XDG_CONFIG_HOME": "", "HOME": "/h"}, "/h/.config/hvtrace/top.json"),
        ({"XDG_CONFIG_HOME": "relative", "HOME": "/h"}, "/h/.config/hvtrace/top.json"),
    ],
)
def test_place(environ, expected):
    assert str(place(environ)) == expected


def test_no_home():
    assert place({}) is None
    assert settings.store(None, CHOSEN) == "there is no home directory"
