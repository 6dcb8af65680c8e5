"""Where Debian's packages come from, and that a private apt stays private."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.lab import apt
from hvtrace.lab.progress import Progress

DEB822 = """\
Types: deb
# http://snapshot.debian.org/archive/debian/20250520T000000Z
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""


def etc(folder: Path, **files: str) -> Path:
    """A folder like /etc/apt; `list_NAME` and `sources_NAME` go to sources.list.d."""
    (folder / "sources.list.d").mkdir()
    for key, text in files.items():
        kind, _, name = key.partition("_")
        path = folder / "sources.list.d" / f"{name}.{kind}" if name else folder / "sources.list"
        path.write_text(text)
    return folder


def test_deb822(tmp_path):
    found = apt.archive(etc(tmp_path, sources_debian=DEB822))
    assert found == apt.Archive(
        "http://mirror.example/debian", "/usr/share/keyrings/debian-archive-keyring.gpg"
    )


def test_security_updates_are_another_archive(tmp_path, monkeypatch):
    monkeypatch.setattr(apt, "KEYRINGS", ())
    folder = etc(tmp_path, sources_debian=DEB822)
    assert apt.archive(folder, security=True).uri == "http://mirror.example/debian-security"


def test_without_an_entry_security_updates_come_from_debian(tmp_path):
    folder = etc(tmp_path, list="deb http://mirror.example/debian bookworm main\n")
    assert apt.archive(folder, security=True).uri == apt.SECURITY_URI


def test_one_line_style(tmp_path):
    text = (
        "# deb http://old.example/debian buster main\n"
        "deb-src http://source.example/debian bookworm main\n"
        "deb http://mirror.example/debian-security bookworm-security main\n"
        "deb [arch=amd64 signed-by=/usr/share/keyrings/debian.gpg] "
        "https://near.example/debian bookworm main contrib # ours\n"
    )
    assert apt.archive(etc(tmp_path, list=text)) == apt.Archive(
        "https://near.example/debian", "/usr/share/keyrings/debian.gpg"
    )


def test_without_a_keyring_of_its_own_an_entry_gets_debians(tmp_path, monkeypatch):
    keyring = tmp_path / "debian-archive-keyring.gpg"
    keyring.touch()
    monkeypatch.setattr(apt, "KEYRINGS", (tmp_path / "absent", keyring))
    folder = etc(tmp_path, list="deb http://m.example/debian trixie main\n")
    assert apt.archive(folder).signed_by == str(keyring)


def test_a_key_inside_the_file_is_kept_whole(tmp_path):
    text = DEB822.split("\n\n", maxsplit=1)[0].replace(
        "/usr/share/keyrings/debian-archive-keyring.gpg",
        "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDMEY\n -----END PGP PUBLIC KEY BLOCK-----",
    )
    signed_by = apt.archive(etc(tmp_path, sources_debian=text)).signed_by
    assert signed_by is not None
    assert signed_by.splitlines()[1:] == [
        " -----BEGIN PGP PUBLIC KEY BLOCK-----",
        " .",
        " mDMEY",
        " -----END PGP PUBLIC KEY BLOCK-----",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "deb https://other.example/apt bookworm main",
        "deb https://other.example/debian stable contrib",
        "deb https://other.example/debian bookworm-backports main",
        "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://other.example/debian/12 sid main",
        "deb-src http://mirror.example/debian bookworm main",
        "#deb http://mirror.example/debian bookworm main",
        "nonsense",
        "",
    ],
)
def test_what_is_not_debians_archive_is_passed_over(tmp_path, line):
    assert apt.archive(etc(tmp_path, list_vendor=line)).uri == apt.DEFAULT_URI


def test_an_entry_that_is_switched_off_does_not_count(tmp_path):
    text = "Enabled: no\n" + DEB822
    assert apt.archive(etc(tmp_path, sources_debian=text)).uri == apt.DEFAULT_URI


def test_debians_own_file_comes_before_a_look_alike(tmp_path):
    vendor = "deb http://a.example/debian bookworm main\n"
    folder = etc(tmp_path, list_aaa=vendor, sources_debian=DEB822)
    assert apt.archive(folder).uri == "http://mirror.example/debian"


def test_no_configuration_at_all(tmp_path):
    assert apt.archive(tmp_path / "absent").uri == apt.DEFAULT_URI


