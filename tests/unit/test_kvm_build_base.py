"""What a patched KVM is built from: the machine's own Debian, fetched whole or not at all."""

from __future__ import annotations

import io
import platform
import tarfile
from pathlib import Path

import pytest

from hvtrace.errors import HvtraceError
from hvtrace.lab import apt, kernels
from hvtrace.lab.progress import Progress
from tests.kvm import base

RELEASE = "6.12.107+deb13-amd64"
FLAVOUR = "6.12.107+deb13"
VERSION = "6.12.107-1"
NAMES = {
    f"linux-headers-{RELEASE}",
    f"linux-headers-{FLAVOUR}-common",
    f"linux-image-{RELEASE}",
    f"linux-kbuild-{FLAVOUR}",
    "linux-source-6.12",
}


class Debian:
    """A stand-in for `apt.PrivateApt`: what the archive has, and what was asked of it."""

    def __init__(self) -> None:
        self.versions: dict[str, str] = {}  # other than VERSION
        self.is_online = True
        self.asked: list[tuple[str, str]] = []
        self.downloads: list[set[str]] = []

    def __call__(self, folder: Path, suite: str, source: apt.Archive) -> Debian:
        self.suite, self.uri = suite, source.uri
        self.asked.append((suite, source.uri))
        return self

    def update(self) -> None:
        if not self.is_online:
            raise HvtraceError("apt-get update failed: no network")

    def package(self, name: str) -> apt.Package:
        depends: tuple[str, ...] = ()
        if name in {"linux-headers-amd64", "linux-headers-6.12-amd64"}:
            depends = (f"linux-headers-{RELEASE}",)
        elif name == f"linux-headers-{RELEASE}":
            common, kbuild = f"linux-headers-{FLAVOUR}-common", f"linux-kbuild-{FLAVOUR}"
            depends = ("linux-base", common, f"linux-image-{RELEASE}", kbuild, "gcc-14")
        return apt.Package(name, self.versions.get(name, VERSION), depends, 100_000_000)

    def download(self, packages, into: Path, progress: Progress) -> list[Path]:
        self.downloads.append({one.name for one in packages})
        return [into / f"{one.name}.deb" for one in packages]


def unpack(files: list[Path], root: Path, release: str) -> None:
    """What `kernels.unpack` leaves of those packages."""
    modules = root / "usr/lib/modules" / release
    tree = root / f"usr/src/linux-headers-{FLAVOUR}-common"
    for folder in (root / "boot", modules, tree):
        folder.mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    (root / f"boot/vmlinuz-{release}").touch()
    (modules / "modules.dep").touch()
    (modules / "build").symlink_to("/usr/src/absent")
    with tarfile.open(root / "usr/src/linux-source-6.12.tar.xz", "w:xz") as archive:
        for name in ("arch/x86/kvm/hyperv.c", "arch/x86/mm/mem.c", "virt/kvm/Makefile.kvm"):
            archive.addfile(tarfile.TarInfo(f"linux-source-6.12/{name}"), io.BytesIO())


@pytest.fixture
def debian(monkeypatch) -> Debian:
    """Debian 13, with its archive within reach."""
    system(monkeypatch, "trixie")
    stand_in = Debian()
    monkeypatch.setattr(apt, "PrivateApt", stand_in)
    monkeypatch.setattr(
        apt,
        "archive",
        lambda security=False: apt.Archive("http://security" if security else "http://main", None),
    )
    monkeypatch.setattr(kernels, "unpack", unpack)
    return stand_in


def system(monkeypatch, codename: str) -> None:
    fields = {"VERSION_CODENAME": codename, "PRETTY_NAME": f"Some {codename}"}
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: fields)


def find(folder: Path) -> tuple[base.Base, str]:
    """The base, and what was reported on the way."""
    out = io.StringIO()
    return base.find(folder, Progress(out)), out.getvalue()


def test_first_time_everything_is_fetched(tmp_path, debian):
    found, said = find(tmp_path)
    assert found.kernel.release == RELEASE
    assert debian.downloads == [NAMES]
    assert f"fetching {RELEASE} and its source (500 MB from http://main)" in said


