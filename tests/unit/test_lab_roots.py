"""Roots: what is asked of mmdebstrap and pip, and when; that they work is shown by tests/vm."""

from __future__ import annotations

import io
import os
import threading
import time
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.lab import apt, roots, tools
from hvtrace.lab.progress import Progress

PYPROJECT = """\
[project]
dependencies = ["click>=8.1", "numpy>=1.24"]
[project.optional-dependencies]
dev = ["mypy", "pytest"]
"""


class Machine:
    """A stand-in for apt, mmdebstrap, tar and pip."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.stdin = ""
        self.failing = ""
        self.seconds = 0.0

    def private(self, folder: Path, suite: str, source: apt.Archive) -> Machine:
        self.suite, self.uri, self.sources = suite, source.uri, f"Suites: {suite}\n"
        self.network = ['Acquire::http::Proxy "http://proxy:3128";']
        return self

    def run(self, command, *, stdin="", tick=None) -> tuple[int, str, str]:
        words = [str(word) for word in command]
        self.commands.append(words)
        self.stdin = self.stdin or stdin
        time.sleep(self.seconds)
        if self.failing and self.failing in " ".join(words):
            return 1, "", f"I: hello\nE: {self.failing} has no network\nE: later\n"
        if words[0] == "tar":
            new = Path(words[words.index("-C") + 1])
            for folder in ("usr/bin", "usr/share/python-wheels", "usr/local/lib/python3.13"):
                (new / folder).mkdir(parents=True)
            (new / "usr/share/python-wheels/pip-26-py3-none-any.whl").touch()
        return 0, "", ""

    @property
    def made(self) -> int:
        return sum(command[0] == "mmdebstrap" for command in self.commands)


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    monkeypatch.setenv("HVTRACE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    found = Machine()
    monkeypatch.setattr(roots, "CHECKOUT", tmp_path)
    monkeypatch.setattr(apt, "PrivateApt", found.private)
    monkeypatch.setattr(tools, "tool", lambda name: name)
    monkeypatch.setattr(tools, "run", found.run)
    return found


def find(suite: str = "trixie", *more: str) -> tuple[Path, str]:
    """The root, and what was reported on the way."""
    out = io.StringIO()
    return roots.find(suite, Progress(out), more), out.getvalue()


def age(root: Path) -> None:
    then = time.time() - 31 * 86400
    os.utime(root, (then, then))


def test_the_first_time_a_root_is_made(tmp_path, machine):
    root, said = find()
    assert root.parent == tmp_path / "cache/roots"
    assert root.name.startswith("trixie-")
    assert "making a root of Debian trixie, with bpftool, " in said
    assert "from PyPI: click>=8.1, numpy>=1.24, pytest" in said
    assert {file.name for file in root.parent.iterdir()} == {".lock", root.name}


def test_mmdebstrap_gets_the_users_way_to_debian(machine):
    find("sid")
    command = machine.commands[0]
    assert command[-3] == "sid"
    assert command[-1] == "-"
    assert machine.stdin == "Suites: sid\n"
    assert '--aptopt=Acquire::http::Proxy "http://proxy:3128";' in command
    (included,) = [word for word in command if word.startswith("--include=")]
    assert "python3-bpfcc" in included


def test_pip_is_the_roots_own_and_builds_nothing(machine):
    find()
    loader, option, libraries, python, *rest = machine.commands[2]
    new = Path(libraries).parents[2]
    assert loader == f"{libraries}/ld-linux-x86-64.so.2"
    assert (option, python) == ("--library-path", f"{new}/usr/bin/python3")
    assert f"{new}/usr/share/python-wheels/pip-26-py3-none-any.whl/pip" in rest
    assert "--only-binary=:all:" in rest
    target = f"{new}/usr/local/lib/python3.13/dist-packages"
    assert rest[-5:] == ["--target", target, "click>=8.1", "numpy>=1.24", "pytest"]


def test_hvtrace_is_beside_the_interpreter(machine):
    program = find()[0] / "usr/bin/hvtrace"
    assert os.access(program, os.X_OK)
    compile(program.read_text(), program, "exec")
    assert program.read_text().startswith(f"#!{roots.PYTHON}\n")


def test_the_second_time_nothing_is_done(machine):
    first = find()[0]
    assert find() == (first, "")
    assert machine.made == 1


def test_another_recipe_is_another_root(tmp_path, machine):
    plain, more = find()[0], find("trixie", "bpftrace")[0]
    assert "bpftrace" in machine.commands[3][2]
    (tmp_path / "pyproject.toml").write_text(PYPROJECT.replace("1.24", "2.0"))
    newer = find()[0]
    assert len({plain, more, newer}) == 3
    assert find("trixie", "bpftrace", "kmod")[0] not in (plain, more)  # of the new recipe
    assert plain.exists()


def test_an_old_root_is_made_again_and_what_is_old_beside_it_goes(machine):
    root, other = find()[0], find("sid")[0]
    (root / "stale").touch()
    age(root)
    age(other)
    assert find()[0] == root
    assert not (root / "stale").exists()
    assert not other.exists()
    assert find()[1] == ""


def test_without_a_network_an_old_root_serves_and_says_so(machine):
    root = find()[0]
    age(root)
    machine.failing = "mmdebstrap"
    found, said = find()
    assert found == root
    assert "could not make a newer root of Debian trixie" in said
    assert "mmdebstrap has no network" in said


@pytest.mark.parametrize("failing", ["mmdebstrap", "tar", "pip"])
def test_half_a_root_never_counts(tmp_path, machine, failing):
    machine.failing = failing
    with pytest.raises(HvtraceError, match=f"{failing} has no network"):
        find()
    assert [file.name for file in (tmp_path / "cache/roots").iterdir()] == [".lock"]


def test_what_a_killed_run_left_is_cleared_away(tmp_path, machine):
    stale = tmp_path / "cache/roots/.new-killed"
    stale.mkdir(parents=True)
    find()
    assert not stale.exists()


def test_two_runs_at_once_make_one(machine):
    machine.seconds = 0.1
    first = threading.Thread(target=find)
    first.start()
    time.sleep(0.05)
    assert find()[1] == "waiting for another hvtrace that is filling the cache\n"
    first.join()
    assert machine.made == 1


@pytest.mark.parametrize("suite", ["jammy", "host", "", "../trixie"])
def test_an_unknown_suite(machine, suite):
    with pytest.raises(HvtraceError, match="give a Debian suite"):
        find(suite)


def test_outside_a_checkout(tmp_path, machine):
    (tmp_path / "pyproject.toml").unlink()
    with pytest.raises(HvtraceError, match="checkout"):
        find()


def test_the_checkout_is_this_one():
    assert (Path(roots.__file__).parents[2] / "pyproject.toml").exists()
    assert "pytest" in roots._dependencies()


def test_bytecode_is_where_an_interpreter_finds_it(monkeypatch, tmp_path):
    monkeypatch.setattr(roots, "CHECKOUT", tmp_path)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "one.py").write_text("ONE = 1\n")
    roots.compile_checkout(None, "package", "not-there")
    [found] = tmp_path.rglob("*.pyc")
    assert found == Path(cache_from_source(str(tmp_path / "package" / "one.py")))


def test_a_root_compiles_with_its_own_interpreter(monkeypatch):
    ran = []
    monkeypatch.setattr(roots.tools, "run", lambda command, **_: ran.append(command) or (1, "", ""))
    roots.compile_checkout(Path("/roots/sid"), "hvtrace")
    [[loader, option, libraries, python, *rest]] = ran
    assert Path(loader).parent == Path(libraries)
    assert (option, python) == ("--library-path", "/roots/sid/usr/bin/python3")
    assert rest == ["-I", "-m", "compileall", "-qq", "hvtrace"]
