"""hvtrace from its wheel, far from the checkout: everything it needs is inside."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(CHECKOUT)], check=True
    )
    (wheel,) = folder.glob("hvtrace-*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), wheel], check=True)
    return target


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_is_really_the_installed_one(installed: Path) -> None:
    out = run(installed, "-c", "import hvtrace; print(hvtrace.__file__)").stdout
    assert out.startswith(str(installed))


def test_programs_compile_and_attach(installed: Path) -> None:
    result = run(installed, "-m", "hvtrace", "stat", "--anyway", "-d", "0.1", "--json")
    assert result.returncode == 0, result.stderr
    assert '"schema": 1' in result.stdout


def test_facts_and_mixes_are_inside(installed: Path) -> None:
    explained = run(installed, "-m", "hvtrace", "explain", "0x13")
    assert "HvCallFlushVirtualAddressSpaceEx" in explained.stdout
    assert "windows-busy" in run(installed, "-m", "hvtrace", "guest", "--list").stdout


def test_scripts_of_the_lab_are_inside(installed: Path) -> None:
    for name in ("init.sh", "inside.sh"):
        assert (installed / "hvtrace" / "lab" / name).is_file()