def test_kvms_source_stands_among_the_headers_and_nothing_else_of_it(tmp_path, debian):
    found, _ = find(tmp_path)
    tree = found.root / found.tree
    files = {str(file.relative_to(tree)) for file in tree.rglob("*") if file.is_file()}
    assert files == {"arch/x86/kvm/hyperv.c", "virt/kvm/Makefile.kvm"}
    assert not list((found.root / "usr/src").glob("*.tar.xz"))


def test_modules_name_no_folder_to_build_in(tmp_path, debian):
    """The headers package says /usr/src, where nothing is installed."""
    found, _ = find(tmp_path)
    assert [file.name for file in found.kernel.modules.iterdir()] == ["modules.dep"]


def test_the_second_time_nothing_is_asked(tmp_path, debian):
    first, _ = find(tmp_path)
    debian.is_online = False
    assert find(tmp_path) == (first, "")
    assert len(debian.asked) == 1


@pytest.mark.parametrize(
    ("codename", "suite", "uri"),
    [
        ("trixie", "trixie", "http://main"),
        ("bookworm", "bookworm-security", "http://security"),
    ],
)
def test_each_debian_has_it_in_an_archive_of_its_own(
    tmp_path, debian, monkeypatch, codename, suite, uri
):
    system(monkeypatch, codename)
    found, _ = find(tmp_path)
    assert debian.asked == [(suite, uri)]
    assert found.root == tmp_path / f"base-{codename}"


def test_two_debians_on_one_cache_do_not_meet(tmp_path, debian, monkeypatch):
    find(tmp_path)
    system(monkeypatch, "bookworm")
    find(tmp_path)
    assert len(debian.downloads) == 2


def test_without_a_network_nothing_is_left(tmp_path, debian):
    debian.is_online = False
    with pytest.raises(HvtraceError, match="no network"):
        find(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", sorted(NAMES))
def test_packages_of_two_versions_are_not_mixed(tmp_path, debian, name):
    debian.versions[name] = "6.12.99-1"
    with pytest.raises(
        HvtraceError, match=rf"no complete Linux 6.12.*{name} 6\.12\.99-1".replace("+", r"\+")
    ):
        find(tmp_path)
    assert debian.downloads == []


def test_a_package_that_is_not_among_the_dependencies(tmp_path, debian, monkeypatch):
    monkeypatch.setattr(
        debian, "package", lambda name: apt.Package(name, VERSION, (f"linux-headers-{RELEASE}",), 1)
    )
    with pytest.raises(HvtraceError, match=r"no complete Linux 6\.12, only"):
        find(tmp_path)


def test_source_that_can_not_be_unpacked(tmp_path, debian, monkeypatch):
    def damaged(files: list[Path], root: Path, release: str) -> None:
        unpack(files, root, release)
        (root / "usr/src/linux-source-6.12.tar.xz").write_bytes(b"no archive")

    monkeypatch.setattr(kernels, "unpack", damaged)
    with pytest.raises(HvtraceError, match=r"can not unpack linux-source-6\.12: xz: "):
        find(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_base_that_was_damaged_says_so(tmp_path, debian):
    found, _ = find(tmp_path)
    found.kernel.image.unlink()
    with pytest.raises(HvtraceError, match="base-trixie is damaged: delete it"):
        find(tmp_path)


@pytest.mark.parametrize("codename", ["jammy", "forky", ""])
def test_another_system(tmp_path, debian, monkeypatch, codename):
    system(monkeypatch, codename)
    with pytest.raises(
        HvtraceError, match=rf"built on Debian 12 and 13, .*this is Some {codename}"
    ):
        find(tmp_path)


def test_a_system_without_a_name(tmp_path, debian, monkeypatch):
    def absent() -> dict[str, str]:
        raise OSError("no os-release")

    monkeypatch.setattr(platform, "freedesktop_os_release", absent)
    with pytest.raises(HvtraceError, match="this is another system"):
        find(tmp_path)
