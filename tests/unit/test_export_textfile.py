"""The file for node_exporter: whole at any time, gone at the end."""

from __future__ import annotations

import os
import resource
import threading

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.export.textfile import TextFile


def test_written_for_everybody_and_gone_at_the_end(tmp_path):
    path = tmp_path / "hvtrace.prom"
    old = os.umask(0o077)
    try:
        with TextFile(path) as file:
            assert not path.exists()  # nothing is known yet
            file.write(b"a 1\n")
            assert path.read_bytes() == b"a 1\n"
            assert path.stat().st_mode & 0o777 == 0o644
            file.write(b"b 2\n")
            assert path.read_bytes() == b"b 2\n"
    finally:
        os.umask(old)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_never_sees_half_of_it(tmp_path):
    path = tmp_path / "hvtrace.prom"
    texts = {bytes([65 + i]) * (1 << 18) for i in range(2)}
    seen: set[bytes] = set()
    end = threading.Event()

    def read() -> None:
        while not end.is_set():
            seen.add(path.read_bytes())

    with TextFile(path) as file:
        file.write(min(texts))
        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(53):
            for text in texts:
                file.write(text)
        end.set()
        reader.join()
    assert seen
    assert seen <= texts


def test_a_full_disk_leaves_the_old_one_and_nothing_else(tmp_path):
    path = tmp_path / "hvtrace.prom"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with TextFile(path) as file:
        file.write(b"old\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                file.write(b"new\n" * 4096)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == b"old\n"
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("hvtrace.txt", "node_exporter reads files that end in .prom"),
        ("no/hvtrace.prom", "cannot write to .*/no: No such file or directory"),
    ],
)
def test_a_path_that_cannot_be_is_said_at_once(tmp_path, name, line):
    with pytest.raises(HvtraceError, match=line):
        TextFile(tmp_path / name)