APT_CONFIG = """\
Dir "/";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::Check-Valid-Until "false";
Acquire::IndexTargets::deb::Contents-deb::MetaKey "x";
APT::Update::Post-Invoke:: "rm -rf /everything";
"""

SHOW = """\
Package: linux-image-amd64
Version: 7.2.13-1
Depends: linux-base-amd64 (= 7.2.13-1), linux-image-7.2.13+deb14-amd64 (= 7.2.13-1), a | b (>= 2)
Size: 1692
Description: meta
 package

Package: linux-image-amd64
Version: 1
Size: 1
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """apt's three programs as scripts; each call is a line of the file `calls`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (tmp_path / "config").write_text(APT_CONFIG)
    (tmp_path / "show").write_text(SHOW)

    def write(name: str, body: str) -> None:
        script = folder / name
        script.write_text(f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/calls\n{body}\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    write("apt-config", f"cat {tmp_path}/config")
    write("apt-cache", f'[ -n "$APT_CONFIG" ] && cat {tmp_path}/show')
    write("apt-get", '[ "$1" = update ] || { echo content >kernel.deb; }')
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return write


@pytest.fixture
def private(tmp_path, programs) -> apt.PrivateApt:
    source = apt.Archive("http://mirror.example/debian", "/keys.gpg")
    return apt.PrivateApt(tmp_path / "apt", "trixie", source)


def test_the_configuration_keeps_the_way_to_the_network_and_nothing_else(tmp_path, private):
    text = (tmp_path / "apt/apt.conf").read_text()
    assert 'Acquire::http::Proxy "http://proxy.example:3128";' in text
    assert 'Acquire::Check-Valid-Until "false";' in text
    assert "Post-Invoke" not in text
    assert "Contents" not in text
    assert 'Dir::Etc::parts "/dev/null";' in text
    own = [line for line in text.splitlines() if line.startswith(("Dir::State", "Dir::Cache"))]
    assert len(own) == 3
    assert all(str(tmp_path / "apt") in line for line in own)


def test_the_source_is_one_suite(tmp_path, private):
    text = (tmp_path / "apt/debian.sources").read_text()
    assert text == (
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\n"
        "Targets: Packages\nSigned-By: /keys.gpg\n"
    )


def test_only_sid_may_be_out_of_date(tmp_path, programs):
    apt.PrivateApt(tmp_path / "sid", "sid", apt.Archive("http://m.example/debian", None))
    text = (tmp_path / "sid/debian.sources").read_text()
    assert "Check-Valid-Until: no" in text
    assert "Signed-By" not in text


def test_package(private):
    assert private.package("linux-image-amd64") == apt.Package(
        "linux-image-amd64",
        "7.2.13-1",
        ("linux-base-amd64", "linux-image-7.2.13+deb14-amd64", "a"),
        1692,
    )


def test_no_such_package(tmp_path, private):
    (tmp_path / "show").write_text("")
    with pytest.raises(HvtraceError, match="Debian trixie has no package linux-image-amd64"):
        private.package("linux-image-amd64")


def test_download(tmp_path, private):
    into = tmp_path / "into"
    into.mkdir()
    package = apt.Package("kernel", "1.2-3", (), 8)
    assert private.download([package], into, Progress()) == [into / "kernel.deb"]
    assert "apt-get download kernel=1.2-3" in (tmp_path / "calls").read_text()


def test_a_failure_is_one_line_with_apts_reason(private, programs):
    programs("apt-get", "echo 'W: slow' >&2; echo 'E: no route to host' >&2; exit 100")
    with pytest.raises(HvtraceError) as failure:
        private.update()
    assert str(failure.value) == (
        "apt-get update failed for Debian trixie at http://mirror.example/debian: no route to host"
    )


@pytest.mark.parametrize(("text", "reason"), [("W: odd\n", "W: odd"), ("", "no reason given")])
def test_a_failure_without_an_error_line(private, programs, text, reason):
    programs("apt-get", f"printf '{text}' >&2; exit 1")
    with pytest.raises(HvtraceError, match=f": {reason}$"):
        private.update()


def test_no_apt_here(tmp_path, private, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HvtraceError, match=r"apt-get is missing.*--kernel RELEASE"):
        private.update()
