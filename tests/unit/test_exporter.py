"""`hvtrace exporter` as a process of its own, with a fake source."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner
from samples import FakeSource, snapshot

from hvtrace.commands import exporter
from hvtrace.errors import HvtraceError
from hvtrace.kernel import bpf, live

FAKE = [sys.executable, str(Path(__file__).with_name("fake_hvtrace.py"))]


def start(log: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*FAKE, str(log), "exporter", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def serving(process: subprocess.Popen[str]) -> str:
    """The URL, once it serves."""
    first = process.stderr.readline()
    found = re.fullmatch(r"hvtrace: serving (https?://127\.0\.0\.1:\d+/metrics)\n", first)
    assert found, first + process.stderr.read()
    return found[1]


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as response:
        return response.read().decode()


def front_of(process: subprocess.Popen[str]) -> int:
    """Pid of the process that serves, once the loader's child that was begun ahead is left out."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    [front] = [pid for pid in children if "exporter" in Path(f"/proc/{pid}/cmdline").read_text()]
    return int(front)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serves_until_a_signal_ends_it(tmp_path, number):
    process = start(tmp_path / "log", "--listen", "127.0.0.1:0")
    url = serving(process)
    text = get(url)
    assert re.search(r'^hvtrace_hypercalls_total\{.*vm="win11"\} \d\.0$', text, re.MULTILINE)
    assert "\nhvtrace_up 1.0\n" in text
    assert "\nprocess_resident_memory_bytes " in text
    assert "\nhvtrace_keeper_process_resident_memory_bytes " in text
    assert '\nhvtrace_http_refused_total{reason="connections"} 0.0\n' in text
    front = front_of(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert not Path(f"/proc/{front}").exists()
    events = (tmp_path / "log").read_text().split()
    assert set(events[:-1]) <= {"snapshot", "look"}
    assert events[-1] == "close"


def test_when_the_serving_process_is_killed_the_exporter_ends(tmp_path):
    process = start(tmp_path / "log", "--listen", "127.0.0.1:0")
    serving(process)
    os.kill(front_of(process), signal.SIGKILL)
    out, err = process.communicate(timeout=30)
    line = "hvtrace: the process that serves HTTP has ended: start the exporter again\n"
    assert (process.returncode, out, err) == (1, "", line)
    assert (tmp_path / "log").read_text().split()[-1] == "close"


def test_the_serving_process_does_not_outlive_the_exporter(tmp_path):
    process = start(tmp_path / "log", "--listen", "127.0.0.1:0")
    serving(process)
    process.kill()
    assert process.communicate(timeout=30) == ("", "")  # its pipes are closed: it has gone, too


def test_a_broken_web_configuration_attaches_nothing(tmp_path):
    config = tmp_path / "web.yml"
    config.write_text("tls_server_config: {cert_fil: a}\n")
    process = start(tmp_path / "log", "--listen", "127.0.0.1:0", "--web.config.file", str(config))
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("hvtrace: web configuration ")
    assert not (tmp_path / "log").exists()


def test_a_text_file_is_written_and_gone_at_the_end(tmp_path):
    path = tmp_path / "hvtrace.prom"
    process = start(tmp_path / "log", "--textfile", str(path), "-i", "1")
    assert process.stderr.readline() == f"hvtrace: writing {path} every 1 s\n"
    seen = []
    while len(seen) < 3:
        if path.exists() and (stamp := path.stat().st_ino) not in seen[-1:]:
            seen.append(stamp)
    assert "\nhvtrace_up 1.0\n" in path.read_text()
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert not path.exists()
    events = (tmp_path / "log").read_text().split()
    assert events.count("snapshot") >= 3
    assert events[-1] == "close"


def test_looks_at_the_source_between_scrapes(tmp_path):
    process = start(tmp_path / "log", "--listen", "127.0.0.1:0")
    serving(process)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2.5 * exporter.POLL_SECONDS)
    process.terminate()
    process.communicate(timeout=30)
    assert 1 <= (tmp_path / "log").read_text().split().count("look") <= 3


