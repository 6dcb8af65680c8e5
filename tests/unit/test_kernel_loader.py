"""The loader child and what becomes of its answers."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import click
import pytest

from hvtrace.cli import cli
from hvtrace.errors import HvtraceError
from hvtrace.kernel import loader

CHILD = Path(loader.__file__).with_name("child.py")


def answer_of_child(folder: Path, bcc: str) -> dict[str, str]:
    """Run the child with a module of our own in the place of bcc."""
    (folder / "bcc").mkdir()
    (folder / "bcc" / "__init__.py").write_text(bcc)
    job = {"sources": [], "headers": "h", "flags": [], "programs": [["p", "raw"]], "maps": ["m"]}
    ours, theirs = socket.socketpair()
    with ours, theirs:
        subprocess.run(
            [sys.executable, CHILD, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            input=json.dumps(job),
            text=True,
            env={**os.environ, "PYTHONPATH": str(folder)},
            check=False,
        )
        return json.loads(ours.recv(65536))


def test_child_without_bcc(tmp_path: Path) -> None:
    assert answer_of_child(tmp_path, "raise ImportError('no libbcc')")["error"] == "no-bcc"


def test_child_with_the_mathematics_package(tmp_path: Path) -> None:
    answer = answer_of_child(tmp_path, "def binomial(n, k): ...")
    assert answer == {"error": "wrong-bcc", "text": str(tmp_path / "bcc")}


def test_child_whose_program_does_not_compile(tmp_path: Path) -> None:
    bcc = "class BPF:\n    def __init__(self, **_): raise Exception('bad')"
    assert answer_of_child(tmp_path, bcc) == {"error": "compile", "text": "bad"}


def fake_child(monkeypatch, answers: dict[str, dict[str, str]]) -> list[str]:
    """Answers by interpreter; returns the interpreters that were asked."""
    asked: list[str] = []

    def run(python: str, _job: str) -> tuple[dict[str, str], list[int]]:
        asked.append(python)
        return answers[python], []

    monkeypatch.setattr(loader, "_run_child", run)
    monkeypatch.setattr(loader.sys, "executable", "/opt/venv/python")
    return asked


def message(monkeypatch, own: dict[str, str], system: dict[str, str]) -> str:
    fake_child(monkeypatch, {"/opt/venv/python": own, "/usr/bin/python3": system})
    with pytest.raises(HvtraceError) as caught:
        loader.load([Path("x.c")], [], [], [])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_bcc_of_the_system_serves_an_environment_without(monkeypatch) -> None:
    """And an environment with the wrong one."""
    asked = fake_child(
        monkeypatch,
        {
            "/opt/venv/python": {"error": "wrong-bcc", "text": "/opt/bcc"},
            "/usr/bin/python3": {"error": "load", "text": "no permission"},
        },
    )
    with pytest.raises(HvtraceError, match="did not load: no permission"):
        loader.load([Path("x.c")], [], [], [])
    assert asked == ["/opt/venv/python", "/usr/bin/python3"]


def test_no_bcc_anywhere(monkeypatch) -> None:
    missing = {"error": "no-bcc", "text": "No module named bcc"}
    text = message(monkeypatch, missing, missing)
    assert "apt install python3-bpfcc" in text


def test_only_the_wrong_bcc(monkeypatch) -> None:
    wrong = {"error": "wrong-bcc", "text": "/usr/lib/python3/bcc"}
    text = message(monkeypatch, wrong, wrong)
    assert "/usr/lib/python3/bcc is PyPI's unrelated project" in text
    assert "apt install python3-bpfcc" in text


def test_compile_errors_are_one_line(monkeypatch) -> None:
    bad = {"error": "compile", "text": "x.c:1: error:\n  unknown type"}
    assert message(monkeypatch, bad, bad).endswith("did not compile: x.c:1: error: unknown type")


def test_no_such_interpreter() -> None:
    answer, fds = loader._run_child("/nonexistent/python", "{}")
    assert answer["error"] == "no-bcc"
    assert fds == []


def test_child_that_dies_without_a_word() -> None:
    answer, _ = loader._run_child("/bin/false", "{}")
    assert answer["error"] == "load"
    assert "ended early" in answer["text"]


ECHO = """
import json, os, socket, sys
job = sys.stdin.read()
answer = {"error": "no-bcc", "text": f"{os.getpid()} {job}"}
socket.socket(fileno=int(sys.argv[1])).sendall(json.dumps(answer).encode())
"""


def test_a_child_that_was_started_ahead_gets_the_first_job(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(ECHO)
    monkeypatch.setattr(loader, "_CHILD", tmp_path / "child.py")
    loader.start_ahead()
    ahead = loader._ahead[sys.executable]._process.pid
    answers = [loader._run_child(sys.executable, job)[0]["text"].split() for job in ("a", "b")]
    assert answers[0] == [str(ahead), "a"]
    assert answers[1][0] != str(ahead)
    assert answers[1][1] == "b"


GIVE = """
import json, os, socket, sys
sys.stdin.read()
answer_to = socket.socket(fileno=int(sys.argv[1]))
socket.send_fds(answer_to, [b'{"ok": true}'], [os.open("/dev/null", os.O_RDONLY)])
"""


def test_descriptors_are_not_for_programs_that_we_start(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text(GIVE)
    monkeypatch.setattr(loader, "_CHILD", tmp_path / "child.py")
    _, [fd] = loader._run_child(sys.executable, "{}")
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_a_child_is_dismissed_where_nothing_is_to_be_loaded(monkeypatch, tmp_path: Path) -> None:
    (tmp_path / "child.py").write_text("import sys; sys.stdin.read()")
    monkeypatch.setattr(loader, "_CHILD", tmp_path / "child.py")
    loader.start_ahead()
    pid = loader._ahead[sys.executable]._process.pid
    assert is_alive(pid)
    for _ in range(2):
        loader.dismiss_ahead()
        assert not is_alive(pid)
    assert loader._ahead == {}


def is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"  # where nobody reaps orphans


def test_a_child_without_a_job_ends_with_its_parent() -> None:
    code = "\n".join(
        [
            "import sys",
            "from hvtrace.kernel import loader",
            "loader.start_ahead()",
            "print(loader._ahead[sys.executable]._process.pid)",
        ]
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    deadline = time.monotonic() + 30
    while is_alive(int(out.stdout)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert out.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "started"),
    [
        (["stat", "--no-such-option"], 1),
        (["exporter", "--no-such-option"], 1),
        (["exporter", "--no-such-option", "--pin", "/sys/fs/bpf/x"], 0),
        (["exporter", "--no-such-option", "--pin=/sys/fs/bpf/x"], 0),
        (["stat", "--help"], 0),
        (["explain", "2"], 0),
        (["--help"], 0),
    ],
)
def test_commands_that_load_start_it_before_they_are_imported(
    monkeypatch, capsys, arguments: list[str], started: int
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(loader, "start_ahead", lambda: calls.append(None))
    with suppress(click.ClickException):
        cli.main(arguments, standalone_mode=False)
    assert len(calls) == started
