"""The cache of kernels: complete or absent, shared by suites, good without a network."""

from __future__ import annotations

import io
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.lab import apt, kernels
from hvtrace.lab.progress import Progress

OLD = "6.12.101+deb13-amd64"
NEW = "6.12.107+deb13-amd64"
SPLIT = "7.2.13+deb14-amd64"


def package(name: str, *depends: str, size_bytes: int = 1000) -> apt.Package:
    return apt.Package(name, "1-1", depends, size_bytes)


class Debian:
    """A stand-in for `apt.PrivateApt`: what the archive has, and what was asked of it."""

    def __init__(self) -> None:
        self.release = NEW
        self.is_split = False
        self.is_online = True
        self.downloads: list[list[str]] = []

    def __call__(self, folder: Path, suite: str, source: apt.Archive) -> Debian:
        self.suite, self.uri = suite, source.uri
        return self

    def update(self) -> None:
        if not self.is_online:
            raise HvtraceError("apt-get update failed: no network")

    def package(self, name: str) -> apt.Package:
        image = f"linux-image-{self.release}"
        parts = [f"linux-{part}-{self.release}" for part in ("binary", "modules", "base")]
        if name == "linux-image-amd64":
            return package(name, "linux-base-amd64", image)
        if name == image and self.is_split:
            return package(name, "dracut", *parts)
        if name in parts:
            return package(name, "kmod", parts[-1])
        return package(name, "kmod", "linux-base", "initramfs-tools")

    def download(self, packages, into: Path, progress: Progress) -> list[Path]:
        self.downloads.append(sorted(one.name for one in packages))
        files = [into / f"{one.name}.deb" for one in packages]
        for file in files:
            file.touch()
        return files


@pytest.fixture
def debian(tmp_path, monkeypatch) -> Debian:
    """A machine with an empty cache, and Debian's archive within reach."""
    monkeypatch.setenv("HVTRACE_CACHE", str(tmp_path / "cache"))
    archive = Debian()
    monkeypatch.setattr(apt, "PrivateApt", archive)
    monkeypatch.setattr(kernels, "tool", lambda name: name)
    monkeypatch.setattr(kernels, "_run", lambda command: unpack(command, archive))
    return archive


def unpack(command: list[str], debian: Debian) -> None:
    """dpkg-deb -x FILE ROOT and depmod -b ROOT RELEASE."""
    if command[0] == "dpkg-deb":
        _, _, file, root = command
        lib = Path(root) / ("usr/lib" if debian.is_split else "lib")
        folder = lib / "modules" / debian.release
        folder.mkdir(parents=True, exist_ok=True)
        if "image" in file and not debian.is_split:
            (Path(root) / "boot").mkdir()
            (Path(root) / "boot" / f"vmlinuz-{debian.release}").touch()
        if "binary" in file:
            (folder / "vmlinuz").touch()
    else:
        _, _, root, release = command
        (Path(root) / "lib/modules" / release / "modules.dep").touch()


def find(name: str) -> tuple[kernels.Kernel, str]:
    """The kernel, and what was reported on the way."""
    out = io.StringIO()
    return kernels.find(name, Progress(out)), out.getvalue()


def test_first_time_a_kernel_is_fetched(tmp_path, debian):
    kernel, said = find("trixie")
    root = tmp_path / "cache/kernels" / NEW
    assert kernel == kernels.Kernel(
        NEW, root / "boot" / f"vmlinuz-{NEW}", root / "lib/modules" / NEW
    )
    assert debian.downloads == [[f"linux-image-{NEW}"]]
    assert f"fetching kernel {NEW}" in said


def test_a_kernel_in_four_packages(tmp_path, debian):
    debian.release, debian.is_split = SPLIT, True
    kernel, said = find("sid")
    assert debian.downloads == [
        [f"linux-{part}-{SPLIT}" for part in ("base", "binary", "image", "modules")]
    ]
    assert kernel.image.exists()
    assert (kernel.modules / "modules.dep").exists()
    assert "(0 MB" in said  # 4 kB


def test_the_second_time_nothing_is_asked(debian):
    find("trixie")
    debian.is_online = False
    kernel, said = find("trixie")
    assert kernel.release == NEW
    assert said == ""


def test_after_a_week_it_looks_again(tmp_path, debian):
    debian.release = OLD
    find("trixie")
    debian.release = NEW
    age(tmp_path / "cache/kernels/trixie")
    kernel, _ = find("trixie")
    assert kernel.release == NEW
    assert len(debian.downloads) == 2