def test_a_port_that_is_taken_attaches_nothing(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        process = start(tmp_path / "log", "--listen", where)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert err == f"hvtrace: cannot listen on {where}: Address already in use\n"
    assert not (tmp_path / "log").exists()


def test_what_ends_the_source_ends_the_file(tmp_path, monkeypatch):
    class Over(FakeSource):
        def look(self):
            raise HvtraceError("another KVM was loaded")

    source = Over(snapshot())
    monkeypatch.setattr(live, "open_source", lambda **_: source)
    path = tmp_path / "hvtrace.prom"
    with pytest.raises(HvtraceError, match="another KVM"):
        CliRunner().invoke(
            exporter.command,
            ["--textfile", str(path)],
            standalone_mode=False,
            catch_exceptions=False,
        )
    assert source.taken == 0  # nor was it shown as a fault that may pass
    assert not path.exists()


def test_a_kernel_that_does_not_measure_is_one_line(tmp_path, monkeypatch):
    def refuse():
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(live, "open_source", lambda **_: FakeSource(snapshot()))
    monkeypatch.setattr(bpf, "enable_statistics", refuse)
    command = ["--textfile", str(tmp_path / "hvtrace.prom"), "--probe-cost"]
    with pytest.raises(HvtraceError, match=r"--probe-cost: .*Operation not permitted.*sysctl"):
        CliRunner().invoke(exporter.command, command, standalone_mode=False, catch_exceptions=False)


def test_filters_and_the_life_of_ended_vms_are_the_source_s(monkeypatch):
    opened = []

    def refuse(**arguments):
        opened.append(arguments)
        raise HvtraceError("not root")

    monkeypatch.setattr(live, "open_source", refuse)
    what = ["--code", "0x13", "-p", str(os.getpid()), "--slots", "4099", "--anyway", "--round-trip"]
    what += ["--pin", "/sys/fs/bpf/x", "--vcpus"]
    arguments = ["--listen", "127.0.0.1:0", *what]
    with pytest.raises(HvtraceError, match="not root"):
        CliRunner().invoke(
            exporter.command, arguments, standalone_mode=False, catch_exceptions=False
        )
    assert opened == [
        {"pid": os.getpid(), "code": 0x13, "slots": 4099, "anyway": True, "round_trip": True}
        | {"keep_ended_seconds": 300.0, "pin": Path("/sys/fs/bpf/x"), "vcpu_times": True}
    ]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--listen", "nowhere"], 'hvtrace: cannot listen on "nowhere": give HOST:PORT, such as '),
        (["--code", "Nonsense"], 'hvtrace: no hypercall is named "Nonsense"'),
        (["-p", "4194304"], "hvtrace: there is no process 4194304"),
        (["--textfile", "/tmp/hvtrace.txt"], "hvtrace: --textfile /tmp/hvtrace.txt: node_exporter"),
        (["--web.config.file", "/none"], "hvtrace: web configuration /none: "),
    ],
)
def test_bad_input_is_one_line(tmp_path, arguments, line):
    process = start(tmp_path / "log", *arguments)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(line)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-i", "5"], "Error: --interval is for --textfile"),
        (["--textfile", "a.prom", "--user", "daemon"], "Error: --user is for HTTP, and --textfile"),
        (["--textfile", "a.prom", "--listen", ":1"], "Error: --listen is for HTTP, and --textfile"),
        (
            ["--textfile", "a.prom", "--web.config.file", "b"],
            "Error: --web.config.file is for HTTP",
        ),
    ],
)
def test_an_option_that_would_do_nothing_is_wrong_use(tmp_path, arguments, line):
    process = start(tmp_path / "log", *arguments)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert line in err
    assert not (tmp_path / "log").exists()


def test_the_default_port_is_nobody_else_s():
    """Neither in this machine's list of services, nor in the range of other exporters."""
    port = exporter.DEFAULT_LISTEN.rpartition(":")[2]
    assert int(port) > 9999
    with pytest.raises(OSError, match="not found"):
        socket.getservbyport(int(port))