def test_after_a_week_an_unchanged_kernel_is_not_fetched_again(tmp_path, debian):
    find("trixie")
    age(tmp_path / "cache/kernels/trixie")
    find("trixie")
    assert len(debian.downloads) == 1
    debian.is_online = False
    assert find("trixie")[1] == ""  # the look was worth another week


def test_without_a_network_an_old_kernel_serves_and_says_so(tmp_path, debian):
    find("trixie")
    age(tmp_path / "cache/kernels/trixie")
    debian.is_online = False
    kernel, said = find("trixie")
    assert kernel.release == NEW
    assert "no network" in said


def test_without_a_network_and_a_cache_it_fails(debian):
    debian.is_online = False
    with pytest.raises(HvtraceError, match="no network"):
        find("trixie")


def age(link: Path) -> None:
    then = time.time() - 8 * 86400
    os.utime(link, (then, then), follow_symlinks=False)


def test_half_a_download_never_counts(tmp_path, debian, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(kernels, "unpack", interrupted)
        with pytest.raises(KeyboardInterrupt):
            find("trixie")
    assert [file.name for file in (tmp_path / "cache/kernels").iterdir()] == [".lock"]
    assert find("trixie")[0].release == NEW


def test_what_a_killed_run_left_is_cleared_away(tmp_path, debian):
    stale = tmp_path / "cache/kernels/.new-killed"
    stale.mkdir(parents=True)
    find("trixie")
    assert not stale.exists()


def test_two_suites_with_one_kernel_fetch_it_once(debian):
    assert find("trixie")[0] == find("bookworm")[0]
    assert len(debian.downloads) == 1


def test_two_runs_at_once_fetch_once(debian):
    download, is_down = debian.download, threading.Event()

    def slow(*arguments: object) -> list[Path]:
        is_down.set()
        time.sleep(0.3)
        return download(*arguments)

    debian.download = slow
    first = threading.Thread(target=find, args=("trixie",))
    first.start()
    is_down.wait()
    kernel, said = find("trixie")
    first.join()
    assert kernel.release == NEW
    assert len(debian.downloads) == 1
    assert said == "waiting for another hvtrace that is filling the cache\n"


def test_a_release_in_the_cache(debian):
    kernel, _ = find("trixie")
    assert find(NEW) == (kernel, "")


def test_a_kernel_in_a_folder(tmp_path, debian):
    kernel, _ = find("trixie")
    (tmp_path / "mine").symlink_to(tmp_path / "cache/kernels" / NEW)
    assert find(str(tmp_path / "mine")) == (kernel, "")
    assert find(f"{tmp_path}/mine/") == (kernel, "")


@pytest.mark.parametrize("missing", ["boot", "lib/modules"])
def test_a_folder_without_a_kernel(tmp_path, debian, missing):
    find("trixie")
    folder = tmp_path / "cache/kernels" / NEW
    (folder / missing).rename(tmp_path / "elsewhere")
    with pytest.raises(HvtraceError, match="or a folder with both"):
        find(str(folder))


def test_a_folder_with_two_kernels_names_neither(tmp_path, debian):
    find("trixie")
    folder = tmp_path / "cache/kernels" / NEW
    shutil.copytree(folder / "lib/modules" / NEW, folder / "lib/modules" / OLD)
    (folder / "boot" / f"vmlinuz-{OLD}").touch()
    with pytest.raises(HvtraceError, match="or a folder with both"):
        find(str(folder))


@pytest.mark.parametrize("name", ["6.6.6-nowhere", "jammy", "", "..", "../kernels"])
def test_an_unknown_kernel(debian, name):
    with pytest.raises(HvtraceError, match=r"no kernel .*bookworm, trixie, sid"):
        find(name)


def test_an_archive_without_a_kernel(debian, monkeypatch):
    monkeypatch.setattr(debian, "package", lambda name: package(name, "nothing"))
    with pytest.raises(HvtraceError, match="linux-image-amd64 of Debian trixie names no kernel"):
        find("trixie")


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HVTRACE_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/hvtrace"),
        ({"HOME": "/c"}, "/c/.cache/hvtrace"),
    ],
)
def test_where_the_cache_is(monkeypatch, environment, folder):
    for name in ("HVTRACE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert kernels.cache_folder() == Path(folder)


def test_a_cache_that_can_not_be_written(tmp_path, debian, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HVTRACE_CACHE", str(tmp_path / "file"))
    with pytest.raises(HvtraceError, match=r"can not write to the cache .*HVTRACE_CACHE"):
        find("trixie")


def test_a_program_that_fails(tmp_path):
    with pytest.raises(HvtraceError, match=r"^sh failed: because$"):
        kernels._run(["/bin/sh", "-c", "echo because >&2; exit 3"])
